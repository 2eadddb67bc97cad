"""Which examples a network gets wrong, where the data has classes: the one answer that all measurements share."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network
from lossatlas.landscape import Landscape


ClassKind = Literal["labels", "rows", "signs"]
"""What tells right from wrong: class numbers, the largest entry of a row, or the sign of a logit."""


def class_kind(landscape: Landscape) -> ClassKind | None:
    """How a landscape tells right from wrong predictions; None where it has no classes.

    Cross-entropy has classes, logistic loss has signs, squared error has classes where all targets are one-hot rows.
    """
    name = None if landscape.loss is None else landscape.loss.name
    if name is None or not landscape.has_predictions:
        return None
    targets = np.asarray(landscape.targets)
    if name == "cross_entropy":
        return "labels" if np.issubdtype(targets.dtype, np.integer) else "rows"
    if name == "logistic":
        return "signs"
    is_one_hot = (
        targets.ndim == 2 and targets.shape[1] > 1 and np.isin(targets, (0, 1)).all() and (targets.sum(1) == 1).all()
    )
    return "rows" if name == "mse" and is_one_hot else None


def example_errors(kind: ClassKind, predictions: Float[Array, "b ..."], targets: Array) -> Float[Array, " b"]:
    """0 for each example that is right and 1 for each that is wrong; several logits of one example are averaged.

    A prediction that is not finite is wrong, whatever argmax makes of it.
    """
    rows = predictions.reshape(len(predictions), -1)
    if kind == "signs":
        wrong = (rows > 0) != (targets.reshape(rows.shape) > 0.5)
    else:
        labels = targets.reshape(-1) if kind == "labels" else jnp.argmax(targets, axis=1)
        wrong = (jnp.argmax(rows, axis=1).astype(labels.dtype) != labels)[:, None]
    wrong = wrong | ~jnp.isfinite(rows).all(axis=1, keepdims=True)
    return wrong.mean(axis=1, dtype=predictions.dtype)


def losses_and_errors(
    landscape: Landscape, kind: ClassKind | None, network: Network, batch: Any
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The loss and the error (NaN without classes) of each example of a batch; each prediction is made once."""
    if kind is None:
        losses = landscape._losses_of(network, batch)
        return losses, jnp.full_like(losses, jnp.nan)
    predictions = landscape._predictions_of(network, batch)
    if landscape._example_losses is None:
        losses = jax.vmap(landscape._require_loss())(predictions, batch[-1])
    else:
        losses = landscape._losses_of(network, batch)
    return losses, example_errors(kind, predictions, batch[-1])


def loss_and_error(
    landscape: Landscape, kind: ClassKind | None, network: Network
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss and the mean error (NaN without classes) in one pass over the data."""

    def of_batch(batch, weights):
        both = losses_and_errors(landscape, kind, network, batch)
        return jax.tree.map(lambda a: jnp.sum(jnp.where(weights > 0, a, 0.0)), both)

    return landscape._mean(of_batch)
