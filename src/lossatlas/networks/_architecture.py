"""Networks from safetensors files of other programs, with the architecture named in a file beside them."""

import dataclasses
import inspect
import json
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import path_name as name_of
from lossatlas._parameters import replace_parameters
from lossatlas._types import Network
from lossatlas.networks._conv import Conv
from lossatlas.networks._dense import Dense
from lossatlas.networks._file import path_name, read_tensors, tensor_name, to_jax
from lossatlas.networks._rebuild import rebuild
from lossatlas.networks._recurrent import Recurrent
from lossatlas.networks._residual import Residual
from lossatlas.networks._transformer import Transformer


_CLASSES: dict[str, type] = {cls.__name__: cls for cls in (Dense, Conv, Residual, Recurrent, Transformer)}
_ENTRIES = ("class", "arguments", "tensors", "layout", "ignore")
# What the arguments of a header have and those of a constructor have not.
_OF_HEADERS = {"Dense": "has_bias", "Conv": "convs", "Residual": "blocks", "Transformer": "blocks"}
_LAYOUTS: dict[str, tuple[int, ...]] = {
    "out,in": (0, 1),
    "in,out": (1, 0),
    "out,in,h,w": (0, 1, 2, 3),
    "h,w,in,out": (3, 2, 0, 1),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a file says of a network that another program wrote.

    - `kind`: a class of `lossatlas.networks`. `arguments`: of its constructor, without the key, or those in the header
      of a model file of ours, which say more (a stride for each convolution, say).
    - `tensors`: the file's name of a tensor to ours, like `{"fc1.weight": "layers.0.weight"}`; others keep theirs.
    - `layout`: how the file stores matrices and kernels: one of `"out,in"`, `"in,out"`, `"out,in,h,w"`, `"h,w,in,out"`
      for all of that many axes, or such a word by the file's name of a tensor.
    - `ignore`: tensors of the file that the network has no use for.
    """

    kind: str
    arguments: dict[str, Any]
    tensors: dict[str, str] = dataclasses.field(default_factory=dict)
    layout: str | dict[str, str] = dataclasses.field(default_factory=dict)
    ignore: tuple[str, ...] = ()


def read_architecture(path: str | pathlib.Path) -> Architecture:
    """Read an architecture file.

    In TOML, a stack of `nn.Linear` written by PyTorch (JSON has the same entries):

    ```toml
    class = "Dense"
    arguments = { widths = [4, 50, 3], activation = "relu" }
    [tensors]
    "0.weight" = "layers.0.weight"
    "0.bias" = "layers.0.bias"
    "2.weight" = "layers.1.weight"
    "2.bias" = "layers.1.bias"
    ```

    **Arguments:**
    - `path`: a file ending in `.json` or `.toml`, with the entries of [`lossatlas.networks.Architecture`][]: `class`,
      `arguments`, and if needed `tensors`, `layout`, `ignore`.

    **Raises:** `InputError` for a file that is missing or unreadable, unknown entries, classes, arguments and layouts.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in (".json", ".toml"):
        msg = f"An architecture file ends in .json or .toml, got {path.name!r}."
        raise InputError(msg)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"The architecture file {str(path)!r} cannot be read: {reason}."
        raise InputError(msg) from None
    if not isinstance(content, dict) or not {"class", "arguments"} <= set(content):
        msg = f"The architecture file {path.name!r} needs the entries class and arguments."
        raise InputError(msg)
    for entry in content:
        if entry not in _ENTRIES:
            kind = f"entry of {path.name!r}:"
            raise unknown_name(kind, entry, _ENTRIES)
    entries = {"tensors": {}, "layout": {}, "ignore": []} | content
    types = {"arguments": dict, "tensors": dict, "layout": (dict, str), "ignore": list}
    for entry, allowed in types.items():
        if not isinstance(entries[entry], allowed):
            msg = (
                f"In {path.name!r} arguments and tensors are tables, layout is a word or a table, ignore a list; got "
                f"{entry} = {entries[entry]!r}."
            )
            raise InputError(msg)
    if entries["class"] not in _CLASSES:
        raise unknown_name("network class", entries["class"], _CLASSES)
    found = Architecture(
        entries["class"], entries["arguments"], entries["tensors"], entries["layout"], tuple(entries["ignore"])
    )
    for layout in found.layout.values() if isinstance(found.layout, dict) else (found.layout,):
        if layout not in _LAYOUTS:
            raise unknown_name("layout", layout, _LAYOUTS)
    return found


def load_foreign(path: str | pathlib.Path, architecture: Architecture) -> Network:
    """A network of ours with the tensors of a safetensors file that another program wrote.

    **Arguments:**
    - `path`: the safetensors file.
    - `architecture`: see [`lossatlas.networks.read_architecture`][].

    **Returns:** the network, in float64 (half and single precision are taken over without change); x64 must be on.

    **Raises:** `InputError` for a file that cannot be read, arguments that the class does not take, and tensors that
    do not fit, with the names and shapes of both sides.
    """
    path = pathlib.Path(path)
    is_from_header = _OF_HEADERS.get(architecture.kind) in architecture.arguments
    template = None if is_from_header else _template(architecture)
    _, tensors = read_tensors(path)
    for name in (*architecture.tensors, *architecture.ignore, *_named_layouts(architecture)):
        if name not in tensors:
            msg = f"tensor of {path.name!r}:"
            raise unknown_name(msg, name, tensors)
    ours = {}
    for name, array in tensors.items():
        if name not in architecture.ignore:
            ours[architecture.tensors.get(name, name)] = _laid_out(architecture, name, array)
    arrays = {path_name(name): to_jax(array) for name, array in ours.items()}
    if template is None:
        return _from_header(path, architecture, arrays)
    leaves = jax.tree_util.tree_leaves_with_path(template)
    wanted = {tensor_name(name_of(path)): leaf.shape for path, leaf in leaves if hasattr(leaf, "shape")}
    check_tensors(f"the file {path.name!r}", ours, f"a {architecture.kind} of these arguments", wanted)
    return replace_parameters(template, arrays)


def _from_header(path: pathlib.Path, architecture: Architecture, arrays: dict[str, Array]) -> Network:
    try:
        return rebuild(architecture.kind, architecture.arguments, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        listed = _listed({tensor_name(name): array.shape for name, array in arrays.items()})
        reason = f": {error}" if str(error) else ""
        msg = f"The file {path.name!r} has {listed}, which do not fit the arguments of a {architecture.kind}{reason}."
        raise InputError(msg) from None


def check_tensors(source: str, given: Mapping[str, Any], target: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """See that tensors are those that a network needs.

    **Arguments:**
    - `source`, `target`: what both sides are called. `given`: arrays by name. `wanted`: shapes by name.

    **Raises:** `InputError` with the names and shapes of both sides, as far as they differ.
    """
    shapes = {name: tuple(array.shape) for name, array in given.items()}
    wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
    if not wrong:
        return
    here = _listed({name: shapes[name] for name in wrong if name in shapes})
    there = _listed({name: wanted[name] for name in wrong if name in wanted})
    turned = any(name in wanted and shapes.get(name) == wanted[name][::-1] for name in wrong)
    hint = ' A matrix may be stored the other way round: layout = "in,out".' if turned else ""
    msg = f"The tensors do not fit: {source} has {here}; {target} needs {there}.{hint}"
    raise InputError(msg)


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    words = [f"{name} {shape}" for name, shape in list(shapes.items())[:8]]
    return (", ".join(words) or "nothing in their place") + (f" and {len(shapes) - 8} more" if len(shapes) > 8 else "")


def _template(architecture: Architecture) -> Network:
    """The network with abstract arrays."""
    cls = _CLASSES[architecture.kind]
    known = list(inspect.signature(cls.__init__).parameters)[2:]  # without self and key
    for name in architecture.arguments:
        if name not in known:
            msg = f"argument of {architecture.kind}:"
            raise unknown_name(msg, name, known)
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture.arguments.items()}
    try:
        return eqx.filter_eval_shape(cls, jax.random.key(0), **arguments)
    except TypeError as error:
        reason = str(error).removeprefix(f"{architecture.kind}.__init__() ")
        msg = f"The arguments of {architecture.kind} cannot be used: {reason}."
        raise InputError(msg) from None


def _named_layouts(architecture: Architecture) -> dict[str, str]:
    return architecture.layout if isinstance(architecture.layout, dict) else {}


def _laid_out(architecture: Architecture, name: str, array: np.ndarray) -> np.ndarray:
    """The tensor as ours are stored, in float64."""
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        array = array.astype(np.float64)
    layout = architecture.layout if isinstance(architecture.layout, str) else architecture.layout.get(name)
    axes = _LAYOUTS[layout] if layout is not None else ()
    if isinstance(architecture.layout, dict) and layout is not None and len(axes) != array.ndim:
        msg = f"The layout {layout!r} has {len(axes)} axes, but {name} has shape {array.shape}."
        raise InputError(msg)
    return np.ascontiguousarray(array.transpose(axes)) if len(axes) == array.ndim > 0 else array
