"""Models from what is stored: a run, a folder of runs, or a model file."""

import os
import pathlib

from lossatlas._errors import InputError
from lossatlas.workbench._model import Model, read_model
from lossatlas.workbench._record import RUN_FILE, is_finished
from lossatlas.workbench._run import SurveyRun


def load(path: str | os.PathLike[str], network: str = "recommended") -> Model:
    """A stored network that predicts on raw columns.

    **Arguments:**
    - `path`: the folder of a survey, a folder that holds a single survey, or a model file (.safetensors).
    - `network`: which network of the survey: `"recommended"`, `"big"`, or a name of the catalogue like `"(1,1)"`.

    **Returns:**
    [`lossatlas.workbench.Model`][], whose `predict` takes a table of raw columns.

    **Raises:** `InputError` for a path that holds no finished survey or several, and for an unknown network.

    !!! example
        >>> model = lossatlas.load("lossatlas/survey/iris-0123456789ab")  # doctest: +SKIP
        >>> model.predict(new_rows)  # doctest: +SKIP
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file() and path.name != RUN_FILE:
        return read_model(path)
    if not path.exists():
        msg = f"There is no run {str(path)!r}. Give the folder that `lossatlas survey` printed, or a model file."
        raise InputError(msg)
    return SurveyRun(_find_run(path.parent if path.is_file() else path)).model(network)


def _find_run(folder: pathlib.Path) -> pathlib.Path:
    if (folder / RUN_FILE).exists():
        return folder
    runs = [record.parent for pattern in ("*", "survey/*") for record in folder.glob(f"{pattern}/{RUN_FILE}")]
    runs = sorted(run for run in runs if is_finished(run))
    if len(runs) == 1:
        return runs[0]
    if not runs:
        msg = f"{str(folder)!r} holds no finished survey. Give the folder that `lossatlas survey` printed."
    else:
        listed = ", ".join(str(run) for run in runs[:5]) + (", ..." if len(runs) > 5 else "")
        msg = f"{str(folder)!r} holds {len(runs)} surveys; give one of them: {listed}."
    raise InputError(msg)
