"""Networks of ours described part by part as PyTorch modules: classes, arguments and arrays."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas.interop._torch_layers import ACTIVATIONS, same_padding
from lossatlas.networks import (
    Activation,
    Affine,
    Attention,
    BatchNorm,
    Conv,
    Convolution,
    Dense,
    FeedForward,
    Recurrent,
    Residual,
    StreamNorm,
    Transformer,
    activation,
    activation_names,
)


@dataclasses.dataclass(frozen=True)
class Part:
    """A module to be made.

    - `kind`: its class, in `torch.nn` or in `_torch_modules`.
    - `arguments`: of its constructor; parts among them, under the names that the module gives them. Numbers as names
      mean positions.
    - `arrays`: its own parameters and buffers by name.
    """

    kind: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)

    def state(self, prefix: str = "") -> dict[str, Any]:
        """All arrays under the names of PyTorch."""
        found = {prefix + name: array for name, array in self.arrays.items()}
        for name, value in self.arguments.items():
            if isinstance(value, Part):
                found |= value.state(f"{prefix}{name}.")
        return found


def describe(network: Any) -> Part:
    """A network of ours as a part.

    **Raises:** `InputError` for other classes, and for an activation that is not known by name.
    """
    if type(network) not in _DESCRIBERS:
        known = ", ".join(cls.__name__ for cls in _DESCRIBERS)
        msg = f"Only {known} of lossatlas.networks become PyTorch modules, got a {type(network).__name__}."
        raise InputError(msg)
    act = network.activation
    if act.name not in ACTIVATIONS or act.name not in activation_names() or activation(act.name) != act:
        msg = (
            f"The activation {act.name!r} is a callable of your own, which PyTorch does not know; use one known by "
            f"name: {', '.join(ACTIVATIONS)}."
        )
        raise InputError(msg)
    return _DESCRIBERS[type(network)](network)


def _activation(act: Activation) -> Part:
    kind, arguments = ACTIVATIONS[act.name]
    return Part(kind, dict(arguments))


def _sequential(parts: Iterable[Part]) -> Part:
    return Part("Sequential", {str(i): part for i, part in enumerate(parts)})


def _linear(weight: Array, bias: Array | None) -> Part:
    arguments: dict[str, Any] = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    if bias is None:
        return Part("Linear", arguments | {"bias": False}, {"weight": weight})
    return Part("Linear", arguments, {"weight": weight, "bias": bias})


def _affine(affine: Affine) -> Part:
    return _linear(affine.weight, affine.bias)


def _stream_norm(norm: StreamNorm | None) -> Part:
    if norm is None:
        return Part("Identity")
    arguments = {"normalized_shape": norm.scale.shape[0], "eps": norm.eps}
    if norm.shift is None:
        return Part("RMSNorm", arguments, {"weight": norm.scale})
    return Part("LayerNorm", arguments, {"weight": norm.scale, "bias": norm.shift})


def _dense(network: Dense) -> Part:
    parts = []
    for layer in network.layers[:-1]:
        if layer.linear is None and layer.num_neurons:
            parts += [_linear(layer.weight, layer.bias), _activation(network.activation)]
            continue
        k, m = layer.weight.shape
        arguments = {"num_inputs": m, "num_neurons": k, "num_linear": layer.num_linear}
        arguments |= {} if layer.bias is not None else {"bias": False}
        arrays = {"weight": layer.weight, "bias": layer.bias, "linear": layer.linear}
        present = {name: array for name, array in arrays.items() if array is not None}
        parts.append(Part("DenseLayer", arguments | {"activation": _activation(network.activation)}, present))
    last = network.layers[-1]
    return _sequential([*parts, _linear(last.weight, last.bias)])


def _conv(network: Conv) -> Part:
    parts, size = [], network.image[1:]
    for layer in network.convs:
        for conv in (layer.depthwise, layer.conv):
            if conv is not None:
                made, size = _convolution(conv, size)
                parts += made
        parts += [] if layer.norm is None else [_batch_norm(layer.norm)]
        parts.append(_activation(network.activation))
        if network.pool is not None and layer.is_pooled:
            parts.append(Part("MaxPool2d" if network.pool == "max" else "AvgPool2d", {"kernel_size": 2}))
            size = (size[0] // 2, size[1] // 2)
    if network.head == "average":
        parts.append(Part("AdaptiveAvgPool2d", {"output_size": 1}))
    parts.append(Part("Flatten"))
    for layer in network.layers[:-1]:
        parts += [_affine(layer), _activation(network.activation)]
    return _sequential([*parts, _affine(network.layers[-1])])


def _convolution(conv: Convolution, size: tuple[int, ...]) -> tuple[list[Part], tuple[int, ...]]:
    """The convolution, with the zeros beside the image before it where it cannot put them itself."""
    out, fan_in, *kernel = conv.weight.shape
    arguments: dict[str, Any] = {
        "in_channels": out if conv.is_depthwise else fan_in,
        "out_channels": out,
        "kernel_size": tuple(kernel),
    }
    arguments |= {} if conv.stride == 1 else {"stride": conv.stride}
    arguments |= {"groups": out} if conv.is_depthwise else {}
    arguments |= {} if conv.bias is not None else {"bias": False}
    arrays = {"weight": conv.weight} | ({} if conv.bias is None else {"bias": conv.bias})
    if conv.padding == "VALID":
        after = tuple((n - k) // conv.stride + 1 for n, k in zip(size, kernel, strict=True))
        return [Part("Conv2d", arguments, arrays)], after
    pads = [same_padding(n, k, conv.stride) for n, k in zip(size, kernel, strict=True)]
    after = tuple(-(-n // conv.stride) for n in size)
    if all(low == high for low, high in pads):
        return [Part("Conv2d", arguments | {"padding": tuple(low for low, _ in pads)}, arrays)], after
    (top, bottom), (left, right) = pads
    return [Part("ZeroPad2d", {"padding": (left, right, top, bottom)}), Part("Conv2d", arguments, arrays)], after


def _batch_norm(norm: BatchNorm) -> Part:
    arrays = {
        "weight": norm.scale,
        "bias": norm.shift,
        "running_mean": norm.mean.value,
        "running_var": norm.variance.value,
        "num_batches_tracked": np.array(0),
    }
    return Part("BatchNorm2d", {"num_features": norm.scale.shape[0], "eps": norm.eps}, arrays)


def _residual(network: Residual) -> Part:
    blocks = [
        Part(
            "ResidualBlock",
            {
                "norm": _stream_norm(block.norm),
                "inner": _affine(block.inner),
                "activation": _activation(network.activation),
                "outer": Part("Identity") if block.outer is None else _affine(block.outer),
            },
        )
        for block in network.blocks
    ]
    return _sequential([_affine(network.inputs), *blocks, _affine(network.output)])


def _attention(attention: Attention) -> Part:
    heads, _, size = attention.query.shape

    def inward(weight: Array, bias: Array) -> Part:
        return _linear(weight.reshape(-1, size), bias.reshape(-1))

    return Part(
        "Attention",
        {
            "query": inward(attention.query, attention.query_bias),
            "key": inward(attention.key, attention.key_bias),
            "value": inward(attention.value, attention.value_bias),
            "out": _linear(attention.out.reshape(size, -1), attention.out_bias),
            "num_heads": heads,
            "scale": attention.scale,
            "is_causal": attention.is_causal,
        },
    )


def _feed_forward(network: FeedForward, act: Activation) -> Part:
    arguments = {"up": _affine(network.up), "activation": _activation(act), "down": _affine(network.down)}
    return Part("FeedForward", arguments | ({} if network.gate is None else {"gate": _affine(network.gate)}))


def _transformer(network: Transformer) -> Part:
    blocks = [
        Part(
            "TransformerBlock",
            {
                "attention_norm": _stream_norm(block.attention_norm),
                "attention": _attention(block.attention),
                "feed_forward_norm": _stream_norm(block.feed_forward_norm),
                "feed_forward": _feed_forward(block.feed_forward, network.activation),
            },
        )
        for block in network.blocks
    ]
    arguments = {
        "inputs": _affine(network.inputs),
        "num_tokens": network.positions.shape[0],
        "blocks": _sequential(blocks),
        "norm": _stream_norm(network.norm),
        "output": _affine(network.output),
    }
    return Part("Transformer", arguments, {"positions": network.positions})


def _recurrent(network: Recurrent) -> Part:
    arguments = {
        "inputs": _affine(network.inputs),
        "recurrent": _linear(network.recurrent, None),
        "activation": _activation(network.activation),
        "output": _affine(network.output),
    }
    return Part("Recurrent", arguments)


_DESCRIBERS = {
    Dense: _dense,
    Conv: _conv,
    Residual: _residual,
    Transformer: _transformer,
    Recurrent: _recurrent,
}
