"""Networks in files: one safetensors file that says how to rebuild the network."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.networks._activations import activation, activation_names
from lossatlas.networks._rebuild import class_names, describe, rebuild


_HEADER = "lossatlas.network"
_VERSION = 1
_DTYPES = ("float16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class SavedNetwork:
    """What a model file holds.

    - `network`: the network.
    - `preprocessing`: the dictionary that it was saved with, or None; see `lossatlas.data.Preprocessing.from_dict`.
    - `extra`: whatever else was saved, e.g. the loss that it was trained with.
    """

    network: Network
    preprocessing: dict[str, Any] | None
    extra: dict[str, Any]


def save(
    path: str | pathlib.Path,
    network: Network,
    *,
    preprocessing: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Write a network to one safetensors file.

    The tensors are named `layers.0.weight`, as other tools expect; the header entry `lossatlas.network` holds class,
    arguments, preprocessing and extra as JSON. The file appears whole or not at all.

    **Arguments:**
    - `path`: the file, usually `.safetensors`; its folder must exist.
    - `network`: any architecture of `lossatlas.networks`, with an activation known by name; running statistics are
      saved with it.
    - `preprocessing`: what its inputs need, `data.preprocessing.to_dict()`.
    - `extra`: anything that JSON knows.

    **Returns:** the path.

    **Raises:** `InputError` for another class, an activation that is not known by name (it could not be rebuilt),
    entries that JSON does not know, and a folder that cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    path = pathlib.Path(path)
    check_savable(network)
    header = {
        "version": _VERSION,
        "class": type(network).__name__,
        "arguments": describe(network),
        "preprocessing": preprocessing,
        "extra": extra or {},
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"preprocessing and extra must hold what JSON knows (finite numbers, text, lists, dictionaries): {error}."
        raise InputError(msg) from None
    tensors = {tensor_name(name): np.asarray(array) for name, array in named_arrays(network).items()}
    for name, array in tensors.items():
        if array.dtype.name not in _DTYPES:
            msg = f"The parameter {name} has type {array.dtype}; a model file holds {', '.join(_DTYPES)}."
            raise InputError(msg)
    _write_whole(path, to_bytes(tensors, metadata={_HEADER: text}))
    return path


def tensor_name(path: str) -> str:
    """`layers[0].weight` as `layers.0.weight`."""
    return path.replace("[", ".").replace("]", "")


def path_name(tensor: str) -> str:
    """`layers.0.weight` as `layers[0].weight`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", tensor)


def check_savable(network: Network) -> None:
    """See that a network can be written to a model file, before any long work.

    **Raises:** `InputError` for another class than ours, and an activation that is not known by name.
    """
    if type(network).__name__ not in class_names():
        msg = (
            f"Only {', '.join(class_names())} of lossatlas.networks can be saved, got {type(network).__name__}; "
            "save its weights with equinox.tree_serialise_leaves and keep the code that makes it."
        )
        raise InputError(msg)
    name = network.activation.name
    if name not in activation_names() or activation(name) != network.activation:
        msg = (
            f"The activation {name!r} is a callable of your own, which a file cannot hold; "
            f"use one known by name: {', '.join(activation_names())}."
        )
        raise InputError(msg)


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a model file gets the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        pathlib.Path(temporary).chmod(0o666 & ~mask)
        pathlib.Path(temporary).replace(path)
    except OSError as error:
        msg = f"The model file {str(path)!r} cannot be written: {error.strerror or error}."
        raise InputError(msg) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                pathlib.Path(temporary).unlink(missing_ok=True)


def load(path: str | pathlib.Path) -> SavedNetwork:
    """Read a network that [`lossatlas.networks.save`][] wrote; nothing is ever unpickled.

    **Returns:** a [`lossatlas.networks.SavedNetwork`][]; its parameters are bit-identical to the saved ones.

    **Raises:** `InputError` for a file that is missing, damaged or of another origin, and for float64 parameters
    where JAX has float64 switched off.
    """
    path = pathlib.Path(path)
    text, tensors = read_tensors(path)
    if text is None:
        msg = f"{path.name!r} was not written by lossatlas.networks.save: its header lacks {_HEADER!r}."
        raise InputError(msg)
    try:
        header = json.loads(text)
        version, kind, arguments = header["version"], header["class"], header["arguments"]
        preprocessing, extra = header["preprocessing"], header["extra"]
    except (ValueError, KeyError, TypeError):
        msg = f"The header of the model file {path.name!r} is damaged."
        raise InputError(msg) from None
    if version != _VERSION:
        msg = f"The model file {path.name!r} has format {version}, this version reads {_VERSION}; update lossatlas."
        raise InputError(msg)
    if kind not in class_names():
        raise unknown_name("network class", kind, class_names())
    arrays = {path_name(name): to_jax(array) for name, array in tensors.items()}
    try:
        network = rebuild(kind, arguments, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in list(tensors.items())[:8])
        reason = f"{error} " if str(error) else ""
        msg = (
            f"The model file {path.name!r} is damaged or of a newer version: its header and its tensors ({shapes}) do "
            f"not fit together. {reason}"
        )
        raise InputError(msg.strip()) from None
    return SavedNetwork(network, preprocessing, extra)


def read_tensors(path: pathlib.Path) -> tuple[str | None, dict[str, np.ndarray]]:
    """Our header of a safetensors file, None without one, and its tensors by name.

    **Raises:** `InputError` for a file that is missing or no safetensors file.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_HEADER)
        return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """The entries of the header of a safetensors file.

    **Raises:** `InputError` for a file that is missing or no safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def write_tensors(path: pathlib.Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write tensors by name, and a header, to a safetensors file; it appears whole or not at all.

    **Raises:** `InputError` for a folder that cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    _write_whole(path, to_bytes(tensors, metadata=metadata))


def is_model_file(path: pathlib.Path) -> bool:
    """Whether a safetensors file has a header of ours.

    **Raises:** `InputError` for a file that is missing or no safetensors file.
    """
    with _opened(path) as file:
        return _HEADER in (file.metadata() or {})


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"There is no model file {str(path)!r}."
        raise InputError(msg)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        msg = f"{path.name!r} is no readable safetensors file: {error}."
        raise InputError(msg) from None


def to_jax(array: np.ndarray) -> Array:
    if array.dtype == np.float64 and jnp.zeros(()).dtype != jnp.float64:
        msg = (
            "The model file holds float64 parameters; read it under `with jax.enable_x64(True):` or after "
            "`jax.config.update('jax_enable_x64', True)`."
        )
        raise InputError(msg)
    return jax.device_put(array)
