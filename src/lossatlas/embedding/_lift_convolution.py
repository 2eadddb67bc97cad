"""Insert a 1 x 1 convolution that acts linearly on the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer
from lossatlas._types import Network
from lossatlas.embedding._record import Data, Record, inputs_of, make_record, pull_back
from lossatlas.embedding._segments import choose_piece, lines, place, place_without_bias
from lossatlas.networks import Affine, BatchNorm, Conv, ConvLayer, Convolution


class LiftConvolutionStep(eqx.Module):
    r"""Insert a 1 x 1 convolution V before a convolutional layer, or before the head.

    The readers W of the channels become $U = W (\Lambda V)^+$ at every tap (every position of a flattened map). With
    BatchNorm $\Lambda$ holds $\gamma / \sqrt{v + \epsilon}$ too.

    - `before`: the layer that reads the new one; the number of convolutional layers for the head.
    - `weight`, `bias`: V, shape (channels, m), and b', None without. `norm`: of the new layer, or None.
    - `slope`, `offset`: $\lambda_j$, $\mu_j$ of the activation.
    - `inputs`: of the batch whose statistics the norms take, None where they take running ones.
    - `segment`, `margin`, `is_exact`: as in [`lossatlas.embedding.LiftStep`][].
    """

    before: int = eqx.field(static=True)
    weight: Float[Array, "w m"]
    bias: Float[Array, " w"] | None
    norm: BatchNorm | None
    slope: Float[Array, " w"]
    offset: Float[Array, " w"]
    inputs: Float[Array, "n c rows columns"] | None
    segment: Float[Array, "2"]
    margin: Float[Array, ""]
    is_exact: bool = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Conv:
        """The deeper network."""
        kernels = self.weight[:, :, None, None]
        layer = ConvLayer(None, Convolution(kernels, self.bias, 1, "VALID"), self.norm, is_pooled=False)
        convs = (*network.convs[: self.before], layer, *network.convs[self.before :])
        deep = eqx.tree_at(lambda n: n.convs, network, convs)
        slope, constant = self._line(deep)
        readers, bias = _readers(network, self.before)
        inverse = jnp.linalg.pinv(slope[:, None] * self.weight)
        readers = jnp.moveaxis(jnp.moveaxis(readers, 1, -1) @ inverse, -1, 1)
        if bias is not None and self._has_constants:
            bias = bias - _taps(readers) @ constant
        return _with_readers(deep, self.before + 1, readers, bias)

    def apply_inverse(self, network: Network) -> Conv:
        r"""$\Phi$: the shallow network that a network near the lift equals on the data."""
        slope, constant = self._line(network)
        readers, bias = _readers(network, self.before + 1)
        weight = network.convs[self.before].conv.weight[:, :, 0, 0]
        if bias is not None and self._has_constants:
            bias = bias + _taps(readers) @ constant
        merged = jnp.moveaxis(jnp.moveaxis(readers, 1, -1) @ (slope[:, None] * weight), -1, 1)
        convs = (*network.convs[: self.before], *network.convs[self.before + 1 :])
        return _with_readers(eqx.tree_at(lambda n: n.convs, network, convs), self.before, merged, bias)

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        r"""$\nabla_{deep} = D\Phi^\top \nabla_{shallow}$, at every point."""
        return pull_back(self, network, gradient)

    @property
    def _has_constants(self) -> bool:
        return self.bias is not None or self.norm is not None

    def _line(self, deep: Conv) -> tuple[Array, Array]:
        """Slope and constant of each channel of the inserted layer, from what enters its convolution."""
        layer = deep.convs[self.before]
        bias = jnp.zeros_like(self.slope) if layer.conv.bias is None else layer.conv.bias
        if layer.norm is None:
            return self.slope, self.slope * bias + self.offset
        mean, variance = layer.norm.mean.value, layer.norm.variance.value
        if self.inputs is not None:
            maps = deep.maps_before(self.before, self.inputs)
            received = jnp.einsum("wm,nmxy->nwxy", layer.conv.weight[:, :, 0, 0], maps) + bias[None, :, None, None]
            mean = jnp.mean(received, (0, 2, 3))
            variance = jnp.mean((received - mean[None, :, None, None]) ** 2, (0, 2, 3))
        factor = layer.norm.scale * jax.lax.rsqrt(variance + layer.norm.eps)
        shift = layer.norm.shift + (bias - mean) * factor
        return self.slope * factor, self.slope * shift + self.offset


def lift_convolution(
    network: Network,
    landscape: Data,
    before: int | None = None,
    width: int | None = None,
    *,
    key: PRNGKeyArray,
    norm: bool = False,
    segment: int | tuple[float | int, float | int] | None = None,
    margin: float = 0.3,
    exact: bool = True,
    extent: float = 0.1,
) -> tuple[Conv, Record]:
    r"""Insert a 1 x 1 convolution that acts linearly on the data: outputs on it stay, critical points stay critical.

    At every position and tap $U \Lambda V = W$, and biases take up the constants. Where the next convolution pads with
    zeros no bias can (fewer taps see the image at its border), so the new layer has no bias there, and its
    pre-activations must stay in a piece of the activation through the origin. The new layer is not pooled.

    **Arguments:**
    - `network`: a `Conv`.
    - `landscape`: a `Landscape` or inputs (n, channels, height, width); the lift depends on all of them.
    - `before`: the convolutional layer that will read the new one; default the head, their number.
    - `width`: channels of the new layer, at least as many as enter it; default as many.
    - `norm`: give the new layer BatchNorm. Networks with `batch_statistics` normalise by the data; then criticality
      holds for these data as one batch, not for changing mini-batches.
    - `key`, `segment`, `margin`, `exact`, `extent`: as for [`lossatlas.embedding.lift`][].

    **Returns:** the deeper network and its record. Cost: a pass over the data; the maps of all examples in memory.

    **Raises:** `InputError` for other architectures, a depthwise reader (it cannot mix channels), too few channels, and
    where constants cannot be held.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283 (one-layer lifting); for convolutions and BatchNorm derived and measured here.
    """
    if not isinstance(network, Conv):
        msg = f"lift_convolution needs a lossatlas.networks.Conv, got {type(network).__name__}."
        raise InputError(msg)
    num = len(network.convs)
    before = num if before is None else before
    if not 0 <= before <= num:
        msg = f"before must be 0 to {num}, the convolutional layer that reads the new one, or the head, got {before}."
        raise InputError(msg)
    if before < num and network.convs[before].depthwise is not None:
        msg = f"convs[{before}] filters each channel alone, so it cannot take up a layer that mixes channels."
        raise InputError(msg)
    if not 0 < margin < 1:
        msg = f"margin must lie in (0, 1), got {margin}."
        raise InputError(msg)
    inputs = inputs_of(landscape, "lift_convolution")
    piece = choose_piece(network.activation, segment, exact=exact, extent=float(extent))
    maps = np.asarray(_maps(network, before, inputs))
    m = maps.shape[1]
    features = np.moveaxis(maps, 1, -1).reshape(-1, m)
    width = int(m) if width is None else width
    if width < m:
        msg = f"width must be at least {m}, the channels that enter the new layer, got {width}."
        raise InputError(msg)
    readers, held = _readers(network, before)
    rows = np.moveaxis(np.asarray(readers), 1, -1)
    weight = np.linalg.qr(np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (width, m), float)))[0]
    bias, made_norm = None, None
    pads = before < num and network.convs[before].conv.pads
    if held is None or pads:
        if norm:
            msg = "A norm shifts its channels, and the next layer pads with zeros or has no bias: use norm=False there."
            raise InputError(msg)
        flat = rows.reshape(-1, m)
        weight, _, _ = place_without_bias(network.activation, weight, flat @ weight.T, flat, features, piece)
        pre = features @ weight.T
    elif norm:
        made_norm, pre = _placed_norm(features @ weight.T, piece, margin, key)
    else:
        weight, bias, _ = place(weight, features, piece, margin, key, common=False)
        pre = features @ weight.T + bias
    slope, offset = lines(network.activation, pre, piece)
    step = LiftConvolutionStep(
        before=before,
        weight=jnp.asarray(weight),
        bias=None if bias is None else jnp.asarray(bias),
        norm=made_norm,
        slope=jnp.asarray(slope),
        offset=jnp.asarray(offset),
        inputs=inputs if norm and network.batch_statistics else None,
        segment=jnp.asarray([piece.lower, piece.upper]),
        margin=jnp.asarray(np.minimum(pre - piece.lower, piece.upper - pre).min()),
        is_exact=piece.is_exact,
        note=f"linear 1 x 1 convolution of {width} channels inserted before {'the head' if before == num else before}",
    )
    caution = None if piece.is_exact else "The inserted layer is only nearly affine: outputs and gradients change."
    return make_record(network, (step,), landscape, caution)


@eqx.filter_jit
def _maps(network: Conv, before: int, inputs: Array) -> Array:
    return network.maps_before(before, inputs)


def _placed_norm(received, piece, margin: float, key: PRNGKeyArray) -> tuple[BatchNorm, np.ndarray]:
    """A norm whose outputs on the data lie in the piece, and these outputs; its statistics are those of the data."""
    mean, variance = received.mean(0), received.var(0)
    norm = BatchNorm.create(len(mean), dtype=jnp.zeros(()).dtype)
    normed = (received - mean) / np.sqrt(variance + norm.eps)
    scale, shift, _ = place(np.eye(len(mean)), normed, piece, margin, key, common=False)
    scale = np.diag(scale)
    statistics = Buffer(jnp.asarray(mean)), Buffer(jnp.asarray(variance))
    made = BatchNorm(jnp.asarray(scale), jnp.asarray(shift), statistics[0], statistics[1], norm.eps)
    return made, normed * scale + shift


def _readers(network: Conv, before: int) -> tuple[Float[Array, "o m ..."], Float[Array, " o"] | None]:
    """What reads the channels before a layer, shape (out, channels, ...), and its bias."""
    if before < len(network.convs):
        return network.convs[before].conv.weight, network.convs[before].conv.bias
    head = network.layers[0]
    channels = network.convs[-1].conv.weight.shape[0]
    return head.weight.reshape(head.weight.shape[0], channels, -1), head.bias


def _taps(readers: Float[Array, "o m ..."]) -> Float[Array, "o m"]:
    """The sum over taps or positions: what a constant map comes to."""
    return jnp.sum(readers, axis=tuple(range(2, readers.ndim)))


def _with_readers(network: Conv, before: int, readers: Array, bias: Array | None) -> Conv:
    if before < len(network.convs):
        conv = network.convs[before].conv
        new = Convolution(readers, bias, conv.stride, conv.padding, conv.is_depthwise)
        return eqx.tree_at(lambda n: n.convs[before].conv, network, new)
    head = Affine(readers.reshape(readers.shape[0], -1), bias)
    return eqx.tree_at(lambda n: n.layers[0], network, head)
