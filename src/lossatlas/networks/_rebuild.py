"""What a model file says of an architecture besides its arrays, and how the network is made of both again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from lossatlas._parameters import Buffer
from lossatlas._types import Network
from lossatlas.networks._activations import activation
from lossatlas.networks._conv import Conv, ConvLayer
from lossatlas.networks._dense import Dense, DenseLayer
from lossatlas.networks._layers import Affine, BatchNorm, Convolution, StreamNorm
from lossatlas.networks._recurrent import Recurrent
from lossatlas.networks._residual import Residual, ResidualBlock
from lossatlas.networks._transformer import Attention, FeedForward, Transformer, TransformerBlock


Arrays = dict[str, Array]


def describe(network: Any) -> dict[str, Any]:
    """What is needed of a network besides its arrays, as JSON knows it; the name of the activation among it."""
    return {"activation": network.activation.name} | _DESCRIBERS[type(network)](network)


def rebuild(kind: str, arguments: dict[str, Any], arrays: Arrays) -> Network:
    """The network of a class, its arguments and its arrays by path.

    **Raises:** `KeyError`, `TypeError` or `ValueError` where these do not fit together.
    """
    builders = {cls.__name__: builder for cls, builder in _BUILDERS.items()}
    left = dict(arrays)
    network, shape = builders[kind](arguments, left)
    if left:
        raise KeyError(next(iter(left)))
    dtype = next(iter(arrays.values())).dtype
    jax.eval_shape(network, jax.ShapeDtypeStruct(shape, dtype))  # shapes that do not fit raise here
    return network


def class_names() -> list[str]:
    """The classes that can be saved."""
    return [cls.__name__ for cls in _BUILDERS]


def _assemble(cls: type, **fields: Any) -> Any:
    """A module with given fields, whatever its constructor draws."""
    new = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(new, field.name, fields[field.name])
    return new


def _affine(left: Arrays, path: str) -> Affine:
    return Affine(left.pop(f"{path}.weight"), left.pop(f"{path}.bias", None))


def _stream_norm(left: Arrays, path: str, eps: float | None) -> StreamNorm | None:
    return None if eps is None else StreamNorm(left.pop(f"{path}.scale"), left.pop(f"{path}.shift", None), eps)


def _describe_dense(network: Dense) -> dict[str, Any]:
    return {
        "widths": list(network.widths),
        "num_linear": list(network.num_linear),
        "has_bias": [layer.bias is not None for layer in network.layers],
    }


def _build_dense(arguments: dict[str, Any], left: Arrays) -> tuple[Dense, tuple[int, ...]]:
    layers = [
        DenseLayer(
            left.pop(f"layers[{i}].weight"), left.pop(f"layers[{i}].bias", None), left.pop(f"layers[{i}].linear", None)
        )
        for i in range(len(arguments["widths"]) - 1)
    ]
    network = Dense.from_layers(layers, activation(arguments["activation"]))
    if describe(network) != arguments:
        raise ValueError
    return network, (network.widths[0],)


def _describe_conv(network: Conv) -> dict[str, Any]:
    def convolution(conv: Convolution | None) -> list[Any] | None:
        return None if conv is None else [conv.stride, conv.padding]

    return {
        "image": list(network.image),
        "convs": [
            {
                "depthwise": convolution(layer.depthwise),
                "conv": convolution(layer.conv),
                "norm": None if layer.norm is None else layer.norm.eps,
                "is_pooled": layer.is_pooled,
            }
            for layer in network.convs
        ],
        "num_layers": len(network.layers),
        "pool": network.pool,
        "head": network.head,
        "batch_statistics": network.batch_statistics,
    }


def _build_conv(arguments: dict[str, Any], left: Arrays) -> tuple[Conv, tuple[int, ...]]:
    def convolution(path: str, facts: list[Any] | None, *, is_depthwise: bool) -> Convolution | None:
        if facts is None:
            return None
        stride, padding = facts
        weight, bias = left.pop(f"{path}.weight"), left.pop(f"{path}.bias", None)
        return Convolution(weight, bias, stride, padding, is_depthwise)

    convs = []
    for i, facts in enumerate(arguments["convs"]):
        norm, path = None, f"convs[{i}].norm"
        if facts["norm"] is not None:
            arrays = [left.pop(f"{path}.{name}") for name in ("scale", "shift", "mean.value", "variance.value")]
            norm = BatchNorm(arrays[0], arrays[1], Buffer(arrays[2]), Buffer(arrays[3]), facts["norm"])
        conv = convolution(f"convs[{i}].conv", facts["conv"], is_depthwise=False)
        assert conv is not None
        depthwise = convolution(f"convs[{i}].depthwise", facts["depthwise"], is_depthwise=True)
        convs.append(ConvLayer(depthwise, conv, norm, facts.get("is_pooled", True)))
    image = tuple(arguments["image"])
    network = _assemble(
        Conv,
        convs=tuple(convs),
        layers=tuple(_affine(left, f"layers[{i}]") for i in range(arguments["num_layers"])),
        activation=activation(arguments["activation"]),
        image=image,
        pool=arguments["pool"],
        head=arguments["head"],
        batch_statistics=arguments["batch_statistics"],
    )
    return network, image


def _describe_residual(network: Residual) -> dict[str, Any]:
    return {
        "blocks": [
            {"is_plain": block.outer is None, "norm": None if block.norm is None else block.norm.eps}
            for block in network.blocks
        ]
    }


def _build_residual(arguments: dict[str, Any], left: Arrays) -> tuple[Residual, tuple[int, ...]]:
    blocks = []
    for i, facts in enumerate(arguments["blocks"]):
        outer = None if facts["is_plain"] else _affine(left, f"blocks[{i}].outer")
        norm = _stream_norm(left, f"blocks[{i}].norm", facts["norm"])
        blocks.append(ResidualBlock(_affine(left, f"blocks[{i}].inner"), outer, norm))
    network = _assemble(
        Residual,
        inputs=_affine(left, "inputs"),
        blocks=tuple(blocks),
        output=_affine(left, "output"),
        activation=activation(arguments["activation"]),
    )
    return network, (network.inputs.weight.shape[1],)


def _describe_recurrent(network: Recurrent) -> dict[str, Any]:
    del network
    return {}


def _build_recurrent(arguments: dict[str, Any], left: Arrays) -> tuple[Recurrent, tuple[int, ...]]:
    network = _assemble(
        Recurrent,
        inputs=_affine(left, "inputs"),
        recurrent=left.pop("recurrent"),
        output=_affine(left, "output"),
        activation=activation(arguments["activation"]),
    )
    return network, (2, network.inputs.weight.shape[1])


def _describe_transformer(network: Transformer) -> dict[str, Any]:
    def eps(norm: StreamNorm | None) -> float | None:
        return None if norm is None else norm.eps

    return {
        "blocks": [
            {
                "scale": block.attention.scale,
                "is_causal": block.attention.is_causal,
                "gated": block.feed_forward.gate is not None,
                "attention_norm": eps(block.attention_norm),
                "feed_forward_norm": eps(block.feed_forward_norm),
            }
            for block in network.blocks
        ],
        "norm": eps(network.norm),
    }


def _build_transformer(arguments: dict[str, Any], left: Arrays) -> tuple[Transformer, tuple[int, ...]]:
    names = ("query", "key", "value", "out", "query_bias", "key_bias", "value_bias", "out_bias")
    blocks = []
    for i, facts in enumerate(arguments["blocks"]):
        attention, feed = f"blocks[{i}].attention", f"blocks[{i}].feed_forward"
        arrays = [left.pop(f"{attention}.{name}") for name in names]
        gate = _affine(left, f"{feed}.gate") if facts["gated"] else None
        blocks.append(
            TransformerBlock(
                Attention(*arrays, scale=facts["scale"], is_causal=facts["is_causal"]),
                FeedForward(_affine(left, f"{feed}.up"), gate, _affine(left, f"{feed}.down")),
                _stream_norm(left, f"{attention}_norm", facts["attention_norm"]),
                _stream_norm(left, f"{feed}_norm", facts["feed_forward_norm"]),
            )
        )
    network = _assemble(
        Transformer,
        inputs=_affine(left, "inputs"),
        positions=left.pop("positions"),
        blocks=tuple(blocks),
        norm=_stream_norm(left, "norm", arguments["norm"]),
        output=_affine(left, "output"),
        activation=activation(arguments["activation"]),
    )
    return network, (network.positions.shape[0], network.inputs.weight.shape[1])


_DESCRIBERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Dense: _describe_dense,
    Conv: _describe_conv,
    Residual: _describe_residual,
    Recurrent: _describe_recurrent,
    Transformer: _describe_transformer,
}
_BUILDERS: dict[type, Callable[[dict[str, Any], Arrays], tuple[Any, tuple[int, ...]]]] = {
    Dense: _build_dense,
    Conv: _build_conv,
    Residual: _build_residual,
    Recurrent: _build_recurrent,
    Transformer: _build_transformer,
}
