"""Models from anywhere: a run, a model file, a file of another program, or a function that makes one."""

import os
import pathlib

import jax

from lossatlas._errors import InputError
from lossatlas.networks import is_model_file, load_foreign, read_architecture
from lossatlas.workbench._checkpoint import is_resized
from lossatlas.workbench._factory import is_factory, make_model
from lossatlas.workbench._model import Model, check_finite, read_model
from lossatlas.workbench._record import RUN_FILE, is_finished
from lossatlas.workbench._run import SurveyRun


_LOSSES = ("mse", "cross_entropy", "logistic")
_PICKLES = {
    ".pkl": "a factory that returns the estimator: package.module:factory",
    ".pickle": "a factory that returns the estimator: package.module:factory",
    ".joblib": "a factory that returns the estimator: package.module:factory",
    ".pt": "package.module:factory, and this file with --checkpoint",
    ".pth": "package.module:factory, and this file with --checkpoint",
    ".ckpt": "package.module:factory, and this file with --checkpoint",
    ".bin": "package.module:factory, and this file with --checkpoint",
}


def load(
    model: str | os.PathLike[str],
    network: str = "recommended",
    *,
    architecture: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    loss: str | None = None,
) -> Model:
    """A network that predicts on raw data, from wherever it is.

    **Arguments:**
    - `model`: the folder of a survey, a folder that holds a single survey, a model file (.safetensors), or
      `package.module:factory`: a function without arguments, imported from the current folder or the environment, that
      returns a fitted scikit-learn MLP or Pipeline, an Equinox or PyTorch module in inference mode, or a `Model`. A
      PyTorch module that is no plain stack of layers comes with one input without the batch axis: `(module, example)`.
    - `network`: which network of a survey: `"recommended"`, `"big"`, or a name of the catalogue like `"(1,1)"`.
    - `architecture`: for a safetensors file of another program, a file that names its architecture; see
      [`lossatlas.networks.read_architecture`][].
    - `checkpoint`: weights for the module of a factory. PyTorch: safetensors, or a dictionary that `torch.save` wrote
      (read with `weights_only=True`). Equinox: safetensors, or what `equinox.tree_serialise_leaves` wrote. A file that
      `lossatlas shrink` or `grow` wrote for this factory brings sizes of its own.
    - `loss`: what a model that does not say it was trained on: `"mse"`, `"cross_entropy"`, `"logistic"`. Default: what
      its targets suggest, see [`lossatlas.workbench.Examples`][].

    **Returns:**
    [`lossatlas.workbench.Model`][], whose `predict` takes raw data.

    **Raises:** `InputError` for a path that holds no finished survey or several, an unknown network, a pickle (it
    could run any code), a file that needs its architecture, tensors that do not fit (names and shapes of both sides),
    a factory that is missing or fails, and parameters that are not finite.

    !!! example
        >>> model = lossatlas.load("lossatlas/survey/iris-0123456789ab")  # doctest: +SKIP
        >>> model.predict(new_rows)  # doctest: +SKIP
        >>> model = lossatlas.load("my_package.nets:trained", checkpoint="weights.safetensors")  # doctest: +SKIP
    """
    if loss is not None and loss not in _LOSSES:
        msg = f"loss (--loss) must be one of {', '.join(_LOSSES)}, got {loss!r}."
        raise InputError(msg)
    name = os.fspath(model)
    if is_factory(name):
        _refuse(architecture, "architecture", "a safetensors file of another program")
        return check_finite(make_model(name, checkpoint=checkpoint, loss=loss), name)
    _refuse(checkpoint, "checkpoint", "the module of package.module:factory")
    path = pathlib.Path(model).expanduser()
    if path.is_file() and path.name != RUN_FILE:
        return check_finite(_read_file(path, architecture, loss), repr(path.name))
    _refuse(architecture, "architecture", "a safetensors file of another program")
    if not path.exists():
        msg = (
            f"There is no run {str(path)!r}. Give the folder that `lossatlas survey` printed, a model file, or "
            "package.module:factory."
        )
        raise InputError(msg)
    return SurveyRun(_find_run(path.parent if path.is_file() else path)).model(network)


def _refuse(given: object, option: str, place: str) -> None:
    if given is not None:
        msg = f"{option}= (--{option}) goes with {place}."
        raise InputError(msg)


def _read_file(path: pathlib.Path, architecture: str | os.PathLike[str] | None, loss: str | None) -> Model:
    if path.suffix.lower() in _PICKLES:
        remedy = _PICKLES[path.suffix.lower()]
        msg = f"{path.name!r} is a pickle, which could run any code and is never read. Give {remedy}."
        raise InputError(msg)
    if is_model_file(path):
        _refuse(architecture, "architecture", "a file of another program; this one names its own")
        return _said(read_model(path), loss)
    if architecture is None and is_resized(path):
        msg = (
            f"{path.name!r} holds weights for the module of a factory; give that (package.module:factory) as the "
            "model, and this file with --checkpoint."
        )
        raise InputError(msg)
    if architecture is None:
        msg = (
            f"{path.name!r} was written by another program and holds tensors alone; name the architecture in a file "
            "(class, arguments, tensors) and give it with --architecture."
        )
        raise InputError(msg)
    with jax.enable_x64(True):
        return Model(load_foreign(path, read_architecture(pathlib.Path(architecture))), None, loss, path.stem)


def _said(model: Model, loss: str | None) -> Model:
    return model if model.loss is not None else Model(model.network, model.preprocessing, loss, model.summary)


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
