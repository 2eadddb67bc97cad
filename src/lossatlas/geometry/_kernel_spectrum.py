"""The spectrum of the tangent kernel, from its matrix or from products alone."""

import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas._status import Certificate, Status
from lossatlas._types import Network, Only
from lossatlas.geometry._kernel_distance import rank_of_values
from lossatlas.geometry._lanczos import extreme_pairs
from lossatlas.geometry._ntk import ntk
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_operator import ntk_operator
from lossatlas.geometry._ntk_source import Points, as_landscape
from lossatlas.geometry._products import host_generator


_MAX_EXACT = 4000
_DEFAULT_NUM = 10


@shown
class KernelSpectrum(eqx.Module):
    r"""The largest eigenvalues of a tangent kernel, descending.

    - `values`, `vectors` (rows, unit length): pairs of $K$; without a factor 1/n.
    - `residuals`: $\|Kv - \lambda v\|$. `converged`: at most `rtol` times the largest eigenvalue.
    - `all_values`: the whole spectrum; None with Lanczos.
    - `effective_rank`: the exponential of the entropy of the normalised spectrum; None with Lanczos.
    - `complete`: whether no larger eigenvalue was missed, as in [`lossatlas.geometry.Spectrum`][].
    - `convention`: of the kernel.

    Those of $K$ (`full`) and of $J^\top J$ agree where they are not zero: n times the Gauss-Newton matrix of
    squared error.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k n"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    all_values: Float[Array, " n"] | None
    effective_rank: float | None
    complete: Certificate = eqx.field(static=True)
    status: Status = eqx.field(static=True)
    convention: Convention = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def to_xarray(self):
        """Values, residuals and flags as an `xarray.Dataset` over `pair`."""
        import xarray as xr

        columns = {"value": self.values, "residual": self.residuals, "converged": self.converged}
        return xr.Dataset(
            {name: ("pair", np.asarray(column)) for name, column in columns.items()},
            attrs={"complete": str(self.complete), "status": str(self.status), "convention": self.convention},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import kernel_spectrum_figure

        return kernel_spectrum_figure(np.asarray(self.values if self.all_values is None else self.all_values))


def kernel_spectrum(
    network: Network,
    landscape: Points,
    *,
    num: int | None = None,
    convention: Convention = "trace",
    only: Only = None,
    key: PRNGKeyArray | None = None,
    method: Literal["auto", "exact", "lanczos"] = "auto",
    rtol: float | None = None,
    max_products: int = 2000,
    batch_size: int | None = None,
) -> KernelSpectrum:
    r"""The largest eigenvalues of the empirical tangent kernel, with vectors.

    Up to 4,000 rows the matrix is made and diagonalised. Above, thick-restart Lanczos with verification runs (see
    [`lossatlas.geometry.spectrum`][]) on products $J (J^\top v)$, which never form it.

    **Arguments:**
    - `num`: how many pairs; default 10, or all of a smaller kernel.
    - `convention`, `batch_size`: as for [`lossatlas.geometry.ntk`][].
    - `key`: of the random starts of Lanczos; default `jax.random.key(0)`.
    - `method`: `"exact"`, `"lanczos"` or `"auto"`.
    - `rtol`, `max_products`: as for [`lossatlas.geometry.spectrum`][].

    **Returns:**
    A [`lossatlas.geometry.KernelSpectrum`][].

    **Raises:** `InputError` for numbers out of range, unknown names, and what [`lossatlas.geometry.ntk`][] refuses.
    """
    begin = time.perf_counter()
    if method not in ("auto", "exact", "lanczos"):
        raise unknown_name("method", method, ("auto", "exact", "lanczos"))
    data = as_landscape(landscape)
    operator = ntk_operator(network, data, convention=convention, only=only, batch_size=batch_size)
    size, dtype = operator.in_size(), np.dtype(operator.in_structure().dtype)
    num = min(_DEFAULT_NUM, size) if num is None else num
    if not 1 <= num <= size:
        msg = f"num must be between 1 and the number of rows of the kernel, {size}; got {num}."
        raise InputError(msg)
    rtol = max(1e-6, 100 * float(np.finfo(dtype).eps)) if rtol is None else rtol
    if rtol < 10 * np.finfo(dtype).eps:
        msg = (
            f"rtol must be at least {10 * np.finfo(dtype).eps:.1e}, ten times the rounding unit of {dtype}; got {rtol}."
        )
        raise InputError(msg)
    exact = method == "exact" or (method == "auto" and size <= _MAX_EXACT)
    products = 0
    everything = rank = None
    if exact:
        matrix = ntk(network, data, convention=convention, only=only, batch_size=batch_size).matrix
        ascending, columns = np.linalg.eigh(matrix)
        everything, vectors = ascending[::-1], columns.T[::-1][:num]
        values, complete = everything[:num], Certificate.YES
        residuals = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
        rank = rank_of_values(everything)
    else:

        def product(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return np.asarray(_apply(operator, jnp.asarray(vector, dtype)))

        rng = host_generator(jax.random.key(0) if key is None else key)
        found = extreme_pairs(
            product, size, dtype, num_top=num, num_bottom=0, rtol=rtol, max_products=max_products, rng=rng
        )
        values, vectors, residuals = found.values, found.vectors, found.residuals
        complete = Certificate.YES if found.is_verified else Certificate.NOT_CERTIFIED
    converged = residuals <= rtol * np.abs(values).max()
    done = bool(converged.all()) and complete is Certificate.YES
    return KernelSpectrum(
        values=jnp.asarray(values),
        vectors=jnp.asarray(vectors),
        residuals=jnp.asarray(residuals),
        converged=jnp.asarray(converged),
        all_values=None if everything is None else jnp.asarray(everything),
        effective_rank=rank,
        complete=complete,
        status=Status.CONVERGED if done else Status.MAX_STEPS,
        convention=convention,
        stats={"products": products, "seconds": time.perf_counter() - begin, "size": size},
        settings={"method": "exact" if exact else "lanczos", "rtol": rtol, "num": num},
    )


@eqx.filter_jit
def _apply(operator, vector):
    return operator.mv(vector)
