"""What instruments share on disk: a model and data as a point of a landscape, and the files that a result leaves."""

import dataclasses
import json
import math
import os
import pathlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._show import html_page, shown
from lossatlas._types import Network, Only
from lossatlas.data import DataSet
from lossatlas.figures import format_number
from lossatlas.landscape import Landscape
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench._arrays import write_arrays
from lossatlas.workbench._data import read_examples
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model
from lossatlas.workbench._page import render_page, sized_figures, write_page
from lossatlas.workbench._record import versions
from lossatlas.workbench._report_tables import Cell, Table
from lossatlas.workbench._units import as_float64


if TYPE_CHECKING:
    import xarray as xr


ARRAYS = "data.zarr"
_PRECISIONS = ("float64", "float32")
_LOSSES = {
    "mse": "half the squared distance between output and target, the mean over the examples",
    "cross_entropy": "cross-entropy in nats, the mean over the examples",
    "logistic": "binary cross-entropy in nats, the mean over the examples",
}

BatchSize = int | Literal["auto"] | None


class Point(NamedTuple):
    """A model and data as a point of a landscape.

    - `model`, `network`: what was loaded, and its network in the precision asked for.
    - `landscape`: the data with the loss that the model was trained on. `data`: what they are called.
    - `origin`: the model as it was given, None for one in memory. `asked`: the options of the command that opens the
      same point again, without those at their defaults; None where the data are in memory only.
    """

    model: Model
    network: Network
    landscape: Landscape
    data: str
    origin: str | None
    asked: dict[str, Any] | None


class Picture(NamedTuple):
    """A figure of a page: its name, its maker (takes whether the page is narrow), a sentence, words for the blind."""

    name: str
    make: Callable[[bool], Any]
    caption: str
    alternative: str


class Section(NamedTuple):
    """A part of a page: a title, sentences, pictures and tables."""

    title: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@shown
@dataclasses.dataclass(frozen=True)
class Measured:
    """What an instrument measured, and the files that it left.

    - `result`: of the function of the library. `headline`: what was found, in a sentence. `facts`: the same as plain
      values, as JSON has them.
    - `page`: one HTML file that works offline. `json`: the facts. `arrays`: a zarr folder, None without arrays.
    """

    result: Any
    headline: str
    facts: dict[str, Any]
    page: pathlib.Path
    json: pathlib.Path
    arrays: pathlib.Path | None

    def _repr_html_(self) -> str:
        return html_page(self.headline, [], more=[f"Page: {self.page}"])

    def _figure(self) -> Any:
        return self.result._figure() if hasattr(self.result, "_figure") else None


def open_point(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    origin: str | None = None,
    loaded: Mapping[str, Any] | None = None,
    only: Only = None,
) -> Point:
    """A model and data as a point of a landscape; to be used under `jax.enable_x64(True)`.

    **Arguments:**
    - `model`: a model, or what [`lossatlas.load`][] reads. `network`: which one of a survey.
    - `table`: data with targets; see [`lossatlas.workbench.read_examples`][]. `target`: their column.
    - `batch_size`: examples at a time; `"auto"` takes as many as 2 GB of working memory of a Hessian product allow.
    - `precision`: of parameters and data. `origin`: where a model that was loaded before comes from; `loaded`: the
      options that it was loaded with, as the command line calls them, like `checkpoint`.
    - `only`: the parameters that will be measured; for the memory of `"auto"`.

    **Raises:** `InputError` for data that the model cannot read, and data without targets.
    """
    if precision not in _PRECISIONS:
        msg = f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}."
        raise InputError(msg)
    if not isinstance(model, Model):
        origin, model = str(model), load_model(model, network=network)
    asked = None
    if (data := table_name(table)) is not None:
        asked = {"data": data, "target": target, "network": network, **(loaded or {})}
        asked |= {} if batch_size == "auto" else {"batch_size": "all" if batch_size is None else batch_size}
        asked |= {} if precision == "float64" else {"precision": precision}
    with jax.enable_x64(True):
        examples = read_examples(model, table, target=target)
        if examples.targets is None:
            name = "targets" if model.preprocessing is None else f"the target column {model.preprocessing.target!r}"
            msg = f"The loss needs {name} beside the inputs. Give data like those that the model was trained on."
            raise InputError(msg)
        if precision == "float64":
            point, inputs = as_float64(model.network), _converted(examples.inputs, np.float64)
        else:
            point, inputs = _as_float32(model.network), _converted(examples.inputs, np.float32)
        targets = _converted(examples.targets, inputs.dtype)
        landscape = examples._replace(inputs=inputs, targets=targets).landscape()
        assert landscape is not None
        if batch_size == "auto":
            from lossatlas.geometry import fitting_batch_size

            batch_size = fitting_batch_size(point, landscape, only=only)
        return Point(model, point, landscape.with_batch_size(batch_size), data or "a table", origin, asked)


def check_readers(
    first: Model,
    second: Model,
    words: Sequence[str] = ("preprocessing", "loss"),
    *,
    so: str = "the networks between them would mean nothing",
) -> None:
    """Refuse two models that read data differently or were trained on different losses.

    **Arguments:**
    - `words`: what is compared. `so`: what would be wrong.

    **Raises:** `InputError` that says what differs.
    """
    named = {"preprocessing": "preprocessing (means and scales of the columns, classes)", "loss": "loss"}
    for word in words:
        if getattr(first, word) != getattr(second, word):
            msg = f"The two models differ in their {named[word]}, so {so}. Train both on one preparation of the data."
            raise InputError(msg)


def _as_float32(tree: Any) -> Any:
    import equinox as eqx

    return jax.tree.map(lambda a: a.astype(np.float32) if eqx.is_inexact_array_like(a) else a, tree)


def _converted(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype) if np.issubdtype(array.dtype, np.inexact) else array


def table_name(table: Any) -> str | None:
    """What a command line calls data; None for those in memory."""
    if isinstance(table, DataSet):
        return table.name
    return os.fspath(table) if isinstance(table, str | os.PathLike) else None


def check_least(
    name: str, value: int | float, least: int, *, option: str | None = None, is_above: bool = False
) -> None:
    """Refuse a number below `least`, or not above it; the message has its names in Python and in a shell.

    **Raises:** `InputError`.
    """
    if math.isfinite(value) and (value > least if is_above else value >= least):
        return
    allowed = f"{'above' if is_above else 'at least'} {least}"
    msg = f"{name} (--{option or name.replace('_', '-')}) must be {allowed}, got {value}."
    raise InputError(msg)


def instrument_folder(kind: str, out: str | os.PathLike[str] | None) -> pathlib.Path:
    """The folder that an instrument writes into: `out`, else its kind in the folder of runs; checked, not made yet.

    **Raises:** `InputError` where it cannot be written.
    """
    folder = pathlib.Path(out).expanduser() if out is not None else store_root() / kind
    check_folder(folder)
    return folder


def _words(point: Point) -> str:
    """What the model is; the summaries of surveys say its size themselves."""
    size = f"{num_parameters(point.network):,} parameters"
    return point.model.summary if size in point.model.summary else f"{point.model.summary}, {size}"


def write_measured(
    folder: pathlib.Path,
    kind: str,
    result: Any,
    *,
    title: str,
    headline: str,
    point: Point,
    sections: Sequence[Section],
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    regenerate: str,
    cautions: Sequence[str] = (),
    terms: Mapping[str, str] | None = None,
    arrays: "xr.DataTree | xr.Dataset | None" = None,
) -> Measured:
    """Write `KIND.html`, `KIND.json` and, for arrays, `data.zarr` into a folder, which is made.

    **Arguments:**
    - `kind`: the name of the instrument. `title`: the head of the page. `headline`: one sentence: what was found.
    - `sections`: of the page. `cautions`: what a reader must know before believing it. `terms`: words explained.
    - `facts`: plain values for JSON. `settings`: what was run. `regenerate`: the command that makes it again.
    - `arrays`: labelled arrays of the result.
    """
    import xarray as xr

    folder.mkdir(parents=True, exist_ok=True)
    pictures = [picture for section in sections for picture in section.pictures]
    common = {
        "model": point.model.summary,
        "data": point.data,
        "loss_function": _LOSSES.get(
            point.model.loss or "", point.landscape.loss.name if point.landscape.loss else "a loss"
        ),
        "num_parameters": num_parameters(point.network),
        "num_examples": point.landscape.size,
    }
    text = render_page(
        "instrument.html",
        sized_figures({picture.name: picture.make for picture in pictures}),
        kind=kind,
        title=title,
        headline=headline,
        sections=sections,
        cautions=cautions,
        terms=terms or {},
        settings=[
            cells.settings_table("Settings", {**settings, "batch_size": point.landscape.batch_size}),
            cells.settings_table("Versions", versions()),
        ],
        regenerate=regenerate,
        number=format_number,
        model_words=_words(point),
        **common,
    )
    page, json_path = folder / f"{kind}.html", folder / f"{kind}.json"
    facts = {**common, **facts, "headline": headline, "cautions": list(cautions), "regenerate": regenerate}
    write_page(page, text)
    write_page(json_path, json.dumps(facts, indent=2, allow_nan=False) + "\n")
    stored = None
    if arrays is not None:
        stored = folder / ARRAYS
        write_arrays(stored, arrays if isinstance(arrays, xr.DataTree) else xr.DataTree(arrays))
    return Measured(result, headline, facts, page, json_path, stored)


def mean_loss(network: Network, landscape: Landscape) -> float:
    """The loss of a landscape, as a number."""
    import equinox as eqx

    return float(eqx.filter_jit(Landscape.__call__)(landscape, network))


def measured_cost(fn: Callable[..., Any], *values: Any) -> tuple[float, int]:
    """The seconds that a function takes, by one call after compiling, and its working memory in bytes, as the compiler
    states it (0 where it does not).
    """
    import equinox as eqx

    jitted: Any = eqx.filter_jit(fn)
    compiled = jitted.lower(*values).compile()
    jax.block_until_ready(compiled(*values))
    begin = time.perf_counter()
    jax.block_until_ready(compiled(*values))
    seconds = time.perf_counter() - begin
    return seconds, int(getattr(compiled.compiled.memory_analysis(), "temp_size_in_bytes", 0))


def cost_line(work: str, seconds: float, memory_bytes: int | float, of: str = "") -> str:
    """What an instrument says before a long run: what it computes, how long it takes, and its working memory, which may
    be that of a part.
    """
    from lossatlas.geometry._cost import duration

    memory = format_number(memory_bytes / 1e6, 3)
    return f"{work}, about {duration(seconds)}, working memory {memory} MB{of}; compiling comes on top"


def facts_table(caption: str, facts: Mapping[str, Any], digits: int = 5) -> Table:
    """Names and values in two columns; numbers as people read them, with all digits in the tooltip."""
    rows = []
    for name, value in facts.items():
        is_figure = isinstance(value, int | float) and not isinstance(value, bool)
        cell = cells.number(value, digits) if is_figure or value is None else Cell(str(value))
        rows.append([Cell(name), cell._replace(is_number=False)])
    return Table(caption, [Cell("what"), Cell("value")], rows)


def rows_table(caption: str, rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], digits: int = 5) -> Table:
    """A table of rows by column name; `heads` says of each column what it means."""
    names = list(heads)
    is_number = {name: all(_is_figure(row.get(name)) for row in rows) for name in names}
    head = [Cell(name, heads[name], is_number[name]) for name in names]
    body = [[_cell(row.get(name), digits) for name in names] for row in rows]
    return Table(caption, head, body)


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any, digits: int) -> Cell:
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    return cells.number(value, digits) if _is_figure(value) else Cell(str(value))


def command_words(
    kind: str,
    point: Point,
    *,
    origins: Sequence[str] | None = None,
    models: str = "model",
    more: str = "",
    test: Any = None,
    **options: Any,
) -> str:
    """The words of a shell that ask an instrument again; for models or data in memory, which only Python has, the call.

    **Arguments:**
    - `point`: as `open_point` made it. `origins`: the models of instruments that take several, in order; `()` where
      one of them is in memory. `models`: what the call in Python takes before the data, `more`: after them.
    - `test`: other data. `options`: further ones; those that are None, False or empty are left out, as the caller
      leaves out those at their defaults. Several values stand behind one option.
    """
    if origins is None:
        origins = () if point.origin is None else (point.origin,)
    if not origins or point.asked is None or (test is not None and table_name(test) is None):
        return f"lossatlas.workbench.{kind}({models}, table{more})"
    words = ["lossatlas", kind, *origins]
    for name, value in (point.asked | options | {"test": None if test is None else table_name(test)}).items():
        if value is None or value is False or value == ():
            continue
        values = [] if value is True else value if isinstance(value, tuple | list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
