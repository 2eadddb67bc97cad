"""The pieces that architectures share: affine maps, convolutions, normalisations."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._parameters import Buffer
from lossatlas.networks._init import Std, bias_std, draw, weight_std


BATCH = "batch"
"""The name of the axis of examples inside `call_batch`."""


class Affine(eqx.Module):
    """`weight @ x + bias`; weights have shape (out, in), as in `equinox.nn.Linear`."""

    weight: Float[Array, "o m"]
    bias: Float[Array, " o"] | None

    @classmethod
    def create(
        cls, key: PRNGKeyArray, fan_in: int, fan_out: int, *, init: str | float | Std, dtype, is_output: bool = False
    ) -> "Affine":
        """Weights by an initialisation; biases zero (`ntk`: Gaussian)."""
        std = weight_std(init, fan_in, fan_out, is_output=is_output)
        w_key, b_key = jax.random.split(key)
        return cls(draw(w_key, (fan_out, fan_in), std, dtype), draw(b_key, (fan_out,), bias_std(init), dtype))

    def __call__(self, x: Float[Array, " m"]) -> Float[Array, " o"]:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Convolution(eqx.Module):
    """A convolution over images of shape (channels, height, width).

    - `weight`: the kernels, shape (out, in, kh, kw). `bias`: one for every outgoing channel, or None.
    - `stride`, `padding`: in both directions; SAME puts zeros beside the image.
    - `is_depthwise`: one kernel for each channel, shape (channels, 1, kh, kw).
    """

    weight: Float[Array, "o i kh kw"]
    bias: Float[Array, " o"] | None
    stride: int = eqx.field(static=True, default=1)
    padding: Literal["SAME", "VALID"] = eqx.field(static=True, default="SAME")
    is_depthwise: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "o h2 w2"]:
        y = jax.lax.conv_general_dilated(
            x[None],
            self.weight,
            (self.stride, self.stride),
            self.padding,
            feature_group_count=x.shape[0] if self.is_depthwise else 1,
        )[0]
        return y if self.bias is None else y + self.bias[:, None, None]

    @property
    def pads(self) -> bool:
        """Whether zeros stand beside the image somewhere."""
        return self.padding == "SAME" and max(self.weight.shape[2:]) > 1


class BatchNorm(eqx.Module):
    r"""$\gamma (x - \mu) / \sqrt{v + \epsilon} + \beta$ for every channel (the first axis).

    - `scale`, `shift`: $\gamma$ and $\beta$; parameters.
    - `mean`, `variance`: $\mu$ and $v$, the running ones; buffers. Inside `call_batch` those of the batch, over all
      other axes, stand in their place.
    - `eps`: $\epsilon$.
    """

    scale: Float[Array, " c"]
    shift: Float[Array, " c"]
    mean: Buffer
    variance: Buffer
    eps: float = eqx.field(static=True, default=1e-5)

    @classmethod
    def create(cls, num_channels: int, *, dtype, eps: float = 1e-5) -> "BatchNorm":
        """Scale 1, shift 0; running mean 0 and variance 1."""
        one, zero = jnp.ones((num_channels,), dtype), jnp.zeros((num_channels,), dtype)
        return cls(one, zero, Buffer(zero), Buffer(one), eps)

    def __call__(self, x: Float[Array, "c *rest"], *, in_batch: bool = False) -> Float[Array, "c *rest"]:
        mean, variance = self.statistics(x) if in_batch else (self.mean.value, self.variance.value)
        column = (-1, *([1] * (x.ndim - 1)))
        factor = self.scale * jax.lax.rsqrt(variance + self.eps)
        return x * factor.reshape(column) + (self.shift - mean * factor).reshape(column)

    def statistics(self, x: Float[Array, "c *rest"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Mean and variance of every channel over the batch and all other axes."""
        axes = tuple(range(1, x.ndim))
        mean = jax.lax.pmean(jnp.mean(x, axes), BATCH)
        centred = x - mean.reshape(-1, *([1] * (x.ndim - 1)))
        return mean, jax.lax.pmean(jnp.mean(centred**2, axes), BATCH)


class StreamNorm(eqx.Module):
    r"""LayerNorm, $\gamma (x - \bar x) / \sqrt{v + \epsilon} + \beta$ over the whole vector, or RMSNorm.

    - `scale`, `shift`: $\gamma$ and $\beta$; a shift of None means RMSNorm, without centring and shift.
    - `eps`: $\epsilon$.
    """

    scale: Float[Array, " d"]
    shift: Float[Array, " d"] | None
    eps: float = eqx.field(static=True, default=1e-5)

    @classmethod
    def create(cls, kind: Literal["layer", "rms"], size: int, *, dtype, eps: float = 1e-5) -> "StreamNorm":
        """Scale 1, shift 0."""
        shift = jnp.zeros((size,), dtype) if kind == "layer" else None
        return cls(jnp.ones((size,), dtype), shift, eps)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        if self.shift is not None:
            x = x - jnp.mean(x)
        y = x * jax.lax.rsqrt(jnp.mean(x**2) + self.eps) * self.scale
        return y if self.shift is None else y + self.shift
