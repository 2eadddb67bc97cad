"""The compiled search for a critical point: one program for every method, start and step limit."""

import enum
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lossatlas._parameters import Unravel
from lossatlas._types import Only, Vector
from lossatlas.geometry._hessian import dense_hessian
from lossatlas.geometry._steps import NOISE, levenberg_marquardt, negative_threshold, signed_newton, trust_region
from lossatlas.landscape import Landscape


class Method(enum.IntEnum):
    """How steps are made; `auto` goes through them in the order LM, Newton, LM, Newton, trust region."""

    NEWTON = 0
    LEVENBERG_MARQUARDT = 1
    TRUST_REGION = 2


class Phase(enum.IntEnum):
    """Searching; polishing a point whose gradient is below the tolerance; and the ways to end."""

    SEARCH = 0
    POLISH = 1
    STILL = 2
    MOVING = 3
    STALLED = 4
    DIVERGED = 5


DECADES = 17
"""The norm is noted when the gradient falls below 10^0, 10^-1, ..., 10^-16 for the last time."""

_NUM_POLISH = 12
_STILL = 1e-8  # a polishing step this small, relative to the norm, means that the point stands still
_MOVED = 0.05  # a point that polishing moves this far, relative to its norm, is on its way to infinity
_CUT = 1e-9  # eigenvalues below this part of the largest are damped by Newton's method
_PATIENCE = 15  # Hessians after which `auto` asks whether the gradient has fallen enough
_MARK = 1e-3  # where the norm of every parameter is remembered, to see later which of them ran away


class Entry(NamedTuple):
    """What is needed to go back to an earlier point."""

    vector: Vector
    loss: Float[Array, ""]
    gradient: Vector
    norms: Float[Array, " decades"]


class Search(NamedTuple):
    """The state of a search."""

    vector: Vector
    loss: Float[Array, ""]
    gradient: Vector
    eigenvalues: Vector
    eigenvectors: Float[Array, "p p"]
    is_stale: Bool[Array, ""]  # the eigendecomposition is not that of `vector`
    method: Int[Array, ""]
    phase: Int[Array, ""]
    radius: Float[Array, ""]
    damping: Float[Array, ""]  # of Levenberg-Marquardt, relative to max|lam|^2
    steps: Int[Array, ""]
    hessians: Int[Array, ""]
    rejected: Int[Array, ""]  # in a row
    anchor: Vector  # where the gradient first fell below the tolerance
    polished: Int[Array, ""]
    norms: Float[Array, " decades"]
    mark: Vector  # where the gradient first fell below _MARK
    entry: "Entry"  # the last point from which `auto` may take another method
    entered: Int[Array, ""]  # Hessians at that point
    switches: Int[Array, ""]
    growth: Float[Array, ""]  # Nielsen's factor of the damping after a rejected step


def _scale(vector: Vector) -> Array:
    return jnp.maximum(jnp.linalg.norm(vector), 1.0)


def _is_finite(loss: Array, gradient: Vector) -> Array:
    return jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))


def _value_and_gradient(landscape: Landscape, unravel: Unravel, vector: Vector):
    def weighted(batch, weights):
        return jax.value_and_grad(landscape._weighted_loss)(vector, unravel, batch, weights)

    return landscape._mean(weighted)


def _note(norms: Array, vector: Vector, gradient: Vector) -> Array:
    decades = 10.0 ** -jnp.arange(DECADES, dtype=norms.dtype)
    size = jnp.max(jnp.abs(gradient))
    # What was noted near another critical point, passed on the way, is forgotten.
    norms = jnp.where(size > 10.0 * decades, jnp.nan, norms)
    return jnp.where(jnp.isnan(norms) & (size <= decades), jnp.linalg.norm(vector), norms)


@eqx.filter_jit
def begin(landscape: Landscape, unravel: Unravel, vector: Vector, method: Array) -> Search:
    """The state at a start."""
    loss, gradient = _value_and_gradient(landscape, unravel, vector)
    p = vector.shape[0]
    norms = _note(jnp.full((DECADES,), jnp.nan, vector.dtype), vector, gradient)
    zero = jnp.zeros((), jnp.int32)
    finite = _is_finite(loss, gradient)
    return Search(
        vector=vector,
        loss=loss,
        gradient=gradient,
        eigenvalues=jnp.zeros_like(vector),
        eigenvectors=jnp.zeros((p, p), vector.dtype),
        is_stale=jnp.asarray(True),
        method=method,
        phase=jnp.where(finite, Phase.SEARCH, Phase.DIVERGED).astype(jnp.int32),
        radius=0.5 * _scale(vector),
        damping=jnp.full((), 1e-3, vector.dtype),
        steps=zero,
        hessians=zero,
        rejected=zero,
        anchor=vector,
        polished=zero,
        norms=norms,
        mark=vector,
        entry=Entry(vector, loss, gradient, norms),
        entered=zero,
        switches=zero,
        growth=jnp.full((), 2.0, vector.dtype),
    )


@eqx.filter_jit
def advance(
    landscape: Landscape, unravel: Unravel, search: Search, atol: Array, until: Array, auto: Array, only: Only = None
) -> Search:
    """Search on until `until` Hessians are used up; the result does not depend on where the calls are cut."""

    def decompose(search: Search) -> Search:
        hessian = dense_hessian(unravel(search.vector), landscape, only)
        eigenvalues, eigenvectors = jnp.linalg.eigh(hessian)
        return search._replace(
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
            is_stale=jnp.asarray(False),
            hessians=search.hessians + 1,
        )

    def step(search: Search) -> Search:
        search = jax.lax.cond(search.is_stale, decompose, lambda s: s, search)
        search = _enter_polish(search, atol)
        lam, c = search.eigenvalues, search.eigenvectors.T @ search.gradient
        largest = jnp.max(jnp.abs(lam))
        # The cut falls with the gradient: a smaller gradient means smaller errors of the eigenvalues.
        cut = jnp.clip(0.1 * jnp.linalg.norm(c) / jnp.maximum(largest, 1e-300), NOISE, _CUT)
        # A polishing step keeps eigenvalues far below Newton's usual cut: along a run-away they are tiny but real.
        which = jnp.where(search.phase == Phase.POLISH, 3, search.method)
        candidate, predicted = jax.lax.switch(
            which,
            [
                lambda: (signed_newton(lam, c, cut, search.radius), jnp.zeros_like(largest)),
                lambda: (
                    levenberg_marquardt(lam, c, search.damping * largest**2, search.radius),
                    jnp.zeros_like(largest),
                ),
                lambda: trust_region(lam, c, search.radius),
                lambda: (signed_newton(lam, c, NOISE, search.radius), jnp.zeros_like(largest)),
            ],
        )
        vector = search.vector + search.eigenvectors @ candidate
        loss, gradient = _value_and_gradient(landscape, unravel, vector)
        trial = search._replace(vector=vector, loss=loss, gradient=gradient)
        judged = jax.lax.switch(
            which,
            [
                lambda: _judge_newton(search, trial, candidate),
                lambda: _judge_least_squares(search, trial, candidate),
                lambda: _judge_trust_region(search, trial, candidate, predicted),
                lambda: _judge_polish(search, trial, candidate),
            ],
        )
        judged = judged._replace(steps=search.steps + 1, norms=_note(judged.norms, judged.vector, judged.gradient))
        first = jnp.isnan(search.norms[3]) & ~jnp.isnan(judged.norms[3])
        judged = judged._replace(mark=jnp.where(first, judged.vector, judged.mark))
        return _give_up(judged, auto)

    def goes_on(search: Search) -> Array:
        return ((search.hessians < until) | ~search.is_stale) & (search.phase <= Phase.POLISH)

    return jax.lax.while_loop(goes_on, step, search)


def _enter_polish(search: Search, atol: Array) -> Search:
    """Below the tolerance (and, for a minimum, without a way down) the search turns to polishing."""
    is_small = jnp.max(jnp.abs(search.gradient)) <= atol
    is_minimum = search.eigenvalues[0] >= -negative_threshold(search.eigenvalues)
    enter = (search.phase == Phase.SEARCH) & is_small & ((search.method != Method.TRUST_REGION) | is_minimum)
    return search._replace(
        phase=jnp.where(enter, Phase.POLISH, search.phase).astype(jnp.int32),
        anchor=jnp.where(enter, search.vector, search.anchor),
        radius=jnp.where(enter, 0.5 * _scale(search.vector), search.radius),
        rejected=jnp.where(enter, 0, search.rejected),
    )


def _choose(accept: Array, trial: Search, search: Search, radius: Array, damping: Array | None = None) -> Search:
    moved = jax.tree.map(lambda a, b: jnp.where(accept, a, b), trial, search)
    return moved._replace(
        is_stale=accept,
        radius=radius,
        damping=search.damping if damping is None else damping,
        rejected=jnp.where(accept, 0, search.rejected + 1),
    )


def _judge_newton(search: Search, trial: Search, candidate: Array) -> Search:
    """Newton may let the gradient grow for a while, but not explode."""
    before, after = jnp.linalg.norm(search.gradient), jnp.linalg.norm(trial.gradient)
    accept = _is_finite(trial.loss, trial.gradient) & (after <= 2.0 * before)
    length = jnp.linalg.norm(candidate)
    wider = jnp.minimum(2.0 * search.radius, 0.5 * _scale(trial.vector))
    radius = jnp.where(accept, jnp.where(after <= before, wider, search.radius), 0.25 * length)
    return _choose(accept, trial, search, radius)


def _judge_least_squares(search: Search, trial: Search, candidate: Array) -> Search:
    """The gain ratio of |g|^2 decides on acceptance and damping."""
    c = search.eigenvectors.T @ search.gradient
    before = jnp.sum(search.gradient**2)
    predicted = before - jnp.sum((c + search.eigenvalues * candidate) ** 2)
    gain = (before - jnp.sum(trial.gradient**2)) / jnp.maximum(predicted, 1e-300)
    accept = _is_finite(trial.loss, trial.gradient) & (gain > 1e-4)
    factor = jnp.maximum(0.1, 1.0 - (2.0 * gain - 1.0) ** 3)
    damping = jnp.clip(search.damping * jnp.where(accept, factor, search.growth), 1e-30, 1e12)
    wider = jnp.minimum(2.0 * search.radius, 0.5 * _scale(trial.vector))
    shorter = jnp.where(_is_finite(trial.loss, trial.gradient), search.radius, 0.25 * search.radius)
    new = _choose(accept, trial, search, jnp.where(accept, wider, shorter), damping)
    return new._replace(growth=jnp.where(accept, 2.0, 2.0 * search.growth))


def _judge_trust_region(search: Search, trial: Search, candidate: Array, predicted: Array) -> Search:
    """The gain ratio of the loss; where the loss is too flat for float64, the gradient decides."""
    noise = 1e-14 * jnp.abs(search.loss) + 1e-300
    gain = (search.loss - trial.loss + noise) / (jnp.maximum(predicted, 0.0) + noise)
    before, after = jnp.linalg.norm(search.gradient), jnp.linalg.norm(trial.gradient)
    is_blind = predicted <= 10 * noise
    lowest = search.eigenvalues[0] >= -negative_threshold(search.eigenvalues)
    good = jnp.where(is_blind & lowest, after < before, gain > 0.05)
    accept = _is_finite(trial.loss, trial.gradient) & good
    length = jnp.linalg.norm(candidate)
    at_edge = length > 0.9 * search.radius
    wider = jnp.where((gain > 0.75) & at_edge, 2.0 * search.radius, search.radius)
    radius = jnp.where(accept, jnp.where(gain < 0.25, 0.5 * length, wider), 0.25 * length)
    return _choose(accept, trial, search, jnp.minimum(radius, 2.0 * _scale(trial.vector)))


def _judge_polish(search: Search, trial: Search, candidate: Array) -> Search:
    """Polish to the rounding floor of the gradient, and see whether the point stands still."""
    before, after = jnp.linalg.norm(search.gradient), jnp.linalg.norm(trial.gradient)
    length = jnp.linalg.norm(candidate)
    accept = _is_finite(trial.loss, trial.gradient) & (after < before)
    new = _choose(accept, trial, search, jnp.where(accept, 0.5 * _scale(trial.vector), 0.25 * length))
    scale = _scale(new.vector)
    polished = search.polished + 1
    moved = jnp.linalg.norm(new.vector - search.anchor) / scale
    is_still = (length <= _STILL * scale) | (polished >= _NUM_POLISH) | (new.rejected >= 6)
    phase = jnp.where(moved > _MOVED, Phase.MOVING, jnp.where(is_still, Phase.STILL, Phase.POLISH))
    return new._replace(polished=polished, phase=phase.astype(jnp.int32))


def _give_up(search: Search, auto: Array) -> Search:
    """A search whose steps are rejected again and again has stalled; `auto` then tries another method.

    Levenberg-Marquardt creeps along curved valleys of |g|, which Newton's method crosses, at the price that |g| may
    grow: so Newton's method gets some Hessians, and where it does not pay the search goes back to where it began. The
    second time, and where |g| has a minimum that is not zero, the loss is followed down instead.
    """
    norm = jnp.linalg.norm(search.gradient)
    is_newton, is_lm = search.method == Method.NEWTON, search.method == Method.LEVENBERG_MARQUARDT
    searching = search.phase == Phase.SEARCH
    stuck = searching & (search.rejected >= 20)
    asked = auto & searching & (is_newton | is_lm) & (stuck | (search.hessians - search.entered >= _PATIENCE))
    has_progress = ~stuck & (norm < 0.2 * jnp.linalg.norm(search.entry.gradient))
    change = asked & ~has_progress
    back = change & is_newton
    following = jnp.where(
        (search.switches >= 3) | (stuck & is_lm),
        Method.TRUST_REGION,
        jnp.where(is_newton, Method.LEVENBERG_MARQUARDT, Method.NEWTON),
    )
    here = Entry(search.vector, search.loss, search.gradient, search.norms)
    point = jax.tree.map(lambda a, b: jnp.where(back, a, b), search.entry, here)
    entry = jax.tree.map(lambda a, b: jnp.where(asked, a, b), point, search.entry)
    return search._replace(
        **point._asdict(),
        is_stale=search.is_stale | back,
        method=jnp.where(change, following, search.method).astype(jnp.int32),
        radius=jnp.where(change, 0.1 * _scale(point.vector), search.radius),
        damping=jnp.where(change, 1e-3, search.damping),
        growth=jnp.where(change, 2.0, search.growth),
        rejected=jnp.where(change, 0, search.rejected),
        switches=search.switches + change.astype(jnp.int32),
        entered=jnp.where(asked, search.hessians, search.entered),
        entry=entry,
        phase=jnp.where(stuck & ~change, Phase.STALLED, search.phase).astype(jnp.int32),
    )
