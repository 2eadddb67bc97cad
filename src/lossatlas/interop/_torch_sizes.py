"""The sizes that layers of PyTorch keep beside their weights."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import nn


def fit_sizes(old: "nn.Module", new: "nn.Module") -> None:
    """Set the sizes of all layers of PyTorch's own classes by the shapes of their tensors.

    **Arguments:**
    - `old`: the module before its tensors changed. `new`: a copy of it with other tensors; it is changed.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    pairs: list[tuple[Any, Any]] = list(zip(old.modules(), new.modules(), strict=True))
    for before, after in pairs:
        if isinstance(after, nn.Linear):
            after.out_features, after.in_features = after.weight.shape
        elif isinstance(after, _ConvNd):
            _fit_convolution(before, after, is_transposed=isinstance(after, _ConvTransposeNd))
        elif isinstance(after, _NormBase) and (known := _first(after.weight, after.running_mean)) is not None:
            after.num_features = known.shape[0]
        elif isinstance(after, nn.GroupNorm) and after.weight is not None:
            after.num_channels = after.weight.shape[0]
        elif isinstance(after, nn.LayerNorm | nn.RMSNorm) and after.weight is not None:
            after.normalized_shape = tuple(after.weight.shape)
        elif isinstance(after, nn.Embedding):
            after.num_embeddings, after.embedding_dim = after.weight.shape
        elif isinstance(after, nn.MultiheadAttention) and after.in_proj_weight is not None:
            after.embed_dim = after.kdim = after.vdim = after.in_proj_weight.shape[1]
            after.head_dim = after.embed_dim // after.num_heads
        elif isinstance(after, nn.RNNBase):
            tensors = dict(after.named_parameters())
            after.input_size, after.hidden_size = tensors["weight_ih_l0"].shape[1], tensors["weight_hh_l0"].shape[1]


def _first(*tensors):
    return next((tensor for tensor in tensors if tensor is not None), None)


def _fit_convolution(before: Any, after: Any, *, is_transposed: bool) -> None:
    """Channels and groups; a convolution with one channel a group keeps one a group."""
    first, second = after.weight.shape[:2]
    own, other = (
        (before.in_channels, before.out_channels) if is_transposed else (before.out_channels, before.in_channels)
    )
    # Depthwise: each group reads one channel and makes own / groups of them.
    if before.groups > 1 and before.groups == other:
        after.groups = first * before.groups // own
    sizes = first, second * after.groups
    after.in_channels, after.out_channels = sizes if is_transposed else sizes[::-1]
