"""Weights read into a module that exists; nothing is ever unpickled but what `torch.load(weights_only=True)` allows."""

import pathlib
import pickle
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._types import Network
from lossatlas.embedding import with_static_sizes
from lossatlas.networks import check_tensors, read_metadata, read_tensors, tensor_name
from lossatlas.workbench._reads import first_line


RESIZED = "lossatlas.resized"
"""The entry of a header that allows tensors of other shapes than those of the module that a factory makes."""


def load_state_dict(module: Any, path: pathlib.Path) -> Any:
    """Read weights into a PyTorch module, in place; one of other sizes is made where the file says so.

    **Arguments:**
    - `module`: a `torch.nn.Module`.
    - `path`: a safetensors file, or what `torch.save(module.state_dict(), path)` wrote (a Lightning checkpoint holds
      such a dictionary under `state_dict`).

    **Returns:** the module.

    **Raises:** `InputError` for a file that is missing, that only unpickling reads, or that does not fit the module,
    with the names and shapes of both sides.
    """
    import torch

    _check_exists(path)
    if path.suffix.lower() == ".safetensors":
        _, arrays = read_tensors(path)
        given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        try:
            given = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            msg = (
                f"The checkpoint {path.name!r} holds more than tensors, or is damaged, and nothing is unpickled; write "
                "it with torch.save(module.state_dict(), path) or as safetensors."
            )
            raise InputError(msg) from error
        if isinstance(given, dict) and isinstance(given.get("state_dict"), dict):
            given = given["state_dict"]
    if not isinstance(given, dict) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        msg = f"The checkpoint {path.name!r} holds no dictionary of tensors; save module.state_dict()."
        raise InputError(msg)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if is_resized(path):
        from lossatlas.interop import resized_module

        check_tensors(f"the checkpoint {path.name!r}", given, "the module", _of_those_sizes(wanted, given))
        return resized_module(module, given)
    check_tensors(f"the checkpoint {path.name!r}", given, "the module", wanted)
    module.load_state_dict(given)
    return module


def load_leaves(network: Network, path: pathlib.Path) -> Network:
    """A JAX network with the weights of a file.

    **Arguments:**
    - `network`: any Equinox module.
    - `path`: a safetensors file whose tensors are named like `layers.0.weight`, or what
      `equinox.tree_serialise_leaves` wrote. Single precision is taken over into a network of float64 without change.

    **Raises:** `InputError` for a file that is missing, of another origin, or that does not fit the network, with the
    names and shapes of both sides.
    """
    _check_exists(path)
    arrays = named_arrays(network)
    shapes = {tensor_name(name): array.shape for name, array in arrays.items()}
    if path.suffix.lower() == ".safetensors":
        _, given = read_tensors(path)
        wanted = _of_those_sizes(shapes, given) if is_resized(path) else shapes
        check_tensors(f"the checkpoint {path.name!r}", given, "the network", wanted)
        loaded = replace_parameters(
            network, {name: _cast(given[tensor_name(name)], array, name) for name, array in arrays.items()}
        )
        return with_static_sizes(loaded) if is_resized(path) else loaded
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".pkl", ".pickle"):
        msg = f"{path.name!r} is a pickle, which is never read; write it with equinox.tree_serialise_leaves."
        raise InputError(msg)
    try:
        return eqx.tree_deserialise_leaves(path, network, filter_spec=_read_leaf)
    except InputError:
        raise
    except Exception as error:
        listed = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:8])
        msg = (
            f"The checkpoint {path.name!r} does not fit the network. It holds arrays of shapes {_shapes_in(path)}; the "
            f"network has {listed}. ({first_line(error)})"
        )
        raise InputError(msg) from error


def is_resized(path: pathlib.Path) -> bool:
    """Whether a file says that it was written at other sizes than those of the module that its factory makes.

    **Raises:** `InputError` for a file that is missing, or a damaged safetensors file.
    """
    return path.suffix.lower() == ".safetensors" and RESIZED in read_metadata(path)


def _of_those_sizes(wanted: dict[str, tuple[int, ...]], given: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that a resized file may have: its own, with as many axes as those of the module."""
    shapes = {name: tuple(array.shape) for name, array in given.items()}
    return {
        name: shapes[name] if len(shapes.get(name, ())) == len(shape) and name in shapes else shape
        for name, shape in wanted.items()
    }


def _read_leaf(file: Any, leaf: Any) -> Any:
    """One leaf, in the precision of the network."""
    if not eqx.is_inexact_array(leaf):
        return eqx.default_deserialise_filter_spec(file, leaf)
    array = np.load(file, allow_pickle=False)
    if array.shape != leaf.shape:
        msg = f"an array of shape {array.shape} where {leaf.shape} is needed"
        raise ValueError(msg)
    return _cast(array, leaf, "an array")


def _cast(array: np.ndarray, leaf: Array, name: str) -> Array:
    if not np.can_cast(array.dtype, leaf.dtype):
        msg = f"The checkpoint holds {name} in {array.dtype}, the network in {leaf.dtype}; make the network in float64."
        raise InputError(msg)
    return jnp.asarray(array, leaf.dtype)


def _shapes_in(path: pathlib.Path) -> str:
    """The shapes of the arrays that stand one after the other in a file."""
    shapes = []
    with path.open("rb") as file:
        try:
            while len(shapes) < 8:
                shapes.append(str(np.load(file, allow_pickle=False).shape))
        except (ValueError, OSError, EOFError):
            return ", ".join(shapes) or "that cannot be read"
    return ", ".join(shapes) + ", ..."


def _check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        msg = f"There is no checkpoint {str(path)!r}."
        raise InputError(msg)
