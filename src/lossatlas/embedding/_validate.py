"""Judge anybody's map between architectures: does it keep outputs, and does it keep critical points?"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters, ravel
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._record import gradient, max_norm, outputs
from lossatlas.geometry import plant_landscape
from lossatlas.landscape import Landscape


_SAME = 1e-10
_AMPLITUDE = 0.1


@shown
class MapVerdict(eqx.Module):
    """What a map between architectures keeps, as far as random points and data can tell.

    - `keeps_outputs`: whether outputs agree on data that the map has not seen.
    - `keeps_criticality`: whether critical points stay critical: the gradient vanishes at the image of planted ones.
      A map that does not keep outputs keeps no criticality in this sense.
    - `output_change`: the largest change of an output, relative to the largest output.
    - `gradient`: the largest component of the gradient at an image, relative to that at the same point for other
      targets of the same size.
    - `words`: the verdict.
    """

    keeps_outputs: bool = eqx.field(static=True)
    keeps_criticality: bool = eqx.field(static=True)
    output_change: float
    gradient: float
    words: str = eqx.field(static=True)


def validate_map(
    key: PRNGKeyArray,
    fn: Callable[[Network], Network],
    network: Network,
    inputs: Float[Array, "n ..."],
    *,
    num_points: int = 3,
) -> MapVerdict:
    r"""Judge a map `fn(network)` to another architecture: an expansion, a pruning, a rewriting.

    At random parameters of the network, targets are planted that make the point critical for squared error; outputs
    are compared on fresh inputs, and the gradient is taken at the image. A map that keeps outputs can still destroy
    criticality: different shares for different readers, random weights behind a zero output, unequal copies under
    LayerNorm. Then training goes on elsewhere than the small network would have.

    **Arguments:**
    - `key`: of the points, the targets and the fresh inputs.
    - `fn`: takes a network of the shape of `network` and returns the mapped one; it must work at any parameters.
    - `network`: its shape, and the scale of its parameters.
    - `inputs`: shape (n, ...); n times the number of outputs must exceed the number of parameters.
    - `num_points`: how many random points.

    **Returns:** A [`lossatlas.embedding.MapVerdict`][]. Cost: `num_points` Jacobians of the network over the
    data, n o p numbers each, and their singular values: a minute at n o = 4,000 and p = 700.

    **Raises:** `InputError` for lower precision than float64, too few inputs, and outputs of another shape.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Definition of critical embeddings; the planted test is our own.
    """
    require_float64((network, inputs), "validate_map")
    changes, gradients = [], []
    for i in range(num_points):
        point_key, fresh_key, target_key, other_key = jax.random.split(jax.random.fold_in(key, i), 4)
        vector, unravel = ravel(network)
        scale = jnp.sqrt(jnp.mean(vector**2))
        start = unravel(vector + 0.3 * scale * jax.random.normal(point_key, vector.shape, vector.dtype))
        end = fn(start)
        if isinstance(end, tuple):
            msg = "fn must return the network alone; maps of lossatlas return a pair: use lambda n: split(n, ...)[0]."
            raise InputError(msg)
        fresh = inputs + jnp.std(inputs) * jax.random.normal(fresh_key, inputs.shape, inputs.dtype)
        before, after = outputs(start, fresh), outputs(end, fresh)
        if before.shape != after.shape:
            msg = f"The map changes the shape of the outputs from {before.shape[1:]} to {after.shape[1:]}."
            raise InputError(msg)
        changes.append(float(jnp.abs(after - before).max() / jnp.maximum(jnp.abs(before).max(), 1e-300)))
        planted = plant_landscape(target_key, start, inputs, amplitude=_AMPLITUDE)
        # Other targets of the same size, at which nothing is critical: how large a gradient is here.
        noise = _AMPLITUDE * jax.random.normal(other_key, planted.targets.shape, planted.targets.dtype)
        control = Landscape(inputs, outputs(start, inputs) - noise)
        usual = max(max_norm(gradient(control, end)), 1e-300)
        gradients.append(max_norm(gradient(planted, end)) / usual)
    change, slope = max(changes), max(gradients)
    keeps_outputs = change < _SAME
    keeps_criticality = keeps_outputs and slope < _SAME
    grown = num_parameters(fn(network)) - num_parameters(network)
    words = f"{'adds' if grown >= 0 else 'removes'} {abs(grown)} parameters; "
    if keeps_criticality:
        words += "outputs and critical points are kept"
    elif keeps_outputs:
        words += f"outputs are kept, but critical points are not (gradient {slope:.1e} of the usual)"
    else:
        words += f"outputs change by {change:.1e} of the largest"
    return MapVerdict(keeps_outputs, keeps_criticality, change, slope, words)
