"""The layers of PyTorch that networks of ours are made of: activations by name, and which layers are plain."""

import math
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import nn

# Of softplus and its line they differ by exp(-threshold), which must be rounding: torch's own default of 20 is not, in
# float64.
_SOFTPLUS_THRESHOLD = 40.0

ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "elu": ("ELU", {"alpha": 1.0}),
    "gelu": ("GELU", {"approximate": "none"}),
    "gelu_tanh": ("GELU", {"approximate": "tanh"}),
    "silu": ("SiLU", {}),
    "softplus": ("Softplus", {"beta": 1.0, "threshold": _SOFTPLUS_THRESHOLD}),
    "hard_tanh": ("Hardtanh", {"min_val": -1.0, "max_val": 1.0}),
    "erf": ("Erf", {}),
    "sin": ("Sin", {}),
    "square": ("Square", {}),
    "xtanh": ("XTanh", {}),
    "x2tanh": ("X2Tanh", {}),
    "exp": ("Exp", {}),
}
"""Our activations as layers: a class, in `torch.nn` or in `_torch_modules`, and its arguments."""


def activation_name(layer: Any, eps: float) -> str | None:
    """The name of ours for an activation layer, None where it computes something else.

    **Arguments:**
    - `layer`: any layer.
    - `eps`: the rounding of the floating type that it is used with.
    """
    kind = type(layer).__name__
    if kind == "Softplus":
        is_ours = layer.beta == 1 and math.exp(-layer.threshold) <= eps * layer.threshold
        return "softplus" if is_ours and _is_plain(layer) else None
    for name, (known, arguments) in ACTIVATIONS.items():
        if kind == known and _is_plain(layer) and all(getattr(layer, k) == v for k, v in arguments.items()):
            return name
    return None


def _is_plain(layer: "nn.Module") -> bool:
    """Whether a layer is of PyTorch's own class, or of one of ours, and not of another with the same name."""
    return type(layer).__module__.startswith(("torch.nn.modules.", "lossatlas.interop."))


def plain_layers(module: "nn.Module") -> list["nn.Module"]:
    """The layers of nested `Sequential`s in order, without those that pass everything on in `eval()` mode.

    **Raises:** [`Misfit`][] for anything whose forward pass is not simply that.
    """
    from torch import nn
    from torch.nn.modules.dropout import _DropoutNd

    if module._forward_hooks or module._forward_pre_hooks:
        msg = f"a {type(module).__name__} has forward hooks"
        raise Misfit(msg)
    if not _is_plain(module) and type(module).forward is not nn.Sequential.forward:
        msg = f"{type(module).__name__} is a class of its own"
        raise Misfit(msg)
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in plain_layers(child)]
    return [] if isinstance(module, _DropoutNd) else [module]


class Misfit(Exception):
    """Why a module is no stack of layers as ours has them; part of a message to the user."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The zeros before and behind an axis with padding SAME."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
