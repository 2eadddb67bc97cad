"""Levels at infinity: the gradient vanishes because weights run away. Which units, and how."""

import itertools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


EscapeKind = Literal["step", "linear", "merging pair", "merging group", "separable", "unknown"]

_STAYED = 1.005  # growth of the norm over the last three decades of the gradient at a finite critical point, at most
_NAMED = 1.02  # growth that counts where the units show how they run away
_GROWN = 1.25  # growth that counts by itself
_CLEAR = 9  # decades of the gradient after which a finite critical point stands still
_SATURATED = 0.02  # slope on every example, relative to the largest slope seen, below which a unit is a step
_AFFINE = 0.02  # relative deviation from an affine function, below which a unit is linear on the data
_MAX_GROUP = 4
_MAX_CLUSTER = 8  # units of nearly equal incoming weights among which groups are looked for
_CERTAIN = 1e-3  # probability of the other answer, on every example, below which a class is separated
_ALIKE = 0.2  # relative distance of incoming, and of opposite outgoing weights, of a merging pair


@shown
class Runaway(eqx.Module):
    """Units that run away together.

    - `units`: their names, such as `hidden[0][3]`.
    - `kind`: `"step"` (pre-activations grow on all data, the unit becomes a step), `"linear"` (incoming weights
      shrink, outgoing ones grow, the unit becomes linear), `"merging pair"` (two units approach each other with
      opposite outgoing weights, together a derivative of a unit), `"merging group"` (the same with more units, a
      higher derivative), `"separable"` (cross-entropy: a class can be told apart without error, its logits grow),
      `"unknown"`.
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


def _growth(norms: np.ndarray) -> tuple[int, float]:
    """How many decades the gradient has fallen below 1, and the growth of the norm over the last three of them."""
    reached = int(np.sum(~np.isnan(norms))) - 1
    if reached < 3:
        return reached, float("nan")
    last = min(reached, 12)  # below 1e-12 rounding errors may move the point
    return reached, float(norms[last] / max(norms[last - 3], 1e-300))


def has_stayed(norms: np.ndarray) -> bool:
    """Whether the norm was constant while the gradient vanished, as it is at a finite critical point.

    **Arguments:**
    - `norms`: the norm when the gradient fell below 10^-k, NaN where it never did.
    """
    _, growth = _growth(norms)
    return not growth > _STAYED


def has_run_away(norms: np.ndarray, runaway: "tuple[Runaway, ...]") -> bool:
    """Whether the norm kept growing while the gradient vanished.

    Along a run-away the norm grows by a constant a decade (exponential tails: 3 to 30 % over three decades near
    1e-12) or by a factor (power laws). Where the gradient has not fallen far yet, the units must show it.

    **Arguments:**
    - `norms`: as in `has_stayed`. `runaway`: what `classify_escape` says.
    """
    reached, growth = _growth(norms)
    if reached >= _CLEAR:
        return growth > _STAYED
    is_named = any(r.kind != "unknown" for r in runaway)
    if is_named:
        return growth > _NAMED
    return reached >= 6 and growth > _GROWN and bool(norms[reached] > _NAMED * norms[reached - 1])


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
    found = []
    for layer in range(len(network.layers) - 1):
        units = _units(network, landscape, layer, before)
        groups = _merging_groups(units, network.activation.parity)
        found += groups
        seen = {name for group in groups for name in group.units}
        singles = [_single(unit) for unit in units if unit["name"] not in seen]
        found += [single for single in singles if single is not None]
    if not found and landscape.loss is not None and landscape.loss.name in ("cross_entropy", "logistic"):
        found = _separable(network, landscape, before)
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
    if unit["growth"] < _NAMED:
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


def _merging_groups(units: list[dict], parity: str) -> list[Runaway]:
    """Merging units among those that grew, pairs before larger groups; no unit is in two of them."""
    found, seen = [], set()
    # Without an earlier point the growth is NaN, and every unit counts.
    grown = [unit for unit in units if not unit["growth"] < _NAMED]
    for size in range(2, _MAX_GROUP + 1):
        free = [unit for unit in grown if unit["name"] not in seen]
        for i, first in enumerate(free):
            for others in itertools.combinations(_cluster(first, free[i + 1 :], parity), size - 1):
                merging = _merging([first, *others], parity)
                if merging is not None and not seen & set(merging.units):
                    found.append(merging)
                    seen.update(merging.units)
    return found


def _cluster(first: dict, others: list[dict], parity: str) -> list[dict]:
    """Those whose incoming weights nearly agree with the first; of many, the ones of the largest outgoing weights."""
    if not others:
        return []
    incoming = np.stack([unit["incoming"] for unit in others])
    if parity in ("odd", "even"):
        incoming = np.where(incoming @ first["incoming"] < 0, -1.0, 1.0)[:, None] * incoming
    sizes = np.linalg.norm(first["incoming"]) + np.linalg.norm(incoming, axis=1)
    spread = np.linalg.norm(incoming - first["incoming"], axis=1) / np.maximum(sizes, 1e-300)
    near = np.flatnonzero(spread <= _ALIKE)
    outgoing = [np.linalg.norm(others[i]["outgoing"]) for i in near]
    heaviest = near[np.argsort(outgoing, kind="stable")[::-1][: _MAX_CLUSTER - 1]]
    return [others[i] for i in np.sort(heaviest)]


def _merging(units: list[dict], parity: str) -> Runaway | None:
    """Units whose incoming weights agree (up to sign) while their outgoing weights, much larger, nearly cancel."""
    first = units[0]
    outgoing, spread = np.zeros_like(first["outgoing"]), 0.0
    for unit in units:
        alignment = float(unit["incoming"] @ first["incoming"])
        inner = -1.0 if alignment < 0 and parity in ("odd", "even") else 1.0
        outer = inner if parity == "odd" else 1.0
        size = np.linalg.norm(first["incoming"]) + np.linalg.norm(unit["incoming"])
        spread = max(spread, float(np.linalg.norm(inner * unit["incoming"] - first["incoming"]) / max(size, 1e-300)))
        outgoing = outgoing + outer * unit["outgoing"]
    total = sum(np.linalg.norm(u["outgoing"]) for u in units)
    defect = max(spread, float(np.linalg.norm(outgoing) / max(total, 1e-300)))
    if defect > _ALIKE:
        return None
    return _runaway(units, "merging pair" if len(units) == 2 else "merging group", defect)


def _separable(network: Dense, landscape: Landscape, before: Network | None) -> list[Runaway]:
    """Under cross-entropy, a class (of softmax, or one for each sigmoid) told apart while the outputs grow."""
    assert landscape.loss is not None
    logits = np.asarray(landscape.predictions(network)).reshape(landscape.size, -1)
    probabilities = np.asarray(landscape.loss.link(jnp.asarray(logits)))
    # How far each class is from being decided on every example.
    doubt = np.minimum(probabilities, 1 - probabilities).max(axis=0)
    growth = float("nan")
    if isinstance(before, Dense):
        earlier = np.ptp(np.asarray(landscape.predictions(before)))
        growth = float(np.ptp(logits) / max(earlier, 1e-300))
    if doubt.min() > _CERTAIN or growth < _NAMED:
        return []
    last = network.layers[-1].weight
    size = float(np.linalg.norm(np.asarray(last)))
    classes = tuple(f"output[{c}]" for c in np.flatnonzero(doubt <= _CERTAIN))
    low, high = float(np.abs(logits).min()), float(np.abs(logits).max())
    return [Runaway(classes, "separable", low, high, size, float("nan"), growth, float(doubt.min()))]


def _unknown(network: Dense, landscape: Landscape, before: Network | None) -> Runaway:
    units = [u for i in range(len(network.layers) - 1) for u in _units(network, landscape, i, before)]
    grown = [u for u in units if u["growth"] > 1.1] if isinstance(before, Dense) else units
    if not grown:
        return Runaway((), "unknown", *[float("nan")] * 6)
    return _runaway(grown, "unknown", float("nan"))
