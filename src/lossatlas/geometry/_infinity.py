"""Levels at infinity: the gradient vanishes because weights run away. Which units, and how."""

import itertools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


EscapeKind = Literal["step", "linear", "merging pair", "unknown"]

_GROWTH = 1.005  # of the norm over the last three decades of the gradient
_GROWTH_SLOW = 1.25  # where the gradient has not reached the tolerance
_SATURATED = 0.02  # slope on every example, relative to the largest slope seen, below which a unit is a step
_AFFINE = 0.02  # relative deviation from an affine function, below which a unit is linear on the data
_ALIKE = 0.2  # relative distance of incoming, and of opposite outgoing weights, of a merging pair


class Runaway(eqx.Module):
    """Units that run away together.

    - `units`: their names, such as `hidden[0][3]`.
    - `kind`: `"step"` (pre-activations grow on all data, the unit becomes a step), `"linear"` (incoming weights
      shrink, outgoing ones grow, the unit becomes linear), `"merging pair"` (two units approach each other with
      opposite outgoing weights, together a derivative of a unit), `"unknown"`.
    - `smallest_preactivation`, `largest_preactivation`: of |pre-activation| over data (and units).
    - `incoming_norm`, `outgoing_norm`: Euclidean norms of the weights.
    - `growth`: how much the parameters of the units grew on the way; NaN when not known.
    - `defect`: how far from its kind's limit: relative slope left (step), relative deviation from affine
      (linear), relative distance of the weights (pair).
    """

    units: tuple[str, ...] = eqx.field(static=True)
    kind: EscapeKind = eqx.field(static=True)
    smallest_preactivation: float = eqx.field(static=True)
    largest_preactivation: float = eqx.field(static=True)
    incoming_norm: float = eqx.field(static=True)
    outgoing_norm: float = eqx.field(static=True)
    growth: float = eqx.field(static=True)
    defect: float = eqx.field(static=True)


def has_run_away(norms: np.ndarray) -> bool:
    """Whether the norm kept growing while the gradient vanished.

    At a finite critical point the norm is constant over the last decades of the gradient; along a run-away it grows by
    a constant (exponential tails: 3 to 30 % over three decades near 1e-12) or by a factor (power laws).

    **Arguments:**
    - `norms`: the norm when the gradient first fell below 10^-k, NaN where it never did.
    """
    reached = int(np.sum(~np.isnan(norms))) - 1
    if reached < 6:
        return False
    last = min(reached, 12)
    growth = norms[last] / max(norms[last - 3], 1e-300)
    return bool(growth > (_GROWTH if reached >= 9 else _GROWTH_SLOW))


def classify_escape(network: Network, landscape: Landscape, *, before: Network | None = None) -> tuple[Runaway, ...]:
    """Say which units of a dense network are near a limit at infinity, and which kind it is.

    **Arguments:**
    - `network`: a [`lossatlas.networks.Dense`][]; for other networks the answer is one `"unknown"` without units.
    - `landscape`: its inputs are the data.
    - `before`: an earlier point of the same shape; then only units that grew since are named.

    **Returns:** One [`lossatlas.geometry.Runaway`][] per group, the largest growth first; one of kind
    `"unknown"` when nothing matches.
    """
    if not isinstance(network, Dense) or landscape._example_losses is not None:
        return (Runaway((), "unknown", *[float("nan")] * 6),)
    found, seen = [], set()
    for layer in range(len(network.layers) - 1):
        units = _units(network, landscape, layer, before)
        for a, b in itertools.combinations(range(len(units)), 2):
            pair = _pair(units[a], units[b], network.activation.parity)
            if pair is not None:
                found.append(pair)
                seen.update(pair.units)
        for unit in units:
            if unit["name"] in seen:
                continue
            single = _single(unit)
            if single is not None:
                found.append(single)
    if not found:
        found = [_unknown(network, landscape, before)]
    return tuple(sorted(found, key=lambda r: -np.nan_to_num(r.growth)))


def _units(network: Dense, landscape: Landscape, index: int, before: Network | None) -> list[dict]:
    layer, after = network.layers[index], network.layers[index + 1]
    features = np.asarray(jax.vmap(lambda x: network.features(x)[index])(landscape.inputs))
    z = features @ np.asarray(layer.weight).T
    bias = np.zeros(layer.num_neurons) if layer.bias is None else np.asarray(layer.bias)
    z = z + bias
    slope = np.asarray(jax.vmap(jax.vmap(jax.grad(lambda t: network.activation(t))))(jnp.asarray(z)))
    output = np.asarray(network.activation(jnp.asarray(z)))
    readers = [after.weight] if after.linear is None else [after.weight, after.linear]
    outgoing = np.concatenate([np.asarray(r) for r in readers], axis=0)
    units = []
    for s in range(layer.num_neurons):
        incoming = np.append(np.asarray(layer.weight[s]), bias[s])
        size = np.linalg.norm(np.append(incoming, outgoing[:, s]))
        units.append(
            {
                "name": f"hidden[{index}][{s}]",
                "z": z[:, s],
                "slope": slope[:, s],
                "output": output[:, s],
                "incoming": incoming,
                "outgoing": outgoing[:, s],
                "growth": size / _size(before, index, s) if isinstance(before, Dense) else float("nan"),
            }
        )
    return units


def _size(network: Dense, index: int, s: int) -> float:
    layer, after = network.layers[index], network.layers[index + 1]
    parts = [layer.weight[s], after.weight[:, s]]
    parts += [] if layer.bias is None else [layer.bias[s : s + 1]]
    parts += [] if after.linear is None else [after.linear[:, s]]
    return max(float(np.linalg.norm(np.concatenate([np.asarray(p) for p in parts]))), 1e-300)


def _runaway(units: list[dict], kind: EscapeKind, defect: float) -> Runaway:
    z = np.abs(np.concatenate([u["z"] for u in units]))
    return Runaway(
        tuple(u["name"] for u in units),
        kind,
        float(z.min()),
        float(z.max()),
        float(np.linalg.norm(np.concatenate([u["incoming"] for u in units]))),
        float(np.linalg.norm(np.concatenate([u["outgoing"] for u in units]))),
        float(max(u["growth"] for u in units)),
        float(defect),
    )


def _single(unit: dict) -> Runaway | None:
    if unit["growth"] < 1.02:
        return None
    output = unit["output"]
    spread = output.std()
    steepest = np.abs(unit["slope"]).max()
    # A step: flat at every example, and yet not constant. The largest slope of the usual units is of order one.
    if spread > 0.05 and steepest < _SATURATED:
        return _runaway([unit], "step", float(steepest))
    columns = np.stack([unit["z"], np.ones_like(unit["z"])], axis=1)
    fit = columns @ np.linalg.lstsq(columns, output, rcond=None)[0]
    deviation = np.std(output - fit) / max(spread, 1e-300)
    outgoing, incoming = np.linalg.norm(unit["outgoing"]), np.linalg.norm(unit["incoming"])
    if spread > 0 and deviation < _AFFINE and outgoing > 3 * incoming:
        return _runaway([unit], "linear", float(deviation))
    return None


def _pair(one: dict, two: dict, parity: str) -> Runaway | None:
    def distance(a, b):
        return np.linalg.norm(a - b) / max(np.linalg.norm(a) + np.linalg.norm(b), 1e-300)

    flips = [(1, 1)]
    if parity == "odd":
        flips.append((-1, -1))
    elif parity == "even":
        flips.append((-1, 1))
    for inner, outer in flips:
        defect = max(
            distance(one["incoming"], inner * two["incoming"]), distance(one["outgoing"], -outer * two["outgoing"])
        )
        if defect < _ALIKE and max(one["growth"], two["growth"]) > 1.02:
            return _runaway([one, two], "merging pair", float(defect))
    return None


def _unknown(network: Dense, landscape: Landscape, before: Network | None) -> Runaway:
    units = [u for i in range(len(network.layers) - 1) for u in _units(network, landscape, i, before)]
    grown = [u for u in units if u["growth"] > 1.1] if isinstance(before, Dense) else units
    if not grown:
        return Runaway((), "unknown", *[float("nan")] * 6)
    return _runaway(grown, "unknown", float("nan"))
