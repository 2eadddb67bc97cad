"""Blocks that add nothing to the stream of a residual network or a transformer."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters
from lossatlas._types import Network
from lossatlas.embedding._record import Data, Record, make_record
from lossatlas.networks import (
    Activation,
    Affine,
    Attention,
    FeedForward,
    Residual,
    ResidualBlock,
    StreamNorm,
    Transformer,
    TransformerBlock,
)


class NullBlock(eqx.Module):
    r"""Insert a block that puts out zero before the block `before` (or the output).

    Its output bias and what reads its neurons see the mean error of the stream,
    $\bar z = E[\sum_t \partial\ell/\partial s_t]$, which is the gradient of the additive bias that was written to the
    stream just before, or $W^\top \nabla_b$ of an affine output.

    - `block`: what is inserted. `source`: the path of that bias, `"output.bias"` for the output, None where no bias
      sees the same error.
    """

    before: int = eqx.field(static=True)
    block: ResidualBlock | TransformerBlock
    source: str | None = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Network:
        """The deeper network."""
        return _with_blocks(network, self.before, self.block)

    def apply_inverse(self, network: Network) -> Network:
        """The network without the block."""
        blocks = network.blocks
        return eqx.tree_at(lambda n: n.blocks, network, (*blocks[: self.before], *blocks[self.before + 1 :]))

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        """B: the gradient at the deeper point from the gradient before."""
        block = jax.tree.map(jnp.zeros_like, self.block)
        if self.source is not None:
            error = named_parameters(gradient)[self.source]
            if self.source == "output.bias":
                error = network.output.weight.T @ error
            block = _with_error(block, error, _silent_neurons(self.block, network.activation))
        return _with_blocks(gradient, self.before, block)


def add_null_block(
    network: Network,
    before: int | None = None,
    *,
    width: int | None = None,
    incoming: Float[Array | np.ndarray, "w m"] | Sequence[Sequence[float]] | None = None,
    bias: float | int = 0.0,
    use_bias: bool | None = None,
    key: PRNGKeyArray | None = None,
    landscape: Data = None,
) -> tuple[Network, Record]:
    r"""Insert a block that adds nothing to the stream: the function stays, for all inputs.

    All that its neurons (and heads) are made of is zero, and all that reads them too; norms start with scale 1. A
    critical point stays critical when the constants that the block could add are held by a bias: $\bar z = E[\partial
    \ell/\partial s] = 0$. It is then a strict saddle unless $E[z\, \tilde s^\top] = 0$ with $\tilde s$ what the block
    reads. A block with random `incoming` weights trains at once, but breaks criticality.

    **Arguments:**
    - `network`: a `Residual` or a `Transformer`.
    - `before`: the block that will follow, zero-based; default the output.
    - `width`: neurons of the new block; default those of a block beside it, or the stream.
    - `incoming`: weights that make the neurons, shape (width, stream); default zeros.
    - `bias`: of all neurons; $\sigma(b) \ne 0$ is a constant to be held.
    - `use_bias`: whether what reads the neurons of a `Residual` block has a bias; default where it is held.
      Transformers always have them.
    - `key`: draws the queries and keys of a transformer's heads, which may be anything; default zeros.
    - `landscape`: as for [`lossatlas.embedding.split`][].

    **Returns:** the deeper network and its record; `record.caution` says when criticality is not kept.

    **Raises:** `InputError` for other architectures, blocks out of range, and wrong shapes.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283 (trivial zero blocks); when they keep critical points is derived here.
    """
    if not isinstance(network, Residual | Transformer):
        msg = f"add_null_block needs a Residual or a Transformer, got {type(network).__name__}."
        raise InputError(msg)
    num = len(network.blocks)
    before = num if before is None else before
    if not 0 <= before <= num:
        msg = f"before must be 0 to {num}, the block that follows the new one, got {before}."
        raise InputError(msg)
    if not np.isfinite(bias):
        msg = f"bias must be finite, got {bias}."
        raise InputError(msg)
    source = _source(network, before)
    weights = _incoming(network, before, width, incoming)
    if isinstance(network, Residual):
        block = _residual_block(network, weights, bias, source is not None if use_bias is None else use_bias)
    else:
        block = _transformer_block(network, before, weights, bias, key)
    step = NullBlock(before, block, source, f"null block of {len(weights)} neurons inserted before block {before}")
    constants = _silent_neurons(block, network.activation)
    has_bias = isinstance(block, TransformerBlock) or (block.outer is not None and block.outer.bias is not None)
    caution = None
    if bool(weights.any()):
        caution = "The neurons of the block have incoming weights: the gradient of what reads them need not vanish."
    elif source is None and (has_bias or bool(constants.any())):
        caution = (
            "No additive bias is written to the stream just before the block, and what reads it is not affine with a "
            "bias: the mean error of the stream need not vanish, so critical points do not stay critical."
        )
    return make_record(network, (step,), landscape, caution)


def _with_blocks(network: Network, before: int, block) -> Network:
    return eqx.tree_at(lambda n: n.blocks, network, (*network.blocks[:before], block, *network.blocks[before:]))


def _source(network: Residual | Transformer, before: int) -> str | None:
    """The bias whose gradient tells the mean error of the stream before a block."""
    path = "inputs.bias" if before == 0 else f"blocks[{before - 1}].{_last(network.blocks[before - 1])}.bias"
    known = named_parameters(network)
    if path in known:
        return path
    is_normed = isinstance(network, Transformer) and network.norm is not None
    at_end = before == len(network.blocks) and not is_normed
    return "output.bias" if at_end and "output.bias" in known else None


def _last(block: ResidualBlock | TransformerBlock) -> str:
    return "outer" if isinstance(block, ResidualBlock) else "feed_forward.down"


def _incoming(network, before: int, width: int | None, incoming) -> Float[Array, "w m"]:
    m = network.inputs.weight.shape[0]
    dtype = network.inputs.weight.dtype
    if incoming is not None:
        weights = jnp.asarray(incoming, dtype)
        if weights.ndim != 2 or weights.shape[1] != m or width not in (None, weights.shape[0]):
            msg = f"incoming must have shape (width, {m}), got {weights.shape}."
            raise InputError(msg)
        if not bool(jnp.isfinite(weights).all()):
            msg = "incoming must be finite."
            raise InputError(msg)
        return weights
    if width is None:
        width = _width_beside(network, before)
    if width < 1:
        msg = f"width must be at least 1, got {width}."
        raise InputError(msg)
    return jnp.zeros((width, m), dtype)


def _width_beside(network: Residual | Transformer, before: int) -> int:
    if not network.blocks:
        return network.inputs.weight.shape[0]
    block = network.blocks[min(before, len(network.blocks) - 1)]
    made = block.inner if isinstance(block, ResidualBlock) else block.feed_forward.up
    return made.weight.shape[0]


def _fresh_norm(norm: StreamNorm | None) -> StreamNorm | None:
    if norm is None:
        return None
    shift = None if norm.shift is None else jnp.zeros_like(norm.shift)
    return StreamNorm(jnp.ones_like(norm.scale), shift, norm.eps)


def _residual_block(network: Residual, weights: Array, bias: float, use_bias: bool) -> ResidualBlock:
    k, m = weights.shape
    norm = next((block.norm for block in network.blocks if block.norm is not None), None)
    inner = Affine(weights, jnp.full((k,), bias, weights.dtype))
    outer = Affine(jnp.zeros((m, k), weights.dtype), jnp.zeros((m,), weights.dtype) if use_bias else None)
    return ResidualBlock(inner, outer, _fresh_norm(norm))


def _transformer_block(
    network: Transformer, before: int, weights: Array, bias: float, key: PRNGKeyArray | None
) -> TransformerBlock:
    model = network.blocks[min(before, len(network.blocks) - 1)]
    attention = jax.tree.map(jnp.zeros_like, model.attention)
    if key is not None:
        deviation = 1 / np.sqrt(weights.shape[1])
        drawn = jax.random.normal(key, (2, *attention.query.shape), attention.query.dtype) * deviation
        attention = eqx.tree_at(lambda a: (a.query, a.key), attention, (drawn[0], drawn[1]))
    k, m = weights.shape
    up = Affine(weights, jnp.full((k,), bias, weights.dtype))
    down = Affine(jnp.zeros((m, k), weights.dtype), jnp.zeros((m,), weights.dtype))
    gate = None if model.feed_forward.gate is None else jax.tree.map(jnp.zeros_like, up)
    norms = _fresh_norm(model.attention_norm), _fresh_norm(model.feed_forward_norm)
    return TransformerBlock(attention, FeedForward(up, gate, down), *norms)


def _silent_neurons(block: ResidualBlock | TransformerBlock, act: Activation) -> Float[Array, " w"]:
    """What the neurons of a block put out when nothing comes in."""
    if isinstance(block, ResidualBlock):
        return act(_bias(block.inner))
    feed = block.feed_forward
    return act(_bias(feed.up)) if feed.gate is None else act(_bias(feed.gate)) * _bias(feed.up)


def _bias(layer: Affine) -> Float[Array, " o"]:
    assert layer.bias is not None  # the block was made with it
    return layer.bias


def _with_error(zero, error: Array, constants: Array):
    """The gradient of a block that puts out zero: its output biases and readers see the error alone."""
    pulled = error[:, None] * constants[None]
    if isinstance(zero, ResidualBlock):
        assert zero.outer is not None
        bias = None if zero.outer.bias is None else error
        return eqx.tree_at(lambda b: b.outer, zero, Affine(pulled, bias))
    assert isinstance(zero.attention, Attention)
    return eqx.tree_at(lambda b: (b.attention.out_bias, b.feed_forward.down), zero, (error, Affine(pulled, error)))
