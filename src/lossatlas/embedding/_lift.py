"""Depth embedding: insert a hidden layer that acts linearly on the data."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._constants import (
    LayerArrays,
    arrays_of,
    as_network,
    can_shift,
    fold_constants,
    require_dense,
    split_readers,
)
from lossatlas.embedding._layer_steps import MergeLayer, merge_defect
from lossatlas.embedding._record import Data, Record, inputs_of, make_record
from lossatlas.networks import Activation, Dense, Segment


Mode = Literal["right", "left", "lemma"]

_FLAT = 0.1  # slope of the line, relative to the rms slope of the activation, below which it is no line to lift along
_FILLED = 0.7  # share of a piece around the origin that pre-activations without biases may fill


class LiftStep(eqx.Module):
    r"""Insert a hidden layer before `layer`: weight V, bias b', readers U with $U \Lambda V = W$.

    On a network other than the one that the lift was made for, the freedom is kept as it was: V and b' with
    U moved by $(W - W_0) V^+ \Lambda^{-1}$ (mode right), or U with V moved by $\Lambda^{-1} U^+ (W - W_0)$ (mode left).

    - `weight`, `bias`, `readers`: V, b' (None without biases) and U. `original`: $W_0$, what they factor.
    - `slope`, `offset`: $\lambda_j$, $\mu_j$ of each inserted neuron on the data.
    - `segment`: the affine piece used, [lower, upper]. `margin`: the smallest distance of a pre-activation on the
      data to its ends; outputs stay equal on the neighbourhood that this allows.
    - `defect`: $(q - \mathrm{rank}\,U)(m - \mathrm{rank}\,\Lambda V)$, 0 when $D\Phi$ is onto.
    - `is_exact`: whether the activation is affine on the segment.
    """

    layer: int = eqx.field(static=True)
    weight: Float[Array, "w m"]
    bias: Float[Array, " w"] | None
    readers: Float[Array, "q w"]
    original: Float[Array, "q m"]
    slope: Float[Array, " w"]
    offset: Float[Array, " w"]
    mode: Mode = eqx.field(static=True)
    segment: Float[Array, "2"]
    margin: Float[Array, ""]
    defect: int = eqx.field(static=True)
    is_exact: bool = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")

    @eqx.filter_jit
    def apply(self, network: Network) -> Dense:
        """The deeper network."""
        dense = require_dense(network, "A lift")
        layers = arrays_of(dense)
        old = layers[self.layer]
        if old.readers.shape != self.original.shape:
            msg = f"layers[{self.layer}] reads {old.readers.shape}; this lift needs {self.original.shape}."
            raise InputError(msg)
        change = old.readers - self.original
        weight, readers = self.weight, self.readers
        if self.mode == "right":
            readers = readers + change @ jnp.linalg.pinv(self.slope[:, None] * weight)
        else:
            weight = weight + (jnp.linalg.pinv(readers) @ change) / self.slope[:, None]
        inserted = LayerArrays(weight, self.bias, None)
        following = split_readers(old, readers, old.bias)
        deep = [*layers[: self.layer], inserted, following, *layers[self.layer + 1 :]]
        constants = self.offset if self.bias is None else self.slope * self.bias + self.offset
        if can_shift(deep, self.layer + 1):
            deep = fold_constants(deep, self.layer, -constants)
        return as_network(deep, dense.activation)

    def apply_inverse(self, network: Network) -> Dense:
        r"""$\Phi$: the shallow network that a network near the lift equals on the data."""
        return MergeLayer(self.layer, self.slope, self.offset).apply(network)

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        r"""$\nabla_{deep} = D\Phi^\top \nabla_{shallow}$, at every point."""
        deep = self.apply(network)
        params, rest = eqx.partition(deep, eqx.is_inexact_array)

        def shallow(values):
            return eqx.filter(self.apply_inverse(eqx.combine(values, rest)), eqx.is_inexact_array)

        _, pull = jax.vjp(shallow, params)
        (pulled,) = pull(eqx.filter(gradient, eqx.is_inexact_array))
        return eqx.combine(pulled, rest)


class _Piece(NamedTuple):
    lower: float
    upper: float
    is_exact: bool


def lift(
    network: Network,
    landscape: Data,
    before: int,
    width: int,
    *,
    key: PRNGKeyArray,
    mode: Mode | None = None,
    segment: int | tuple[float | int, float | int] | None = None,
    margin: float = 0.3,
    exact: bool = True,
    extent: float = 0.1,
) -> tuple[Dense, Record]:
    r"""Insert a hidden layer that acts linearly on the data: outputs on it stay, critical points stay critical.

    With $V, b'$ of the inserted layer and U, b'' of its readers: $U \Lambda V = W$ and
    $U(\Lambda b' + \mu) + b'' = b$, and every pre-activation on the data lies in one affine piece
    $\sigma(t) = \lambda t + \mu$ of the activation. Outputs agree on the data and near it, not everywhere. Near the
    lifted point $R_{deep} = R \circ \Phi$ with $\Phi$ = `record.inverse`, so $\nabla_{deep} = D\Phi^\top \nabla$.

    **Arguments:**
    - `network`: a `Dense`; linear units beside the neurons that read the inserted layer are treated likewise.
    - `landscape`: a `Landscape` or inputs (n, d); the lift depends on all of them.
    - `before`: the index of the layer that will read the inserted one: 0 (right after the input) to the last layer.
    - `width`: neurons of the inserted layer, at least min(m, q), m units entering and q reading.
    - `key`: PRNG key of the random factors and biases.
    - `mode`: `"right"`: V random of full column rank (width >= m); `"left"`: U random of full row rank (width >= q);
      `"lemma"`: V or U a multiple of the identity. Default: right where possible, else left.
    - `segment`: which affine piece: an index of `activation.segments`, or an interval; default the longest sloped one.
    - `margin`: how much of the segment is left free. On half-lines the distance kept from the end is 1 to 2 margins, in
      units of the range of the pre-activation; on intervals the range fills 1 - margin of it.
    - `exact`: False allows activations without affine piece (tanh): pre-activations are kept within
      [-extent, extent], the line is the least-squares one, and the change of the outputs (of order extent^2 for
      odd activations and the sigmoid) is in the certificate. Criticality holds up to order extent only, and the Hessian
      grows like extent^-2.
    - `extent`: half-width of that interval.

    **Returns:**
    The deeper network and its record; `record.plan[0]` is a [`lossatlas.embedding.LiftStep`][] with the rank
    defect and the margin. Cost: a pass over the data and a few decompositions of size width.

    **Raises:** `InputError` for another architecture, bad sizes, NaN or empty data, activations without affine piece
    when `exact`, activations without a slope around the middle of the piece (an even one around 0), and where no bias
    can hold the constants (networks without biases need pre-activations that stay in a piece through the origin:
    ReLU with non-negative features).

    !!! cite
        Bai et al. 2022, arXiv 2205.13283: one-layer lifting, Lemma 1 and Proposition 2.
    """
    dense = require_dense(network, "lift")
    inputs = inputs_of(landscape, "lift")
    layers = arrays_of(dense)
    if not 0 <= before < len(layers):
        msg = f"before must be 0 to {len(layers) - 1}, the layer that reads the inserted one, got {before}."
        raise InputError(msg)
    target = layers[before].readers
    q, m = target.shape
    mode = _check_mode(mode, width, m, q)
    if not 0 < margin < 1:
        msg = f"margin must lie in (0, 1), got {margin}."
        raise InputError(msg)
    if not (np.isfinite(extent) and extent > 0):
        msg = f"extent must be positive and finite, got {extent}."
        raise InputError(msg)
    piece = _choose_piece(dense.activation, segment, exact=exact, extent=float(extent))
    features = np.asarray(jax.vmap(lambda x: dense.features(x)[before])(inputs))
    weight, readers, inner = _factors(np.asarray(target), width, mode, jax.random.fold_in(key, 0))
    bias = None
    if can_shift(layers, before):
        weight, bias, scales = _place(weight, features, piece, margin, key, common=mode == "lemma")
    else:
        placed = _place_without_bias(dense.activation, weight, readers, np.asarray(target), features, piece)
        weight, readers, scales = placed
        inner = "right" if scales.min() == 1 and len(weight) >= m else inner
    readers = readers / scales
    pre = features @ weight.T + (0.0 if bias is None else bias)
    slope, offset = _lines(dense.activation, pre, piece)
    readers = readers / slope
    inserted = LayerArrays(weight, bias, None)
    defect = merge_defect(inserted, LayerArrays(readers, None, None), slope)
    step = LiftStep(
        layer=before,
        weight=jnp.asarray(weight),
        bias=None if bias is None else jnp.asarray(bias),
        readers=jnp.asarray(readers),
        original=target,
        slope=jnp.asarray(slope),
        offset=jnp.asarray(offset),
        mode=inner,
        segment=jnp.asarray([piece.lower, piece.upper]),
        margin=jnp.asarray(np.minimum(pre - piece.lower, piece.upper - pre).min()),
        defect=defect,
        is_exact=piece.is_exact,
        note=f"linear hidden layer of {width} neurons inserted before layer {before}",
    )
    caution = None if piece.is_exact else "The inserted layer is only nearly affine: outputs and gradients change."
    return make_record(dense, (step,), landscape, caution)


def _check_mode(mode: Mode | None, width: int, m: int, q: int) -> Mode:
    if width < max(1, min(m, q)):
        msg = f"width must be at least min(m, q) = {min(m, q)} for {m} entering and {q} reading units, got {width}."
        raise InputError(msg)
    if mode is None:
        return "right" if width >= m else "left"
    if mode not in ("right", "left", "lemma"):
        msg = f"mode must be 'right', 'left' or 'lemma', got {mode!r}."
        raise InputError(msg)
    least = {"right": m, "left": q, "lemma": min(m, q)}[mode]
    if width < least:
        msg = f"mode={mode!r} needs a width of at least {least}, got {width}; try the other mode."
        raise InputError(msg)
    return mode


def _choose_piece(activation: Activation, segment, *, exact: bool, extent: float) -> _Piece:
    sloped = [s for s in activation.segments if s.slope != 0]
    if isinstance(segment, int):
        if not 0 <= segment < len(activation.segments) or activation.segments[segment].slope == 0:
            msg = f"segment must be the index of a piece of {activation.name} with a slope, got {segment}."
            raise InputError(msg)
        chosen = activation.segments[segment]
        return _Piece(chosen.lower, chosen.upper, is_exact=True)
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
        return _Piece(lower, upper, inside)
    if sloped:
        longest = max(sloped, key=lambda s: (s.upper - s.lower, s.slope))
        return _Piece(longest.lower, longest.upper, is_exact=True)
    if exact:
        msg = f"{activation.name} has no affine piece, so no exact lift exists; use exact=False for an approximate one."
        raise InputError(msg)
    return _Piece(-extent, extent, is_exact=False)


def _factors(target: np.ndarray, width: int, mode: Mode, key: PRNGKeyArray) -> tuple[np.ndarray, np.ndarray, Mode]:
    """V and U with U V = W before slopes, and which of the two moves with W."""
    q, m = target.shape

    def normal(i: int, *shape: int) -> np.ndarray:
        return np.asarray(jax.random.normal(jax.random.fold_in(key, i), shape, float))

    if mode == "right":
        weight = np.linalg.qr(normal(0, width, m))[0]
        readers = target @ weight.T + normal(1, q, width) @ (np.eye(width) - weight @ weight.T)
        return weight, readers, "right"
    if mode == "left":
        readers = np.linalg.qr(normal(0, width, q))[0].T
        weight = readers.T @ target + (np.eye(width) - readers.T @ readers) @ normal(1, width, m)
        return weight, readers, "left"
    if width >= q:
        return np.eye(width, q) @ target, np.eye(q, width), "left"
    return np.eye(width, m), target @ np.eye(m, width), "right"


def _place(weight, features, piece: _Piece, margin: float, key: PRNGKeyArray, *, common: bool):
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


def _place_without_bias(activation: Activation, weight, readers, target, features, piece: _Piece):
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


def _lines(activation: Activation, pre: np.ndarray, piece: _Piece) -> tuple[np.ndarray, np.ndarray]:
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
