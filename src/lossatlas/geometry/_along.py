"""Measure the loss along a path: one compiled program, called piece by piece."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network
from lossatlas.geometry._classes import class_kind, loss_and_error
from lossatlas.geometry._path import Path, check_statistics, point
from lossatlas.landscape import Landscape
from lossatlas.numerics import flat_jaxpr


_CHUNK = 16  # points that one call of the program measures at most


class Along(NamedTuple):
    """Values at places along a path; None for what the landscape does not have."""

    loss: Float[np.ndarray, " n"]
    accuracy: Float[np.ndarray, " n"] | None
    change: Float[np.ndarray, " n"] | None


class Measure:
    """The loss, the accuracy and the change of the outputs since the start, at places along a path.

    On the CPU up to 16 places of a segment go into one call of a compiled loop, whose number is no part of the program.
    Convolutions are slow inside a loop there, so networks that have some are measured place by place.

    **Arguments:**
    - `wants_change`: whether outputs are compared with those at the start of the path.

    **Raises:** `InputError` for running statistics that do not interpolate.
    """

    def __init__(self, path: Path, landscape: Landscape, *, wants_change: bool = False):
        check_statistics(path)
        self.path, self.landscape = path, landscape
        self.origin = None
        self.count = 0
        self.kind = class_kind(landscape)
        if wants_change and landscape.has_predictions:
            self.origin = predictions(landscape, path(0.0))
        self.chunk = 1 if _has_convolution(path, landscape) else _CHUNK

    def __call__(self, t: Float[np.ndarray, " n"]) -> Along:
        """The values at places t, each between 0 and 1, increasing."""
        rows: list[np.ndarray] = []
        start = 0
        while start < len(t):
            controls, _ = self.path.piece(t[start])
            stop = start + 1
            while stop < min(len(t), start + self.chunk) and self.path.piece(t[stop])[0][0] is controls[0]:
                stop += 1
            local = np.zeros((2, self.chunk))
            local[:, : stop - start] = [self.path.piece(at)[1] for at in t[start:stop]], t[start:stop]
            values = _values(
                controls,
                self.path.kind,
                self.path.refresh,
                self.landscape,
                self.kind,
                self.origin,
                jnp.asarray(local),
                jnp.asarray(stop - start) if self.chunk > 1 else None,
            )
            rows.append(np.asarray(values, float)[: stop - start])
            start = stop
        self.count += len(t)
        table = np.concatenate(rows) if rows else np.zeros((0, 3))
        return Along(
            table[:, 0],
            None if self.kind is None else table[:, 1],
            None if self.origin is None else table[:, 2],
        )


@eqx.filter_jit
def predictions(landscape: Landscape, network: Network) -> Array:
    """The outputs on all data, compiled."""
    return landscape.predictions(network)


@eqx.filter_jit
def _values(controls, kind, refresh, landscape, classes, origin, places, count) -> Float[Array, "chunk 3"]:
    def at(i) -> Float[Array, " 3"]:
        network = point(controls, kind, places[0, i])
        if refresh is not None:
            network = refresh(network, places[1, i])
        loss, error = loss_and_error(landscape, classes, network)
        change = jnp.zeros(()) if origin is None else jnp.max(jnp.abs(landscape.predictions(network) - origin))
        return jnp.stack([jnp.asarray(v, places.dtype) for v in (loss, 1 - error, change)])

    if count is None:
        return at(0)[None]
    rows = jnp.zeros((places.shape[1], 3), places.dtype)
    return jax.lax.fori_loop(0, count, lambda i, rows: rows.at[i].set(at(i)), rows)


def _has_convolution(path: Path, landscape: Landscape) -> bool:
    if jax.default_backend() != "cpu":
        return False
    arrays, rest = eqx.partition((path.vertices[0], landscape), eqx.is_array)

    def loss(arrays: Any) -> Array:
        network, data = eqx.combine(arrays, rest)
        return data(network)

    flat = flat_jaxpr(loss, arrays)
    return any(_is_convolution(eqn) for eqn in flat.jaxpr.eqns)


def _is_convolution(eqn: Any) -> bool:
    if eqn.primitive.name == "conv_general_dilated":
        return True
    return eqn.primitive.name in ("scan", "while", "cond") and "conv_general_dilated" in str(eqn.params)
