r"""Inner products of kernels that are never formed, from products with shared random vectors."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_operator import ntk_operator
from lossatlas.geometry._ntk_source import Points, as_landscape


@shown
class KernelSketch(eqx.Module):
    r"""Estimates of the inner product and the distance of two kernels, with standard errors.

    - `inner`, `inner_error`: $\langle K, K' \rangle$. `distance`, `distance_error`: S of
      [`lossatlas.geometry.KernelDistance`][]. `scale`: $\|K'\| / \|K\|$.
    - `num_probes`: random vectors; each cost one product with either kernel.
    """

    inner: float
    inner_error: float
    distance: float
    distance_error: float
    scale: float
    num_probes: int = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]


def sketched_kernel_distance(
    key: PRNGKeyArray,
    first: Network,
    second: Network,
    landscape: Points,
    *,
    num_probes: int = 30,
    convention: Convention = "full",
    only: Only = None,
    batch_size: int | None = None,
) -> KernelSketch:
    r"""The distance between the kernels of two networks, without forming either.

    For random signs z, $(K z) \cdot (K' z)$ has the mean $\langle K, K' \rangle$; the same z for all three inner
    products makes their errors cancel where the kernels are alike, so S is far surer than they are. The standard
    error of S is the jackknife over the probes. For networks or data too large for [`lossatlas.geometry.ntk`][].

    **Arguments:**
    - `first`, `second`: two networks, of any architectures with as many outputs.
    - `landscape`: the examples.
    - `num_probes`: random vectors, at least 3. `convention`, `batch_size`: as for
      [`lossatlas.geometry.ntk_operator`][].

    **Returns:**
    A [`lossatlas.geometry.KernelSketch`][]. Cost: `num_probes` products of each kernel.

    **Raises:** `InputError` for too few probes, and what [`lossatlas.geometry.ntk`][] refuses.
    """
    begin = time.perf_counter()
    if num_probes < 3:
        msg = f"num_probes must be at least 3 to have an error bar, got {num_probes}."
        raise InputError(msg)
    data = as_landscape(landscape)
    images = []
    for network in (first, second):
        operator = ntk_operator(network, data, convention=convention, only=only, batch_size=batch_size)
        images.append(np.asarray(_images(operator, key, num_probes), float))
    if images[0].shape != images[1].shape:
        msg = "The two networks have different numbers of outputs, so their kernels have no distance."
        raise InputError(msg)
    own, cross, others = (np.einsum("ij,ij->i", a, b) for a, b in ((images[0],) * 2, images, (images[1],) * 2))
    if not own.sum() * others.sum() > 0:
        msg = "A kernel of zeros, or one that is not finite, has no direction; check the networks."
        raise InputError(msg)
    # Leaving out one probe at a time.
    left = _distance(own.sum() - own, cross.sum() - cross, others.sum() - others)
    error = np.sqrt((num_probes - 1) * left.var())
    return KernelSketch(
        inner=float(cross.mean()),
        inner_error=float(cross.std(ddof=1) / np.sqrt(num_probes)),
        distance=float(_distance(own.sum(), cross.sum(), others.sum())),
        distance_error=float(error),
        scale=float(np.sqrt(others.sum() / own.sum())),
        num_probes=num_probes,
        stats={"seconds": time.perf_counter() - begin},
        settings={"convention": convention},
    )


def _distance(own: Any, cross: Any, others: Any) -> Any:
    return 1 - cross / np.sqrt(own * others)


@eqx.filter_jit
def _images(operator, key, num) -> Float[Array, "probes n"]:
    dtype = operator.in_structure().dtype

    def image(i):
        signs = jax.random.rademacher(jax.random.fold_in(key, i), (operator.in_size(),), jnp.int8)
        return operator.mv(signs.astype(dtype))

    return jax.lax.map(image, jnp.arange(num))
