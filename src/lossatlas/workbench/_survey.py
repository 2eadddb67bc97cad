"""The survey of a data set, made once and stored."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossatlas._errors import InputError, unknown_name
from lossatlas._journal import Journal
from lossatlas._progress import ProgressLike, as_meter
from lossatlas.atlas import BIG, SurveyConfig
from lossatlas.data import DataSet, from_arrays, load
from lossatlas.workbench._command import survey_command
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._record import is_finished
from lossatlas.workbench._run import ARRAYS, NETWORKS, SurveyRun
from lossatlas.workbench._store import Place, make_run, run_key


if TYPE_CHECKING:
    from lossatlas.atlas import Survey

# Raised when the same settings on the same data would give another answer than before.
SURVEY_VERSION = 7


def survey(
    data: Any = "iris",
    y: Any = None,
    *,
    target: str | None = None,
    config: SurveyConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: ProgressLike | None = None,
    **options: Any,
) -> SurveyRun:
    """Find the small networks inside a big one, which of them training visits, and the smallest that does the job.

    The answer is stored in a folder of its own, with arrays, networks and a report, and found there when the same is
    asked again; one that was interrupted goes on with what it had finished. Runs in float64 whatever the global
    setting.

    **Arguments:**
    - `data`: a name ([`lossatlas.data.data_names`][]), a CSV, TSV, NPZ or Parquet file, a
      [`lossatlas.data.DataSet`][], a DataFrame, or inputs of shape (n, d) with `y`.
    - `y`: labels or values, shape (n,) or (n, o), where `data` holds the inputs alone.
    - `target`: the target column of a file or a DataFrame; of a file by default the last.
    - `config`: the settings, [`lossatlas.atlas.SurveyConfig`][]; `options` are single ones: `hidden=(50, 50)`,
      `preset="full"`, `seed=1`.
    - `out`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `force`: make it again, from the start, although it is there.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter; default rich on a terminal and in a notebook.

    **Returns:**
    [`lossatlas.workbench.SurveyRun`][], read from the folder: `print(run.headline)`, `run.report`, `run.model()`.

    **Raises:** `InputError` for data and settings that cannot be used, and a folder that cannot be written, before any
    work and with nothing left behind.

    !!! example
        >>> run = lossatlas.survey("wine", preset="full")  # doctest: +SKIP
        >>> run.model().predict(new_rows)  # doctest: +SKIP
    """
    config = _configure(config, options if target is None else {**options, "target": target})
    meter = as_meter(progress)
    root = store_root(out)
    check_folder(root)
    dataset = _read(data, y, config.target)
    # What the target column is called, whether by name or by default, is part of what is stored.
    asked = dataclasses.asdict(config) | {"target": dataset.preprocessing.target}
    place = Place(root, "survey", dataset.name, run_key("survey", SURVEY_VERSION, asked, dataset.fingerprint()))
    if force or not is_finished(place.directory):
        from lossatlas.atlas import check_config

        check_config(dataset, config, "mse" if config.loss == "auto" else config.loss)
        command = survey_command(config, str(data) if isinstance(data, str | os.PathLike) else None)
        header = {"config": dataclasses.asdict(config), "data": dataset.fingerprint(), "regenerate": command}

        def write(folder: pathlib.Path, journal: Journal) -> dict[str, Any]:
            from lossatlas import atlas

            return _write(folder, atlas.survey(dataset, config=config, progress=meter, journal=journal))

        make_run(place, header, write, meter=meter, force=force)
    run = SurveyRun(place.directory)
    # Apart from the work, so that nothing is lost with a report that cannot be written, or that was moved away.
    if not run.report.exists():
        run.write_report()
    return run


def _configure(config: SurveyConfig | None, options: Mapping[str, Any]) -> SurveyConfig:
    known = [field.name for field in dataclasses.fields(SurveyConfig)]
    settings = {}
    for name, value in options.items():
        if name not in known:
            raise unknown_name("option", name, [*known, "out", "force", "progress"])
        settings[name] = value.tolist() if hasattr(value, "tolist") else value  # numpy
    if "hidden" in settings:
        hidden = settings["hidden"]
        settings["hidden"] = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    for name in ("init", "learning_rate", "hold_out"):  # 1 and 1.0 are the same survey
        if isinstance(settings.get(name), int):
            settings[name] = float(settings[name])
    return dataclasses.replace(config or SurveyConfig(), **settings)


def _read(data: Any, y: Any, target: str | None) -> DataSet:
    """The data set that was meant."""
    if y is not None:
        if isinstance(data, str | os.PathLike | DataSet):
            msg = f"y goes with inputs in memory; {data!r} has its own target. Name its column with target=."
            raise InputError(msg)
        if target is not None:
            msg = "Give the targets by y or by the name of their column with target=, not both."
            raise InputError(msg)
        return from_arrays(data, y)
    if isinstance(data, str | os.PathLike):
        return load(os.fspath(data), target=target)
    if isinstance(data, DataSet):
        if target not in (None, data.preprocessing.target):
            msg = f"The target of this data set is {data.preprocessing.target!r}, not {target!r}."
            raise InputError(msg)
        return data
    if target is None:
        msg = "Inputs in memory need targets: survey(X, y), or survey(table, target='column')."
        raise InputError(msg)
    return from_arrays(data, target)


def _write(folder: pathlib.Path, survey: "Survey") -> dict[str, Any]:
    """Write everything of a survey but the report into a folder; returns what its record says of it."""
    from lossatlas import atlas
    from lossatlas.workbench._arrays import write_arrays
    from lossatlas.workbench._model import Model, save_model

    tables = atlas.survey_tables(survey)
    write_arrays(folder / ARRAYS, atlas.survey_arrays(survey))
    (folder / NETWORKS).mkdir()
    files = {}
    for name, network in survey.networks().items():
        files[name] = f"{NETWORKS}/{name.replace('(', '').replace(')', '').replace(',', '-')}.safetensors"
        summary = _summary(name, tables)
        save_model(folder / files[name], Model(network, survey.data.preprocessing, survey.loss, summary))
    return {"tables": tables, "networks": files}


def _summary(name: str, tables: Mapping[str, Any]) -> str:
    """What a network is, in words."""
    data = f"{tables['data']['name']}, {tables['data']['rows']} rows"
    selection = tables["selection"]
    entry = next((e for e in tables["catalogue"] if e["name"] == name), None)
    if entry is not None:
        return f"{name}: {entry['words']}, {entry['parameters']} parameters, {entry['kind']} of {data}"
    size = selection["recommended"] if name == "recommended" else BIG
    row = next(r for r in selection["rows"] if r["name"] == size)
    if name == "big":
        return f"the big network, {row['parameters']:,} parameters, trained by gradient descent on {data}"
    figures = f"held-out loss {row['loss']:.3g} ± {row['standard_error']:.1g}"
    if row["accuracy"] is not None:
        figures += f", accuracy {100 * row['accuracy']:.1f} %"
    return f"recommended: {row['words']} {size}, {row['parameters']:,} parameters, on {data}; {figures}"
