"""A vanilla recurrent network."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas.networks._activations import Activation
from lossatlas.networks._activations import activation as as_activation
from lossatlas.networks._checks import check_input, check_positive
from lossatlas.networks._init import Std, draw, weight_std
from lossatlas.networks._layers import Affine
from lossatlas.networks._units import Axis, UnitSpace, resized


class Recurrent(eqx.Module):
    r"""A recurrent network, $h_t = \sigma(W x_t + V h_{t-1} + b)$ from $h_0 = 0$; the output reads the last state.

    Parameters: `inputs.weight`, `inputs.bias`, `recurrent`, `output.weight`, `output.bias`.

    **Arguments:**
    - `key`: PRNG key of the initial weights.
    - `num_inputs`, `num_hidden`, `num_outputs`: sizes.
    - `activation`, `init`, `dtype`: as for [`lossatlas.networks.Dense`][].

    **Raises:** `InputError` for sizes below 1 and unknown names.
    """

    inputs: Affine
    recurrent: Float[Array, "m m"]
    output: Affine
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        num_inputs: int,
        num_hidden: int,
        num_outputs: int,
        *,
        activation: str | Callable[[Array], Array] | Activation = "tanh",
        init: str | float | Std = "glorot",
        dtype=None,
    ):
        check_positive(num_inputs=num_inputs, num_hidden=num_hidden, num_outputs=num_outputs)
        dtype = dtype or jnp.zeros(()).dtype
        first, second, third = jax.random.split(key, 3)
        self.inputs = Affine.create(first, num_inputs, num_hidden, init=init, dtype=dtype)
        std = weight_std(init, num_hidden, num_hidden, is_output=False)
        self.recurrent = draw(second, (num_hidden, num_hidden), std, dtype)
        self.output = Affine.create(third, num_hidden, num_outputs, init=init, dtype=dtype, is_output=True)
        self.activation = as_activation(activation)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " o"]:
        check_input(x, None, self.inputs.weight.shape[1])

        def step(state, fed):
            return self.activation(fed + state @ self.recurrent.T), None

        start = jnp.zeros(self.recurrent.shape[0], self.recurrent.dtype)
        return self.output(jax.lax.scan(step, start, jax.vmap(self.inputs)(x))[0])

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """`hidden[0]`: the neurons; the recurrence and the output read them with the same shares."""
        writers = Axis("inputs.weight", 0), Axis("inputs.bias", 0), Axis("recurrent", 0)
        # The first step reads a state of zero, so a constant neuron comes to no change of a bias.
        readers = Axis("recurrent", 1), Axis("output.weight", 1)
        size = self.recurrent.shape[0]
        space = UnitSpace("hidden[0]", size, "neuron", writers, readers, self.activation, bias="inputs.bias")
        return {space.name: space}

    def with_sizes(self, sizes: dict[str, int]) -> "Recurrent":
        """A network of another number of neurons, all parameters zero.

        **Raises:** `InputError` for an unknown space and a size below 1.
        """
        return resized(self, sizes)
