"""Remove hidden layers that act linearly on the data."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._constants import LayerArrays, arrays_of, can_shift, require_dense
from lossatlas.embedding._layer_steps import MergeLayer, merge_defect
from lossatlas.embedding._measure import best_lines, downstream_lipschitz, features_of, received
from lossatlas.embedding._record import Data, gradient, inputs_of, max_norm, outputs
from lossatlas.geometry import linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


@shown
class LayerMerge(eqx.Module):
    r"""What removing hidden layers did.

    - `start`: the network before. `plan`: one [`lossatlas.embedding.MergeLayer`][] for each removed layer, in order.
    - `output_change`, `mean_change`: largest and mean change of an output on the data.
    - `agreement`: share of examples whose largest output stays the same one; None for a single output.
    - `bound`: a-priori bound on the 2-norm of the change for any example of the data: the deviation from the line that
      the next layer reads, times a Lipschitz constant of the rest, summed over the removed layers.
    - `criticality_defect`: $(q - \mathrm{rank}\,U\Lambda)(m - \mathrm{rank}\,\Lambda V)$, summed over removed layers;
      if it is 0 and the layers are exactly linear, a critical point stays critical; otherwise a bottleneck may have
      hidden descent directions.
    - `keeps_critical`: that this is guaranteed: defect 0 and no deviation from lines.
    - `gradient_before`, `gradient_after`: max-norms; None without targets.
    """

    start: Network
    plan: tuple[Any, ...]
    output_change: float
    mean_change: float
    agreement: float | None
    bound: float
    criticality_defect: int
    keeps_critical: bool
    gradient_before: float | None
    gradient_after: float | None

    def replay(self, network: Network) -> Network:
        """The plan carried out on a network of the same sizes as `start`."""
        for step in self.plan:
            network = step.apply(network)
        return network


def merge_layer(network: Network, landscape: Data, layer: int) -> tuple[Dense, LayerMerge]:
    r"""Remove one hidden layer, each of its neurons replaced by the line it follows on the data.

    $W_{new} = U\,\mathrm{diag}(\lambda)\,V$, $b_{new} = U(\lambda b' + \mu) + b$. The slopes are those of the affine
    piece that holds all the data of a neuron, or least squares, $\lambda = \mathrm{cov}(z, f)/\mathrm{var}(z)$.

    **Arguments:**
    - `network`: a `Dense`.
    - `landscape`: a `Landscape`, or inputs (n, d) alone.
    - `layer`: which hidden layer, zero-based.

    **Returns:** the shallower network and a [`lossatlas.embedding.LayerMerge`][]. Cost: a few passes over the data.

    **Raises:** `InputError` for another architecture, a layer out of range, bad data, and where the readers have no
    bias that could hold the constants.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283, Section 5 (layer merging); the defect is $\mathrm{corank}(U) \cdot
        \mathrm{corank}(V)$, from $R_{deep} = R_{shallow} \circ \Phi$.
    """
    dense = require_dense(network, "merge_layer")
    inputs = np.asarray(inputs_of(landscape, "merge_layer"))
    if not 0 <= layer < len(dense.layers) - 1:
        msg = f"layer must be 0 to {len(dense.layers) - 2}, a hidden layer, got {layer}."
        raise InputError(msg)
    step, defect, bound = _merge_step(dense, inputs, layer)
    return finish(dense, landscape, (step,), defect, bound)


def prune_by_linearization(
    network: Network, landscape: Data, threshold: float = 0.99, *, keep: float = 0.999
) -> tuple[Dense, LayerMerge]:
    r"""Remove every hidden layer that acts linearly on the data, by the minimal Pearson correlation (MPC).

    The layers whose MPC reaches the threshold in the given network are removed from front to back, each with the
    slopes measured in the network left by the removals before it.

    **Arguments:**
    - `network`, `landscape`: as for [`lossatlas.embedding.merge_layer`][].
    - `threshold`: in (0, 1]; the papers take 0.99. It does not bound the output change: read the certificate.
    - `keep`: as for [`lossatlas.geometry.linearization`][]: neurons that matter little are left out of the MPC.

    **Returns:** the shallower network and a [`lossatlas.embedding.LayerMerge`][] with all removals.

    **Raises:** `InputError` as for `merge_layer`, and for a threshold outside (0, 1].

    !!! cite
        Bai et al. 2022, arXiv 2205.13283, Definition of the MPC and Figure 7.
    """
    dense = require_dense(network, "prune_by_linearization")
    inputs = inputs_of(landscape, "prune_by_linearization")
    data = landscape if isinstance(landscape, Landscape) else Landscape(inputs, jnp.zeros(len(inputs)))
    measured = linearization(dense, data, threshold=threshold, keep=keep)
    linear = [i for i, layer in enumerate(measured.layers) if layer.mpc >= threshold]
    small, plan, defect, bound = dense, [], 0, 0.0
    for removed, layer in enumerate(linear):
        step, more, further = _merge_step(small, np.asarray(inputs), layer - removed)
        plan.append(step)
        small, defect, bound = step.apply(small), defect + more, bound + further
    return finish(dense, landscape, tuple(plan), defect, bound)


def _merge_step(network: Dense, inputs: np.ndarray, layer: int) -> tuple[MergeLayer, int, float]:
    layers = [LayerArrays(*(None if a is None else np.asarray(a, float) for a in part)) for part in arrays_of(network)]
    features = features_of(layers, np.asarray(inputs, float), network.activation)
    here, following = layers[layer], layers[layer + 1]
    k = here.num_neurons
    pre = received(here, features[layer])[:, :k]
    post = features[layer + 1][:, :k]
    slope, offset, _ = best_lines(pre, post, network.activation)
    if not can_shift(layers, layer + 1):
        constants = offset if here.bias is None else slope * here.bias + offset
        if np.abs(constants).max(initial=0.0) > 1e-12 * max(1.0, np.abs(post).max(initial=0.0)):
            msg = f"Hidden layer {layer} puts out constants, and no bias after it can hold them: it cannot be merged."
            raise InputError(msg)
    deviation = np.linalg.norm((post - slope * pre - offset) @ following.readers[:, :k].T, axis=1).max()
    bound = float(deviation) * downstream_lipschitz(layers, layer + 1, network.activation) if deviation > 0 else 0.0
    step = MergeLayer(
        layer,
        jnp.asarray(slope),
        jnp.asarray(offset),
        f"hidden layer {layer} of {k} neurons merged into the next",
    )
    return step, merge_defect(here, following, slope), bound


def finish(start: Network, data: Data, plan: tuple, defect: int, bound: float) -> tuple[Network, LayerMerge]:
    """Carry out a plan that removes layers, and say what it did on the data."""
    end = start
    for step in plan:
        end = step.apply(end)
    assert data is not None
    old, new = np.asarray(outputs(start, data)), np.asarray(outputs(end, data))
    same = float(np.mean(old.argmax(-1) == new.argmax(-1))) if old.ndim == 2 and old.shape[1] > 1 else None
    before = after = None
    if isinstance(data, Landscape):
        before, after = max_norm(gradient(data, start)), max_norm(gradient(data, end))
    scale = max(1.0, float(np.abs(old).max()))
    record = LayerMerge(
        start=start,
        plan=plan,
        output_change=float(np.abs(new - old).max()),
        mean_change=float(np.abs(new - old).mean()),
        agreement=same,
        bound=bound,
        criticality_defect=defect,
        keeps_critical=defect == 0 and bound <= 1e-10 * scale,
        gradient_before=before,
        gradient_after=after,
    )
    return end, record
