"""Weights of a module of somebody else's at other sizes: a file that goes with the factory of the module."""

import json
import pathlib
from typing import Any

import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.networks import check_savable, tensor_name, write_tensors
from lossatlas.workbench._checkpoint import RESIZED
from lossatlas.workbench._factory import is_factory
from lossatlas.workbench._model import Model, save_model


def check_writable(model: Model, source: str, out: pathlib.Path) -> None:
    """See that what will be made of a model can be written, before any long work.

    **Arguments:**
    - `source`: how the user named the model. `out`: the file to be.

    **Raises:** `InputError` for a network of another class than ours that no factory makes, an activation that a file
    cannot hold, and a folder that does not exist.
    """
    if not is_factory(source):
        check_savable(model.network)
    if not out.parent.is_dir():
        msg = f"There is no folder {str(out.parent)!r} for the new model (--out)."
        raise InputError(msg)
    if out.is_dir():
        msg = f"{str(out)!r} is a folder; the new model is one file, like --out {out / 'small.safetensors'}."
        raise InputError(msg)


def write_resized(path: pathlib.Path, model: Model, source: str) -> list[str]:
    """Write a model that was made larger or smaller: networks of ours whole, others as weights for their factory.

    A file for a factory holds the tensors under the names of the module (`state_dict` of PyTorch, `layers.0.weight`
    for others) and says that their shapes are not those that the factory makes.

    **Arguments:**
    - `path`: the file, usually `.safetensors`.
    - `source`: how the user named the model: `package.module:factory` for networks that are not ours.

    **Returns:** lines that tell how the file is used; none for networks of ours.

    **Raises:** `InputError` for a file that cannot be written, and for a PyTorch module whose code does not work at the
    new sizes.
    """
    if _fits_a_file(model.network):
        save_model(path, model)
        return []
    tensors, is_torch = _tensors(model.network)
    header = {RESIZED: json.dumps({"factory": source, "summary": model.summary})}
    write_tensors(path, tensors, header | ({"format": "pt"} if is_torch else {}))
    lines = [f'load: lossatlas.load("{source}", checkpoint="{path}").network  (with --checkpoint for all commands)']
    if is_torch:
        lines.append(f"for PyTorch alone: lossatlas export {source} --checkpoint {path} --to torch --out FOLDER")
    return lines


def _fits_a_file(network: Network) -> bool:
    """Whether a file can hold the whole network, class and activation too."""
    try:
        check_savable(network)
    except InputError:
        return False
    return True


def _tensors(network: Network) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays by the names of the module, and whether it is one of PyTorch."""
    inner = _inner(network)
    if type(inner).__name__ == "TorchNetwork":
        from lossatlas.interop import to_torch

        state: Any = to_torch(inner).state_dict()
        return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}, True
    return {tensor_name(name): np.asarray(array) for name, array in named_arrays(inner).items()}, False


def _inner(network: Network) -> Network:
    """The module inside a network whose unit spaces were discovered."""
    from lossatlas.embedding import Discovered

    return network.params if isinstance(network, Discovered) else network
