"""What stands between a Jacobian and its transpose: the curvature of a loss in predictions, Fisher information."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.landscape._loss import Loss


_LIKELIHOODS = ("mse", "cross_entropy", "logistic")


def loss_curvature(loss: Loss, predictions: Array, targets: Array) -> Callable[[Array], Array]:
    r"""The map $u \mapsto \ell''(f, y) u$ of a batch."""
    slope = lambda p: jax.vmap(jax.grad(loss.fn))(p, targets)  # noqa: E731
    return jax.linearize(slope, predictions)[1]


def fisher_information(loss: Loss, predictions: Array) -> Callable[[Array], Array]:
    r"""The map $u \mapsto F u$ of a batch, $F = E_{y \sim p(y | f)}[\nabla_f \ell\, \nabla_f \ell^\top]$.

    By the likelihood that each loss is the negative logarithm of: a Gaussian of unit variance, a softmax, independent
    Bernoulli variables.
    """
    require_likelihood(loss)
    if loss.name == "mse":
        return lambda u: u
    if loss.name == "logistic":
        p = jax.nn.sigmoid(predictions)
        return lambda u: p * (1 - p) * u
    p = jax.nn.softmax(predictions, axis=-1)
    return lambda u: p * u - p * jnp.sum(p * u, axis=-1, keepdims=True)


def sampled_slopes(key: PRNGKeyArray, loss: Loss, predictions: Array, num_samples: int) -> Array:
    r"""Slopes $\nabla_f \ell(f, y)$ at targets drawn from the likelihood, shape (n, num_samples, ...)."""
    require_likelihood(loss)
    shape = (num_samples, *predictions.shape)
    if loss.name == "mse":
        drawn = jax.random.normal(key, shape, predictions.dtype)  # f - y of y = f + noise, up to its sign
    elif loss.name == "logistic":
        p = jax.nn.sigmoid(predictions)[None]
        drawn = p - jax.random.bernoulli(key, jnp.broadcast_to(p, shape)).astype(predictions.dtype)
    else:
        labels = jax.random.categorical(key, predictions, axis=-1, shape=shape[:-1])
        drawn = jax.nn.softmax(predictions)[None] - jax.nn.one_hot(
            labels, predictions.shape[-1], dtype=predictions.dtype
        )
    return jnp.moveaxis(drawn, 0, 1)


def require_likelihood(loss: Loss) -> None:
    """Raise for a loss that is no negative log-likelihood that we know."""
    if loss.name not in _LIKELIHOODS:
        msg = (
            f"The Fisher matrix needs the likelihood behind the loss, known for {', '.join(_LIKELIHOODS)}; got "
            f"{loss.name!r}. The empirical Fisher and Gauss-Newton need none."
        )
        raise InputError(msg)
