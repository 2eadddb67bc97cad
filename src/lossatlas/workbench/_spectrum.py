"""The spectrum of a stored model on data: both ends, the trace, the density, layer by layer; as a page."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Certificate
from lossatlas._types import Network, Only
from lossatlas.figures import format_number, spectrum_figure
from lossatlas.geometry import CURVATURES, Curvature
from lossatlas.geometry._layer_moments import paths_by_use
from lossatlas.geometry._spectrum import MAX_EXACT
from lossatlas.geometry._stationary import gradient_warning
from lossatlas.workbench._instrument import (
    BatchSize,
    Measured,
    Picture,
    Section,
    check_least,
    command_words,
    cost_line,
    facts_table,
    instrument_folder,
    open_point,
    rows_table,
    write_measured,
)
from lossatlas.workbench._layers import layer_products, layers_section
from lossatlas.workbench._model import Model
from lossatlas.workbench._spectrum_blocks import TRACE_PROBES, array_blocks, block_products, trace_of


KIND = "spectrum"
_PAIR_PRODUCTS = 4  # that an eigenpair takes, as a rule, its verification included
_DENSITY: dict[str, Any] = {"num_probes": 5, "num_steps": 60}
_ROUNDING = 4  # eps of the largest eigenvalue times the root of their number: what is smaller is 0 in a headline
_TERMS = {
    "Hessian": "The matrix of second derivatives of the mean loss in the parameters. Its eigenvalues are the "
    "curvatures of the landscape here: large ones are steep walls, those near zero flat directions, negative ones "
    "lead down on both sides.",
    "Residual": "The length of Hv - λv. An eigenvalue lies within this distance of the value.",
    "Complete": "Whether more eigenvalues could be hidden beyond the last one listed: searched for in the complement "
    "of those found, with a chance below one in a million to miss any.",
    "Density": "The share of all eigenvalues per unit of the axis, smoothed, by random probes. The band is two "
    "standard errors of the mean over the probes on either side.",
    "Largest stable step": "Gradient descent with a larger step than 2 over the largest eigenvalue of the Hessian "
    "grows along it.",
}


def spectrum(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    num_top: int = 10,
    num_bottom: int = 10,
    rtol: float = 1e-4,
    only: str | None = None,
    curvature: Curvature = "hessian",
    has_density: bool = True,
    per_layer: bool = False,
    per_array: bool = False,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    origin: str | None = None,
    loaded: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    announce: Callable[[str], None] | None = None,
) -> Measured:
    """Measure the curvature of the loss of a stored model, and write a page, JSON and labelled arrays.

    **Arguments:**
    - `model`, `table`, `network`, `target`, `batch_size`, `precision`, `origin`, `loaded`: see
      `open_point`.
    - `num_top`, `num_bottom`: eigenvalues from each end, together at most as many as there are parameters: fewer at
      the bottom, then fewer at the top. `only`: a parameter filter; the Hessian is then its block.
    - `rtol`: the residual at which a pair has converged, relative to the largest absolute eigenvalue; ten times as
      much for blocks.
    - `curvature`: which matrix; see [`lossatlas.geometry.spectrum`][].
    - `has_density`: whether to measure the density of all eigenvalues.
    - `per_layer`: also the Gauss-Newton block of every layer, and what they say of the initialisation; see
      [`lossatlas.geometry.layer_curvature`][]. `per_array`: also the ends and the trace of the block of every
      parameter array.
    - `seed`: of the probes. `out`: the folder to write into; default `spectrum` in the folder of runs.
    - `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.geometry.Spectrum`][].

    **Raises:** `InputError` for what cannot be read or written, before any long work; for `per_array` with `only`.
    """
    from lossatlas import geometry

    if per_array and only is not None:
        msg = "per_array (--per-array) measures every array by itself and only (--only) a selection; give one of them."
        raise InputError(msg)
    check_least("num_top", num_top, 0, option="top")
    check_least("num_bottom", num_bottom, 0, option="bottom")
    check_least("rtol", rtol, 0, is_above=True)
    if num_top + num_bottom == 0:
        msg = "num_top (--top) and num_bottom (--bottom) are both 0; ask for at least one pair."
        raise InputError(msg)
    folder = instrument_folder(KIND, out)
    with jax.enable_x64(True):
        point = open_point(
            model,
            table,
            network=network,
            target=target,
            batch_size=batch_size,
            precision=precision,
            origin=origin,
            loaded=loaded,
            only=only,
        )
        net, landscape = point.network, point.landscape
        size = num_parameters(net, only)
        blocks = paths_by_use(net, landscape) if per_array else []
        cost = geometry.product_cost(net, landscape, only=only)
        if announce is not None:
            num = _expected_products(
                net, landscape, only, num_top + num_bottom, blocks, has_density=has_density, per_layer=per_layer
            )
            work = f"about {num:,} products of {1e3 * cost.seconds:.3g} ms"
            announce(cost_line(work, num * cost.seconds, cost.memory_bytes))
        keys = jax.random.split(jax.random.key(seed), 3)
        with as_meter(progress).task("spectrum", 5) as task:
            found = geometry.spectrum(
                net,
                landscape,
                num_top=min(num_top, size),
                num_bottom=min(num_bottom, size - min(num_top, size)),
                only=only,
                key=keys[0],
                curvature=curvature,
                rtol=rtol,
            )
            task.update(1, "trace")
            measured: dict[str, Any] = {"only": only, "curvature": curvature}
            trace = trace_of(keys[1], net, landscape, found, **measured)
            task.update(2, "density" if has_density else "")
            density = (
                geometry.spectral_density(keys[2], net, landscape, **measured, **_DENSITY) if has_density else None
            )
            layers = None
            if per_layer:
                task.update(3, "layers")
                layers = geometry.layer_curvature(net, landscape, only=only, key=keys[0], rtol=10 * rtol)
            rows, used = [], 0
            if blocks:
                task.update(4, "arrays")
                rows, used = array_blocks(keys[0], net, landscape, blocks, curvature, 10 * rtol)
            task.update(5)
        standing = _standing(net, landscape, only)
    values, sharpness = np.asarray(found.values, float), float(found.sharpness)
    rounding = _ROUNDING * float(np.finfo(precision).eps) * math.sqrt(size) * float(np.abs(values).max())
    facts = {
        "loss": standing["loss"],
        "gradient_norm": standing["gradient_norm"],
        "sharpness": sharpness,
        "lowest": float(values[-1]),
        "largest_stable_step": 2 / sharpness if curvature == "hessian" and sharpness > rounding else None,
        "trace": trace.value,
        "trace_standard_error": trace.standard_error,
        "complete": str(found.complete),
        "eigenvalues": _pairs(found),
        "layers": [] if layers is None else layers.rows,
        "verdict": None if layers is None else layers.verdict,
        "best_step": layers.best_step if layers is not None and np.isfinite(layers.best_step) else None,
        "blocks": rows,
        "products": sum(
            (
                found.stats["products"],
                trace.num_products,
                density.num_products if density else 0,
                layers.stats["products"] if layers else 0,
                used,
            )
        ),
        "seconds_per_product": cost.seconds,
        "memory_bytes": cost.memory_bytes,
    }
    drawn = None
    if density is not None:
        drawn = {name: np.asarray(getattr(density, name)) for name in ("grid", "density", "standard_error")}
    picture = Picture(
        "spectrum",
        lambda compact: spectrum_figure(values, drawn, size=size, name=CURVATURES[curvature], compact=compact),
        "The density of all eigenvalues on a logarithmic axis, and the eigenvalues of both ends as marks below it."
        if drawn
        else "The eigenvalues of both ends.",
        "Density of the eigenvalues; those of both ends are in the table below.",
    )
    words = {
        "num_top": num_top,
        "num_bottom": num_bottom,
        "rtol": rtol,
        "curvature": curvature,
        "only": only,
        "seed": seed,
    }
    asked: dict[str, Any] = {
        _OPTIONS.get(name, name): value for name, value in words.items() if value not in (None, _DEFAULTS.get(name))
    }
    asked |= {"no_density": not has_density, "per_layer": per_layer, "per_array": per_array}
    import xarray as xr

    arrays = {"pairs": found.to_xarray()}
    for part, measurement in (("density", density), ("layers", layers)):
        if measurement is not None:
            arrays[part] = measurement.to_xarray()
    return write_measured(
        folder,
        KIND,
        found,
        title="The curvature of the loss",
        headline=_headline(facts, size, only, CURVATURES[curvature], rounding),
        point=point,
        sections=[*_sections(facts, rows, picture), *([] if layers is None else [layers_section(layers)])],
        facts=facts,
        settings=words
        | {
            "precision": precision,
            "eigenvalues": found.settings["method"],
            "density": _DENSITY if has_density else None,
        },
        regenerate=command_words(KIND, point, **asked),
        cautions=[*_cautions(found, standing), *(() if layers is None else layers.warnings)],
        terms={
            word: meaning
            for word, meaning in _TERMS.items()
            if word != "Largest stable step" or facts["largest_stable_step"] is not None
        },
        arrays=xr.DataTree.from_dict(arrays),
    )


_OPTIONS = {"num_top": "top", "num_bottom": "bottom"}
_DEFAULTS = {"num_top": 10, "num_bottom": 10, "rtol": 1e-4, "curvature": "hessian", "seed": 0}


def _expected_products(
    network: Network, landscape, only: Only, num_pairs: int, blocks: list[str], *, has_density: bool, per_layer: bool
) -> int:
    """How many products of the whole matrix everything takes together, the kernel of the layers turned into such."""
    size = num_parameters(network, only)
    count = size if size <= MAX_EXACT else _PAIR_PRODUCTS * num_pairs + TRACE_PROBES
    if has_density:
        count += _DENSITY["num_probes"] * min(_DENSITY["num_steps"], size)
    count += layer_products(network, landscape, only) if per_layer else 0
    return count + block_products(network, blocks)


def _standing(network: Network, landscape, only: Only) -> dict[str, float]:
    value, gradient = landscape.value_and_gradient(network, only)
    return {"loss": float(value), "gradient_norm": float(jnp.linalg.norm(gradient))}


def _pairs(found) -> list[dict[str, Any]]:
    rows = []
    for i, (value, residual, converged) in enumerate(zip(found.values, found.residuals, found.converged, strict=True)):
        side = "largest" if i < found.num_top else "smallest"
        rank = i + 1 if side == "largest" else len(found.values) - i
        rows.append(
            {
                "end": side,
                "rank": rank,
                "eigenvalue": float(value),
                "residual": float(residual),
                "converged": bool(converged),
            }
        )
    return rows


def _headline(facts: dict[str, Any], size: int, only: str | None, matrix: str, rounding: float) -> str:
    where = "" if only is None else f" in {only}"
    limits = {"lowest": rounding, "sharpness": rounding, "trace": math.sqrt(size) * rounding}
    low, high, trace = (format_number(facts[name] if abs(facts[name]) > limit else 0) for name, limit in limits.items())
    text = f"The eigenvalues of the {matrix}{where} lie between {low} and {high}; the trace is {trace}"
    error = facts["trace_standard_error"]
    text += f" ± {format_number(error, 2)} (standard error)" if error else " (exact)"
    text += f" over {size:,} parameters."
    if facts["verdict"] is not None:
        text += f" As a start of training its layers would be {facts['verdict']}."
    step = facts["largest_stable_step"]
    if step is None:
        return text
    alone = "" if only is None else " of these parameters alone"
    return f"{text} Gradient descent{alone} is stable here with steps below {format_number(step, 3)}."


def _cautions(found, standing: dict[str, float]) -> list[str]:
    said = []
    if found.complete is not Certificate.YES:
        said.append("Not all pairs converged, or the search for hidden ones did not end: see the table.")
    curvature = float(np.abs(np.asarray(found.values)).max())
    warning = gradient_warning(standing["loss"], standing["gradient_norm"], curvature)
    said += [] if warning is None else [warning]
    if curvature == 0:
        said.append("All curvatures are zero: the loss does not depend on these parameters, or a gradient is stopped.")
    return said


def _sections(facts: dict[str, Any], rows: list[dict[str, Any]], picture: Picture) -> list[Section]:
    summary = facts_table(
        "Where it stands",
        {
            "loss": facts["loss"],
            "length of the gradient": facts["gradient_norm"],
            "largest eigenvalue": facts["sharpness"],
            "smallest eigenvalue found": facts["lowest"],
            **({} if facts["largest_stable_step"] is None else {"largest stable step": facts["largest_stable_step"]}),
            "trace": facts["trace"],
            "standard error of the trace": facts["trace_standard_error"],
            "nothing hidden beyond the last": facts["complete"],
            "products used": facts["products"],
        },
    )
    heads = {
        "end": "of the spectrum",
        "rank": "counted from that end",
        "eigenvalue": "of the matrix",
        "residual": "length of Hv - λv",
        "converged": "residual within the tolerance",
    }
    sections = [
        Section("The spectrum", (), (picture,), (summary, rows_table("Eigenvalues", facts["eigenvalues"], heads))),
    ]
    if rows:
        heads = {
            "parameters": "the array",
            "size": "numbers in it",
            "largest": "eigenvalue of its block",
            "smallest": "eigenvalue of its block",
            "trace": "of its block",
            "its error": "standard error of the trace; 0 is exact",
        }
        sentence = "The block of each array: what curvature remains when the others stand still."
        sections.append(Section("Array by array", (sentence,), (), (rows_table("Blocks", rows, heads),)))
    return sections
