"""Residual networks: blocks that add to a shared stream."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.networks._activations import Activation
from lossatlas.networks._activations import activation as as_activation
from lossatlas.networks._checks import check_input, check_positive
from lossatlas.networks._init import Std
from lossatlas.networks._layers import Affine, StreamNorm
from lossatlas.networks._units import Axis, UnitSpace, resized


class ResidualBlock(eqx.Module):
    """What one block adds to the stream.

    - `inner`: the affine map from the stream; `outer`: back to it, None in a plain block, whose neurons are added to
      the stream themselves.
    - `norm`: applied to the stream before `inner`, or None.
    """

    inner: Affine
    outer: Affine | None
    norm: StreamNorm | None

    def __call__(self, stream: Float[Array, " m"], act: Activation) -> Float[Array, " m"]:
        neurons = act(self.inner(stream if self.norm is None else self.norm(stream)))
        return neurons if self.outer is None else self.outer(neurons)


class Residual(eqx.Module):
    r"""A residual network: $s_0 = W_0 x + b_0$, $s_i = s_{i-1} + \text{block}_i(s_{i-1})$, $f = W s_L + b$.

    A plain block is $\sigma(V s + b)$, as wide as the stream; a pre-activation block is
    $U \sigma(V \text{norm}(s) + b) + c$, of any width. Parameters: `inputs.weight`, `blocks[i].inner.weight`,
    `blocks[i].outer.weight`, `blocks[i].norm.scale`, `output.weight` and the biases.

    **Arguments:**
    - `key`: PRNG key of the initial weights.
    - `num_inputs`, `num_stream`, `num_outputs`: sizes; `num_blocks`: how many blocks.
    - `num_hidden`: neurons of each pre-activation block; None makes plain blocks.
    - `norm`: `"layer"`, `"rms"` or None, before each pre-activation block.
    - `activation`, `init`, `dtype`: as for [`lossatlas.networks.Dense`][].

    **Raises:** `InputError` for sizes below 1, unknown names, and plain blocks with a norm.
    """

    inputs: Affine
    blocks: tuple[ResidualBlock, ...]
    output: Affine
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        num_inputs: int,
        num_stream: int,
        num_outputs: int,
        *,
        num_blocks: int = 2,
        num_hidden: int | None = None,
        norm: Literal["layer", "rms"] | None = None,
        activation: str | Callable[[Array], Array] | Activation = "tanh",
        init: str | float | Std = "glorot",
        dtype=None,
    ):
        check_positive(num_inputs=num_inputs, num_stream=num_stream, num_outputs=num_outputs, num_blocks=num_blocks)
        check_positive(num_hidden=1 if num_hidden is None else num_hidden)
        if num_hidden is None and norm is not None:
            msg = f"Plain residual blocks have no norm; give num_hidden= for blocks with norm={norm!r}."
            raise InputError(msg)
        dtype = dtype or jnp.zeros(()).dtype
        first, last, *keys = jax.random.split(key, 2 + 2 * num_blocks)
        self.inputs = Affine.create(first, num_inputs, num_stream, init=init, dtype=dtype)
        blocks = []
        for inner, outer in zip(keys[::2], keys[1::2], strict=True):
            width = num_stream if num_hidden is None else num_hidden
            blocks.append(
                ResidualBlock(
                    Affine.create(inner, num_stream, width, init=init, dtype=dtype),
                    None if num_hidden is None else Affine.create(outer, width, num_stream, init=init, dtype=dtype),
                    None if norm is None else StreamNorm.create(norm, num_stream, dtype=dtype),
                )
            )
        self.blocks = tuple(blocks)
        self.output = Affine.create(last, num_stream, num_outputs, init=init, dtype=dtype, is_output=True)
        self.activation = as_activation(activation)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " o"]:
        check_input(x, self.inputs.weight.shape[1])
        return self.output(self.stream(x))

    def stream(self, x: Float[Array, " d"], stop: int | None = None) -> Float[Array, " m"]:
        """The stream after the blocks below `stop`, all by default."""
        stream = self.inputs(x)
        for block in self.blocks[:stop]:
            stream = stream + block(stream, self.activation)
        return stream

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """`stream`: what all blocks share, and `hidden[i]`: the neurons of pre-activation block i."""
        writers = [Axis("inputs.weight", 0), Axis("inputs.bias", 0)]
        readers = []
        spaces = {}
        for i, block in enumerate(self.blocks):
            inner, outer = f"blocks[{i}].inner", f"blocks[{i}].outer"
            own = Axis(f"{inner}.weight", 0), Axis(f"{inner}.bias", 0)
            readers.append(Axis(f"{inner}.weight", 1))
            if block.outer is None:
                writers += own
                continue
            name = f"hidden[{i}]"
            read = (Axis(f"{outer}.weight", 1, bias=f"{outer}.bias"),)
            size = block.inner.weight.shape[0]
            spaces[name] = UnitSpace(name, size, "neuron", own, read, self.activation, bias=f"{inner}.bias")
            writers += [Axis(f"{outer}.weight", 0), Axis(f"{outer}.bias", 0)]
            writers += norm_axes(block.norm, f"blocks[{i}].norm")
        readers.append(Axis("output.weight", 1))
        is_normalised = any(block.norm is not None for block in self.blocks)
        stream = UnitSpace(
            "stream",
            self.inputs.weight.shape[0],
            "stream",
            tuple(writers),
            tuple(readers),
            # A plain block adds sigma(0) to a coordinate of zero writers.
            self.activation if any(block.outer is None for block in self.blocks) else None,
            shares="equal" if is_normalised else "any",
            is_normalised=is_normalised,
        )
        return {"stream": stream} | spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Residual":
        """A network of other sizes, all parameters zero.

        **Raises:** `InputError` for an unknown space and a size below 1.
        """
        return resized(self, sizes)


def norm_axes(norm: StreamNorm | None, path: str) -> list[Axis]:
    """The axes of a norm that belong to the units of the stream."""
    if norm is None:
        return []
    return [Axis(f"{path}.{name}", 0) for name in ("scale", "shift") if getattr(norm, name) is not None]
