"""Where the pre-activations of an inserted layer lie: in one affine piece of the activation, for all the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.networks import Activation, Segment


_FLAT = 0.1  # slope of the line, relative to the rms slope of the activation, below which it is no line to lift along
_FILLED = 0.7  # share of a piece around the origin that pre-activations without biases may fill


class Piece(NamedTuple):
    """An interval, and whether the activation is affine on it."""

    lower: float
    upper: float
    is_exact: bool


def choose_piece(activation: Activation, segment, *, exact: bool, extent: float) -> Piece:
    """The piece to lift along: as asked, or the longest sloped one, or [-extent, extent] where there is none."""
    sloped = [s for s in activation.segments if s.slope != 0]
    if isinstance(segment, int):
        if not 0 <= segment < len(activation.segments) or activation.segments[segment].slope == 0:
            msg = f"segment must be the index of a piece of {activation.name} with a slope, got {segment}."
            raise InputError(msg)
        chosen = activation.segments[segment]
        return Piece(chosen.lower, chosen.upper, is_exact=True)
    if segment is not None:
        lower, upper = (float(end) for end in segment)
        if not lower < upper:
            msg = f"segment must be an interval (lower, upper) with lower < upper, got {segment}."
            raise InputError(msg)
        inside = any(s.lower <= lower and upper <= s.upper for s in sloped)
        if exact and not inside:
            msg = f"{activation.name} is not affine with a slope on ({lower:g}, {upper:g}); use exact=False."
            raise InputError(msg)
        if not inside and not (np.isfinite(lower) and np.isfinite(upper)):
            msg = f"Where {activation.name} is not affine the segment must be finite, got {segment}."
            raise InputError(msg)
        return Piece(lower, upper, inside)
    if sloped:
        longest = max(sloped, key=lambda s: (s.upper - s.lower, s.slope))
        return Piece(longest.lower, longest.upper, is_exact=True)
    if exact:
        msg = f"{activation.name} has no affine piece, so no exact lift exists; use exact=False for an approximate one."
        raise InputError(msg)
    return Piece(-extent, extent, is_exact=False)


def place(weight, features, piece: Piece, margin: float, key: PRNGKeyArray, *, common: bool):
    """Scale the rows of V and choose b' so that all pre-activations lie in the piece."""
    received = features @ weight.T
    low, high = received.min(0), received.max(0)
    spread = np.where(high > low, high - low, 1.0)
    jitter = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (len(weight),), minval=1.0, maxval=2.0))
    scales = np.ones(len(weight))
    if np.isfinite(piece.lower) and np.isfinite(piece.upper):
        scales = (1 - margin) * (piece.upper - piece.lower) / spread
        if common:
            scales = np.full_like(scales, scales.min())
        bias = 0.5 * (piece.lower + piece.upper) - scales * 0.5 * (low + high)
    elif np.isfinite(piece.lower):
        bias = piece.lower - low + margin * jitter * spread
    elif np.isfinite(piece.upper):
        bias = piece.upper - high - margin * jitter * spread
    else:
        bias = margin * (jitter - 1.5) * spread
    return scales[:, None] * weight, bias, scales


class DeadNeurons(NamedTuple):
    """Neurons that put out a constant on the data: what they read, what they put out, and how far they may move."""

    weight: Float[np.ndarray, "dead m"]
    bias: Float[np.ndarray, " dead"]
    values: Float[np.ndarray, " dead"]
    room: float


def place_dead(activation: Activation, features, count: int, margin: float, key: PRNGKeyArray) -> DeadNeurons:
    """Random neurons whose pre-activations lie in a flat piece of the activation for all the data."""
    flat = [s for s in activation.segments if s.slope == 0]
    if not flat:
        msg = f"{activation.name} has no flat piece, so none of its neurons is dead on the data."
        raise InputError(msg)
    held = max(flat, key=lambda s: s.upper - s.lower)
    piece = Piece(held.lower, held.upper, is_exact=True)
    weight = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (count, features.shape[1]), float))
    weight, bias, _ = place(weight, features, piece, margin, key, common=False)
    pre = features @ weight.T + bias
    room = float(np.minimum(pre - piece.lower, piece.upper - pre).min())
    return DeadNeurons(weight, bias, np.full(count, held.offset), room)


def place_without_bias(activation: Activation, weight, readers, target, features, piece: Piece):
    """V, U and the scales of V for b' = 0 and mu = 0: the piece must be linear through the origin."""
    through_origin = any(
        s.lower <= piece.lower and piece.upper <= s.upper and s.offset == 0 for s in activation.segments if s.slope
    )
    if through_origin and piece.lower < 0 < piece.upper:
        largest = np.maximum(np.abs(features @ weight.T).max(0), 1e-300)
        scales = np.minimum(1.0, _FILLED * min(-piece.lower, piece.upper) / largest)
        return scales[:, None] * weight, readers, scales
    if through_origin and len(weight) >= weight.shape[1]:
        signed = np.abs(weight) if piece.lower == 0 else -np.abs(weight)
        received = features @ signed.T
        inside = (received > piece.lower) & (received < piece.upper)
        if inside.all() and np.linalg.matrix_rank(signed) == weight.shape[1]:
            return signed, target @ np.linalg.pinv(signed), np.ones(len(weight))
    msg = (
        "The readers of the inserted layer have no bias that could hold its constants, and its pre-activations "
        f"do not stay in a piece of {activation.name} through the origin. Lift a network with biases, or use "
        "mode='right' behind a layer with positive features."
    )
    raise InputError(msg)


def lines(activation: Activation, pre: np.ndarray, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """The slope and offset of every inserted neuron: of the piece, or least squares on the data."""
    if piece.is_exact:
        held: Segment = next(
            s for s in activation.segments if s.slope and s.lower <= piece.lower and piece.upper <= s.upper
        )
        return np.full(pre.shape[1], held.slope), np.full(pre.shape[1], held.offset)
    post = np.asarray(jax.vmap(activation)(jnp.asarray(pre)))
    centred = pre - pre.mean(0)
    variance = (centred**2).mean(0)
    at_mean = jax.vmap(jax.grad(activation))(jnp.asarray(pre.mean(0)))
    slope = np.where(
        variance > 0, (centred * post).mean(0) / np.where(variance > 0, variance, 1.0), np.asarray(at_mean)
    )
    grid = np.linspace(piece.lower, piece.upper, 101)
    along = np.polyfit(grid, np.asarray(jax.vmap(activation)(jnp.asarray(grid))), 1)[0]
    typical = np.sqrt(np.mean(np.square(jax.vmap(jax.grad(activation))(jnp.asarray(grid)))))
    if min(abs(along), np.abs(slope).min()) <= _FLAT * typical:
        msg = (
            f"{activation.name} has no slope on ({piece.lower:g}, {piece.upper:g}) to lift along: readers are divided "
            "by it. Give a `segment` where it is steeper, away from its flat point."
        )
        raise InputError(msg)
    return slope, post.mean(0) - slope * pre.mean(0)
