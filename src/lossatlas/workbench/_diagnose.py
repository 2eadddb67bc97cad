"""Diagnose a stored model on its training data, and write what was found as a page beside the networks after a step."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike
from lossatlas._show import html_page, shown
from lossatlas._version import __version__
from lossatlas.data import DataSet
from lossatlas.workbench._data import read_examples
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model, save_model
from lossatlas.workbench._page import write_page
from lossatlas.workbench._run import SurveyRun
from lossatlas.workbench._units import as_float64, with_unit_spaces


if TYPE_CHECKING:
    from lossatlas.atlas import Diagnosis
    from lossatlas.landscape import Landscape

PAGE, STEP, SMALL = "diagnosis.html", "after-step.safetensors", "small.safetensors"


@shown
@dataclasses.dataclass(frozen=True)
class Diagnosed:
    """A diagnosis that was written down.

    - `diagnosis`: what was found. `tables`: the same as plain tables; see `lossatlas.atlas.diagnosis_tables`.
    - `page`: one HTML file that works offline. `after_step`: the model file of the network after the best step, to
      train from; None where no step leaves. `small`: that of the small network behind; None where there is none.
    """

    diagnosis: "Diagnosis"
    tables: dict[str, Any]
    page: pathlib.Path
    after_step: pathlib.Path | None
    small: pathlib.Path | None

    def _repr_html_(self) -> str:
        rows = [
            {"way out": way["words"], "predicted fall": way["predicted"], "measured fall": way["realised"]}
            | {"loss": way["loss"], "after a short run": way["loss_after"]}
            for way in self.tables["ways"]
        ]
        said = [self.tables["caution"]] if self.tables["caution"] else []
        return html_page(self.tables["verdict"], rows, more=[*said, f"Page: {self.page}"])

    def _figure(self) -> Any:
        from lossatlas.figures import ways_figure

        return ways_figure(self.tables) if self.tables["ways"] else None


def diagnose(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    origin: str | None = None,
    network: str = "big",
    target: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    **options: Any,
) -> Diagnosed:
    """Say which small network a stored model is stuck at, and which steps leave; write a page and model files.

    Float64 whatever the global setting.

    **Arguments:**
    - `model`: a model, or what [`lossatlas.load`][] reads: a folder of a survey (whose loss curve the page shows) or a
      model file.
    - `table`: the training data with the target; see [`lossatlas.workbench.read_examples`][].
    - `target`: the column of the targets; default the one that the model was trained on.
    - `network`: which network of a survey. `origin`: where a model that was loaded before comes from.
    - `out`: the folder to write into; default `diagnosis` in the folder of runs.
    - `progress`: a meter. `options`: of [`lossatlas.atlas.diagnose`][], such as `tolerance`.

    **Returns:** A [`lossatlas.workbench.Diagnosed`][].

    **Raises:** `InputError` for data that the model cannot read, a target that is missing, a folder that cannot be
    written, and what `atlas.diagnose` refuses; before any long work.
    """
    from lossatlas import atlas
    from lossatlas.workbench._diagnosis_page import render_diagnosis

    if not isinstance(model, Model):
        origin, model = str(model), load_model(model, network=network)
    folder = pathlib.Path(out).expanduser() if out is not None else store_root() / "diagnosis"
    check_folder(folder)
    named = {"data": table, "target": target, "network": network, "out": out}
    words = [] if origin is None else _options(origin, **named, **options)
    with jax.enable_x64(True):
        landscape, point = _landscape(model, table, target), as_float64(model.network)
        with contextlib.suppress(InputError):  # without unit spaces less is measured, and said to be missing
            point = with_unit_spaces(point, landscape.inputs[0])
        found = atlas.diagnose(point, landscape, progress=progress, **options)
    tables = atlas.diagnosis_tables(found) | {
        "name": model.summary,
        "data": table.name if isinstance(table, DataSet) else str(table) if isinstance(table, str) else "a table",
        "loss": model.loss,
    }
    folder.mkdir(parents=True, exist_ok=True)
    best = found.ways[0].network if found.ways and found.ways[0].realised > 0 else None
    files = {
        STEP: None if best is None else dataclasses.replace(model, network=best, summary=_after(model, found)),
        SMALL: None
        if found.small is None
        else dataclasses.replace(
            model, network=found.small.network, summary=f"behind {model.summary}: {found.small.words}"
        ),
    }
    for name, content in files.items():
        if content is not None:
            save_model(folder / name, content)
    command = shlex.join(["lossatlas", "diagnose", *words]) if words else "lossatlas.workbench.diagnose(model, table)"
    text = render_diagnosis(
        tables,
        curve=_curve(origin, network),
        regenerate=command,
        versions={"lossatlas": __version__, "jax": jax.__version__},
        files={name: content is not None for name, content in files.items()},
    )
    write_page(folder / PAGE, text)
    paths = {name: folder / name if content is not None else None for name, content in files.items()}
    return Diagnosed(found, tables, folder / PAGE, paths[STEP], paths[SMALL])


def _options(model: str, **values: Any) -> list[str]:
    """The words of a shell for a model and what was asked for."""
    words = [model]
    for name, value in values.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return words


def _after(model: Model, found: "Diagnosis") -> str:
    return f"{model.summary}; after a step: {found.ways[0].words}"


def _landscape(model: Model, table: Any, target: str | None) -> "Landscape":
    """The rows as the model was trained on them, in float64."""
    examples = read_examples(model, table, target=target)
    if examples.targets is None:
        name = "targets" if model.preprocessing is None else f"the target column {model.preprocessing.target!r}"
        msg = f"A diagnosis needs {name} beside the inputs. Give the data that the model was trained on."
        raise InputError(msg)
    landscape = examples._replace(inputs=examples.inputs.astype(float)).landscape()
    assert landscape is not None
    return landscape


def _curve(origin: str | None, network: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The loss curve of the run that the big network comes from, as the survey shows it."""
    if origin is None or network != "big":
        return None
    folder = pathlib.Path(origin).expanduser()
    if not folder.is_dir():
        return None
    try:
        run = SurveyRun(folder)
    except InputError:
        return None
    from lossatlas.figures import training_curve

    return training_curve(run.tables, run.arrays)
