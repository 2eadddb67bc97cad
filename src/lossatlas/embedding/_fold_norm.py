"""Fold BatchNorm into the convolutions before it."""

import dataclasses

import equinox as eqx
import jax
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.networks import Conv, ConvLayer, Convolution


def fold_batch_norm(network: Network, inputs: Float[Array, "n c h w"] | None = None) -> Conv:
    r"""The same network without BatchNorm, its factors folded into the convolutions.

    $W \gamma / \sqrt{v + \epsilon}$ and $(b - \mu) \gamma / \sqrt{v + \epsilon} + \beta$.
    Exact for all inputs with the running statistics. The folded network of a critical point (of running statistics) is
    critical where no $\gamma$ is 0: its kernels have the gradient of the old ones divided by that factor.

    **Arguments:**
    - `network`: a `Conv`; without BatchNorm it is returned as it is.
    - `inputs`: whose statistics are taken first; needed where the network normalises by those of its batch, and the
      result then says on these inputs what `call_batch` said.

    **Returns:** a `Conv` whose layers have no norm.

    **Raises:** `InputError` for other architectures, and for networks that normalise by their batch without `inputs`.
    """
    if not isinstance(network, Conv):
        msg = f"fold_batch_norm needs a lossatlas.networks.Conv, got {type(network).__name__}."
        raise InputError(msg)
    if inputs is not None:
        network = network.with_statistics(inputs)
    elif network.batch_statistics:
        msg = (
            "This network normalises by the statistics of its batch, which no weights hold; give the inputs whose "
            "statistics are to be folded in."
        )
        raise InputError(msg)
    if all(layer.norm is None for layer in network.convs):
        return network
    folded = eqx.tree_at(lambda n: n.convs, network, tuple(_folded(layer) for layer in network.convs))
    return _without_batch_statistics(folded)


def _folded(layer: ConvLayer) -> ConvLayer:
    if layer.norm is None:
        return layer
    norm, conv = layer.norm, layer.conv
    factor = norm.scale * jax.lax.rsqrt(norm.variance.value + norm.eps)
    bias = norm.shift - norm.mean.value * factor
    bias = bias if conv.bias is None else bias + conv.bias * factor
    weight = conv.weight * factor[:, None, None, None]
    new = Convolution(weight, bias, conv.stride, conv.padding, conv.is_depthwise)
    return ConvLayer(layer.depthwise, new, None, layer.is_pooled)


def _without_batch_statistics(network: Conv) -> Conv:
    new = object.__new__(Conv)
    for field in dataclasses.fields(Conv):
        value = False if field.name == "batch_statistics" else getattr(network, field.name)
        object.__setattr__(new, field.name, value)
    return new
