"""Langevin dynamics around a centre: the compiled program of [`lossatlas.training.sample`][]."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lossatlas._parameters import Unravel
from lossatlas._types import Vector
from lossatlas.landscape import Landscape


class Job(eqx.Module):
    """What stays the same along all chains. `room` is how many steps the records hold."""

    key: Key[Array, ""]
    unravel: Unravel
    landscape: Landscape
    centre: Vector
    inverse_temperature: Float[Array, ""]
    localisation: Float[Array, ""]
    step_size: Float[Array, ""]
    burn_in: Int[Array, ""]
    first_step: Int[Array, ""]
    room: int = eqx.field(static=True)
    is_metropolis: bool = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)


class Chain(eqx.Module):
    """Where a chain is, complete. `loss` and `gradient` are those of `vector`; None with minibatches."""

    number: Int[Array, ""]
    step: Int[Array, ""]
    is_finite: Bool[Array, ""]
    vector: Vector
    loss: Float[Array, ""] | None
    gradient: Vector | None
    total: Vector
    losses: Float[Array, " t"]
    distances: Float[Array, " t"]
    acceptances: Float[Array, " t"]
    moved: Bool[Array, " t"]


def start(job: Job, numbers: Int[Array, " c"], vectors: Float[Array, "c p"]) -> Chain:
    """All chains before their first step."""
    empty = jnp.full(job.room, jnp.nan, job.centre.dtype)

    def one(place):
        number, vector = place
        loss, gradient = (None, None) if job.batch_size is not None else _evaluate(job, vector)
        return Chain(
            number=number,
            step=jnp.asarray(0, jnp.int32),
            is_finite=jnp.asarray(True),
            vector=vector,
            loss=loss,
            gradient=gradient,
            total=jnp.zeros_like(vector),
            losses=empty,
            distances=empty,
            acceptances=empty,
            moved=jnp.zeros(job.room, bool),
        )

    return jax.lax.map(one, (numbers, vectors))


def advance(job: Job, chains: Chain, stop: Int[Array, ""]) -> Chain:
    """Run every chain until `stop` steps have been made in all, or its loss is not finite."""
    step = _full_step if job.batch_size is None else _batch_step

    def one(chain: Chain) -> Chain:
        return jax.lax.while_loop(lambda c: (c.step < stop) & c.is_finite, lambda c: step(job, c), chain)

    return jax.lax.map(one, chains)


def _evaluate(job: Job, vector: Vector) -> tuple[Float[Array, ""], Vector]:
    def of_batch(batch, weights):
        return jax.value_and_grad(job.landscape._weighted_loss)(vector, job.unravel, batch, weights)

    return job.landscape._mean(of_batch)


def _keys(job: Job, chain: Chain) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """One key for the noise and one for the choice of this step."""
    key = jax.random.fold_in(jax.random.fold_in(job.key, chain.number), job.first_step + chain.step)
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def _force(job: Job, vector: Vector, gradient: Vector) -> Vector:
    """The gradient of U."""
    return job.inverse_temperature * gradient + job.localisation * (vector - job.centre)


def _proposal(job: Job, vector: Vector, force: Vector, key: Key[Array, ""]) -> Vector:
    noise = jax.random.normal(key, vector.shape, vector.dtype)
    return vector - 0.5 * job.step_size * force + jnp.sqrt(job.step_size) * noise


def _full_step(job: Job, chain: Chain) -> Chain:
    assert chain.gradient is not None
    assert chain.loss is not None
    noise_key, choice_key = _keys(job, chain)
    force = _force(job, chain.vector, chain.gradient)
    vector = _proposal(job, chain.vector, force, noise_key)
    loss, gradient = _evaluate(job, vector)
    there = _force(job, vector, gradient)
    # log of p(new) q(old | new) / p(old) q(new | old), q being the Gaussian of the proposal
    gain = job.inverse_temperature * (chain.loss - loss) + 0.5 * job.localisation * (
        jnp.sum((chain.vector - job.centre) ** 2) - jnp.sum((vector - job.centre) ** 2)
    )
    back = chain.vector - vector + 0.5 * job.step_size * there
    forth = vector - chain.vector + 0.5 * job.step_size * force
    gain += (jnp.sum(forth**2) - jnp.sum(back**2)) / (2 * job.step_size)
    acceptance = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
    is_finite = jnp.isfinite(loss)
    moved = is_finite
    if job.is_metropolis:
        moved = jax.random.uniform(choice_key, dtype=acceptance.dtype) < acceptance
        is_finite = jnp.asarray(True)  # what is not finite is not accepted
    keep = lambda new, old: jnp.where(moved, new, old)  # noqa: E731
    after = _recorded(job, chain, chain.loss, acceptance, moved, keep(vector, chain.vector), is_finite)
    state = (keep(loss, chain.loss), keep(gradient, chain.gradient))
    return eqx.tree_at(lambda c: (c.loss, c.gradient), after, state)


def _batch_step(job: Job, chain: Chain) -> Chain:
    size = job.batch_size
    assert size is not None
    noise_key, rows_key = _keys(job, chain)
    rows = jax.random.randint(rows_key, (size,), 0, job.landscape.size)
    batch = jax.tree.map(lambda a: a[rows], job.landscape.batch)
    weights = jnp.ones(size, jnp.zeros(()).dtype)

    def mean_loss(vector: Vector) -> Float[Array, ""]:
        return job.landscape._weighted_loss(vector, job.unravel, batch, weights) / size

    loss, gradient = jax.value_and_grad(mean_loss)(chain.vector)
    vector = _proposal(job, chain.vector, _force(job, chain.vector, gradient), noise_key)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(vector).all()
    missing = jnp.full_like(chain.vector[0], jnp.nan)
    return _recorded(job, chain, loss, missing, is_finite, jnp.where(is_finite, vector, chain.vector), is_finite)


def _recorded(
    job: Job,
    chain: Chain,
    loss: Float[Array, ""],
    acceptance: Float[Array, ""],
    moved: Bool[Array, ""],
    vector: Vector,
    is_finite: Bool[Array, ""],
) -> Chain:
    """The chain one step on: the loss, the distance and the choice belong to the position before it."""
    t = chain.step
    distance = jnp.linalg.norm(chain.vector - job.centre)
    return Chain(
        number=chain.number,
        step=t + is_finite.astype(jnp.int32),
        is_finite=is_finite,
        vector=vector,
        loss=chain.loss,
        gradient=chain.gradient,
        total=chain.total + jnp.where(t >= job.burn_in, 1.0, 0.0).astype(vector.dtype) * vector,
        losses=chain.losses.at[t].set(loss.astype(vector.dtype)),
        distances=chain.distances.at[t].set(distance),
        acceptances=chain.acceptances.at[t].set(acceptance.astype(vector.dtype)),
        moved=chain.moved.at[t].set(moved),
    )
