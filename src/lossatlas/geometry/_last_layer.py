"""A certificate from the last layer alone: small gradient and independent features bound the residuals."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters, replace_parameters
from lossatlas._show import shown
from lossatlas._status import Certificate
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.numerics import is_affine_in


_RANK = 1e-10  # of the largest singular value
_MOST_EXAMPLES = 5000


@shown
class LastLayerCertificate(eqx.Module):
    r"""How far from a global minimum a network can be, from the gradient in its last layer.

    - `bound`: $n \|\nabla_V L\|_F / \sigma_n(\Phi)$, infinite where the features have rank below n; `residual_norm`:
      $\|E\|_F$, which it bounds, E the derivative of the loss in every output (f - y for squared error).
    - `gradient_norm`: $\|\nabla_V L\|_F$ of the mean loss. `smallest_singular_value`: $\sigma_n(\Phi)$. `rank`: of the
      features, with singular values above 1e-10 of the largest; `num_examples`: n, `num_features`: m.
    - `is_global`: YES where the bound is below the tolerance: with such features the point is a global minimum of any
      loss that is convex in the outputs, up to `bound`. NO is never certified from here.
    - `weight`: the parameter that is the last layer.
    """

    bound: float
    residual_norm: float
    gradient_norm: float
    smallest_singular_value: float
    rank: int
    num_examples: int
    num_features: int
    is_global: Certificate
    weight: str


def last_layer_certificate(
    network: Network, landscape: Landscape, *, weight: str | None = None, tolerance: float = 1e-6
) -> LastLayerCertificate:
    r"""Bound the residuals of a network by the gradient in its last layer.

    $\|E\|_F \le n \|\nabla_V L\|_F / \sigma_n(\Phi)$, since $\nabla_V L = \frac1n E^\top \Phi$ for outputs
    $V \varphi + b$ with features $\Phi$ of shape (n, m): a critical
    point whose features have rank n is a global minimum. The bound is often loose, and says nothing for more examples
    than features. The features are read off as the derivative of an output in its own row of V, so any architecture
    will do.

    **Arguments:**
    - `weight`: the path of V, a parameter of shape (outputs, features); default the last matrix that the outputs are
      affine in.
    - `tolerance`: below which the bound counts as zero.

    **Returns:** A [`lossatlas.geometry.LastLayerCertificate`][]. Cost: a pass over the data, and the singular values of
    an n x m matrix.

    **Raises:** `InputError` for a parameter that is no last layer, and more than 5,000 examples.

    !!! cite
        Nguyen and Hein 2017, arXiv 1704.08045 (full rank makes critical points global); the survey arXiv 2007.01429.
    """
    n = landscape.size
    if n > _MOST_EXAMPLES:
        msg = f"The features of {n} examples cannot be independent in any usual network; at most {_MOST_EXAMPLES}."
        raise InputError(msg)
    arrays = named_parameters(network)
    if weight is not None and weight not in arrays:
        raise unknown_name("parameter", weight, arrays)
    names = [weight] if weight is not None else [name for name, a in reversed(arrays.items()) if a.ndim == 2]
    outputs = eqx.filter_eval_shape(landscape.predictions, network)
    size = int(np.prod(outputs.shape[1:]))
    chosen = next((name for name in names if arrays[name].ndim == 2 and _is_last(network, landscape, name, size)), None)
    if chosen is None:
        asked = "No matrix" if weight is None else f"The parameter {weight}"
        msg = (
            f"{asked} is a last layer: of shape (outputs, features) = ({size}, m), every output affine in its own row "
            "alone. Give its path as weight=."
        )
        raise InputError(msg)
    features, gradient, residuals = (np.asarray(a, float) for a in _facts(network, landscape, chosen))
    singular = np.linalg.svd(features, compute_uv=False)
    smallest = float(singular[n - 1]) if len(singular) >= n else 0.0
    rank = int(np.sum(singular > _RANK * singular.max(initial=0.0)))
    norm = float(np.linalg.norm(gradient))
    bound = n * norm / smallest if rank == n else float("inf")
    return LastLayerCertificate(
        bound=bound,
        residual_norm=float(np.linalg.norm(residuals)),
        gradient_norm=norm,
        smallest_singular_value=smallest,
        rank=rank,
        num_examples=n,
        num_features=features.shape[1],
        is_global=Certificate.YES if bound <= tolerance else Certificate.NOT_CERTIFIED,
        weight=chosen,
    )


def _is_last(network: Network, landscape: Landscape, name: str, size: int) -> bool:
    array = named_parameters(network)[name]
    if array.shape[0] != size:
        return False
    example = landscape.inputs[0]
    if not is_affine_in(lambda value: _outputs(network, name, value, example), [array], [0]):
        return False
    slopes = np.asarray(_slopes(network, name, example))  # (o, o, m): output i is to read row i, and all the same
    return np.array_equal(slopes, np.eye(size)[:, :, None] * slopes[:1, :1])


def _outputs(network: Network, name: str, value: Array, example: Array) -> Array:
    return replace_parameters(network, {name: value})(example).ravel()


@eqx.filter_jit
def _slopes(network: Network, name: str, example: Array) -> Float[Array, "o o m"]:
    return jax.jacrev(lambda value: _outputs(network, name, value, example))(named_parameters(network)[name])


@eqx.filter_jit
def _facts(network: Network, landscape: Landscape, name: str) -> tuple[Float[Array, "n m"], Array, Array]:
    array = named_parameters(network)[name]

    def first(row: Array, x: Array) -> Array:
        return replace_parameters(network, {name: array.at[0].set(row)})(x).ravel()[0]

    features = jax.vmap(jax.grad(first), (None, 0))(array[0], landscape.inputs)
    gradient = jax.grad(lambda value: landscape(replace_parameters(network, {name: value})))(array)
    return features, gradient, landscape.residuals(network)
