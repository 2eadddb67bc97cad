"""Files of PyTorch weights, read without ever running what is in them."""

import pathlib
import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from lossatlas._errors import InputError
from lossatlas.interop._torch_tensors import require_torch


if TYPE_CHECKING:
    import torch

# What training loops put around a state dictionary.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_torch_weights(path: str | pathlib.Path) -> "dict[str, torch.Tensor]":
    """Read a file of weights for `module.load_state_dict`.

    Nothing is ever unpickled but tensors: `.pt` and `.pth` files go through `torch.load(weights_only=True)`. Tensors
    come to the CPU. A checkpoint that holds the weights under `state_dict`, `model_state_dict` or `model`, beside other
    things, is opened.

    !!! example
        ```python
        module.load_state_dict(interop.read_torch_weights("weights.safetensors"))
        network = interop.from_torch(module.eval())
        ```

    **Arguments:**
    - `path`: a `.safetensors` file, or one that `torch.save(module.state_dict(), path)` wrote.

    **Returns:** the tensors by name.

    **Raises:** `InputError` for a file that is missing or damaged, that holds a whole pickled module or other objects,
    TorchScript, or no tensors by name.
    """
    require_torch()
    path = pathlib.Path(path)
    if not path.is_file():
        msg = f"There is no file {str(path)!r} of weights."
        raise InputError(msg)
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_saved(path)
    return _state(found, path)


def _read_safetensors(path: pathlib.Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path.name!r} is no readable safetensors file: {error}."
        raise InputError(msg) from None


def _read_saved(path: pathlib.Path) -> Any:
    import torch

    if _is_script(path):
        msg = (
            f"{path.name!r} is a TorchScript archive, which holds code; where it comes from, save its weights by "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pt')."
        )
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            msg = f"{path.name!r} is no file of torch.save."
            raise InputError(msg) from None
        msg = (
            f"{path.name!r} holds more than tensors (a pickled module or other objects), and reading it would run "
            "code of its author; where it comes from, save the weights alone: "
            "torch.save(module.state_dict(), 'weights.pt')."
        )
        raise InputError(msg) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        msg = f"{path.name!r} is damaged, or no file of torch.save: {(str(error) or 'it is empty').splitlines()[0]}"
        raise InputError(msg) from None


def _is_script(path: pathlib.Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _state(found: Any, path: pathlib.Path) -> "dict[str, torch.Tensor]":
    import torch

    inner = next(
        (found[key] for key in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)), found
    )
    if not isinstance(inner, dict) or not inner:
        msg = f"{path.name!r} holds a {type(inner).__name__}, no tensors by name; save module.state_dict()."
        raise InputError(msg)
    wrong = [name for name, value in inner.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        msg = (
            f"{path.name!r} holds other things than tensors ({', '.join(map(str, wrong[:3]))}); save "
            f"module.state_dict(), alone or under one of the names {', '.join(_WRAPPERS)}."
        )
        raise InputError(msg)
    return dict(inner)
