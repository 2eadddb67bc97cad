"""Transformers: attention and feed-forward blocks on a shared stream."""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.networks._activations import Activation
from lossatlas.networks._activations import activation as as_activation
from lossatlas.networks._checks import check_input, check_positive
from lossatlas.networks._init import Std, draw, weight_std
from lossatlas.networks._layers import Affine, StreamNorm
from lossatlas.networks._residual import norm_axes
from lossatlas.networks._units import Axis, UnitSpace, resized


class Attention(eqx.Module):
    """Multi-head attention of a sequence to itself, heads first: no size is stored beside the arrays.

    - `query`, `key`: shape (heads, k, d). `value`: (heads, v, d). `out`: (d, heads, v).
    - `query_bias`, `key_bias`, `value_bias`, `out_bias`: their biases.
    - `scale`: of the logits; kept when the size of the heads changes.
    - `is_causal`: whether a token sees only itself and what stands before it.
    """

    query: Float[Array, "h k d"]
    key: Float[Array, "h k d"]
    value: Float[Array, "h v d"]
    out: Float[Array, "d h v"]
    query_bias: Float[Array, "h k"]
    key_bias: Float[Array, "h k"]
    value_bias: Float[Array, "h v"]
    out_bias: Float[Array, " d"]
    scale: float = eqx.field(static=True)
    is_causal: bool = eqx.field(static=True)

    @classmethod
    def create(
        cls, key: PRNGKeyArray, size: int, num_heads: int, head_size: int, *, is_causal: bool, init, dtype
    ) -> "Attention":
        """Weights by an initialisation, biases zero, scale 1 / sqrt(k)."""
        fan = num_heads * head_size
        inward, outward = weight_std(init, size, fan, is_output=False), weight_std(init, fan, size, is_output=False)
        keys = jax.random.split(key, 4)
        shape = (num_heads, head_size, size)
        query, keyed, value = (draw(k, shape, inward, dtype) for k in keys[:3])
        out = draw(keys[3], (size, num_heads, head_size), outward, dtype)
        zero = jnp.zeros((num_heads, head_size), dtype)
        scale = 1 / math.sqrt(head_size)
        return cls(query, keyed, value, out, zero, zero, zero, jnp.zeros((size,), dtype), scale, is_causal)

    def __call__(self, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
        q = jnp.einsum("td,hkd->htk", x, self.query) + self.query_bias[:, None]
        k = jnp.einsum("td,hkd->htk", x, self.key) + self.key_bias[:, None]
        v = jnp.einsum("td,hvd->htv", x, self.value) + self.value_bias[:, None]
        logits = self.scale * jnp.einsum("htk,hsk->hts", q, k)
        if self.is_causal:
            logits = jnp.where(jnp.tri(x.shape[0], dtype=bool)[None], logits, -jnp.inf)
        mixed = jnp.einsum("hts,hsv->htv", jax.nn.softmax(logits, axis=-1), v)
        return jnp.einsum("htv,dhv->td", mixed, self.out) + self.out_bias[None]


class FeedForward(eqx.Module):
    """`down(act(up(x)))`, or gated: `down(act(gate(x)) * up(x))` (GLU; SwiGLU with silu)."""

    up: Affine
    gate: Affine | None
    down: Affine

    def __call__(self, x: Float[Array, "t d"], act: Activation) -> Float[Array, "t d"]:
        up = jax.vmap(self.up)(x)
        return jax.vmap(self.down)(act(up) if self.gate is None else act(jax.vmap(self.gate)(x)) * up)


class TransformerBlock(eqx.Module):
    """`attention`, then the network `feed_forward`; both read the stream through a norm and add to it.

    - `attention_norm`, `feed_forward_norm`: these norms, or None.
    """

    attention: Attention
    feed_forward: FeedForward
    attention_norm: StreamNorm | None
    feed_forward_norm: StreamNorm | None


class Transformer(eqx.Module):
    r"""A pre-norm transformer on a sequence; the output reads the mean of the normalised stream over the tokens.

    Tokens are rows of numbers, shape (t, num_inputs), or integers below `num_inputs`, shape (t,). Parameters:
    `inputs.weight`, `positions`, `blocks[i].attention.query` (heads, k, d), `.key`, `.value`, `.out` (d, heads, v),
    `blocks[i].feed_forward.up.weight`, `.gate.weight`, `.down.weight`, the norms, `output.weight`.

    **Arguments:**
    - `key`: PRNG key of the initial weights.
    - `num_inputs`: numbers per token, or the size of the vocabulary. `num_tokens`: the longest sequence.
    - `num_stream`, `num_heads`, `num_hidden`, `num_outputs`, `num_blocks`: sizes. `num_stream` need not be divisible:
      heads have `head_size` coordinates, by default num_stream / num_heads rounded up.
    - `gated`: whether the feed-forward networks are gated.
    - `norm`: `"layer"`, `"rms"` or None. `is_causal`: as in `Attention`.
    - `activation`, `init`, `dtype`: as for [`lossatlas.networks.Dense`][]; gelu by default.

    **Raises:** `InputError` for sizes below 1, unknown names, and sequences longer than `num_tokens`.
    """

    inputs: Affine
    positions: Float[Array, "t d"]
    blocks: tuple[TransformerBlock, ...]
    norm: StreamNorm | None
    output: Affine
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        num_inputs: int,
        num_tokens: int,
        num_outputs: int,
        *,
        num_stream: int = 32,
        num_heads: int = 4,
        num_hidden: int = 64,
        num_blocks: int = 2,
        head_size: int | None = None,
        gated: bool = False,
        norm: Literal["layer", "rms"] | None = "layer",
        is_causal: bool = False,
        activation: str | Callable[[Array], Array] | Activation = "gelu",
        init: str | float | Std = "glorot",
        dtype=None,
    ):
        check_positive(num_inputs=num_inputs, num_tokens=num_tokens, num_outputs=num_outputs, num_stream=num_stream)
        check_positive(num_heads=num_heads, num_hidden=num_hidden, num_blocks=num_blocks)
        head_size = -(-num_stream // num_heads) if head_size is None else head_size
        check_positive(head_size=head_size)
        dtype = dtype or jnp.zeros(()).dtype
        first, second, last, *keys = jax.random.split(key, 3 + 4 * num_blocks)

        def affine(key, fan_in, fan_out):
            return Affine.create(key, fan_in, fan_out, init=init, dtype=dtype)

        def new_norm():
            return None if norm is None else StreamNorm.create(norm, num_stream, dtype=dtype)

        self.inputs = affine(first, num_inputs, num_stream)
        self.positions = draw(second, (num_tokens, num_stream), 0.1, dtype)
        blocks = []
        for i in range(num_blocks):
            attend, up, gate, down = keys[4 * i : 4 * i + 4]
            blocks.append(
                TransformerBlock(
                    Attention.create(
                        attend, num_stream, num_heads, head_size, is_causal=is_causal, init=init, dtype=dtype
                    ),
                    FeedForward(
                        affine(up, num_stream, num_hidden),
                        affine(gate, num_stream, num_hidden) if gated else None,
                        affine(down, num_hidden, num_stream),
                    ),
                    new_norm(),
                    new_norm(),
                )
            )
        self.blocks = tuple(blocks)
        self.norm = new_norm()
        self.output = Affine.create(last, num_stream, num_outputs, init=init, dtype=dtype, is_output=True)
        self.activation = as_activation(activation)

    def __call__(self, x: Float[Array, "..."] | Int[Array, " t"]) -> Float[Array, " o"]:
        if x.ndim != 1:
            check_input(x, None, self.inputs.weight.shape[1])
        if x.shape[0] > self.positions.shape[0]:
            msg = f"The sequence has {x.shape[0]} tokens, the network positions for {self.positions.shape[0]}."
            raise InputError(msg)
        if x.ndim == 1:
            x = jax.nn.one_hot(x, self.inputs.weight.shape[1], dtype=self.inputs.weight.dtype)
        stream = jax.vmap(self.inputs)(x) + self.positions[: x.shape[0]]
        for block in self.blocks:
            stream = stream + block.attention(_normed(stream, block.attention_norm))
            stream = stream + block.feed_forward(_normed(stream, block.feed_forward_norm), self.activation)
        return self.output(jnp.mean(_normed(stream, self.norm), axis=0))

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """`stream`; of block i: `heads[i]`, `queries[i]` and `values[i]` (coordinates in all heads), `hidden[i]`."""
        spaces = {}
        writers = [Axis("inputs.weight", 0), Axis("inputs.bias", 0), Axis("positions", 1)]
        readers = []
        for i, block in enumerate(self.blocks):
            a, f = f"blocks[{i}].attention", f"blocks[{i}].feed_forward"
            spaces |= _attention_spaces(block.attention, a, i)
            spaces |= _feed_forward_spaces(block.feed_forward, f, i, self.activation)
            writers += [Axis(f"{a}.out", 0), Axis(f"{a}.out_bias", 0)]
            writers += [Axis(f"{f}.down.weight", 0), Axis(f"{f}.down.bias", 0)]
            writers += norm_axes(block.attention_norm, f"blocks[{i}].attention_norm")
            writers += norm_axes(block.feed_forward_norm, f"blocks[{i}].feed_forward_norm")
            readers += [Axis(f"{a}.{name}", 2) for name in ("query", "key", "value")]
            readers += [Axis(f"{f}.up.weight", 1)]
            readers += [] if block.feed_forward.gate is None else [Axis(f"{f}.gate.weight", 1)]
        writers += norm_axes(self.norm, "norm")
        readers.append(Axis("output.weight", 1))
        is_normalised = self.norm is not None
        stream = UnitSpace(
            "stream",
            self.positions.shape[1],
            "stream",
            tuple(writers),
            tuple(readers),
            None,
            shares="equal" if is_normalised else "any",
            is_normalised=is_normalised,
        )
        return {"stream": stream} | spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Transformer":
        """A network of other sizes, all parameters zero; the scale of the logits stays.

        **Raises:** `InputError` for an unknown space and a size below 1.
        """
        return resized(self, sizes)


def _normed(x: Float[Array, "t d"], norm: StreamNorm | None) -> Float[Array, "t d"]:
    return x if norm is None else jax.vmap(norm)(x)


def _attention_spaces(attention: Attention, path: str, i: int) -> dict[str, UnitSpace]:
    heads, size, _ = attention.query.shape
    names = ("query", "key", "value", "query_bias", "key_bias", "value_bias")
    made = (
        UnitSpace(
            f"heads[{i}]",
            heads,
            "head",
            tuple(Axis(f"{path}.{name}", 0) for name in names),
            (Axis(f"{path}.out", 1, bias=f"{path}.out_bias"),),
            None,
        ),
        # Logits are bilinear in queries and keys: the one is shared out, the other copied.
        UnitSpace(
            f"queries[{i}]",
            size,
            "dimension",
            (Axis(f"{path}.query", 1), Axis(f"{path}.query_bias", 1)),
            (Axis(f"{path}.key", 1), Axis(f"{path}.key_bias", 1)),
            None,
        ),
        UnitSpace(
            f"values[{i}]",
            attention.value.shape[1],
            "dimension",
            (Axis(f"{path}.value", 1), Axis(f"{path}.value_bias", 1)),
            (Axis(f"{path}.out", 2, bias=f"{path}.out_bias"),),
            None,
        ),
    )
    return {space.name: space for space in made}


def _feed_forward_spaces(network: FeedForward, path: str, i: int, act: Activation) -> dict[str, UnitSpace]:
    writers = [Axis(f"{path}.up.weight", 0), Axis(f"{path}.up.bias", 0)]
    readers = (Axis(f"{path}.down.weight", 1, bias=f"{path}.down.bias"),)
    name, size = f"hidden[{i}]", network.up.weight.shape[0]
    if network.gate is None:
        space = UnitSpace(name, size, "neuron", tuple(writers), readers, act, bias=f"{path}.up.bias")
    else:
        writers += [Axis(f"{path}.gate.weight", 0), Axis(f"{path}.gate.bias", 0)]
        space = UnitSpace(name, size, "gated", tuple(writers), readers, None)
    return {name: space}
