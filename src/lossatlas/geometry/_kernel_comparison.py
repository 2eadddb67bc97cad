"""Two kernels of the same examples: how far they are apart, as wholes and layer by layer, with standard errors."""

import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._show import html_page, shown
from lossatlas.geometry._kernel_bootstrap import resample_counts, resampled_distances
from lossatlas.geometry._kernel_distance import KernelDistance, as_matrix, kernel_distance
from lossatlas.geometry._ntk import Kernel


WHOLE, CENTRED = "whole", "whole, centred"


@shown
class KernelComparison(eqx.Module):
    r"""How a second kernel stands to a first one, part by part.

    - `parts`: by name, `"whole"`, `"whole, centred"` and the layers, a [`lossatlas.geometry.KernelDistance`][]. Layers
      are there where both kernels are split into layers of the same names. NaN where one of the two is zero.
    - `errors`: by the same names, the standard errors of `distance`, `scale` and `change`: how far they would scatter
      over other examples of the kind, from resamples of the examples (bootstrap). Empty without resamples.
    - `first`, `second`: the two kernels.
    """

    parts: dict[str, KernelDistance]
    errors: dict[str, dict[str, float]]
    first: Kernel
    second: Kernel
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def whole(self) -> KernelDistance:
        """The distance of the whole kernels."""
        return self.parts[WHOLE]

    @property
    def centred(self) -> KernelDistance:
        """The distance of the whole kernels, both centred; one less it is their CKA."""
        return self.parts[CENTRED]

    @property
    def layers(self) -> dict[str, KernelDistance]:
        """The distances of the layers; empty where they do not pair."""
        return {name: part for name, part in self.parts.items() if name not in (WHOLE, CENTRED)}

    def to_xarray(self):
        """Distances, scales, changes, angles and standard errors as an `xarray.Dataset` over `part`."""
        import xarray as xr

        columns = {
            name: [getattr(part, name) for part in self.parts.values()]
            for name in ("distance", "scale", "change", "angle")
        }
        columns |= {
            f"{name}_error": [row[name] for row in self.errors.values()]
            for name in ("distance", "scale", "change")
            if self.errors
        }
        return xr.Dataset(
            {name: ("part", np.asarray(column, float)) for name, column in columns.items()},
            coords={"part": list(self.parts)},
            attrs={"convention": self.first.convention},
        )

    def _repr_html_(self) -> str:
        rows = [
            {"part": name, "distance": part.distance, "scale": part.scale, "change": part.change, "angle": part.angle}
            for name, part in self.parts.items()
        ]
        return html_page(f"Two kernels, convention {self.first.convention}", rows)

    def _figure(self) -> Any:
        from lossatlas.figures import kernel_spectrum_figure

        kernels = {"first": self.first, "second": self.second}
        return kernel_spectrum_figure({name: np.linalg.eigvalsh(as_matrix(k))[::-1] for name, k in kernels.items()})


def compare_kernels(
    first: Kernel, second: Kernel, *, num_resamples: int = 200, key: PRNGKeyArray | None = None
) -> KernelComparison:
    r"""How far a kernel moved between two networks, on the same examples, with standard errors.

    The networks may differ in architecture: kernels of the same examples and outputs have one shape. Layers are paired
    by name, where the names are the same in both. Time and memory: some products of matrices of the size of the
    kernel for each part, and no further kernels.

    **Arguments:**
    - `first`, `second`: kernels of the same examples with themselves, of one convention and with as many outputs.
    - `num_resamples`: of the examples, for the standard errors; 0 for none.
    - `key`: decides the resamples; None for the same in every call.

    **Returns:**
    A [`lossatlas.geometry.KernelComparison`][].

    **Raises:** `InputError` for other outputs, shapes and conventions, kernels between different examples, whole
    kernels of zeros, and a single resample.

    !!! example
        >>> kernel = ntk(Dense(jax.random.key(0), [2, 3, 1]), jnp.ones((4, 2)), per_layer=True)
        >>> compare_kernels(kernel, kernel).whole.distance
        0.0
    """
    begin = time.perf_counter()
    if num_resamples < 0 or num_resamples == 1:
        msg = f"num_resamples must be at least 2, or 0 for no errors, got {num_resamples}."
        raise InputError(msg)
    if first.num_outputs != second.num_outputs:
        msg = (
            f"The kernels are of networks with {first.num_outputs} and {second.num_outputs} outputs; a distance needs "
            "the same outputs on the same examples."
        )
        raise InputError(msg)
    wholes = as_matrix(first), as_matrix(second)
    if wholes[0].shape[0] != wholes[0].shape[1]:
        msg = f"A comparison needs kernels of examples with themselves, got shape {wholes[0].shape}."
        raise InputError(msg)
    parts = {WHOLE: kernel_distance(first, second), CENTRED: _distance(*wholes, centred=True)}
    pairs = {WHOLE: wholes, CENTRED: wholes}
    if list(first.layers) == list(second.layers):
        layers = {
            name: (np.asarray(first.layers[name], float), np.asarray(second.layers[name], float))
            for name in first.layers
        }
        pairs |= layers
        parts |= {name: _distance(*pair, centred=False) for name, pair in layers.items()}
    num_examples = len(wholes[0]) // (first.num_outputs if first.convention == "full" else 1)
    errors = {}
    if num_resamples:
        counts = resample_counts(jax.random.key(0) if key is None else key, num_examples, num_resamples)
        errors = {name: _errors(counts, *pair, centred=name == CENTRED) for name, pair in pairs.items()}
    return KernelComparison(
        parts=parts,
        errors=errors,
        first=first,
        second=second,
        stats={"seconds": time.perf_counter() - begin},
        settings={"num_resamples": num_resamples, "num_examples": num_examples},
    )


def _distance(one: np.ndarray, two: np.ndarray, *, centred: bool) -> KernelDistance:
    """NaN where one of the two has no direction: a layer that moves nothing, or a constant kernel, centred."""
    try:
        return kernel_distance(one, two, centred=centred)
    except InputError:
        return KernelDistance(np.nan, np.nan, np.nan, centred)


def _errors(counts: np.ndarray, one: np.ndarray, two: np.ndarray, *, centred: bool) -> dict[str, float]:
    if not (one.any() and two.any()):
        return dict.fromkeys(("distance", "scale", "change"), np.nan)
    found = resampled_distances(counts, one, two, centred=centred)
    return {name: float(values.std(ddof=1)) for name, values in found.items()}
