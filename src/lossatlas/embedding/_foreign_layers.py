"""Layers of Equinox store sizes beside their arrays: which static fields to change when the arrays change."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree


def _linear(layer: Any) -> dict[str, Any]:
    out, entering = layer.weight.shape
    sizes = {"in_features": entering, "out_features": out}
    return {name: size for name, size in sizes.items() if getattr(layer, name) != "scalar"}


def _conv(layer: Any) -> dict[str, Any]:
    out, entering = layer.weight.shape[:2]
    # One filter for each channel is the only grouping that follows the channels.
    groups = out if layer.groups == layer.in_channels == layer.out_channels else layer.groups
    return {"in_channels": entering * groups, "out_channels": out, "groups": groups}


def _norm(layer: Any) -> dict[str, Any]:
    array = layer.weight if layer.weight is not None else layer.bias
    return {} if array is None else {"shape": array.shape}


def _group_norm(layer: Any) -> dict[str, Any]:
    return {} if layer.weight is None else {"channels": layer.weight.shape[0]}


def _embedding(layer: Any) -> dict[str, Any]:
    return dict(zip(("num_embeddings", "embedding_size"), layer.weight.shape, strict=True))


def _attention(layer: Any) -> dict[str, Any]:
    # The projections alone do not tell heads from coordinates; their product must fit, so heads are counted.
    rows, values = layer.query_proj.weight.shape[0], layer.value_proj.weight.shape[0]
    heads = rows // layer.qk_size if rows % layer.qk_size == 0 else layer.num_heads
    return {
        "num_heads": heads,
        "vo_size": values // heads,
        "query_size": layer.query_proj.weight.shape[1],
        "key_size": layer.key_proj.weight.shape[1],
        "value_size": layer.value_proj.weight.shape[1],
        "output_size": layer.output_proj.weight.shape[0],
    }


def _cell(layer: Any) -> dict[str, Any]:
    return {"hidden_size": layer.weight_hh.shape[1], "input_size": layer.weight_ih.shape[1]}


STATIC_SIZES: dict[type, Callable[[Any], dict[str, Any]]] = {
    eqx.nn.Linear: _linear,
    eqx.nn.Conv: _conv,
    eqx.nn.LayerNorm: _norm,
    eqx.nn.RMSNorm: _norm,
    eqx.nn.GroupNorm: _group_norm,
    eqx.nn.Embedding: _embedding,
    eqx.nn.MultiheadAttention: _attention,
    eqx.nn.GRUCell: _cell,
    eqx.nn.LSTMCell: _cell,
}
"""Equinox layer to the static fields that follow from its arrays, and their values."""


def with_static_sizes(params: PyTree) -> PyTree:
    """The same parameters, every known layer with the static sizes that its arrays have."""
    is_known = lambda node: isinstance(node, tuple(STATIC_SIZES))  # noqa: E731
    return jax.tree.map(_mended, params, is_leaf=is_known)


def _mended(node: Any) -> Any:
    rule = next((rule for kind, rule in STATIC_SIZES.items() if isinstance(node, kind)), None)
    if rule is None:
        return node
    fields = rule(node)
    mended = object.__new__(type(node))
    for name, value in vars(node).items():
        # Layers may hold layers (the projections of attention).
        new = fields.get(name, value)
        object.__setattr__(mended, name, with_static_sizes(new) if isinstance(new, eqx.Module) else new)
    return mended
