"""Fully connected networks whose hidden layers may hold linear units beside the nonlinear ones."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas.networks._activations import Activation, activation
from lossatlas.networks._checks import check_input
from lossatlas.networks._init import Std, bias_std, draw, weight_std
from lossatlas.networks._units import Axis, UnitSpace


class DenseLayer(eqx.Module):
    """One layer: `weight @ x + bias` for its neurons, and `linear @ x` for its linear units.

    A linear unit has no bias (the bias of the next layer holds it). The outputs are ordered neurons first,
    then linear units; the weight of the next layer has its columns in that order. The output layer has no
    linear units. `bias` and `linear` are None where the layer has none.
    """

    weight: Float[Array, "k m"]
    bias: Float[Array, " k"] | None
    linear: Float[Array, "r m"] | None = None

    @property
    def num_neurons(self) -> int:
        """How many nonlinear units the layer has."""
        return self.weight.shape[0]

    @property
    def num_linear(self) -> int:
        """How many linear units the layer has."""
        return 0 if self.linear is None else self.linear.shape[0]

    def preactivation(self, x: Float[Array, " m"]) -> Float[Array, " k"]:
        """`weight @ x + bias`."""
        # In this order vmap keeps the examples first; weight @ x costs small networks a transposed pass.
        z = x @ self.weight.T
        return z if self.bias is None else z + self.bias

    def hidden(self, x: Float[Array, " m"], act: Activation) -> Float[Array, " units"]:
        """The outputs of all units of a hidden layer."""
        neurons = act(self.preactivation(x))
        return neurons if self.linear is None else jnp.concatenate([neurons, self.linear @ x])


class Dense(eqx.Module):
    r"""A fully connected network, $f = W_L \sigma(W_{L-1} \cdots \sigma(W_1 x + b_1) \cdots + b_{L-1}) + b_L$.

    Weights have shape (out, in), row = unit, as in `equinox.nn.Linear` and `torch.nn.Linear`. There is no output
    activation. Parameters: `layers[i].weight`, `layers[i].bias`, `layers[i].linear`.

    **Arguments:**
    - `key`: PRNG key of the initial weights.
    - `widths`: inputs, neurons of each hidden layer, outputs: `[4, 50, 50, 3]`. A hidden width may be 0: the
      layer then has linear units only, or passes nothing on.
    - `activation`: a name or an elementwise callable.
    - `num_linear`: how many linear units each hidden layer holds beside its neurons; default none. One number
      stands for every hidden layer.
    - `use_bias`, `use_output_bias`: whether hidden layers, and the output, have biases.
    - `init`: `"glorot"` (default), `"he"`, `"lecun"`, `"ntk"`, `"mean-field"`, or a power p for
      std = max(fan_in, fan_out)**-p; see [`lossatlas.networks.weight_std`][]. Biases start at 0 (`ntk`: std 0.1).
    - `dtype`: default the default float of JAX.

    **Raises:** `InputError` for fewer than two widths, non-positive sizes, unknown names.

    !!! example
        >>> net = Dense(jax.random.key(0), [4, 50, 3])
        >>> net(jnp.zeros(4)).shape
        (3,)
    """

    layers: tuple[DenseLayer, ...]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        widths: Sequence[int],
        *,
        activation: str | Callable[[Array], Array] | Activation = "tanh",
        num_linear: int | Sequence[int] = 0,
        use_bias: bool = True,
        use_output_bias: bool = True,
        init: str | float | Std = "glorot",
        dtype=None,
    ):
        widths = [int(m) for m in widths]
        hidden = max(len(widths) - 2, 0)
        linear = [num_linear] * hidden if isinstance(num_linear, int) else [int(r) for r in num_linear]
        _check_sizes(widths, linear)
        dtype = dtype or jnp.zeros(()).dtype
        sizes = [widths[0], *(k + r for k, r in zip(widths[1:-1], linear, strict=True)), widths[-1]]
        layers = []
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            is_output = i == len(sizes) - 2
            w_key, b_key, l_key = jax.random.split(jax.random.fold_in(key, i), 3)
            std = weight_std(init, max(fan_in, 1), max(fan_out, 1), is_output=is_output)
            k, r = widths[i + 1], 0 if is_output else linear[i]
            has_bias = use_output_bias if is_output else use_bias
            layers.append(
                DenseLayer(
                    weight=draw(w_key, (k, fan_in), std, dtype),
                    bias=draw(b_key, (k,), bias_std(init), dtype) if has_bias else None,
                    linear=draw(l_key, (r, fan_in), std, dtype) if r else None,
                )
            )
        self.layers = tuple(layers)
        self.activation = _activation(activation)

    @classmethod
    def from_layers(
        cls, layers: Sequence[DenseLayer], activation: str | Callable[[Array], Array] | Activation = "tanh"
    ) -> "Dense":
        """A network made of given layers.

        **Raises:** `InputError` when the shapes of consecutive layers do not fit.
        """
        layers = tuple(layers)
        for i, (layer, following) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
            size = layer.num_neurons + layer.num_linear
            if following.weight.shape[1] != size:
                msg = (
                    f"layers[{i + 1}].weight has shape {following.weight.shape}; "
                    f"layers[{i}] has {size} units, so it needs {size} columns."
                )
                raise InputError(msg)
        self = object.__new__(cls)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "activation", _activation(activation))
        return self

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " o"]:
        check_input(x, self.layers[0].weight.shape[1])
        for layer in self.layers[:-1]:
            x = layer.hidden(x, self.activation)
        return self.layers[-1].preactivation(x)

    def features(self, x: Float[Array, " d"]) -> list[Float[Array, " _"]]:
        """The outputs of every layer for one example, the input first and the prediction last."""
        outputs = [x]
        for layer in self.layers[:-1]:
            outputs.append(layer.hidden(outputs[-1], self.activation))
        return [*outputs, self.layers[-1].preactivation(outputs[-1])]

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, neurons of each hidden layer, outputs."""
        return (self.layers[0].weight.shape[1], *(layer.num_neurons for layer in self.layers))

    @property
    def num_linear(self) -> tuple[int, ...]:
        """Linear units of each hidden layer."""
        return tuple(layer.num_linear for layer in self.layers[:-1])

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """`hidden[i]`: the neurons, and `linear[i]`: the linear units, of hidden layer i (zero-based)."""
        spaces = {}
        for i, layer in enumerate(self.layers[:-1]):
            k, r = layer.num_neurons, layer.num_linear
            following = self.layers[i + 1]
            held = None if following.bias is None else f"layers[{i + 1}].bias"
            readers = [(f"layers[{i + 1}].weight", held)]
            if following.linear is not None:
                readers.append((f"layers[{i + 1}].linear", None))
            writers = [Axis(f"layers[{i}].weight", 0)]
            if layer.bias is not None:
                writers.append(Axis(f"layers[{i}].bias", 0))
            spaces[f"hidden[{i}]"] = UnitSpace(
                f"hidden[{i}]",
                k,
                "neuron",
                tuple(writers),
                tuple(Axis(path, 1, bias=bias) for path, bias in readers),
                self.activation,
                bias=None if layer.bias is None else f"layers[{i}].bias",
            )
            if layer.linear is not None:
                spaces[f"linear[{i}]"] = UnitSpace(
                    f"linear[{i}]",
                    r,
                    "linear",
                    (Axis(f"layers[{i}].linear", 0),),
                    tuple(Axis(path, 1, offset=k, bias=bias) for path, bias in readers),
                    None,
                )
        return spaces

    def with_sizes(self, sizes: dict[str, int]) -> "Dense":
        """A network of other hidden sizes, all parameters zero.

        **Arguments:**
        - `sizes`: unit space name to new size, e.g. `{"hidden[0]": 7, "linear[0]": 1}`; others stay.

        **Raises:** `InputError` for an unknown space or a negative size.
        """
        hidden = range(len(self.layers) - 1)
        known = [f"{kind}[{i}]" for i in hidden for kind in ("hidden", "linear")]
        for name, size in sizes.items():
            if name not in known:
                raise unknown_name("unit space", name, known)
            if size < 0:
                msg = f"The size of {name} must not be negative, got {size}."
                raise InputError(msg)
        widths, linear = list(self.widths), list(self.num_linear)
        for i in hidden:
            widths[i + 1] = sizes.get(f"hidden[{i}]", widths[i + 1])
            linear[i] = sizes.get(f"linear[{i}]", linear[i])
        fan_ins = [widths[0], *(k + r for k, r in zip(widths[1:-1], linear, strict=True))]
        dtype = self.layers[0].weight.dtype
        layers = [
            DenseLayer(
                weight=jnp.zeros((k, m), dtype),
                bias=None if layer.bias is None else jnp.zeros((k,), dtype),
                linear=jnp.zeros((r, m), dtype) if r else None,
            )
            for layer, k, r, m in zip(self.layers, widths[1:], [*linear, 0], fan_ins, strict=True)
        ]
        return type(self).from_layers(layers, self.activation)


_activation = activation  # the argument of the constructor has the same name


def _check_sizes(widths: list[int], linear: list[int]) -> None:
    if len(widths) < 2 or widths[0] < 1 or widths[-1] < 1:
        msg = f"widths must list inputs, hidden widths and outputs (all at least 1), got {widths}."
        raise InputError(msg)
    if len(linear) != len(widths) - 2:
        msg = f"num_linear must have one entry per hidden layer ({len(widths) - 2}), got {linear}."
        raise InputError(msg)
    for i, (k, r) in enumerate(zip(widths[1:-1], linear, strict=True)):
        if k < 0 or r < 0:
            msg = f"Hidden layer {i} must not have a negative number of units, got {k} neurons and {r} linear units."
            raise InputError(msg)
