"""Models that a function of the user's makes: `package.module:factory`."""

import contextlib
import importlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax

from lossatlas._errors import InputError, unknown_name
from lossatlas.workbench._checkpoint import load_leaves, load_state_dict
from lossatlas.workbench._model import Model
from lossatlas.workbench._reads import check_inference, first_line


_ACCEPTED = (
    "a fitted scikit-learn MLP or Pipeline, an Equinox module, a PyTorch nn.Module (or the pair of it and one "
    "example), a network of lossatlas.networks, or a lossatlas.workbench.Model"
)


def is_factory(name: str) -> bool:
    """Whether a MODEL is written like `package.module:factory`."""
    return re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*", name) is not None and not pathlib.Path(name).exists()


def make_model(name: str, *, checkpoint: str | os.PathLike[str] | None = None, loss: str | None = None) -> Model:
    """The model that a factory returns.

    **Arguments:**
    - `name`: `package.module:factory`, imported from the current folder or the environment; called without arguments
      under float64.
    - `checkpoint`: weights for a PyTorch or Equinox module; see [`lossatlas.load`][].
    - `loss`: what it was trained on, where the model itself does not say.

    **Raises:** `InputError` for a module or factory that is missing, needs arguments or raises, for what cannot be
    used as a model, a network in training mode, and a checkpoint that does not fit.
    """
    with jax.enable_x64(True):
        return _as_model(_call(name), name, checkpoint, loss)


def _call(name: str) -> Any:
    """What the factory returns; an object that is no function or class is the model itself."""
    module_name, _, attribute = name.partition(":")
    with _current_folder():
        found = _import(module_name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [known for known in vars(found) if not known.startswith("_")]
                kind = f"name in {module_name}:"
                raise unknown_name(kind, part, public)
            found = getattr(found, part)
        if not (inspect.isroutine(found) or inspect.isclass(found)):
            return found
        needed = _needed_arguments(found)
        if needed:
            msg = f"{name} needs arguments ({', '.join(needed)}); name a function that is called without any."
            raise InputError(msg)
        try:
            return found()
        except Exception as error:
            msg = f"{name} raised {type(error).__name__}: {first_line(error)}"
            raise InputError(msg) from error


def _needed_arguments(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some callables written in C have no signature
        return []
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in collecting]


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder first where modules are looked for, as for `python -m`."""
    folder = str(pathlib.Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            msg = f"The module {name} needs {error.name}, which is not installed."
            raise InputError(msg) from error
        msg = f"There is no module {error.name!r} in the current folder or the environment."
        raise InputError(msg) from None
    except Exception as error:
        msg = f"Importing {name} raised {type(error).__name__}: {first_line(error)}"
        raise InputError(msg) from error


def _as_model(made: Any, name: str, checkpoint: str | os.PathLike[str] | None, loss: str | None) -> Model:
    path = None if checkpoint is None else pathlib.Path(checkpoint).expanduser()
    if isinstance(made, Model):
        network = made.network if path is None else load_leaves(made.network, path)
        return Model(network, made.preprocessing, made.loss or loss, made.summary)
    if _comes_from(made, "sklearn"):
        if path is not None:
            msg = "A checkpoint (--checkpoint) holds the weights of a PyTorch or JAX module; an estimator has its own."
            raise InputError(msg)
        from lossatlas.interop import from_sklearn

        imported = from_sklearn(made)
        return Model(imported.network, imported.preprocessing, imported.loss, name)
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if _comes_from(module, "torch") and hasattr(module, "state_dict"):
        return Model(_from_torch(module, name, path, example), None, loss, name)
    if isinstance(made, eqx.Module) and callable(made):
        check_inference(made, f"The network of {name}")
        return Model(made if path is None else load_leaves(made, path), None, loss, name)
    if isinstance(made, tuple) and any(isinstance(part, eqx.nn.State) for part in made):
        msg = (
            f"{name} returned a module with its state, but a network is a function of one example. Return a module "
            "that holds both and calls self.network(x, self.state)[0] in inference mode."
        )
        raise InputError(msg)
    kind = f"{type(made).__module__}.{type(made).__name__}"
    msg = f"{name} returned a {kind.removeprefix('builtins.')}; a model is {_ACCEPTED}."
    raise InputError(msg)


def _comes_from(made: Any, package: str) -> bool:
    """Whether an object's class, or one that it inherits from, is of a package; nothing is imported to know."""
    return any(cls.__module__.split(".")[0] == package for cls in type(made).__mro__)


def _from_torch(module: Any, name: str, checkpoint: pathlib.Path | None, example: Any) -> Any:
    from lossatlas import interop

    if checkpoint is not None:
        module = load_state_dict(module, checkpoint)
    if module.training:
        kinds = sorted({type(part).__name__ for part in module.modules() if _depends_on_training(part)})
        if kinds:
            msg = f"The module of {name} is in training mode ({', '.join(kinds)}); call module.eval() before return."
            raise InputError(msg)
    from_torch = getattr(interop, "from_torch", None)
    if from_torch is None:
        msg = "This version of lossatlas reads no PyTorch modules; give an Equinox module or a scikit-learn estimator."
        raise InputError(msg)
    try:
        return from_torch(module, example)
    except InputError as error:
        if example is not None or "Give example=" not in str(error):
            raise
        msg = f"{name} must return the module and an example, one input without the batch axis: (module, example)."
        raise InputError(msg) from error


def _depends_on_training(part: Any) -> bool:
    kind = type(part).__name__
    has_statistics = getattr(part, "running_mean", None) is not None
    return ("Dropout" in kind and part.p > 0) or has_statistics or kind.startswith("BatchNorm") or kind == "RReLU"
