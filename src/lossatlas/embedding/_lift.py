"""Depth embedding: insert a hidden layer that acts linearly on the data."""

from typing import Literal

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
    shift_layer,
    split_readers,
)
from lossatlas.embedding._layer_steps import MergeLayer, merge_defect
from lossatlas.embedding._record import Data, Record, inputs_of, make_record, pull_back
from lossatlas.embedding._segments import choose_piece, lines, place, place_dead, place_without_bias
from lossatlas.networks import Dense


Mode = Literal["right", "left", "lemma"]


class LiftStep(eqx.Module):
    r"""Insert a hidden layer before `layer`: weight V, bias b', readers U with $U \Lambda V = W$.

    On a network other than the one that the lift was made for, the freedom is kept as it was: V and b' with
    U moved by $(W - W_0) V^+ \Lambda^{-1}$ (mode right), or U with V moved by $\Lambda^{-1} U^+ (W - W_0)$ (mode left).

    - `weight`, `bias`, `readers`: V, b' (None without biases) and U. `original`: $W_0$, what they factor, but for a
      part that no example feels; `shift`: what then is added to the bias, or None.
    - `slope`, `offset`: $\lambda_j$, $\mu_j$ of each inserted neuron on the data; the slope of dead ones is 0.
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
    shift: Float[Array, " q"] | None
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
            is_alive = self.slope != 0
            moved = jnp.linalg.pinv(jnp.where(is_alive, readers, 0.0)) @ change
            weight = weight + moved / jnp.where(is_alive, self.slope, 1.0)[:, None]
        inserted = LayerArrays(weight, self.bias, None)
        following = split_readers(old, readers, old.bias)
        deep = [*layers[: self.layer], inserted, following, *layers[self.layer + 1 :]]
        constants = self.offset if self.bias is None else self.slope * self.bias + self.offset
        if can_shift(deep, self.layer + 1):
            deep = fold_constants(deep, self.layer, -constants)
        if self.shift is not None:
            deep = shift_layer(deep, self.layer + 1, self.shift)
        return as_network(deep, dense.activation)

    def apply_inverse(self, network: Network) -> Dense:
        r"""$\Phi$: the shallow network that a network near the lift equals on the data."""
        return MergeLayer(self.layer, self.slope, self.offset).apply(network)

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        r"""$\nabla_{deep} = D\Phi^\top \nabla_{shallow}$, at every point."""
        return pull_back(self, network, gradient)


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
    off_data: float | int = 0.0,
    dead: int = 0,
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
    - `width`: neurons of the inserted layer, at least min(m, q) besides dead ones, m units entering and q reading.
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
    - `off_data`: how far $U \Lambda V$ may leave W where the data never goes (what enters the layer, with a 1, has not
      full rank): the standard deviation of a random change there. Outputs on the data stay; for `before` = 0 critical
      points stay critical too, for others they do not, since the layers below see other readers.
    - `dead`: how many of the inserted neurons lie on a flat piece of the activation for all the data, with random
      weights and readers: $\lambda_j = 0$, and b'' holds the constant.

    **Returns:**
    The deeper network and its record; `record.plan[0]` is a [`lossatlas.embedding.LiftStep`][] with the rank
    defect and the margin. Cost: a pass over the data and a few decompositions of size width.

    **Raises:** `InputError` for another architecture, bad sizes, NaN or empty data, activations without affine piece
    when `exact`, activations without a slope around the middle of the piece (an even one around 0); where no bias
    can hold the constants (networks without biases need pre-activations that stay in a piece through the origin:
    ReLU with non-negative features); `off_data` where the data has full rank; and `dead` neurons without biases or
    of an activation without flat piece.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283: one-layer lifting, Lemma 1 and Proposition 2.
    """
    if not isinstance(network, Dense):
        msg = (
            f"lift needs a lossatlas.networks.Dense, got {type(network).__name__}; lossatlas.embedding.deepen picks "
            "what other architectures allow: lift_block (Residual), lift_convolution (Conv), add_null_block."
        )
        raise InputError(msg)
    dense = network
    inputs = inputs_of(landscape, "lift")
    layers = arrays_of(dense)
    if not 0 <= before < len(layers):
        msg = f"before must be 0 to {len(layers) - 1}, the layer that reads the inserted one, got {before}."
        raise InputError(msg)
    target = layers[before].readers
    q, m = target.shape
    if not 0 <= dead < width:
        msg = f"dead must be 0 to width - 1 = {width - 1}, got {dead}."
        raise InputError(msg)
    mode = _check_mode(mode, width - dead, m, q)
    if not 0 < margin < 1:
        msg = f"margin must lie in (0, 1), got {margin}."
        raise InputError(msg)
    if not (np.isfinite(extent) and extent > 0):
        msg = f"extent must be positive and finite, got {extent}."
        raise InputError(msg)
    piece = choose_piece(dense.activation, segment, exact=exact, extent=float(extent))
    features = np.asarray(jax.vmap(lambda x: dense.features(x)[before])(inputs))
    wanted, shift = np.asarray(target), None
    if off_data:
        if not can_shift(layers, before):
            msg = "off_data needs readers with a bias."
            raise InputError(msg)
        change = _off_data(features, q, float(off_data), jax.random.fold_in(key, 2))
        wanted, shift = wanted + change[:, :-1], change[:, -1]
    weight, readers, inner = _factors(wanted, width - dead, mode, jax.random.fold_in(key, 0))
    bias = None
    if can_shift(layers, before):
        weight, bias, scales = place(weight, features, piece, margin, key, common=mode == "lemma")
    else:
        placed = place_without_bias(dense.activation, weight, readers, wanted, features, piece)
        weight, readers, scales = placed
        inner = "right" if scales.min() == 1 and len(weight) >= m else inner
    readers = readers / scales
    pre = features @ weight.T + (0.0 if bias is None else bias)
    slope, offset = lines(dense.activation, pre, piece)
    readers = readers / slope
    room = np.minimum(pre - piece.lower, piece.upper - pre).min()
    if dead:
        if bias is None:
            msg = "Dead neurons need biases: of their own, and of what reads them."
            raise InputError(msg)
        keys = jax.random.split(jax.random.fold_in(key, 3), 2)
        flat = place_dead(dense.activation, features, dead, margin, keys[0])
        weight, bias = np.vstack([weight, flat.weight]), np.append(bias, flat.bias)
        slope, offset = np.append(slope, np.zeros(dead)), np.append(offset, flat.values)
        readers = np.hstack([readers, np.asarray(jax.random.normal(keys[1], (q, dead), float))])
        room = min(room, flat.room)
    inserted = LayerArrays(weight, bias, None)
    defect = merge_defect(inserted, LayerArrays(readers, None, None), slope)
    step = LiftStep(
        layer=before,
        weight=jnp.asarray(weight),
        bias=None if bias is None else jnp.asarray(bias),
        readers=jnp.asarray(readers),
        original=target,
        shift=None if shift is None else jnp.asarray(shift),
        slope=jnp.asarray(slope),
        offset=jnp.asarray(offset),
        mode=inner,
        segment=jnp.asarray([piece.lower, piece.upper]),
        margin=jnp.asarray(room),
        defect=defect,
        is_exact=piece.is_exact,
        note=f"linear hidden layer of {width} neurons inserted before layer {before}"
        + (f", {dead} of them dead" if dead else ""),
    )
    cautions = []
    if not piece.is_exact:
        cautions.append("The inserted layer is only nearly affine: outputs and gradients change.")
    if off_data and before > 0:
        cautions.append("The layers below see other readers than before: critical points do not stay critical.")
    return make_record(dense, (step,), landscape, " ".join(cautions) or None)


def _off_data(features: np.ndarray, q: int, scale: float, key: PRNGKeyArray) -> np.ndarray:
    """A random change of the weights and biases, shape (q, m + 1), that no example feels."""
    entering = np.hstack([features, np.ones((len(features), 1))])
    _, values, rows = np.linalg.svd(entering, full_matrices=True)
    rank = int(np.sum(values > 1e-10 * values[0]))
    if rank == entering.shape[1]:
        msg = f"off_data: what enters the layer has full rank {rank} on this data, so nothing is free off it."
        raise InputError(msg)
    return scale * np.asarray(jax.random.normal(key, (q, entering.shape[1] - rank), float)) @ rows[rank:]


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
