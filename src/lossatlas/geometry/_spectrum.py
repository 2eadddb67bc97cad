"""The ends of the Hessian spectrum, every pair with its residual norm."""

import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import num_parameters
from lossatlas._show import shown
from lossatlas._status import Certificate, Status
from lossatlas._types import Network, Only
from lossatlas.geometry._device_krylov import DeviceBasis
from lossatlas.geometry._krylov import KrylovBasis
from lossatlas.geometry._lanczos import chosen_ends, extreme_pairs
from lossatlas.geometry._products import CURVATURES, Curvature, CurvatureProducts, Loop, host_generator
from lossatlas.landscape import Landscape


MAX_EXACT = 1500
"""Parameters up to which the whole spectrum comes from the dense matrix."""
_DEFAULT_NUM = 10


@shown
class Spectrum(eqx.Module):
    r"""Eigenpairs of a curvature matrix of the mean loss, in descending order, from both ends.

    - `values`, `vectors` (rows, in `ravel_pytree` order of the selected parameters).
    - `residuals`: $\|Hv - \lambda v\|$, measured; an eigenvalue lies within this distance of each value.
    - `converged`: whether the residual is at most `rtol` times the largest absolute eigenvalue.
    - `complete`: whether no eigenvalue beyond the last reported one of either end was missed: YES for the dense
      method and after a verification run (see [`lossatlas.geometry.spectrum`][]), else NOT_CERTIFIED.
    - `all_values`: the whole spectrum, descending; None with Lanczos.
    - `num_top`: how many of the pairs are counted from above; the others are counted from below.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k p"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    all_values: Float[Array, " p"] | None
    num_top: int = eqx.field(static=True)
    num_bottom: int = eqx.field(static=True)
    complete: Certificate = eqx.field(static=True)
    status: Status = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def top(self) -> Float[Array, " t"]:
        """The largest eigenvalues, largest first."""
        return self.values[: self.num_top]

    @property
    def bottom(self) -> Float[Array, " b"]:
        """The smallest (most negative) eigenvalues, smallest first."""
        return self.values[::-1][: self.num_bottom]

    @property
    def sharpness(self) -> Float[Array, ""]:
        """The largest eigenvalue; gradient descent is stable below a step of 2 over it."""
        return self.values[0]

    def to_xarray(self):
        """The values, residuals and flags as an `xarray.Dataset` over `pair`."""
        import xarray as xr

        columns = {"value": self.values, "residual": self.residuals, "converged": self.converged}
        return xr.Dataset(
            {name: ("pair", np.asarray(column)) for name, column in columns.items()},
            attrs={"complete": str(self.complete), "status": str(self.status), "num_top": self.num_top},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import points_figure

        values = np.asarray(self.values if self.all_values is None else self.all_values)
        texts = [f"{value:.6g}" for value in values]
        groups = {"eigenvalues": (np.arange(1, len(values) + 1), values, texts)}
        matrix = CURVATURES[self.settings.get("curvature", "hessian")]
        return points_figure(groups, x="index, the largest first", y=f"eigenvalue of the {matrix}")


def spectrum(
    network: Network,
    landscape: Landscape,
    *,
    num_top: int | None = None,
    num_bottom: int | None = None,
    only: Only = None,
    key: PRNGKeyArray | None = None,
    curvature: Curvature = "hessian",
    num_samples: int = 1,
    method: Literal["auto", "exact", "lanczos"] = "auto",
    rtol: float | None = None,
    max_products: int = 2000,
    start: Spectrum | None = None,
    verify: bool = True,
    loop: Loop = "auto",
) -> Spectrum:
    r"""The largest and the smallest eigenvalues of the Hessian of the mean loss, or of a relative of it, with vectors.

    Up to 1,500 parameters the dense matrix is diagonalised (p products, $p^2$ numbers). Above, thick-restart
    Lanczos from one random start, with full reorthogonalisation in two passes, runs until every wanted pair has
    converged; then verification runs with fresh random starts search the complement of what was found, until
    nothing beyond the last wanted value of each end is left. So multiple eigenvalues and close neighbours are all
    found, and no eigenvalue is passed off as an earlier one. Typical cost: 2 to 6 products a pair, and about as many
    again for the verification; memory at most 1 GB of vectors and their images, or k + 20 of them.

    **Arguments:**
    - `network`, `landscape`: the point and the data; the convention is the mean over the examples.
    - `num_top`, `num_bottom`: pairs of each end; default 10, or all of a smaller problem. 0 leaves an end out.
    - `only`: a parameter filter; the Hessian is then the block of these parameters.
    - `key`: of the random starts, and of the targets of the sampled Fisher matrix; default `jax.random.key(0)`.
    - `curvature`: `"hessian"`; `"gauss_newton"`, $\frac1n \sum_i J_i^\top \ell''(f_i) J_i$; or a Fisher matrix,
      $\frac1n \sum_i J_i^\top F_i J_i$, see [`lossatlas.landscape.Landscape.fisher_operator`][]: `"fisher"`,
      `"sampled_fisher"` with `num_samples` targets an example, `"empirical_fisher"`.
    - `method`: `"exact"`, `"lanczos"`, or `"auto"` (exact up to 1,500 parameters).
    - `rtol`: a pair has converged when its residual is at most `rtol` times the largest absolute eigenvalue. Default
      1e-6 in float64, 1e-5 in float32. The error of an isolated eigenvalue is about the residual squared over its gap.
    - `max_products`: where Lanczos gives up; unconverged pairs are then reported as such.
    - `start`: an earlier spectrum of a network nearby, for instance of the snapshot before: the search begins with the
      sum of its vectors, which saves a few products. It cannot mislead: verification starts at random.
    - `verify`: whether to search for hidden pairs; without it the result is not certified to be complete.
    - `loop`: what drives Lanczos and the batches of a landscape that has some: the `"host"`; or the `"device"`, where a
      compiled program runs up to 8 steps between two checks and keeps the basis, with up to 8 + 32 rows more (so up to
      7 steps are more than was needed). `"auto"`: on a CPU the host, but batches without convolutions on the device;
      elsewhere the device, so that an accelerator does not wait for the host; the gain there was not measured.
      `settings["loop"]` says which drove Lanczos.

    **Returns:**
    A [`lossatlas.geometry.Spectrum`][].

    **Raises:** `InputError` for more pairs than parameters, none at all, a tolerance below the precision, and
    products that are not finite, a start of another size, and a Fisher matrix of a loss without a likelihood.

    !!! cite
        Wu and Simon 2000 (thick restart); Kuczynski and Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13
        (the probability bound of the verification).
    """
    begin = time.perf_counter()
    key = jax.random.key(0) if key is None else key
    size = num_parameters(network, only)
    num_top = _check_num("num_top", num_top, size)
    num_bottom = _check_num("num_bottom", num_bottom, size)
    if num_top + num_bottom == 0:
        msg = "num_top and num_bottom are both 0; ask for at least one pair."
        raise InputError(msg)
    if method not in ("auto", "exact", "lanczos"):
        raise unknown_name("method", method, ("auto", "exact", "lanczos"))
    if max_products < 1:
        msg = f"max_products must be at least 1, got {max_products}."
        raise InputError(msg)
    if start is not None and start.vectors.shape[1] != size:
        msg = f"start holds vectors of {start.vectors.shape[1]} parameters; {size} are selected here."
        raise InputError(msg)
    products = CurvatureProducts(
        network, landscape, only, curvature=curvature, key=key, num_samples=num_samples, loop=loop
    )
    rtol = _check_rtol(rtol, products.dtype)
    exact = method == "exact" or (method == "auto" and size <= MAX_EXACT) or num_top + num_bottom >= size
    settings: dict[str, Any] = {
        "method": "exact" if exact else "lanczos",
        "rtol": rtol,
        "curvature": curvature,
        "convention": "mean over examples",
    }
    verifications = 0
    if exact:
        values, vectors, residuals, everything = _dense_pairs(products, num_top, num_bottom)
        num_products = products.count
        complete = Certificate.YES
    else:
        on_device = loop == "device" or (loop == "auto" and jax.default_backend() != "cpu")
        settings |= {"max_products": max_products, "loop": "device" if on_device else "host"}
        found = extreme_pairs(
            products.traceable() if on_device else products,
            size,
            products.dtype,
            num_top=num_top,
            num_bottom=num_bottom,
            rtol=rtol,
            max_products=max_products,
            rng=host_generator(key),
            start=None if start is None else np.asarray(start.vectors).sum(axis=0),
            verify=verify,
            basis_type=DeviceBasis if on_device else KrylovBasis,
        )
        values, vectors, residuals, everything = found.values, found.vectors, found.residuals, None
        complete = Certificate.YES if found.is_verified else Certificate.NOT_CERTIFIED
        verifications, num_products = found.num_verifications, found.num_products
    converged = residuals <= rtol * np.abs(values).max()
    done = bool(converged.all()) and (complete is Certificate.YES or not verify)
    return Spectrum(
        values=jnp.asarray(values),
        vectors=jnp.asarray(vectors),
        residuals=jnp.asarray(residuals),
        converged=jnp.asarray(converged),
        all_values=None if everything is None else jnp.asarray(everything),
        num_top=min(num_top, len(values)),
        num_bottom=min(num_bottom, len(values)),
        complete=complete,
        status=Status.CONVERGED if done else Status.MAX_STEPS,
        stats={
            "products": num_products,
            "verifications": verifications,
            "seconds": time.perf_counter() - begin,
            "size": size,
        },
        settings=settings,
    )


def _dense_pairs(products: CurvatureProducts, num_top: int, num_bottom: int):
    matrix = products.dense()
    ascending, columns = np.linalg.eigh(matrix)
    everything, rows = ascending[::-1], columns.T[::-1]
    chosen = chosen_ends(len(everything), num_top, num_bottom)
    values, vectors = everything[chosen], rows[chosen]
    residuals = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    return values, vectors, residuals, everything


def _check_num(name: str, given: int | None, size: int) -> int:
    if given is None:
        return min(_DEFAULT_NUM, size)
    if not 0 <= given <= size:
        msg = f"{name} must be between 0 and the number of selected parameters, {size}; got {given}."
        raise InputError(msg)
    return given


def _check_rtol(rtol: float | None, dtype: np.dtype) -> float:
    eps = float(np.finfo(dtype).eps)
    if rtol is None:
        return max(1e-6, 100 * eps)
    if not rtol >= 10 * eps:
        msg = f"rtol must be at least {10 * eps:.1e}, ten times the rounding unit of {dtype}; got {rtol}."
        raise InputError(msg)
    return rtol
