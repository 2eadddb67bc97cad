"""Fit many starts of one small network in one compiled program."""

import functools as ft
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossatlas._parameters import Unravel, ravel
from lossatlas._types import Vector
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train_ensemble


class Fit(eqx.Module):
    """The end of one fit."""

    network: Dense
    loss: float


def fit_starts(networks: Sequence[Dense], landscape: Landscape, *, num_steps: int, learning_rate: float) -> list[Fit]:
    """Full-batch Adam with cosine decay from every start, in order.

    Cost: `num_steps` gradient evaluations a start.
    """
    runs = train_ensemble(
        jax.random.split(jax.random.key(0), len(networks)),  # full batch: the keys are not used
        list(networks),
        landscape,
        optimizer=_adam(learning_rate, num_steps),
        num_steps=num_steps,
        snapshots=[num_steps],
    )
    members = [runs.member(i) for i in range(len(networks))]
    return [Fit(member.network, float(member.loss[-1])) for member in members]


@ft.cache
def _adam(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam with cosine decay; one object for each setting, since a new one would be compiled anew."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def descend(network: Dense, landscape: Landscape, *, max_steps: int = 1000) -> Dense:
    """L-BFGS on the mean loss (scipy), to a gradient of 1e-9 or as far as it gets.

    Cost: about one gradient a step, and no Hessian.
    """
    from scipy.optimize import minimize

    vector, unravel = ravel(network)

    def value_and_gradient(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _value_and_gradient(landscape, unravel, jnp.asarray(v))
        return float(value), np.asarray(slope)

    options = {"maxiter": max_steps, "gtol": 1e-9, "ftol": 1e-15, "maxcor": 20}
    end = minimize(value_and_gradient, np.asarray(vector), jac=True, method="L-BFGS-B", options=options)
    return unravel(jnp.asarray(end.x))


@eqx.filter_jit
def _value_and_gradient(landscape: Landscape, unravel: Unravel, vector: Vector):
    return landscape.value_and_gradient(unravel(vector))


def slow_moments(
    networks: Sequence[Dense], landscape: Landscape, *, num_steps: int, learning_rate: float
) -> list[Dense]:
    """Networks at the stalls of gradient descent: local minima of |d log loss / d log step|, the end, and the
    moments around.

    Gradient descent from small weights passes the saddles near enough for a search on the gradient to reach them,
    which random points are not.
    """
    runs = train_ensemble(
        jax.random.split(jax.random.key(0), len(networks)),
        list(networks),
        landscape,
        optimizer="gd",
        learning_rate=learning_rate,
        num_steps=num_steps,
        snapshots=80,
    )
    found = []
    for i in range(len(networks)):
        run = runs.member(i)
        steps, loss = np.asarray(run.steps), np.asarray(run.loss)
        usable = np.flatnonzero((steps > 0) & np.isfinite(loss) & (loss > 0))
        if usable.size < 5:
            continue
        rate = np.abs(np.gradient(np.log(loss[usable]), np.log(steps[usable])))
        stalls = np.flatnonzero((rate[1:-1] < rate[:-2]) & (rate[1:-1] <= rate[2:])) + 1
        for stall in [*stalls, usable.size - 1]:
            for at in {max(stall - 4, 0), stall, min(stall + 4, usable.size - 1)}:
                found.append(run.network_at(int(usable[at])))
    return found
