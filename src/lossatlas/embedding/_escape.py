"""Can a wider network leave this critical point downhill?"""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters, ravel
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._global_split import global_split
from lossatlas.embedding._growth import opened_direction
from lossatlas.embedding._record import Record, gradient
from lossatlas.embedding._split import add_null_unit, split
from lossatlas.embedding._unit_map import require_unit_spaces
from lossatlas.geometry import dense_hessian, residual_curvature
from lossatlas.geometry._residual_curvature import residual_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


@shown
class WideningEscape(eqx.Module):
    r"""Whether widening opens a direction of negative curvature at a critical point, and which.

    - `escapes`: whether one was found, beyond what the remaining gradient could feign.
    - `ratio`: $\|H_2\|_F / \|H\|_F$ of [`lossatlas.geometry.residual_curvature`][]; 0 up to rounding is necessary for
      a bad point that no widening turns into a strict saddle, and not sufficient.
    - `network`: the wide network, or the given one where it is a strict saddle itself; None without an escape.
    - `record`: how it was made; None where there is none.
    - `direction`: of negative curvature there, flat and of unit length. `curvature`: its Rayleigh quotient in the
      Hessian.
    - `words`: the answer.
    """

    escapes: bool = eqx.field(static=True)
    ratio: float
    network: Network | None
    record: Record | None
    direction: Float[Array, " p"] | None
    curvature: float | None
    words: str = eqx.field(static=True)

    def __str__(self) -> str:
        return self.words


def escape_by_widening(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    rtol: float = 1e-12,
    max_size: int = 1500,
) -> WideningEscape:
    r"""Ask whether a wider network can leave a critical point by negative curvature, and find the embedding that does.

    Theorem: where $H \ge 0$ and $H_2 \ne 0$, some compatible embedding makes the point a strict saddle. The candidates
    are every split of one unit into halves and with share 2, a null unit in every space, and for fully connected
    networks the three-fold global splitting ([`lossatlas.embedding.global_split`][]), which alone sees how layers
    bend together; the most negative curvature along a unit vector wins. Which way saves the most loss is another
    question: [`lossatlas.embedding.plan_growth`][].

    **Arguments:**
    - `key`: of the probes of the Hessian in large networks.
    - `network`, `landscape`: a critical point, in float64. The landscape needs a loss on predictions.
    - `rtol`: $H_2$ counts as zero below this part of H, and curvatures likewise.
    - `max_size`: the most parameters of the network, whose Hessian is formed.

    **Returns:** A [`lossatlas.embedding.WideningEscape`][]. Where $H_2 = 0$ the words say that the necessary condition
    of a truly bad point is met, never that the point is one. Cost: two Hessians, and for each candidate the Hessian of
    one new unit.

    **Raises:** `InputError` for lower precision, networks without unit spaces, and too many parameters.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Definition 6.2 and Theorem 6.3.
    """
    require_float64((network, landscape), "escape_by_widening")
    require_unit_spaces(network)
    size = num_parameters(network)
    if size > max_size:
        msg = f"escape_by_widening forms the Hessian; {size} parameters are more than max_size={max_size}."
        raise InputError(msg)
    values, vectors = np.linalg.eigh(np.asarray(_hessian(network, landscape)))
    slope = float(jnp.linalg.norm(gradient(landscape, network)))
    # The remaining gradient pairs with the curvature of any embedding: what it can feign is not counted.
    threshold = 2 * slope + rtol * float(np.abs(values).max(initial=0.0))
    ratio = residual_curvature(key, network, landscape).ratio
    if values[0] < -threshold:
        words = f"a strict saddle already: curvature {values[0]:.3g} without any widening"
        return WideningEscape(True, ratio, network, None, jnp.asarray(vectors[:, 0]), float(values[0]), words)
    if ratio <= rtol:
        words = (
            f"the residuals bend nothing here (|H2|/|H| = {ratio:.1e}): the necessary condition for a point that no "
            "widening turns into a strict saddle is met. That is no proof that it is one"
        )
        return WideningEscape(False, ratio, None, None, None, None, words)
    best = min(_candidates(network, landscape), key=lambda found: found[0], default=None)
    if best is None or not best[0] < -threshold:
        words = (
            f"the residuals bend the loss (|H2|/|H| = {ratio:.1e}), so no necessary condition rules an escape out, but "
            f"none was found beyond {threshold:.1e}, what the remaining gradient and rounding allow"
        )
        return WideningEscape(False, ratio, None, None, None, None, words)
    curvature, wide, record, direction = best
    note = "; ".join(step.note for step in record.plan)
    words = f"a wider network is a strict saddle here: curvature {curvature:.3g} after {note}"
    return WideningEscape(True, ratio, wide, record, direction, curvature, words)


Found = tuple[float, Network, Record, Array]


def _candidates(network: Network, landscape: Landscape) -> Iterator[Found]:
    for name, space in require_unit_spaces(network).items():
        if space.closed is not None or space.shares != "any":
            continue
        made = [add_null_unit(network, name)]
        made += [split(network, name, unit, share) for unit in range(space.size) for share in (0.5, 2.0)]
        for wide, record in made:
            direction = opened_direction(wide, landscape, record.plan[0])
            yield _measured(wide, landscape, record, direction)
    has_layers = isinstance(network, Dense) and len(network.layers) > 1
    if has_layers and not any(network.num_linear) and all(layer.bias is not None for layer in network.layers):
        wide, record = global_split(network)
        for changes in global_directions(network, landscape):
            yield _measured(wide, landscape, record, tripled(network, wide, changes))


def _measured(wide: Network, landscape: Landscape, record: Record, direction: Array) -> Found:
    direction = direction / jnp.linalg.norm(direction)
    return float(_rayleigh(wide, landscape, direction)), wide, record, direction


_hessian = eqx.filter_jit(dense_hessian)


@eqx.filter_jit
def _rayleigh(network: Network, landscape: Landscape, direction: Array) -> Float[Array, ""]:
    return jnp.vdot(direction, landscape.hessian_operator(network).mv(direction))


def global_directions(network: Dense, landscape: Landscape) -> list[tuple[Network, Network, Network]]:
    r"""What to change in each of the three copies: (v, -v, 0) and (w/2, w/2, w), as changes of the narrow network.

    v is the eigenvector of the smallest eigenvalue of $H_2$ over all but the output bias, w that of the largest below
    the readout. The Gauss-Newton part vanishes along both, as the copies' changes of the outputs cancel.
    """
    bends = residual_landscape(network, landscape)
    last = f"layers[{len(network.layers) - 1}]"
    whole, below = (lambda n: n != f"{last}.bias"), (lambda n: not n.startswith(last))
    zero = jax.tree.map(jnp.zeros_like, network)

    def eigenvector(chosen, index: int) -> Network:
        _, vectors = np.linalg.eigh(np.asarray(_hessian(network, bends, chosen)))
        tangent = ravel(network, chosen)[1].tangent(jnp.asarray(vectors[:, index]))
        return eqx.combine(tangent, zero)

    least, most = eigenvector(whole, 0), eigenvector(below, -1)
    half = jax.tree.map(lambda a: 0.5 * a, most)
    return [(least, jax.tree.map(jnp.negative, least), zero), (half, half, most)]


def tripled(network: Dense, wide: Dense, changes: tuple[Network, Network, Network]) -> Float[Array, " p"]:
    """The flat change of the globally split network that makes given changes of its three copies."""
    zero = jax.tree.map(jnp.zeros_like, wide)
    last = len(network.layers) - 1
    layers = []
    for i, layer in enumerate(zero.layers):
        parts = [change.layers[i] for change in changes]
        if i == last:
            weight, bias = jnp.concatenate([part.weight for part in parts], axis=1), layer.bias
        elif i == 0:
            weight = jnp.concatenate([part.weight for part in parts])
            bias = jnp.concatenate([part.bias for part in parts])
        else:
            weight = jax.scipy.linalg.block_diag(*(part.weight for part in parts))
            bias = jnp.concatenate([part.bias for part in parts])
        layers.append(eqx.tree_at(lambda a: (a.weight, a.bias), layer, (weight, bias)))
    return ravel(Dense.from_layers(layers, wide.activation))[0]
