"""The diagonal and the Frobenius norm of a curvature matrix, with standard errors."""

import math
import time
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters, ravel
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._products import Curvature, CurvatureProducts, Loop, host_generator, random_signs
from lossatlas.landscape import Landscape


_LEAST = 6


@shown
class DiagonalEstimate(eqx.Module):
    """An estimate of the diagonal of a curvature matrix, entry by entry.

    - `values`, `standard_error`: in `ravel_pytree` order of the selected parameters; errors are 0 where exact.
    - `num_products`: products used.
    """

    values: Float[Array, " p"]
    standard_error: Float[Array, " p"]
    num_products: int = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def by_parameter(self, network: Network, only: Only = None) -> dict[str, Float[Array, "..."]]:
        """The entries by the name of the array, in its shape, of the network and the filter that were measured."""
        _, unravel = ravel(network, only)
        return named_parameters(unravel.tangent(self.values))

    def to_xarray(self):
        """Values and errors as an `xarray.Dataset` over `parameter`."""
        import xarray as xr

        columns = {"value": self.values, "standard_error": self.standard_error}
        return xr.Dataset({name: ("parameter", np.asarray(column)) for name, column in columns.items()})


@shown
class NormEstimate(eqx.Module):
    r"""An estimate of the Frobenius norm $\sqrt{\sum_{ij} H_{ij}^2}$ of a curvature matrix.

    - `value`, `standard_error`: of the norm; by the first-order rule from those of its square. 0 where exact.
    - `num_products`: products used.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    num_products: int = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]


def diagonal(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    num_probes: int = 90,
    only: Only = None,
    curvature: Curvature = "hessian",
    method: Literal["sketched", "exact"] = "sketched",
    loop: Loop = "auto",
) -> DiagonalEstimate:
    r"""The diagonal of the Hessian of the mean loss, or of a relative of it.

    `"sketched"` takes the diagonal of $QQ^\top H$ exactly, Q the range of a random sketch, and averages
    $z \odot (I - QQ^\top) H z$ over random signs for the rest (Bekas, Kokiopoulou and Saad 2007, with a sketch as in
    Hutch++).
    The error of one entry comes from the other entries of its row, so small entries beside large ones stay uncertain:
    see the standard errors.

    **Arguments:**
    - `num_probes`: products to spend: a third each on the sketch, its image, and the probes of the rest.
    - `method`: `"exact"` takes as many products as parameters, whatever `num_probes`.
    - `only`, `curvature`, `loop`: see [`lossatlas.geometry.trace`][].

    **Returns:**
    A [`lossatlas.geometry.DiagonalEstimate`][].

    **Raises:** `InputError` for fewer than 6 probes.
    """
    begin = time.perf_counter()
    products = _products(key, network, landscape, only, curvature, loop, num_probes, method)
    if method == "exact" or num_probes // 3 >= products.size:
        values, error = products.diagonal(), np.zeros(products.size)
    else:
        rng = host_generator(key)
        basis, images = _sketch(products, num_probes // 3, rng)
        known = np.sum(basis * images, axis=0)
        samples = []
        for _ in range(num_probes - 2 * len(basis)):
            probe = random_signs(rng, products)
            image = products(probe).astype(float)
            samples.append(probe * (image - (basis @ image) @ basis))
        values = known + np.mean(samples, axis=0)
        error = np.std(samples, axis=0, ddof=1) / math.sqrt(len(samples))
    return DiagonalEstimate(
        values=jnp.asarray(values),
        standard_error=jnp.asarray(error),
        num_products=products.count,
        stats={"seconds": time.perf_counter() - begin},
        settings=_settings(method, num_probes, curvature),
    )


def frobenius_norm(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    num_probes: int = 60,
    only: Only = None,
    curvature: Curvature = "hessian",
    method: Literal["sketched", "exact"] = "sketched",
    loop: Loop = "auto",
) -> NormEstimate:
    r"""The Frobenius norm of the Hessian of the mean loss, or of a relative of it.

    $\|H\|_F^2 = \|HQ\|_F^2 + \|H(I - QQ^\top)\|_F^2$: exact on the range Q of a random sketch; the rest is the mean of
    $\|H (I - QQ^\top) z\|^2$ over random signs.

    **Arguments:**
    - `num_probes`: products to spend: a third each on the sketch, its image, and the probes of the rest.
    - `method`: `"exact"` forms the matrix: as many products as parameters, `size**2` numbers.
    - `only`, `curvature`, `loop`: see [`lossatlas.geometry.trace`][].

    **Returns:**
    A [`lossatlas.geometry.NormEstimate`][].

    **Raises:** `InputError` for fewer than 6 probes.
    """
    begin = time.perf_counter()
    products = _products(key, network, landscape, only, curvature, loop, num_probes, method)
    if method == "exact" or num_probes // 3 >= products.size:
        value, error = float(np.linalg.norm(products.dense().astype(float))), 0.0
    else:
        rng = host_generator(key)
        basis, images = _sketch(products, num_probes // 3, rng)
        samples = []
        for _ in range(num_probes - 2 * len(basis)):
            probe = random_signs(rng, products).astype(float)
            samples.append(np.sum(products(probe - (basis @ probe) @ basis).astype(float) ** 2))
        square = float(np.sum(images**2) + np.mean(samples))
        value = math.sqrt(square)
        error = float(np.std(samples, ddof=1) / math.sqrt(len(samples))) / (2 * value) if value else 0.0
    return NormEstimate(
        value=jnp.asarray(value),
        standard_error=jnp.asarray(error),
        num_products=products.count,
        stats={"seconds": time.perf_counter() - begin},
        settings=_settings(method, num_probes, curvature),
    )


def _products(key, network, landscape, only, curvature, loop, num_probes, method) -> CurvatureProducts:
    if method not in ("sketched", "exact"):
        raise unknown_name("method", method, ("sketched", "exact"))
    if method == "sketched" and num_probes < _LEAST:
        msg = f"num_probes must be at least {_LEAST} to have an error bar, got {num_probes}."
        raise InputError(msg)
    return CurvatureProducts(network, landscape, only, curvature=curvature, key=key, loop=loop)


def _sketch(products: CurvatureProducts, rank: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal rows of the range of a sketch, and their images, in double precision."""
    columns = np.stack([products(random_signs(rng, products)) for _ in range(rank)], axis=1)
    rows = np.linalg.qr(columns.astype(float))[0].T.copy()
    return rows, np.stack([products(row) for row in rows]).astype(float)


def _settings(method: str, num_probes: int, curvature: str) -> dict[str, Any]:
    return {"method": method, "num_probes": num_probes, "curvature": curvature, "convention": "mean over examples"}
