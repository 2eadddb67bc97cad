"""The density of the Hessian spectrum, with an error band."""

import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._krylov import KrylovBasis
from lossatlas.geometry._products import (
    CURVATURES,
    Curvature,
    CurvatureProducts,
    Loop,
    host_generator,
    random_signs,
)
from lossatlas.landscape import Landscape


@shown
class SpectralDensity(eqx.Module):
    r"""The density of the eigenvalues, a probability: it integrates to one.

    - `grid`, `density`, `standard_error`: the mean over the probes of the smoothed density, and its error.
    - `width`: standard deviation of the Gaussian that smooths it, in units of the eigenvalues.
    - `nodes`, `weights`: Gauss quadrature of each probe; the weights of a probe sum to one. Rows that ended early
      (invariant subspace) are filled with their last node at weight 0.
    - `num_products`: Hessian products used.
    """

    grid: Float[Array, " g"]
    density: Float[Array, " g"]
    standard_error: Float[Array, " g"]
    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    size: int = eqx.field(static=True)
    width: float = eqx.field(static=True)
    num_products: int = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def moment(self, order: int) -> tuple[float, float]:
        r"""$\frac1p \operatorname{tr} H^{order}$ and its standard error; exact quadrature up to order 2 steps - 1."""
        return self.integrate(lambda values: values**order)

    def integrate(self, fn) -> tuple[float, float]:
        r"""$\frac1p \operatorname{tr} f(H)$ for an elementwise f, and its standard error."""
        samples = np.sum(np.asarray(self.weights) * np.asarray(fn(np.asarray(self.nodes))), axis=1)
        return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))

    def to_xarray(self):
        """Density and error over the grid as an `xarray.Dataset`."""
        import xarray as xr

        return xr.Dataset(
            {name: ("eigenvalue", np.asarray(getattr(self, name))) for name in ("density", "standard_error")},
            coords={"eigenvalue": np.asarray(self.grid)},
            attrs={"size": self.size, "width": self.width},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import curves_figure

        matrix = CURVATURES[self.settings.get("curvature", "hessian")]
        curve = {"density": (np.asarray(self.grid), np.asarray(self.density))}
        return curves_figure(curve, x=f"eigenvalue of the {matrix}", y="density")


def spectral_density(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    width: float | None = None,
    num_grid: int = 512,
    only: Only = None,
    curvature: Curvature = "hessian",
    loop: Loop = "auto",
) -> SpectralDensity:
    r"""The eigenvalue density of the Hessian, or of a relative of it, by stochastic Lanczos quadrature.

    Each of `num_probes` random sign vectors gets `num_steps` Lanczos steps with full reorthogonalisation in two
    passes; its Ritz values and the squared first components of their vectors are a Gauss quadrature of the density
    (Golub and Meurant; Ubaru, Chen and Saad 2017). The probes differ, which gives the error band; the quadrature
    itself is exact for polynomials up to degree `2 num_steps - 1`. Cost: `num_probes * num_steps` products.

    **Arguments:**
    - `num_probes`: at least 2, since one has no error bar.
    - `num_steps`: Lanczos steps of a probe; a smaller problem is exhausted in as many steps as it has parameters.
    - `width`: standard deviation of the smoothing Gaussian in units of the eigenvalues; default 1 % of the range.
    - `num_grid`: points of the grid, which spans the spectrum and five widths on either side.
    - `only`: a parameter filter; the density is then that of the block.
    - `curvature`, `loop`: which matrix, and over batches; see [`lossatlas.geometry.spectrum`][].

    **Returns:**
    A [`lossatlas.geometry.SpectralDensity`][].

    **Raises:** `InputError` for fewer than 2 probes, no steps, and a width that is not positive.
    """
    begin = time.perf_counter()
    if num_probes < 2:
        msg = f"num_probes must be at least 2 to have an error band, got {num_probes}."
        raise InputError(msg)
    if num_steps < 1 or num_grid < 2:
        msg = f"num_steps must be at least 1 and num_grid at least 2, got {num_steps} and {num_grid}."
        raise InputError(msg)
    if width is not None and not width > 0:
        msg = f"width must be positive, got {width}."
        raise InputError(msg)
    products = CurvatureProducts(network, landscape, only, curvature=curvature, key=key, loop=loop)
    steps = min(num_steps, products.size)
    rng = host_generator(key)
    nodes, weights = (
        np.stack(part) for part in zip(*(_quadrature(products, steps, rng) for _ in range(num_probes)), strict=True)
    )
    low, high = nodes[weights > 0].min(), nodes[weights > 0].max()
    spread = max(high - low, 1e-3 * max(abs(low), abs(high)), float(np.finfo(float).tiny) ** 0.5)
    width = float(0.01 * spread) if width is None else float(width)
    grid = np.linspace(low - 5 * width, high + 5 * width, num_grid)
    curves = np.stack([_smooth(grid, n, w, width) for n, w in zip(nodes, weights, strict=True)])
    return SpectralDensity(
        grid=jnp.asarray(grid),
        density=jnp.asarray(curves.mean(0)),
        standard_error=jnp.asarray(curves.std(0, ddof=1) / np.sqrt(num_probes)),
        nodes=jnp.asarray(nodes),
        weights=jnp.asarray(weights),
        size=products.size,
        width=width,
        num_products=products.count,
        stats={"seconds": time.perf_counter() - begin},
        settings={
            "num_probes": num_probes,
            "num_steps": steps,
            "width": width,
            "curvature": curvature,
            "convention": "mean over examples",
        },
    )


def _quadrature(products: CurvatureProducts, steps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of one probe, padded with its last node at weight 0, where functions of it are finite."""
    start = random_signs(rng, products)[None]
    nothing = np.zeros((0, products.size), products.dtype)
    basis = KrylovBasis(products, products.size, steps, start, nothing, rng)
    while basis.known < steps and not basis.is_exhausted:
        basis.expand()
        if basis.coupling.size and not basis.coupling[:, -1].any():
            break  # an invariant subspace: the quadrature is exact, and random continuation would have weight 0
    values, columns, _ = basis.ritz()
    nodes, weights = np.full(steps, values[-1]), np.zeros(steps)
    nodes[: len(values)], weights[: len(values)] = values, columns[0] ** 2
    return nodes, weights


def _smooth(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    distance = (grid[:, None] - nodes) / width
    return np.exp(-0.5 * distance**2) @ weights / (width * np.sqrt(2 * np.pi))
