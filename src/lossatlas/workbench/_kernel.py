"""The tangent kernel of a stored model as an instrument: what is measured, the page, JSON and arrays."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, num_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas.figures import format_number, kernel_matrix_figure, kernel_spectrum_figure
from lossatlas.landscape import Landscape
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
    measured_cost,
    open_point,
    rows_table,
    write_measured,
)
from lossatlas.workbench._model import Model


KIND = "kernel"
_RATE_ROWS = 512  # of the matrices whose product is timed
_HELD_BYTES = 2**30  # of features that are kept at a time
_LEAST = 8  # examples below which nothing is said of predictions
_TERMS = {
    "Tangent kernel": "How much a gradient step on one example moves the outputs on another: the inner product of the "
    "gradients of the outputs in all parameters. Large between examples that the network learns together.",
    "Alignment": "The cosine between the kernel and the products of the targets, both centred: 1 where the kernel "
    "groups the examples just as the targets do, near 0 where it knows nothing of them.",
    "Effective rank": "The exponential of the entropy of the eigenvalues as shares of their sum: how many directions "
    "the kernel has, counted by their weight.",
    "Frozen kernel": "Ridge regression with this kernel, as it stands: what the features of the network give without "
    "learning any further ones.",
    "Cosine of gradients": "The kernel of two examples over the geometric mean of those of each with itself.",
}


def kernel(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    convention: Literal["trace", "sum_logits"] = "trace",
    num_examples: int = 1000,
    only: str | None = None,
    test: Any = None,
    store: str | os.PathLike[str] | None = None,
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
    """Measure the empirical tangent kernel of a stored model, and write a page, JSON and labelled arrays.

    **Arguments:**
    - `model`, `table`, `network`, `target`, `precision`, `origin`, `loaded`: see
      `open_point`.
    - `convention`: see [`lossatlas.geometry.ntk`][]. `only`: a parameter filter; the kernel is then theirs.
    - `num_examples`: at most so many examples, drawn at random by `seed`; a quarter of them tests the frozen kernel,
      or, where it is given, `test`: data that the network was not trained on.
    - `store`: a `.npy` file for the kernel of all examples, written block by block; what is there goes on.
    - `batch_size`: examples along both sides of a block of the kernel, and at a time for the outputs. `"auto"` keeps
      a block within a quarter of a gigabyte, and the outputs within the 2 GB of `open_point`.
    - `seed`: of the draw. `out`: the folder to write into; default `kernel` in the folder of runs.
    - `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.geometry.Kernel`][].

    **Raises:** `InputError` for what cannot be read or written, before any long work.
    """
    from lossatlas import geometry

    folder = instrument_folder(KIND, out)
    check_least("num_examples", num_examples, 2, option="examples")
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
        )
        tested = None
        if test is not None:
            opened = {"network": network, "target": target, "batch_size": batch_size, "precision": precision}
            tested = open_point(point.model, test, **opened).landscape
        net, whole = point.network, point.landscape
        chosen = np.sort(np.random.default_rng(seed).permutation(whole.size)[:num_examples])
        data = Landscape(
            whole.inputs[chosen], whole.targets[chosen], loss=whole.loss or "mse", batch_size=whole.batch_size
        )
        rows = whole.size if batch_size is None else None if batch_size == "auto" else batch_size
        options: dict[str, Any] = {"convention": convention, "only": only, "batch_size": rows}
        if announce is not None:
            announce(_cost(net, data, None if store is None else whole, options))
        meter = as_meter(progress)
        found = geometry.ntk(net, data, per_layer=True, progress=meter, **options)
        stored = None if store is None else geometry.store_ntk(net, whole, store, progress=meter, **options)
        frozen = _frozen(net, found, data, tested, options, seed)
    values = np.linalg.eigvalsh(np.asarray(found.matrix, float))[::-1]
    layers = _layers(geometry, found, data.targets)
    facts: dict[str, Any] = {
        "examples": int(data.size),
        "outputs": found.num_outputs,
        "convention": convention,
        "method": found.method,
        "multiplications": found.stats["costs"][found.method],
        "rows_of_a_block": found.stats["tile"],
        "trace": float(np.trace(found.matrix)),
        "largest_eigenvalue": float(values[0]),
        "effective_rank": geometry.effective_rank(found),
        "target_alignment": _aligned(geometry, found.matrix, data.targets),
        "eigenvalues": values[:10].tolist(),
        "layers": layers,
        "frozen": frozen,
        "stored": None if stored is None else str(stored.path),
    }
    labels = _labels(data)
    words = {"convention": convention, "num_examples": num_examples, "only": only, "seed": seed}
    asked: dict[str, Any] = {_OPTIONS.get(k, k): v for k, v in words.items() if v not in (None, _DEFAULTS.get(k))}
    asked |= {} if store is None else {"store": str(pathlib.Path(store))}
    return write_measured(
        folder,
        KIND,
        found,
        title="The tangent kernel",
        headline=_headline(facts, num_parameters(net, only), only),
        point=point,
        sections=_sections(facts, _pictures(np.asarray(found.matrix, float), labels, values)),
        facts=facts,
        settings=words | {"precision": precision},
        regenerate=command_words(KIND, point, test=test, **asked),
        cautions=_cautions(facts, whole.size, has_test=test is not None),
        terms=_TERMS,
        arrays=found.to_xarray().assign_coords(example=("row", chosen)),
    )


_OPTIONS = {"num_examples": "examples"}
_DEFAULTS = {"convention": "trace", "num_examples": 1000, "seed": 0}


def _cost(net: Any, data: Landscape, whole: Landscape | None, options: dict[str, Any]) -> str:
    """Of the kernel, and of the one that is stored: multiplications, time at the rate of a matrix product, memory."""
    from lossatlas.geometry._ntk import make_recipe

    rows = np.ones((_RATE_ROWS, _RATE_ROWS), data.inputs.dtype)
    seconds, _ = measured_cost(lambda a: a @ a, jax.numpy.asarray(rows))
    rate = _RATE_ROWS**3 / seconds
    convention, only, batch_size = (options[name] for name in ("convention", "only", "batch_size"))
    lines = []
    for points in (data, whole):
        if points is None:
            continue
        is_stored = points is whole
        recipe, _ = make_recipe(
            net, points, None, convention, "auto", only, per_layer=not is_stored, batch_size=batch_size
        )
        count, matrix = recipe.costs[recipe.method], points.size**2 * recipe.dtype.itemsize
        memory = min(recipe.bytes_each * points.size, _HELD_BYTES)
        memory += 0 if is_stored else matrix * (1 + len(list(named_parameters(net))))
        work = f"a kernel of {points.size:,} examples: {format_number(count, 2)} multiplications"
        work += f", {format_number(matrix / 1e6, 2)} MB in the file" if is_stored else ""
        lines.append(cost_line(f"{work}, at the rate of a matrix product", count / rate, memory, " at most"))
    return "\n".join(lines)


def _labels(data: Landscape) -> np.ndarray | None:
    from lossatlas.geometry._classes import class_kind

    values = np.asarray(data.targets)
    if class_kind(data) == "rows":
        return values.argmax(1)
    return values.reshape(-1) if np.issubdtype(values.dtype, np.integer) and values.size == len(values) else None


def _aligned(geometry: Any, matrix: np.ndarray, targets: Any) -> float | None:
    """The centred alignment with the targets; None where either has no direction."""
    try:
        return geometry.alignment(matrix, geometry.target_kernel(targets))
    except InputError:
        return None


def _layers(geometry: Any, found: Any, targets: Any) -> list[dict[str, Any]]:
    shares = found.shares
    return [
        {"layer": name, "share": shares[name], "alignment": _aligned(geometry, part, targets)}
        for name, part in found.layers.items()
    ]


def _frozen(net: Any, found: Any, data: Landscape, tested: Landscape | None, options: dict, seed: int) -> dict | None:
    """What ridge regression with the kernel predicts: of other data, or of a quarter of the examples."""
    from lossatlas.geometry import ntk
    from lossatlas.geometry._kernel_regression import predict_frozen

    if data.size < _LEAST:
        return None
    matrix = np.asarray(found.matrix, float)
    if tested is None:
        order = np.random.default_rng(seed + 1).permutation(data.size)
        test, train = order[: data.size // 4], order[data.size // 4 :]
        own, cross = matrix[np.ix_(train, train)], matrix[np.ix_(test, train)]
        fitted, others = data.subset(train), data.subset(test)
    else:
        own, cross = matrix, np.asarray(ntk(net, tested, data, **options).matrix, float)
        fitted, others = data, tested
    try:
        made = predict_frozen(own, cross, net, fitted, others)
    except InputError:  # the targets are no rows of outputs: nothing can be said
        return None
    said: dict[str, Any] = {"train": fitted.size, "test": others.size, "ridge": made.ridge}
    if made.accuracy is not None:
        return said | {
            "measure": "accuracy",
            "kernel": made.accuracy,
            "standard_error": made.accuracy_error,
            "network": made.network_accuracy,
        }
    return said | {
        "measure": "half the squared error",
        "kernel": made.squared_error,
        "standard_error": made.squared_error_error,
        "network": made.network_squared_error,
    }


def _pictures(matrix: np.ndarray, labels: np.ndarray | None, values: np.ndarray) -> tuple[Picture, Picture]:
    ordered = "" if labels is None else ", ordered by class"
    return (
        Picture(
            "kernel",
            lambda compact: kernel_matrix_figure(matrix, labels, compact=compact),
            f"The kernel as cosines between the gradients of two examples{ordered}. Blocks on the diagonal: a step on "
            "one example of a class moves the others.",
            "The matrix of the kernel in colours.",
        ),
        Picture(
            "kernel-spectrum",
            lambda compact: kernel_spectrum_figure(values, compact=compact),
            "Its eigenvalues: how fast gradient descent learns directions in the outputs; the steeper, the fewer.",
            "Eigenvalues of the kernel by index; the largest are in the table.",
        ),
    )


def _headline(facts: dict[str, Any], size: int, only: str | None) -> str:
    where = "all" if only is None else only
    text = (
        f"The tangent kernel of {facts['examples']:,} examples ({where} parameters, {size:,}) has the effective rank "
        f"{format_number(facts['effective_rank'], 3)}"
    )
    if facts["target_alignment"] is not None:
        text += f" and the alignment {format_number(facts['target_alignment'], 3)} with the targets"
    text += "."
    frozen = facts["frozen"]
    if frozen is None:
        return text
    return (
        f"{text} Kept frozen, it predicts with {frozen['measure']} {format_number(frozen['kernel'], 3)} ± "
        f"{format_number(frozen['standard_error'], 1)} (network: {format_number(frozen['network'], 3)})."
    )


def _cautions(facts: dict[str, Any], size: int, *, has_test: bool) -> list[str]:
    said = []
    if facts["examples"] < size:
        said.append(f"Measured on {facts['examples']:,} of {size:,} examples, drawn at random; see --examples.")
    if facts["frozen"] is not None and not has_test:
        said.append(
            "The frozen kernel is tested on examples that it was not fitted to; the network may have been trained on "
            "them, and then its own figure is too good. --test takes other data."
        )
    return said


def _sections(facts: dict[str, Any], pictures: tuple[Picture, ...]) -> list[Section]:
    summary = facts_table(
        "The kernel",
        {
            "examples": facts["examples"],
            "outputs": facts["outputs"],
            "convention": facts["convention"],
            "trace": facts["trace"],
            "effective rank": facts["effective_rank"],
            "centred alignment with the targets": facts["target_alignment"],
            "method": facts["method"],
            "multiplications": facts["multiplications"],
        },
    )
    largest = [{"rank": i + 1, "eigenvalue": value} for i, value in enumerate(facts["eigenvalues"])]
    tables = (summary, rows_table("Largest eigenvalues", largest, {"rank": "from the top", "eigenvalue": "of K"}))
    heads = {
        "layer": "its parameters",
        "share": "of the trace of the kernel",
        "alignment": "of its own part with the targets, centred",
    }
    sentence = (
        "The kernel is a sum over the parameters: which layers it comes from, and which of them know the targets."
    )
    sections = [
        Section("The kernel", (), pictures, tables),
        Section("Layer by layer", (sentence,), (), (rows_table("Layers", facts["layers"], heads),)),
    ]
    frozen = facts["frozen"]
    if frozen is not None:
        sentence = (
            f"Ridge regression with the frozen kernel, fitted to {frozen['train']:,} examples, on {frozen['test']:,} "
            "others."
        )
        table = facts_table(
            "Frozen kernel",
            {
                f"{frozen['measure']}, kernel": frozen["kernel"],
                "its standard error": frozen["standard_error"],
                f"{frozen['measure']}, network on the same examples": frozen["network"],
                "ridge": frozen["ridge"],
            },
        )
        sections.append(Section("What the frozen kernel predicts", (sentence,), (), (table,)))
    return sections
