"""What a network reads, and its sizes in words."""

import itertools
from typing import Any

from lossatlas._types import Network
from lossatlas.networks._conv import Conv
from lossatlas.networks._dense import Dense
from lossatlas.networks._recurrent import Recurrent
from lossatlas.networks._residual import Residual
from lossatlas.networks._transformer import Transformer, TransformerBlock
from lossatlas.networks._units import HasUnitSpaces


def input_shape(network: Network) -> tuple[int | None, ...] | None:
    """The shape of one example that a network of ours reads; None for any length, and for networks that do not say.

    Transformers read integers of shape (tokens,) too.
    """
    if isinstance(network, Dense):
        return (network.widths[0],)
    if isinstance(network, Conv):
        return network.image
    if isinstance(network, Residual):
        return (network.inputs.weight.shape[1],)
    if isinstance(network, Transformer | Recurrent):
        return (None, network.inputs.weight.shape[1])
    return None


def size_words(network: Network) -> str:
    """The sizes of a network in one line.

    `4-2+1-3`: fully connected, two neurons beside one linear unit between 4 inputs and 3 outputs.
    `conv 1x8x8: 8-16 | 32-10`: an image, the channels of each convolution, the fully connected layers.
    `residual 4-16-3 | 2 plain blocks`, `residual 4-16-3 | 2 blocks of 32`: inputs, stream, outputs.
    `transformer 8-32-10 | 2 blocks of 4x8 + 64`: four heads of size 8, then 64 neurons, in each block.
    `recurrent 3-16-2`. Any other network: its class, and the sizes of its unit spaces where it states them.
    """
    if isinstance(network, Dense):
        first, *hidden, last = network.widths
        middle = [f"{k}+{r}" if r else str(k) for k, r in zip(hidden, network.num_linear, strict=True)]
        return "-".join([str(first), *middle, str(last)])
    if isinstance(network, Conv):
        channels = [layer.conv.weight.shape[0] for layer in network.convs]
        widths = [layer.weight.shape[0] for layer in network.layers]
        return f"conv {'x'.join(map(str, network.image))}: {_joined(channels)} | {_joined(widths)}"
    if isinstance(network, Residual):
        sizes = (*reversed(network.inputs.weight.shape), network.output.weight.shape[0])
        if all(block.outer is None for block in network.blocks):
            return f"residual {_joined(sizes)} | {_counted('plain block', len(network.blocks))}"
        return f"residual {_joined(sizes)} | {_blocks([str(b.inner.weight.shape[0]) for b in network.blocks])}"
    if isinstance(network, Transformer):
        sizes = (*reversed(network.inputs.weight.shape), network.output.weight.shape[0])
        return f"transformer {_joined(sizes)} | {_blocks([_block_words(block) for block in network.blocks])}"
    if isinstance(network, Recurrent):
        sizes = (*reversed(network.inputs.weight.shape), network.output.weight.shape[0])
        return f"recurrent {_joined(sizes)}"
    name = type(network).__name__
    if not isinstance(network, HasUnitSpaces):
        return name
    return f"{name}: {', '.join(f'{space} {found.size}' for space, found in network.unit_spaces().items())}"


def _joined(sizes: Any) -> str:
    return "-".join(map(str, sizes))


def _counted(what: str, num: int) -> str:
    return f"{num} {what}{'' if num == 1 else 's'}"


def _blocks(words: list[str]) -> str:
    """Equal blocks in a row are counted: `2 blocks of 32, 1 block of 16`."""
    groups = [(size, len(list(group))) for size, group in itertools.groupby(words)]
    return ", ".join(f"{_counted('block', num)} of {size}" for size, num in groups)


def _block_words(block: TransformerBlock) -> str:
    heads, size, _ = block.attention.query.shape
    return f"{heads}x{size} + {block.feed_forward.up.weight.shape[0]}"
