"""Keras 3 models (JAX backend) as pure functions of their variables, at any size, and back."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer


def _last(name: str, option: str) -> Callable[[dict[str, tuple[int, ...]]], dict[str, int]]:
    """The option is the last axis of a variable."""
    return lambda shapes: {option: shapes[name][-1]}


def _attention(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    _, heads, size = shapes["query/kernel"]
    return {"num_heads": heads, "key_dim": size, "value_dim": shapes["value/kernel"][-1]}


SIZES: dict[str, Callable[[dict[str, tuple[int, ...]]], dict[str, int]]] = {
    "Dense": _last("kernel", "units"),
    "Conv1D": _last("kernel", "filters"),
    "Conv2D": _last("kernel", "filters"),
    "Conv3D": _last("kernel", "filters"),
    "SeparableConv1D": _last("pointwise_kernel", "filters"),
    "SeparableConv2D": _last("pointwise_kernel", "filters"),
    "Embedding": _last("embeddings", "output_dim"),
    "MultiHeadAttention": _attention,
}
"""Layer of Keras to the options that follow from the shapes of its variables."""


class KerasOrigin:
    """The model that a network came from, and its like at other sizes.

    - `model`: as it was given; its variables are not used.
    """

    def __init__(self, model: Any):
        self.model = model
        self._resized: dict[tuple, Any] = {}

    def model_for(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """The model with variables of given shapes, made anew from the configuration of its layers.

        **Raises:** `InputError` where that does not give these shapes.
        """
        if shapes == _shapes(self.model):
            return self.model
        key = tuple(shapes.items())
        if key not in self._resized:
            import keras  # pyright: ignore[reportMissingImports]

            def clone(layer: Any) -> Any:
                kind = type(layer).__name__
                weights = getattr(layer, "weights", ())  # additions and the like have none
                own = {v.path.split(f"{layer.name}/", 1)[-1]: shapes[v.path] for v in weights}
                sizes = SIZES[kind](own) if kind in SIZES else {}
                return type(layer).from_config(layer.get_config() | sizes)

            with jax.ensure_compile_time_eval():  # its initial values are numbers even where a trace is under way
                made = keras.models.clone_model(self.model, clone_function=clone)
            # Names of layers are kept, and with them the paths of variables.
            if _shapes(made) != shapes:
                wrong = next(path for path, shape in _shapes(made).items() if shapes.get(path) != shape)
                msg = f"A Keras model with {wrong} of shape {shapes.get(wrong)} cannot be made from its configuration."
                raise InputError(msg)
            self._resized[key] = made
        return self._resized[key]


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Of all weights, without the seeds of random layers."""
    return {v.path: tuple(v.shape) for v in model.weights}


class KerasNetwork(eqx.Module):
    """A Keras model as a network: a pure function of its variables, on one example.

    - `params`: the trainable variables by path, `params["dense/kernel"]`. `buffers`: running statistics.
    - `origin`: the model, for its code.
    """

    params: dict[str, Array]
    buffers: dict[str, Buffer]
    origin: KerasOrigin = eqx.field(static=True)

    @property
    def arrays(self) -> dict[str, Array]:
        """Parameters and buffers by path."""
        return self.params | {path: buffer.value for path, buffer in self.buffers.items()}

    def __call__(self, x: Array) -> Array:
        arrays = self.arrays
        model = self.origin.model_for({path: array.shape for path, array in arrays.items()})
        trained = [arrays[v.path] for v in model.trainable_variables]
        others = [arrays.get(v.path, v.value) for v in model.non_trainable_variables]  # seeds, which nothing uses
        # Keras relies on the usual promotion, whatever the user has chosen.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            outputs, _ = model.stateless_call(trained, others, x[None], training=False)
        return outputs[0]


def keras_function(model: Any) -> KerasNetwork:
    """A Keras 3 model on the JAX backend as a pure function of one example, at any size.

    Keras checks the shapes of its variables, so a model is traced at another size through a copy that is made from its
    configuration, with the units, filters and heads that the arrays have; layers of other kinds keep theirs.

    !!! example
        ```python
        layers = [keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
        network = interop.keras_function(keras.Sequential(layers))
        found = embedding.discover_units(lambda net, x: net(x), network, jnp.ones(3))
        ```

    **Arguments:**
    - `model`: a built `Sequential` or functional model with one input and one output. Its numbers are read once.

    **Returns:** A [`lossatlas.interop.KerasNetwork`][]; it computes in the precision of Keras' layers.

    **Raises:** `InputError` for what is no built Keras model, another backend, and variables of the same name.
    """
    if not hasattr(model, "stateless_call") or not getattr(model, "built", False):
        msg = f"A built Keras 3 model is needed (give it an Input), got a {type(model).__name__}."
        raise InputError(msg)
    import keras  # pyright: ignore[reportMissingImports]

    if keras.backend.backend() != "jax":
        msg = f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax before keras is imported."
        raise InputError(msg)
    if len(_shapes(model)) != len(model.weights):
        msg = "Two variables of the model have the same path; give its layers names of their own."
        raise InputError(msg)
    params = {v.path: jnp.array(v.value) for v in model.trainable_weights}
    buffers = {v.path: Buffer(jnp.array(v.value)) for v in model.non_trainable_weights}
    return KerasNetwork(params, buffers, KerasOrigin(model))


def to_keras(network: Any) -> Any:
    """A network that came from a Keras model as such a model again, with its weights and sizes.

    **Arguments:**
    - `network`: a [`lossatlas.interop.KerasNetwork`][], or one whose units were discovered.

    **Returns:** A new model of the same layers.

    **Raises:** `InputError` for other networks.
    """
    inner = getattr(network, "params", None)
    inner = inner if isinstance(inner, KerasNetwork) else network
    if not isinstance(inner, KerasNetwork):
        msg = f"Only what interop.keras_function read becomes a Keras model, got a {type(network).__name__}."
        raise InputError(msg)
    import keras  # pyright: ignore[reportMissingImports]

    arrays = inner.arrays
    made = keras.models.clone_model(inner.origin.model_for({path: array.shape for path, array in arrays.items()}))
    for variable in made.weights:
        variable.assign(np.asarray(arrays[variable.path]))
    return made
