"""The curvature that a width embedding adds, from quantities of the narrow network alone."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._status import Certificate
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_RTOL = 1e-10
_CRITICAL_RTOL = 1e-6
_GAP = 30.0


@shown
class AddedInertia(eqx.Module):
    r"""The eigenvalue counts that an embedding adds: inertia(wide) = inertia(narrow) + these.

    Exact at every point for splits, and at critical points for null units.

    - `negative`, `zero`, `positive`: the counts.
    - `block`: the matrix $S = Z^\top H_{wide} Z$ whose inertia they are, Z a basis of $\ker B^\top$.
    - `metric`: $Z^\top Z$, so that `block q = lambda metric q` gives curvatures per unit length.
    - `lowest`, `direction`: its smallest such curvature and the coordinates q of that direction, of unit length.
    - `curvature`: Q, `coupling`: C of the formula in [`lossatlas.theory.split_inertia`][].
    - `shift`: how far the remaining gradient of the unit can move eigenvalues; 0 at a critical point.
    - `tolerance`: eigenvalues of the block up to this size count as zero: 1e-10 of the largest one, or twice the
      shift where that is at most 1e-6 of it (a critical point up to solver accuracy).
    - `certificate`: whether these are the counts of the critical point close by: YES when every eigenvalue lies a
      factor 30 away from the tolerance and no counted one is below twice the shift, NOT_CERTIFIED otherwise.
    """

    negative: int
    zero: int
    positive: int
    block: Float[np.ndarray, "s s"]
    metric: Float[np.ndarray, "s s"]
    lowest: float
    direction: Float[np.ndarray, " s"]
    curvature: Float[np.ndarray, "m m"]
    coupling: Float[np.ndarray, "q m"]
    shift: float
    tolerance: float
    certificate: Certificate = eqx.field(static=True)
    settings: dict[str, Any] = eqx.field(static=True)


def split_inertia(
    network: Network,
    landscape: Landscape,
    space: str,
    unit: int,
    shares: float | int | Sequence[float] | Float[Array | np.ndarray, " k"] = 0.5,
) -> AddedInertia:
    r"""The eigenvalue counts that splitting one unit adds to the Hessian, in closed form.

    For a split with shares $\gamma$ (the first copy stays in place), with $\gamma' = (\gamma_2, ..., \gamma_k)$,

    $$ S = \begin{pmatrix} (\mathrm{diag}\,\gamma' - \gamma'\gamma'^\top) \otimes Q & I \otimes C^\top \\
       I \otimes C & 0 \end{pmatrix}, \quad
       Q = E[z_s \sigma''(p_s)\, \tilde x \tilde x^\top], \quad C = E[e\, \sigma'(p_s)\, \tilde x^\top] $$

    where $\tilde x$ is what enters the unit (with a 1 where it has a bias), $p_s$ its pre-activation, e the
    derivative of the loss of an example in what each reader receives, $z_s = a_s \cdot e$ with $a_s$ the readers of the
    unit, and E the mean over the data. For two shares $(1-\alpha, \alpha)$ the first block is $\alpha(1-\alpha) Q$.
    The coordinates are $(u_2, ..., u_k; v_2, ..., v_k)$: direction $u_j$ changes what makes copy i by
    $(\delta_{ij} - \gamma_j) u_j$, direction $v_j$ changes its readers by $\pm v_j$ (copy j plus, first copy minus).

    **Arguments:**
    - `network`: the narrow `Dense`, float64. Any point; at a critical one with scalar output C = 0.
    - `landscape`: data and loss (mean over the examples); streamed in its `batch_size`.
    - `space`, `unit`, `shares`: as for `lossatlas.embedding.split`. A split with scaled copies has the same inertia.

    **Returns:**
    An [`lossatlas.theory.AddedInertia`][]. Cost: one forward and backward pass and an eigendecomposition of size
    (k-1)(m+1+q); the Hessian of the wide network is never formed.

    **Raises:** `InputError` for other architectures, unknown spaces, bad units or shares, and float32.

    !!! cite
        Fukumizu and Amari 2000 (the scalar case, where C = 0); Zhang et al. 2021, arXiv 2105.14573 (the map).
        Additivity follows from $A^\top B = I$ and $Z^\top H_{wide} A = 0$.
    """
    layer, is_neuron = _locate(network, space)
    size = network.layers[layer].num_neurons if is_neuron else network.layers[layer].num_linear
    if not 0 <= unit < size:
        msg = f"unit must be 0 to {size - 1} in {space}, got {unit}."
        raise InputError(msg)
    gamma = _as_shares(shares)
    index = unit if is_neuron else unit + network.layers[layer].num_neurons
    curvature, coupling, outgoing = _unit_moments(network, landscape, layer, index)
    rest = gamma[1:]
    k = len(rest)
    top = np.kron(np.diag(rest) - np.outer(rest, rest), curvature)
    side = np.kron(np.eye(k), coupling)
    block = np.block([[top, side.T], [side, np.zeros((side.shape[0],) * 2)]])
    # The directions in the wide parameters: copies of what makes the unit, and differences of its readers.
    made = np.vstack([np.zeros((1, k)), np.eye(k)]) - np.outer(np.ones(k + 1), rest)
    read = np.vstack([-np.ones((1, k)), np.eye(k)])
    metric = _block_diagonal(
        np.kron(made.T @ made, np.eye(curvature.shape[0])), np.kron(read.T @ read, np.eye(coupling.shape[0]))
    )
    # At a critical point a_s . C = 0; what is left of it is the gradient of the unit's incoming weights.
    norm = float(np.linalg.norm(outgoing))
    shift = float(np.linalg.norm(outgoing @ coupling)) / norm if norm > 0 else 0.0
    settings = {"space": space, "unit": unit, "shares": gamma.tolist()}
    return _count(block, metric, curvature, coupling, shift, settings)


def null_unit_inertia(network: Network, landscape: Landscape, space: str, *, bias: float | int = 0.0) -> AddedInertia:
    r"""The eigenvalue counts that a null unit (zero incoming weights, a bias, no readers) adds.

    $S_0 = \begin{pmatrix} 0 & C_0^\top \\ C_0 & 0 \end{pmatrix}$ with
    $C_0 = \sigma'(b)\, E[e\, \tilde x^\top]$: rank($C_0$) negative and as many positive eigenvalues. The top
    singular pair of $C_0$ is the best first direction of growth. Valid where null units keep critical points
    critical: when the readers have a bias or $\sigma(b) = 0$.

    **Arguments, returns, raises:** as for [`lossatlas.theory.split_inertia`][]; `bias` is that of the unit.
    """
    layer, is_neuron = _locate(network, space)
    coupling = _mean_over(network, landscape, layer, _null_moment)
    has_bias = is_neuron and network.layers[layer].bias is not None
    if not has_bias:
        coupling = coupling[:, :-1]
    if is_neuron:
        coupling = coupling * float(jax.grad(network.activation)(jnp.asarray(bias, float)))
    q, m = coupling.shape
    block = np.block([[np.zeros((m, m)), coupling.T], [coupling, np.zeros((q, q))]])
    # The last column is the gradient of the next bias: zero at a critical point.
    shift = float(np.linalg.norm(coupling[:, -1])) if has_bias else 0.0
    output = float(network.activation(jnp.asarray(bias, float))) if is_neuron else 0.0
    # The reader's direction takes its constant back from the bias that follows.
    metric = _block_diagonal(np.eye(m), (1 + output**2) * np.eye(q))
    settings = {"space": space, "bias": float(bias)}
    return _count(block, metric, np.zeros((m, m)), coupling, shift, settings)


def _count(block, metric, curvature, coupling, shift: float, settings) -> AddedInertia:
    import scipy.linalg

    values = np.linalg.eigvalsh(block)
    scale = float(np.abs(values).max(initial=0.0))
    is_critical = 2 * shift <= _CRITICAL_RTOL * scale
    tolerance = max(_RTOL * scale, 2 * shift if is_critical else 0.0)
    sizes = np.abs(values)
    clear = not np.any((sizes > tolerance / _GAP) & (sizes < max(tolerance * _GAP, 2 * shift)))
    per_length, vectors = scipy.linalg.eigh(block, metric)
    return AddedInertia(
        negative=int(np.sum(values < -tolerance)),
        zero=int(np.sum(sizes <= tolerance)),
        positive=int(np.sum(values > tolerance)),
        block=block,
        metric=metric,
        lowest=float(per_length[0]),
        direction=vectors[:, 0],
        curvature=curvature,
        coupling=coupling,
        shift=shift,
        tolerance=tolerance,
        certificate=Certificate.YES if clear else Certificate.NOT_CERTIFIED,
        settings=settings,
    )


def _locate(network: Network, space: str) -> tuple[int, bool]:
    if not isinstance(network, Dense):
        msg = f"The closed form is for lossatlas.networks.Dense, got {type(network).__name__}."
        raise InputError(msg)
    require_float64(network, "The inertia of an embedding")
    known = {f"{kind}[{i}]": (i, kind == "hidden") for i in range(len(network.layers) - 1) for kind in _KINDS}
    if space not in known:
        raise unknown_name("unit space", space, known)
    return known[space]


_KINDS = ("hidden", "linear")


def _as_shares(shares) -> np.ndarray:
    gamma = np.asarray(shares, dtype=float)
    gamma = np.array([1 - gamma, gamma]) if gamma.ndim == 0 else gamma
    if len(gamma) < 2 or not np.isfinite(gamma).all() or abs(gamma.sum() - 1) > 1e-10 * max(1, np.abs(gamma).sum()):
        msg = f"shares must be finite numbers that sum to one, got {gamma.tolist()}."
        raise InputError(msg)
    return gamma


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    off = np.zeros((first.shape[0], second.shape[0]))
    return np.block([[first, off], [off.T, second]])


def _unit_moments(network: Dense, landscape: Landscape, layer: int, index: int):
    """Q, C and the readers of a unit (neurons first, then linear units)."""
    here, following = network.layers[layer], network.layers[layer + 1]
    readers = following.weight if following.linear is None else jnp.concatenate([following.weight, following.linear])
    is_neuron = index < here.num_neurons
    outgoing = readers[:, index]
    # The index as an array: all neurons of a layer share one compiled program.
    neuron = jnp.asarray(index) if is_neuron else None
    curvature, coupling = _mean_over(network, landscape, layer, _split_moments, neuron, outgoing)
    if not is_neuron or here.bias is None:
        curvature, coupling = curvature[:-1, :-1], coupling[:, :-1]
    return np.asarray(curvature), np.asarray(coupling), np.asarray(outgoing)


def _split_moments(network: Dense, entering, preactivations, signals, neuron: Int[Array, ""] | None, outgoing):
    if neuron is None:
        slope, bend = jnp.ones(entering.shape[0]), jnp.zeros(entering.shape[0])
    else:
        slope = jax.vmap(jax.grad(network.activation))(preactivations[:, neuron])
        bend = jax.vmap(jax.grad(jax.grad(network.activation)))(preactivations[:, neuron])
    weighted = entering * (signals @ outgoing * bend)[:, None]
    return weighted.T @ entering, (signals * slope[:, None]).T @ entering


def _null_moment(network: Dense, entering, preactivations, signals):
    del network, preactivations
    return signals.T @ entering


def _mean_over(network: Dense, landscape: Landscape, layer: int, moments, *args):
    """Sums of per-example moments over the data in batches, divided by its size."""
    if landscape.loss is None or not isinstance(landscape.batch, tuple) or len(landscape.batch) != 2:
        msg = "The closed form needs a Landscape(inputs, targets, loss=...) whose loss acts on predictions."
        raise InputError(msg)
    size = landscape.batch_size or landscape.size
    total = None
    for start in range(0, landscape.size, size):
        x, y = landscape.inputs[start : start + size], landscape.targets[start : start + size]
        part = _batch_moments(network, landscape.loss.fn, layer, moments, x, y, *args)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return jax.tree.map(lambda a: np.asarray(a / landscape.size), total)


@eqx.filter_jit
def _batch_moments(network: Dense, loss, layer: int, moments, x, y, *args):
    entering, preactivations, signals = jax.vmap(lambda a, b: _signals(network, loss, layer, a, b))(x, y)
    return moments(network, entering, preactivations, signals, *args)


def _signals(network: Dense, loss, layer: int, x, y):
    """What enters a layer (with a 1), its pre-activations, and the loss derivative at what its readers receive."""
    features = network.features(x)
    following, rest = network.layers[layer + 1], network.layers[layer + 2 :]

    def tail(added):
        k = following.num_neurons
        received = following.preactivation(features[layer + 1]) + added[:k]
        if not rest:
            return loss(received, y)
        out = network.activation(received)
        if following.linear is not None:
            out = jnp.concatenate([out, following.linear @ features[layer + 1] + added[k:]])
        for middle in rest[:-1]:
            out = middle.hidden(out, network.activation)
        return loss(rest[-1].preactivation(out), y)

    zero = jnp.zeros(following.num_neurons + following.num_linear, features[-1].dtype)
    entering = jnp.concatenate([features[layer], jnp.ones(1, zero.dtype)])
    return entering, network.layers[layer].preactivation(features[layer]), jax.grad(tail)(zero)
