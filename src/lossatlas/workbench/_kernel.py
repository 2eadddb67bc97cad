"""The tangent kernel of a stored model, or of two, as an instrument: what is measured, the page, JSON and arrays."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, num_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._types import Network
from lossatlas.figures import format_number
from lossatlas.geometry import Kernel, KernelComparison, compare_kernels, function_change, ntk, store_ntk
from lossatlas.geometry._classes import class_kind
from lossatlas.geometry._ntk import Recipe, make_recipe
from lossatlas.geometry._ntk_source import source_of
from lossatlas.geometry._ntk_store import check_store
from lossatlas.landscape import Landscape
from lossatlas.workbench._instrument import (
    BatchSize,
    Measured,
    Point,
    check_least,
    check_readers,
    command_words,
    cost_line,
    instrument_folder,
    measured_cost,
    open_point,
    write_measured,
)
from lossatlas.workbench._kernel_facts import frozen_facts, kernel_facts, moved_facts, numerical_rank
from lossatlas.workbench._kernel_page import (
    FULL_TERMS,
    MOVED_TERMS,
    TERMS,
    cautions,
    headline,
    pictures,
    sections,
    spectrum_picture,
)
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model


KIND = "kernel"
_RATE_ROWS = 512  # of the matrices whose product is timed
_SPECTRUM = 4  # products of matrices take as long as all eigenvalues of one, measured at 500 to 2,000 rows
_HELD_BYTES = 2**30  # of features that are kept at a time
_USUAL_EXAMPLES = 1000
_USUAL_ROWS = 4000  # of a kernel in the convention full: outputs of examples
_OPTIONS = {"num_examples": "examples"}
_DEFAULTS = {"convention": "trace", "seed": 0}


def kernel(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    to: Model | str | os.PathLike[str] | None = None,
    convention: Literal["full", "trace", "sum_logits"] = "trace",
    num_examples: int | None = None,
    only: str | None = None,
    test: Any = None,
    store: str | os.PathLike[str] | None = None,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    origin: str | None = None,
    to_origin: str | None = None,
    loaded: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    announce: Callable[[str], None] | None = None,
) -> Measured:
    """Measure the empirical tangent kernel of a stored model, and write a page, JSON and labelled arrays.

    **Arguments:**
    - `model`, `table`, `network`, `target`, `precision`, `origin`, `loaded`: see
      `open_point`.
    - `to`: another model of the same inputs and outputs, like a later epoch or the initialisation: its kernel of the
      same examples too, and how far kernel and function moved. `to_origin`: where it comes from; `loaded` then also
      has its `checkpoint_to`.
    - `convention`: see [`lossatlas.geometry.ntk`][]. `only`: a parameter filter; the kernel is then theirs.
    - `num_examples`: at most so many examples, drawn at random by `seed`; a quarter of them tests the frozen kernel,
      or, where it is given, `test`: data that the network was not trained on. Default 1,000; with `full`, whose
      matrices hold (n C)² numbers, as many as make 4,000 rows.
    - `store`: a `.npy` file for the kernel of all examples, written block by block; what is there goes on. With `to`
      it is that of the first model.
    - `batch_size`: examples along both sides of a block of the kernel, and at a time for the outputs. `"auto"` keeps
      a block within a quarter of a gigabyte, and the outputs within the 2 GB of `open_point`.
    - `seed`: of the draw. `out`: the folder to write into; default `kernel` in the folder of runs.
    - `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.geometry.Kernel`][], or with `to` a
    [`lossatlas.geometry.KernelComparison`][].

    **Raises:** `InputError` for what cannot be read or written, and for a second model that reads data differently or
    has other outputs, before any long work.
    """
    folder = instrument_folder(KIND, out)
    if num_examples is not None:
        check_least("num_examples", num_examples, 2, option="examples")
    if store is not None:
        check_store(store)
    opened: dict[str, Any] = {"network": network, "target": target, "precision": precision}
    with jax.enable_x64(True):
        point = open_point(model, table, batch_size=batch_size, origin=origin, loaded=loaded, **opened)
        whole = point.landscape
        points = [point] if to is None else [point, _other(to, to_origin, point, table, only, loaded or {}, opened)]
        nets = [each.network for each in points]
        tested = None if test is None else open_point(point.model, test, batch_size=batch_size, **opened).landscape
        most = num_examples or _usual_examples(nets[0], whole, convention, only)
        chosen = np.sort(np.random.default_rng(seed).permutation(whole.size)[:most])
        data = Landscape(
            whole.inputs[chosen], whole.targets[chosen], loss=whole.loss or "mse", batch_size=whole.batch_size
        )
        block = whole.size if batch_size is None else None if batch_size == "auto" else batch_size
        options: dict[str, Any] = {"convention": convention, "only": only, "batch_size": block}
        if announce is not None:
            announce(_cost(nets, data, None if store is None else whole, tested, options))
        meter = as_meter(progress)
        found = [ntk(net, data, per_layer=True, progress=meter, **options) for net in nets]
        stored = None if store is None else store_ntk(nets[0], whole, store, progress=meter, **options)
        spectra = [np.linalg.eigvalsh(np.asarray(each.matrix, float))[::-1] for each in found]
        shown = [values[: numerical_rank(each, values)] for each, values in zip(found, spectra, strict=True)]
        frozen = [frozen_facts(net, each, data, tested, options, seed) for net, each in zip(nets, found, strict=True)]
        said = [
            kernel_facts(each, values, data.targets) | {"frozen": predicted}
            for each, values, (predicted, _) in zip(found, spectra, frozen, strict=True)
        ]
        scores = [each for _, each in frozen]
        compared, moved = (None, {}) if to is None else _moved(points, data, found, said, scores)
    facts: dict[str, Any] = {
        "model": point.model.summary,
        "examples": int(data.size),
        "outputs": found[0].num_outputs,
        "convention": convention,
        "method": found[0].method,
        "multiplications": found[0].stats["costs"][found[0].method],
        "rows_of_a_block": found[0].stats["tile"],
        "num_shared": 0 if tested is None else _num_shared(tested, data),
        **said[0],
        **moved,
        "stored": None if stored is None else str(stored.path),
    }
    words = {"convention": convention, "num_examples": num_examples, "only": only, "seed": seed}
    asked: dict[str, Any] = {_OPTIONS.get(k, k): v for k, v in words.items() if v not in (None, _DEFAULTS.get(k))}
    asked |= {} if store is None else {"store": str(pathlib.Path(store))}
    asked |= {} if to is None else {"to": points[1].origin}
    is_named = all(each.origin is not None for each in points)
    title = "The tangent kernel" if to is None else "The tangent kernel from one model to another"
    terms = TERMS | (FULL_TERMS if convention == "full" else {}) | ({} if to is None else MOVED_TERMS)
    return write_measured(
        folder,
        KIND,
        found[0] if compared is None else compared,
        title=title,
        headline=headline(facts, num_parameters(nets[0], only), only),
        point=point,
        sections=sections(facts, pictures(found, _labels(data)), spectrum_picture(shown)),
        facts=facts,
        settings=words | {"num_examples": most, "precision": precision},
        regenerate=command_words(
            KIND,
            point,
            origins=None if is_named else (),
            more="" if to is None else ", to=other",
            test=test,
            **asked,
        ),
        cautions=cautions(facts, whole.size, only=only, has_test=test is not None, is_single=precision == "float32"),
        terms=terms,
        arrays=_arrays(found, compared, chosen),
    )


def _other(
    to: Model | str | os.PathLike[str],
    origin: str | None,
    point: Point,
    table: Any,
    only: str | None,
    loaded: Mapping[str, Any],
    opened: dict[str, Any],
) -> Point:
    """The second model with the same data; it must read them as the first does, and have as many outputs."""
    if not isinstance(to, Model):
        origin = str(to)
        to = load_model(to, opened["network"], **{name: loaded.get(name) for name in ("architecture", "loss")})
    check_readers(point.model, to, ("preprocessing",), so="their kernels are of other inputs")
    try:
        other = open_point(to, table, batch_size=point.landscape.batch_size, origin=origin, **opened)
    except InputError as error:
        msg = f"Of the second model (--to): {error}"
        raise InputError(msg) from error
    ours, theirs = (_num_outputs(each.network, each.landscape, only) for each in (point, other))
    if ours != theirs:
        msg = (
            f"The first model has {ours} outputs, the second (--to) {theirs}; a distance of kernels needs the same "
            "outputs on the same examples."
        )
        raise InputError(msg)
    return other


def _moved(
    points: Sequence[Point],
    data: Landscape,
    found: Sequence[Kernel],
    said: Sequence[dict[str, Any]],
    scores: Sequence[np.ndarray],
) -> tuple[KernelComparison, dict[str, Any]]:
    """What the second kernel says, and how far it is from the first.

    **Arguments:**
    - `said`: the facts of both kernels. `scores`: what their frozen kernels make of each test example.
    """
    (first, second), (ours, theirs) = found, said
    compared = compare_kernels(first, second)
    change = function_change(points[0].network, points[1].network, data)
    losses = [each.landscape.loss.name if each.landscape.loss else "a loss" for each in points]
    if theirs["frozen"] is not None and losses[0] != losses[1]:
        theirs["frozen"]["network"] = None
    moved = moved_facts(compared, change, ours, theirs, scores) | {"losses": losses}
    return compared, {"to": {"model": points[1].model.summary, **theirs}, "moved": moved}


def _num_outputs(network: Network, landscape: Landscape, only: str | None) -> int:
    return source_of(network, landscape, only)[0].plan.num_outputs


def _usual_examples(network: Network, landscape: Landscape, convention: str, only: str | None) -> int:
    """So many that the matrices stay small."""
    if convention != "full":
        return _USUAL_EXAMPLES
    return max(2, min(_USUAL_EXAMPLES, _USUAL_ROWS // _num_outputs(network, landscape, only)))


def _cost(
    nets: Sequence[Network],
    data: Landscape,
    whole: Landscape | None,
    tested: Landscape | None,
    options: dict[str, Any],
) -> str:
    """Of the kernels, and of the one that is stored: multiplications, time at the rate of a matrix product, memory."""
    product = np.ones((_RATE_ROWS, _RATE_ROWS), data.inputs.dtype)
    seconds, _ = measured_cost(lambda a: a @ a, jax.numpy.asarray(product))
    rate = _RATE_ROWS**3 / seconds
    count, memory, rows = 0.0, 0, 0
    for net in nets:
        recipe = _recipe(net, data, None, options, per_layer=True)
        rows = data.size * recipe.rows.k
        layers = 1 + len(list(named_parameters(net)))
        count += recipe.costs[recipe.method]
        memory += min(recipe.bytes_each * data.size, _HELD_BYTES) + layers * rows**2 * recipe.dtype.itemsize
        if tested is not None:
            cross = _recipe(net, tested, data, options)
            count += cross.costs[cross.method]
            memory += tested.size * cross.rows.k * rows * cross.dtype.itemsize
    work = f"{'a kernel' if len(nets) == 1 else 'two kernels'} of {data.size:,} examples"
    if options["convention"] == "full":
        work += f", {rows:,} × {rows:,} numbers"
    work += f": {format_number(count, 2)} multiplications"
    total = (count + len(nets) * _SPECTRUM * rows**3) / rate
    lines = [cost_line(f"{work}, at the rate of a matrix product", total, memory, " at most")]
    if whole is not None:
        recipe = _recipe(nets[0], whole, None, options)
        count, size = recipe.costs[recipe.method], (whole.size * recipe.rows.k) ** 2 * recipe.dtype.itemsize
        work = f"a kernel of {whole.size:,} examples: {format_number(count, 2)} multiplications"
        work += f", {format_number(size / 1e6, 2)} MB in the file, at the rate of a matrix product"
        memory = min(recipe.bytes_each * whole.size, _HELD_BYTES)
        lines.append(cost_line(work, count / rate, memory, " at most"))
    return "\n".join(lines)


def _recipe(
    net: Network, points: Landscape, others: Landscape | None, options: dict, *, per_layer: bool = False
) -> Recipe:
    convention, only, batch_size = (options[name] for name in ("convention", "only", "batch_size"))
    return make_recipe(net, points, others, convention, "auto", only, per_layer=per_layer, batch_size=batch_size)[0]


def _num_shared(tested: Landscape, data: Landscape) -> int:
    """How many examples of the first are examples of the second."""
    known = {row.tobytes() for row in np.asarray(data.inputs)}
    return sum(row.tobytes() in known for row in np.asarray(tested.inputs))


def _labels(data: Landscape) -> np.ndarray | None:
    values = np.asarray(data.targets)
    if class_kind(data) == "rows":
        return values.argmax(1)
    return values.reshape(-1) if np.issubdtype(values.dtype, np.integer) and values.size == len(values) else None


def _arrays(found: Sequence[Kernel], compared: KernelComparison | None, chosen: np.ndarray) -> Any:
    """The kernels with the examples of their rows; of two, a tree with both and with what moved."""
    import xarray as xr

    of_rows = np.repeat(chosen, len(found[0].matrix) // len(chosen))
    kernels = [each.to_xarray().assign_coords(example=("row", of_rows)) for each in found]
    if compared is None:
        return kernels[0]
    return xr.DataTree.from_dict({"first": kernels[0], "second": kernels[1], "moved": compared.to_xarray()})
