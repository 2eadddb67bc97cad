"""Architectures of trained models in `foreign_models.py` that are no plain stacks, with their unit spaces."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossatlas import networks
from lossatlas.networks import Axis, UnitSpace


class Affine(eqx.Module):
    """A weight, of a dense layer (out, in) or a convolution (out, in, height, width), and a bias."""

    weight: Array
    bias: Array


class Emulator(eqx.Module):
    """`emu_pk.model`: dense layers with the unit-wise gate (gamma + (1 - gamma) sigmoid(beta x)) x."""

    layers: tuple[Affine, ...]
    beta: tuple[Array, ...]
    gamma: tuple[Array, ...]

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " o"]:
        """The standardised spectra of standardised parameters."""
        for layer, beta, gamma in zip(self.layers, self.beta, self.gamma, strict=False):
            x = layer.weight @ x + layer.bias
            x = (gamma + (1 - gamma) * jax.nn.sigmoid(beta * x)) * x
        return self.layers[-1].weight @ x + self.layers[-1].bias

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """One for each hidden layer; the gate belongs to the unit."""
        spaces = {}
        for i, beta in enumerate(self.beta):
            own = (f"layers[{i}].weight", f"layers[{i}].bias", f"beta[{i}]", f"gamma[{i}]")
            reader = Axis(f"layers[{i + 1}].weight", 1, bias=f"layers[{i + 1}].bias")
            writers = tuple(Axis(path, 0) for path in own)
            spaces[f"hidden[{i}]"] = UnitSpace(f"hidden[{i}]", len(beta), "neuron", writers, (reader,), None)
        return spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Emulator":
        """Of other sizes, parameters zero."""
        return networks.resized(self, sizes)


class FaceFilter(eqx.Module):
    """`facenet_pytorch.models.mtcnn.RNet`: convolutions with PReLU and pooling, dense layers; logits and box."""

    convs: tuple[Affine, ...]
    dense: Affine
    heads: Affine
    slopes: tuple[Array, ...]

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, " o"]:
        """Logits and box of one patch."""
        for i, (conv, slope) in enumerate(zip(self.convs, self.slopes, strict=False)):
            x = convolved(x, conv.weight) + conv.bias[:, None, None]
            x = jnp.where(x >= 0, x, slope[:, None, None] * x)
            x = pooled(x, 3, 2) if i < 2 else x
        x = x.transpose(2, 1, 0).reshape(-1)  # their order: column, row, channel
        x = self.dense.weight @ x + self.dense.bias
        x = jnp.where(x >= 0, x, self.slopes[-1] * x)
        return self.heads.weight @ x + self.heads.bias

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """The channels of each convolution, the neurons of the dense layer; slopes belong to the units."""
        spaces = {}
        for i, conv in enumerate(self.convs):
            name, size = f"channels[{i}]", len(conv.bias)
            own = (f"convs[{i}].weight", f"convs[{i}].bias", f"slopes[{i}]")
            reader = Axis(f"convs[{i + 1}].weight", 1, bias=f"convs[{i + 1}].bias")
            if i == len(self.convs) - 1:
                reader = Axis("dense.weight", 1, outer=self.dense.weight.shape[1] // size, bias="dense.bias")
            writers = tuple(Axis(path, 0) for path in own)
            spaces[name] = UnitSpace(name, size, "channel", writers, (reader,), None)
        writers = tuple(Axis(path, 0) for path in ("dense.weight", "dense.bias", f"slopes[{len(self.convs)}]"))
        reader = Axis("heads.weight", 1, bias="heads.bias")
        spaces["hidden[0]"] = UnitSpace("hidden[0]", len(self.dense.bias), "neuron", writers, (reader,), None)
        return spaces

    def with_sizes(self, sizes: dict[str, int]) -> "FaceFilter":
        """Of other sizes, parameters zero."""
        return networks.resized(self, sizes)


class Pitch(eqx.Module):
    """`torchcrepe.model.Crepe`: convolution in time, ReLU, BatchNorm, pooling, six times; then a dense layer.

    BatchNorm in inference is a scale and a shift for each channel, of which it holds the products. The outputs are the
    logits, before their sigmoid.
    """

    convs: tuple[Affine, ...]
    scales: tuple[Array, ...]
    shifts: tuple[Array, ...]
    classifier: Affine

    def __call__(self, x: Float[Array, " t"]) -> Float[Array, " o"]:
        """Logits of one window of 1,024 samples."""
        x = x[None, :, None]
        for i, (conv, scale, shift) in enumerate(zip(self.convs, self.scales, self.shifts, strict=True)):
            x = jnp.pad(x, ((0, 0), (254, 254) if i == 0 else (31, 32), (0, 0)))
            x = jax.nn.relu(convolved(x, conv.weight, 4 if i == 0 else 1) + conv.bias[:, None, None])
            x = scale[:, None, None] * x + shift[:, None, None]
            x = jnp.max(x.reshape(len(x), -1, 2, 1), axis=2)
        x = x.transpose(1, 0, 2).reshape(-1)  # their order: time, channel
        return self.classifier.weight @ x + self.classifier.bias

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """The channels; no constant may be moved into a convolution that pads with zeros."""
        spaces = {}
        for i, scale in enumerate(self.scales):
            name, size = f"channels[{i}]", len(scale)
            own = (f"convs[{i}].weight", f"convs[{i}].bias", f"scales[{i}]", f"shifts[{i}]")
            reader = Axis(f"convs[{i + 1}].weight", 1)
            if i == len(self.scales) - 1:
                width = self.classifier.weight.shape[1] // size
                reader = Axis("classifier.weight", 1, outer=width, bias="classifier.bias")
            writers = tuple(Axis(path, 0) for path in own)
            spaces[name] = UnitSpace(name, size, "channel", writers, (reader,), None)
        return spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Pitch":
        """Of other sizes, parameters zero."""
        return networks.resized(self, sizes)


def convolved(x: Float[Array, "c h w"], weight: Float[Array, "o c kh kw"], stride: int = 1) -> Float[Array, "o h2 w2"]:
    """A convolution without padding; `stride` along the rows."""
    return jax.lax.conv_general_dilated(x[None], weight, (stride, 1), "VALID")[0]


def pooled(x: Float[Array, "c h w"], size: int, stride: int) -> Float[Array, "c h2 w2"]:
    """Max pooling with `ceil_mode=True`: a last window may hang over the edge."""
    over = [(0, 0)] + [(0, -(n - size) % stride) for n in x.shape[1:]]
    x = jnp.pad(x, over, constant_values=-jnp.inf)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size), (1, stride, stride), "VALID")
