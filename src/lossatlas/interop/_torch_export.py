"""Networks of ours as PyTorch modules, in memory and as files that need no LossAtlas."""

import inspect
import io
import pathlib
from typing import TYPE_CHECKING, Any

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._types import Network
from lossatlas._version import __version__
from lossatlas.interop._torch_function import TorchNetwork, network_to_module
from lossatlas.interop._torch_parts import Part, describe
from lossatlas.interop._torch_tensors import require_torch, to_tensor


if TYPE_CHECKING:
    import torch
    from torch import nn


def to_torch(network: Network) -> "nn.Module":
    """A network as a PyTorch module that computes the same on a batch.

    Plain stacks ([`lossatlas.networks.Dense`][] without linear units, [`lossatlas.networks.Conv`][]) become an
    `nn.Sequential` of PyTorch's own layers, the others small modules that use torch alone. Parameters are kept bit for
    bit; outputs agree up to rounding. The batch axis comes first. A [`lossatlas.interop.TorchNetwork`][] becomes a
    module of the class that it came from, with its new
    weights and sizes; its outputs are compared on the example before it is handed out.

    !!! example
        ```python
        module = interop.to_torch(networks.Dense(jax.random.key(0), [4, 50, 3]))
        torch.save(module.state_dict(), "weights.pt")
        ```

    **Arguments:**
    - `network`: any architecture of `lossatlas.networks` with an activation known by name, a `TorchNetwork`, or one
      whose units were discovered.

    **Returns:** The module, in `eval()` mode and in the floating type of the network.

    **Raises:** `InputError` for other objects, for an activation of your own, and where torch is missing.
    """
    require_torch()
    network = _inner(network)
    return network_to_module(network) if isinstance(network, TorchNetwork) else _filled(describe(network))


def _inner(network: Any) -> Any:
    """The module inside a network that states its unit spaces, if there is one."""
    params = getattr(network, "params", None)
    return params if isinstance(params, TorchNetwork) else network


def _filled(part: Part) -> "nn.Module":
    import torch

    # On the device meta nothing is initialised, and no random number of the user's is spent.
    with torch.device("meta"):
        module = _build(part)
    tensors = {name: to_tensor(array) for name, array in part.state().items()}
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def _build(part: Part) -> "nn.Module":
    arguments = {name: _build(value) if isinstance(value, Part) else value for name, value in part.arguments.items()}
    positional = [arguments.pop(name) for name in list(arguments) if name.isdigit()]
    return _class_of(part)(*positional, **arguments)


def _class_of(part: Part) -> type:
    from torch import nn

    from lossatlas.interop import _torch_modules

    return getattr(_torch_modules if hasattr(_torch_modules, part.kind) else nn, part.kind)


def export_torch(network: Network, folder: str | pathlib.Path) -> pathlib.Path:
    """Write a network as PyTorch code and weights that work where LossAtlas is not installed.

    The folder gets `model.py`, the readable source of this architecture with its sizes (`make()`, `load()`), and its
    weights as `model.pt`, for `torch.load(weights_only=True)`, and as `model.safetensors`, under the same names. For a
    [`lossatlas.interop.TorchNetwork`][], whose source is yours, `model.pt2` takes the place of `model.py`: the module
    as `torch.export` traces it, which runs without that source, on batches of any length.

    !!! example
        ```python
        interop.export_torch(networks.Dense(jax.random.key(0), [4, 50, 3]), "exported")
        # elsewhere, in the folder `exported`:  from model import load;  load()(inputs)
        # of a TorchNetwork:  torch.export.load("exported/model.pt2").module()(inputs)
        ```

    **Arguments:**
    - `network`: any architecture of `lossatlas.networks` with an activation known by name, a `TorchNetwork`, or one
      whose units were discovered.
    - `folder`: made if it does not exist; files of these names in it are replaced.

    **Returns:** the folder.

    **Raises:** `InputError` as [`lossatlas.interop.to_torch`][], for a module that `torch.export` cannot trace, and for
    a folder that cannot be written.
    """
    torch = require_torch()
    from safetensors.torch import save_file

    inner = _inner(network)
    if isinstance(inner, TorchNetwork):
        module = network_to_module(inner)
        name, content = "model.pt2", _traced(module, to_tensor(inner.origin.example))
    else:
        part = describe(network)
        module = _filled(part)
        name, content = "model.py", model_source(network, part).encode()
    # Weights that are shared stand under each of their names.
    state = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        torch.save(state, folder / "model.pt")
        save_file(state, folder / "model.safetensors")
    except OSError as error:
        msg = f"The folder {str(folder)!r} cannot be written: {error.strerror or error}."
        raise InputError(msg) from None
    return folder


def _traced(module: "nn.Module", example: "torch.Tensor") -> bytes:
    """The module as a program of PyTorch alone, for batches of any length; compared before it is handed out."""
    import torch

    changes = (0.0, 0.5, -1.0) if example.is_floating_point() else (0, 0, 0)  # other tokens might not exist
    batch = torch.stack([example + change for change in changes])
    try:
        with torch.no_grad():
            program = torch.export.export(module, (batch[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            buffer.seek(0)
            found, expected = torch.export.load(buffer).module()(batch), module(batch)
            torch.testing.assert_close(found, expected)
    except Exception as error:
        msg = (
            f"torch.export cannot trace this {type(module).__name__} for batches of any length "
            f"({(str(error) or type(error).__name__).splitlines()[0]}); use module = interop.to_torch(network) and "
            "torch.save(module.state_dict(), path)."
        )
        raise InputError(msg) from error
    return buffer.getvalue()


_MODEL = '''"""{title}, written by LossAtlas {version}; it needs PyTorch only.

    from model import load
    outputs = load()(inputs)  # a batch, the examples along the first axis
"""

import pathlib

import torch
from torch import nn


{classes}def make() -> nn.Module:
    """The network, its weights still to be loaded."""
    return {call}


def load(path=None) -> nn.Module:
    """The network with the weights of a file, by default of `model.pt` beside this one."""
    path = pathlib.Path(__file__).with_name("model.pt") if path is None else path
    with torch.device("meta"):
        network = make()
    network.load_state_dict(torch.load(path, weights_only=True), assign=True)
    return network.eval()
'''


def model_source(network: Network, part: Part) -> str:
    """The text of `model.py`."""
    from lossatlas.interop import _torch_modules

    kinds = _kinds(part)
    own = [cls for name, cls in vars(_torch_modules).items() if name in kinds and inspect.isclass(cls)]
    classes = "".join(f"{inspect.getsource(cls)}\n\n" for cls in own)
    title = f"A network ({type(network).__name__}) with {num_parameters(network):,} parameters"
    return _MODEL.format(title=title, version=__version__, classes=classes, call=_call(part, 4))


def _kinds(part: Part) -> set[str]:
    return {part.kind}.union(*(_kinds(value) for value in part.arguments.values() if isinstance(value, Part)))


def _call(part: Part, indent: int) -> str:
    """The expression that makes a part."""
    name = part.kind if _class_of(part).__module__.startswith("lossatlas.") else f"nn.{part.kind}"
    inner = indent + 4
    texts = []
    for key, value in part.arguments.items():
        text = _call(value, inner) if isinstance(value, Part) else _literal(value)
        texts.append(text if key.isdigit() else f"{key}={text}")
    line = f"{name}({', '.join(texts)})"
    if part.kind != "Sequential" and "\n" not in line and len(line) + indent <= 110:
        return line
    return f"{name}(\n" + "".join(f"{' ' * inner}{text},\n" for text in texts) + " " * indent + ")"


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
