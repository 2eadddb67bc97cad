"""How many free numbers a member of the compatible embeddings has, measured."""

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._compatible import IndexMaps, draw_freedom, index_maps
from lossatlas.embedding._constants import require_dense
from lossatlas.theory import critical_set_dimension


@shown
class FamilyDimension(eqx.Module):
    r"""The dimension of the compatible embeddings around one member.

    - `rank`: of the Jacobian of $(\beta, N, b^*) \mapsto \theta'$; the dimension of the set of critical points that
      they draw around the member, and a lower bound of the corank of its Hessian, that of the narrow one left out.
    - `predicted`: the count of [`lossatlas.theory.critical_set_dimension`][].
    - `singular_values`: of the Jacobian, descending.
    - `gap`: the smallest counted singular value over the largest left out; infinite where none is.
    """

    rank: int = eqx.field(static=True)
    predicted: int = eqx.field(static=True)
    singular_values: Float[np.ndarray, " k"]
    gap: float


def compatible_dimension(
    key: PRNGKeyArray, network: Network, units: IndexMaps, *, spread: float | int = 0.5, rtol: float = 1e-9
) -> FamilyDimension:
    r"""Measure how many dimensions the compatible embeddings of a network have around a random member.

    At a critical point all members are critical, so the Hessian of the member has at least as many zeros, beside those
    of the narrow network.

    **Arguments:**
    - `key`, `network`, `units`, `spread`: as for [`lossatlas.embedding.compatible_embedding`][], with random shares.
      The same key gives the same member.
    - `rtol`: singular values below this part of the largest count as zero.

    **Returns:** A [`lossatlas.embedding.FamilyDimension`][]. Cost: a Jacobian and its singular values, about the square
    of the number of wide parameters in memory.

    **Raises:** `InputError` as for `compatible_embedding`, and for lower precision than float64.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Section 5 (the count); the rank is measured here.
    """
    require_float64(network, "compatible_dimension")
    if not 0 < rtol < 1:
        msg = f"rtol must lie in (0, 1), got {rtol}."
        raise InputError(msg)
    dense = require_dense(network, "compatible_dimension")
    maps = index_maps(dense, units)
    free, unravel = ravel_pytree(draw_freedom(key, maps, "random", float(spread)))
    jacobian = jax.jit(jax.jacfwd(lambda v: ravel(unravel(v).step(maps, dense.activation).apply(dense))[0]))(free)
    values = np.linalg.svd(np.asarray(jacobian), compute_uv=False)
    rank = int(np.sum(values > rtol * values.max(initial=0.0)))
    left_out = values[rank:].max(initial=0.0)
    gap = float(values[rank - 1] / left_out) if rank and left_out > 0 else np.inf
    wider = [len(units) for units in maps]
    return FamilyDimension(rank, critical_set_dimension(list(dense.widths), wider), values, gap)
