"""The share of examples that a network gets wrong, where the data has classes."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network
from lossatlas.landscape import Landscape


ErrorKind = Literal["labels", "rows", "signs"]
"""What tells right from wrong: class numbers, the largest entry of a row, or the sign of a logit."""


def error_kind(landscape: Landscape) -> ErrorKind | None:
    """How a landscape tells right from wrong predictions; None where it has no classes.

    Cross-entropy has classes, logistic loss has signs, squared error has classes where all targets are one-hot rows.
    """
    name = None if landscape.loss is None else landscape.loss.name
    has_predictions = landscape._example_losses is None or landscape._predict is not None
    if name is None or not has_predictions:
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


def example_errors(landscape: Landscape, kind: ErrorKind, network: Network, batch: Any) -> Float[Array, " b"]:
    """0 for each example that is right and 1 for each that is wrong; several logits of one example are averaged."""
    predictions, targets = landscape._predictions_of(network, batch), batch[-1]
    if kind == "signs":
        wrong = (predictions > 0) != (targets.reshape(predictions.shape) > 0.5)
        return wrong.reshape(wrong.shape[0], -1).mean(axis=1, dtype=predictions.dtype)
    labels = targets.reshape(-1) if kind == "labels" else jnp.argmax(targets, axis=1)
    return (jnp.argmax(predictions, axis=1).astype(labels.dtype) != labels).astype(predictions.dtype)


def loss_and_error(
    landscape: Landscape, kind: ErrorKind | None, network: Network
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss and the mean error (NaN without classes) in one pass over the data."""

    def of_batch(batch, weights):
        losses = landscape._losses_of(network, batch)
        wrong = jnp.full_like(losses, jnp.nan) if kind is None else example_errors(landscape, kind, network, batch)
        return jax.tree.map(lambda a: jnp.sum(jnp.where(weights > 0, a, 0.0)), (losses, wrong))

    return landscape._mean(of_batch)
