"""Diagnose a stored model on its training data, and write what was found as a page beside the networks after a step."""

import dataclasses
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike
from lossatlas._version import __version__
from lossatlas.data import DataSet, Preprocessing, data_names, load, read_table
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model, save_model
from lossatlas.workbench._page import write_page
from lossatlas.workbench._run import SurveyRun


if TYPE_CHECKING:
    from lossatlas.atlas import Diagnosis
    from lossatlas.landscape import Landscape

PAGE, STEP, SMALL = "diagnosis.html", "after-step.safetensors", "small.safetensors"


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


def diagnose(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    network: str = "big",
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    **options: Any,
) -> Diagnosed:
    """Say which small network a stored model is stuck at, and which steps leave; write a page and model files.

    Float64 whatever the global setting.

    **Arguments:**
    - `model`: a model, or what [`lossatlas.load`][] reads: a folder of a survey (whose loss curve the page shows) or a
      model file.
    - `table`: the training data with the target: a data set's name, a file, or a DataFrame.
    - `network`: which network of a survey.
    - `out`: the folder to write into; default `diagnosis` in the folder of runs.
    - `progress`: a meter. `options`: of [`lossatlas.atlas.diagnose`][], such as `tolerance`.

    **Returns:** A [`lossatlas.workbench.Diagnosed`][].

    **Raises:** `InputError` for data that the model cannot read, a target that is missing, a folder that cannot be
    written, and what `atlas.diagnose` refuses; before any long work.
    """
    from lossatlas import atlas
    from lossatlas.workbench._diagnosis_page import render_diagnosis

    read = model if isinstance(model, Model) else load_model(model, network=network)
    folder = pathlib.Path(out).expanduser() if out is not None else store_root() / "diagnosis"
    check_folder(folder)
    words = [] if isinstance(model, Model) else _options(str(model), data=table, network=network, out=out, **options)
    with jax.enable_x64(True):
        point = jax.tree.map(lambda a: jnp.asarray(a, float) if hasattr(a, "dtype") else a, read.network)
        found = atlas.diagnose(point, _landscape(read, table), progress=progress, **options)
    tables = atlas.diagnosis_tables(found) | {
        "name": read.summary,
        "data": table.name if isinstance(table, DataSet) else str(table) if isinstance(table, str) else "a table",
        "loss": read.loss,
    }
    folder.mkdir(parents=True, exist_ok=True)
    best = found.ways[0].network if found.ways and found.ways[0].realised > 0 else None
    files = {
        STEP: None if best is None else dataclasses.replace(read, network=best, summary=_after(read, found)),
        SMALL: None
        if found.small is None
        else dataclasses.replace(
            read, network=found.small.network, summary=f"behind {read.summary}: {found.small.words}"
        ),
    }
    for name, content in files.items():
        if content is not None:
            save_model(folder / name, content)
    command = shlex.join(["lossatlas", "diagnose", *words]) if words else "lossatlas.workbench.diagnose(model, table)"
    text = render_diagnosis(
        tables,
        curve=_curve(model, network),
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


def _landscape(model: Model, table: Any) -> "Landscape":
    """The rows as the model was trained on them."""
    from lossatlas.landscape import Landscape

    preprocessing = model.preprocessing
    if isinstance(table, str) and table in data_names():
        table = load(table)
    if isinstance(table, DataSet):
        inputs, targets = _of_data_set(preprocessing, table, model.loss)
    else:
        frame = read_table(pathlib.Path(table)) if isinstance(table, str | os.PathLike) else table
        inputs = preprocessing.inputs(frame)
        columns = list(getattr(frame, "columns", ()))
        if preprocessing.target not in columns:
            has = ", ".join(str(c) for c in columns[:6]) or "none that are named"
            msg = (
                f"A diagnosis needs the target column {preprocessing.target!r} beside the inputs; the data have {has}. "
                "Give the table that the model was trained on."
            )
            raise InputError(msg)
        targets = preprocessing.targets(frame[preprocessing.target], model.loss)
    return Landscape(jnp.asarray(inputs, float), jnp.asarray(targets), loss=model.loss)


def _of_data_set(preprocessing: Preprocessing, data: DataSet, loss: str) -> tuple[np.ndarray, np.ndarray]:
    theirs = data.preprocessing
    if theirs.encoded_columns != preprocessing.encoded_columns:
        ours, given = (", ".join(p.encoded_columns[:6]) for p in (preprocessing, theirs))
        msg = f"The model reads {ours}; {data.name} has {given}."
        raise InputError(msg)
    if (theirs.kind, theirs.classes) != (preprocessing.kind, preprocessing.classes):
        msg = f"The model predicts {preprocessing.target!r}; the target of {data.name} is {theirs.target!r}."
        raise InputError(msg)
    return preprocessing.standardise(data.features), preprocessing.encode_targets(data.target, loss)


def _curve(model: Any, network: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The loss curve of the run that the big network comes from, as the survey shows it."""
    if isinstance(model, Model) or network != "big":
        return None
    folder = pathlib.Path(model).expanduser()
    if not folder.is_dir():
        return None
    try:
        run = SurveyRun(folder)
    except InputError:
        return None
    from lossatlas.figures import training_curve

    return training_curve(run.tables, run.arrays)
