"""Convolutional networks: convolutions, then fully connected layers."""

from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer
from lossatlas.networks._activations import Activation
from lossatlas.networks._activations import activation as as_activation
from lossatlas.networks._checks import check_input, check_positive
from lossatlas.networks._init import Std, bias_std, draw, weight_std
from lossatlas.networks._layers import BATCH, Affine, BatchNorm, Convolution
from lossatlas.networks._units import Axis, UnitSpace, resized


class ConvLayer(eqx.Module):
    """One convolutional layer: filter, pointwise, norm, activation, pooling.

    - `depthwise`: one filter per incoming channel before `conv`, in depthwise-separable layers; else None.
    - `conv`: the convolution that mixes channels. `norm`: after it, or None.
    - `is_pooled`: whether the pooling of the network, where it has one, follows this layer.
    """

    depthwise: Convolution | None
    conv: Convolution
    norm: BatchNorm | None
    is_pooled: bool = eqx.field(static=True, default=True)

    def preactivation(self, x: Float[Array, "c h w"], *, in_batch: bool) -> Float[Array, "o h2 w2"]:
        """What the activation is applied to."""
        x = self.conv(x if self.depthwise is None else self.depthwise(x))
        return x if self.norm is None else self.norm(x, in_batch=in_batch)


class Conv(eqx.Module):
    r"""A convolutional network on one image of shape (channels, height, width).

    Convolutional layers (convolution, BatchNorm if asked, activation, pooling if asked), then the maps are flattened
    in (channel, row, column) order, or averaged, and fully connected layers follow. Parameters:
    `convs[i].conv.weight` of shape (out, in, kh, kw), `convs[i].conv.bias`, `convs[i].norm.scale`,
    `layers[i].weight`, `layers[i].bias`.

    With BatchNorm, `network(x)` uses running statistics, set by `with_statistics`; `batch_statistics=True` makes a
    landscape use those of its whole data (`call_batch`), and then it refuses a `batch_size`.

    **Arguments:**
    - `key`: PRNG key of the initial weights.
    - `image`: shape (channels, height, width) of the inputs.
    - `channels`: of each convolutional layer.
    - `widths`: of the fully connected layers, the last the outputs.
    - `kernel`, `stride`, `padding`: of every convolution.
    - `pool`: `"max"`, `"average"` or None: 2 x 2 pooling after every convolutional layer.
    - `head`: `"flatten"`, or `"average"` over positions.
    - `norm`: `"batch"` or None.
    - `separable`: depthwise-separable layers from the second on: a filter for each channel, then a 1 x 1 convolution.
    - `batch_statistics`: as above.
    - `activation`, `init`, `dtype`: as for [`lossatlas.networks.Dense`][].

    **Raises:** `InputError` for sizes below 1, unknown names, and images that shrink to nothing.
    """

    convs: tuple[ConvLayer, ...]
    layers: tuple[Affine, ...]
    activation: Activation = eqx.field(static=True)
    image: tuple[int, int, int] = eqx.field(static=True)
    pool: Literal["max", "average"] | None = eqx.field(static=True)
    head: Literal["flatten", "average"] = eqx.field(static=True)
    batch_statistics: bool = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        image: tuple[int, int, int],
        channels: Sequence[int],
        widths: Sequence[int],
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: Literal["SAME", "VALID"] = "SAME",
        pool: Literal["max", "average"] | None = None,
        head: Literal["flatten", "average"] = "flatten",
        norm: Literal["batch"] | None = None,
        separable: bool = False,
        batch_statistics: bool = False,
        activation: str | Callable[[Array], Array] | Activation = "tanh",
        init: str | float | Std = "glorot",
        dtype=None,
    ):
        if len(image) != 3:
            msg = f"image must be the shape (channels, height, width) of the inputs, got {image}."
            raise InputError(msg)
        check_positive(channels=min(channels, default=0), widths=min(widths, default=0), image=min(image))
        check_positive(kernel=kernel, stride=stride)
        if batch_statistics and norm is None:
            msg = "batch_statistics=True needs norm='batch'."
            raise InputError(msg)
        dtype = dtype or jnp.zeros(()).dtype
        self.activation = as_activation(activation)
        self.image, self.pool, self.head, self.batch_statistics = image, pool, head, batch_statistics
        keys = jax.random.split(key, 2 * len(channels) + len(widths))
        convs = []
        for i, (fan_in, fan_out) in enumerate(zip([image[0], *channels[:-1]], channels, strict=True)):
            depthwise = None
            size = kernel
            if separable and i > 0:
                filters = draw(keys[2 * i + 1], (fan_in, 1, kernel, kernel), 1 / kernel, dtype)
                depthwise, size = Convolution(filters, None, stride, padding, is_depthwise=True), 1
            std = weight_std(init, fan_in * size**2, fan_out * size**2, is_output=False)
            weight = draw(keys[2 * i], (fan_out, fan_in, size, size), std, dtype)
            bias = draw(jax.random.fold_in(keys[2 * i], 1), (fan_out,), bias_std(init), dtype)
            conv = Convolution(weight, bias, 1 if depthwise else stride, padding)
            convs.append(ConvLayer(depthwise, conv, BatchNorm.create(fan_out, dtype=dtype) if norm else None))
        self.convs = tuple(convs)
        self.layers = ()
        _, height, width = self._map_shape()
        if min(height, width) < 1:
            msg = f"Images of shape {image} shrink to nothing; use fewer layers, padding='SAME' or no pooling."
            raise InputError(msg)
        positions = height * width if head == "flatten" else 1
        fan_ins = [channels[-1] * positions, *widths[:-1]]
        self.layers = tuple(
            Affine.create(k, m, o, init=init, dtype=dtype, is_output=i == len(widths) - 1)
            for i, (k, m, o) in enumerate(zip(keys[2 * len(channels) :], fan_ins, widths, strict=True))
        )

    @classmethod
    def from_layers(
        cls,
        convs: Sequence[ConvLayer],
        layers: Sequence[Affine],
        *,
        image: tuple[int, int, int],
        activation: str | Callable[[Array], Array] | Activation = "tanh",
        pool: Literal["max", "average"] | None = None,
        head: Literal["flatten", "average"] = "flatten",
    ) -> "Conv":
        """A network made of given layers; arguments as for the class.

        **Raises:** `InputError` when the first fully connected layer does not fit the last maps.
        """
        self = object.__new__(cls)
        fields = {"convs": tuple(convs), "layers": tuple(layers), "activation": as_activation(activation)}
        fields |= {"image": image, "pool": pool, "head": head, "batch_statistics": False}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        channels, height, width = self._map_shape()
        wanted = channels * height * width if head == "flatten" else channels
        if self.layers[0].weight.shape[1] != wanted:
            msg = (
                f"layers[0].weight has shape {self.layers[0].weight.shape}; the last maps have shape "
                f"{(channels, height, width)}, so it needs {wanted} columns."
            )
            raise InputError(msg)
        return self

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " o"]:
        check_input(x, *self.image)
        return self._forward(x, in_batch=False)

    def call_batch(self, inputs: Float[Array, "n c h w"]) -> Float[Array, "n o"]:
        """The outputs on a whole batch, normalised by its own statistics."""
        return jax.vmap(lambda x: self._forward(x, in_batch=True), axis_name=BATCH)(inputs)

    @property
    def has_statistics(self) -> bool:
        """Whether it normalises by running statistics, which `with_statistics` computes anew."""
        return not self.batch_statistics and any(layer.norm is not None for layer in self.convs)

    def with_statistics(self, inputs: Float[Array, "n c h w"]) -> "Conv":
        """The same network with the running statistics of these inputs, layer by layer."""

        def statistics(x):
            found = []
            for layer in self.convs:
                if layer.norm is not None:
                    before = layer.conv(x if layer.depthwise is None else layer.depthwise(x))
                    found.append(layer.norm.statistics(before))
                x = self._after(layer, x, in_batch=True)
            return found

        normed = [i for i, layer in enumerate(self.convs) if layer.norm is not None]
        if not normed:
            return self
        found = jax.vmap(statistics, axis_name=BATCH, out_axes=None)(inputs)
        convs = list(self.convs)
        for i, (mean, variance) in zip(normed, found, strict=True):
            values = Buffer(mean), Buffer(variance)
            convs[i] = eqx.tree_at(lambda c: (c.norm.mean, c.norm.variance), convs[i], values)
        return eqx.tree_at(lambda network: network.convs, self, tuple(convs))

    def _forward(self, x: Float[Array, "c h w"], *, in_batch: bool) -> Float[Array, " o"]:
        x = self._maps(x, in_batch=in_batch)
        x = x.reshape(-1) if self.head == "flatten" else jnp.mean(x, axis=(1, 2))
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    def maps_before(self, layer: int, inputs: Float[Array, "n c h w"]) -> Float[Array, "n m h2 w2"]:
        """What enters a convolutional layer, or the head after the last, normalised as a landscape does it."""
        in_batch = self.batch_statistics
        return jax.vmap(lambda x: self._maps(x, in_batch=in_batch, stop=layer), axis_name=BATCH)(inputs)

    def _maps(self, x: Float[Array, "c h w"], *, in_batch: bool, stop: int | None = None) -> Float[Array, "o h2 w2"]:
        for layer in self.convs[:stop]:
            x = self._after(layer, x, in_batch=in_batch)
        return x

    def _after(self, layer: ConvLayer, x: Float[Array, "c h w"], *, in_batch: bool) -> Float[Array, "o h2 w2"]:
        x = self.activation(layer.preactivation(x, in_batch=in_batch))
        return self._pooled(x) if layer.is_pooled else x

    def _pooled(self, x: Float[Array, "c h w"]) -> Float[Array, "c h2 w2"]:
        if self.pool is None:
            return x
        window = (1, 2, 2)
        if self.pool == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / 4

    def _map_shape(self) -> tuple[int, int, int]:
        """The shape of the last maps."""
        dtype = self.convs[0].conv.weight.dtype
        return jax.eval_shape(lambda x: self._maps(x, in_batch=False), jax.ShapeDtypeStruct(self.image, dtype)).shape

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """`channels[i]`: of convolutional layer i, and `hidden[i]`: the neurons of fully connected layer i."""
        spaces = {}
        for i, layer in enumerate(self.convs):
            conv = f"convs[{i}].conv"
            bias = _bias_of(layer.conv, conv)
            writers = [Axis(f"{conv}.weight", 0), *_axes_of(bias)]
            if layer.norm is not None:
                norm = f"convs[{i}].norm"
                names = ("scale", "shift", "mean.value", "variance.value")
                writers += [Axis(f"{norm}.{name}", 0) for name in names]
                bias = f"{norm}.shift"
            act, following = self.activation, self.convs[i + 1] if i + 1 < len(self.convs) else None
            if following is None:
                # The positions of a map, without tracing the network again.
                inner = self.layers[0].weight.shape[1] // layer.conv.weight.shape[0]
                reader = Axis("layers[0].weight", 1, inner=inner, bias=_bias_of(self.layers[0], "layers[0]"))
            else:
                # Padded zeros stand beside a constant map, so no bias can hold it.
                held = None if following.conv.pads else _bias_of(following.conv, f"convs[{i + 1}].conv")
                reader = Axis(f"convs[{i + 1}].conv.weight", 1, bias=held)
                if following.depthwise is not None:
                    writers.append(Axis(f"convs[{i + 1}].depthwise.weight", 0))
                    act, bias = None, None  # a filter of zeros follows: a unit of zero writers is silent
            spaces[f"channels[{i}]"] = UnitSpace(
                f"channels[{i}]",
                layer.conv.weight.shape[0],
                "channel",
                tuple(writers),
                (reader,),
                act,
                bias=bias,
                is_normalised=layer.norm is not None,
            )
        for i, layer in enumerate(self.layers[:-1]):
            bias = _bias_of(layer, f"layers[{i}]")
            writers = Axis(f"layers[{i}].weight", 0), *_axes_of(bias)
            readers = (Axis(f"layers[{i + 1}].weight", 1, bias=_bias_of(self.layers[i + 1], f"layers[{i + 1}]")),)
            name, size = f"hidden[{i}]", layer.weight.shape[0]
            spaces[name] = UnitSpace(name, size, "neuron", writers, readers, self.activation, bias=bias)
        return spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Conv":
        """A network of other sizes, all parameters and statistics zero.

        **Raises:** `InputError` for an unknown space and a size below 1.
        """
        return resized(self, sizes)


def _bias_of(layer: Convolution | Affine, path: str) -> str | None:
    """The path of the bias of a layer, None where it has none."""
    return None if layer.bias is None else f"{path}.bias"


def _axes_of(bias: str | None) -> list[Axis]:
    return [] if bias is None else [Axis(bias, 0)]
