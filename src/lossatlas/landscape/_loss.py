"""Losses of one prediction, by name or as a callable."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._types import LossFn


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one example and the map from predictions to what users read.

    - `fn(prediction, target)`: a scalar.
    - `link(prediction)`: probabilities for classification losses, the prediction itself otherwise.
    """

    name: str
    fn: LossFn
    link: Any = staticmethod(lambda prediction: prediction)

    def __call__(self, prediction: Array, target: Array) -> Array:
        return self.fn(prediction, target)


def _half_squared_error(prediction: Float[Array, "*o"], target: Array) -> Float[Array, ""]:
    return 0.5 * jnp.sum(jnp.square(prediction - _fit(target, prediction)))


def _fit(target: Array, prediction: Array) -> Array:
    """The target in the shape of the prediction: a scalar target fits a single output."""
    if target.size != prediction.size:
        msg = (
            f"The network predicts shape {prediction.shape}, but a target has shape {target.shape}. "
            "They need as many entries (class labels become one-hot rows for squared error)."
        )
        raise InputError(msg)
    return target.reshape(prediction.shape)


def _cross_entropy(prediction: Float[Array, " o"], target: Array) -> Float[Array, ""]:
    if jnp.issubdtype(target.dtype, jnp.integer):
        return optax.losses.softmax_cross_entropy_with_integer_labels(prediction, target.reshape(()))
    return optax.losses.softmax_cross_entropy(prediction, _fit(target, prediction))


def _logistic(prediction: Float[Array, "*o"], target: Array) -> Float[Array, ""]:
    labels = _fit(target, prediction).astype(prediction.dtype)
    return jnp.sum(optax.losses.sigmoid_binary_cross_entropy(prediction, labels))


_LOSSES = {
    "mse": Loss("mse", _half_squared_error),
    "cross_entropy": Loss("cross_entropy", _cross_entropy, jax.nn.softmax),
    "logistic": Loss("logistic", _logistic, jax.nn.sigmoid),
}


def loss_names() -> list[str]:
    """The losses known by name."""
    return sorted(_LOSSES)


def as_loss(loss: str | LossFn | Loss) -> Loss:
    r"""The loss of a name, or of a callable on (prediction, target) of one example.

    `"mse"` is $\frac12 |f - y|^2$; `"cross_entropy"` is the softmax cross-entropy in nats, targets integer class
    labels or rows of probabilities; `"logistic"` is the binary cross-entropy of logits, targets in [0, 1].

    **Raises:** `InputError` for an unknown name.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise unknown_name("loss", loss, _LOSSES)
        return _LOSSES[loss]
    return Loss(getattr(loss, "__name__", type(loss).__name__), loss)
