"""What can be said of every unit space of a network: constant, unread and copied units, condensation, linearity."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.atlas._diagnosis import LayerDiagnosis
from lossatlas.embedding import MergeLayer, Reduction
from lossatlas.embedding._condensed import copies
from lossatlas.embedding._unit_map import reader_norms
from lossatlas.geometry import Linearization, condensation, find_taps, linearization, unit_batches
from lossatlas.geometry._neurons import neuron_weights
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense, HasUnitSpaces, UnitSpace


_FLAT = 1e-10  # of the largest output of the space
_COPY = 1e-6
_NO_SYMMETRY = Activation("none", jnp.tanh)


def measure_layers(
    network: Network, landscape: Landscape, scale: float, share: float
) -> tuple[tuple[LayerDiagnosis, ...], tuple[str, ...]]:
    """The facts of every unit space, and what was not measured in words.

    **Arguments:**
    - `scale`: one unit of distance, in output units. `share`: what a linear layer may change, in these.
    """
    if not isinstance(network, HasUnitSpaces):
        return (), (f"layers: a {type(network).__name__} states no unit spaces (unit_spaces())",)
    is_dense = isinstance(network, Dense)
    spaces = [s for s in network.unit_spaces().values() if s.size and not (is_dense and s.kind == "linear")]
    facts, hidden = _of_readings(network, landscape)
    linear = linearization(network, landscape)
    unmeasured = _said("constant and dead units", hidden) + _said("linearization", linear.unmeasured)
    layers = []
    for space in spaces:
        layer = dataclasses.replace(_of_parameters(network, space), **facts.get(space.name, {}))
        if is_dense:
            layer = dataclasses.replace(layer, linear_units=network.num_linear[_index(layer)])
        layers.append(_with_linearity(layer, linear, scale, share))
    try:
        condensed = condensation(network, landscape)
    except InputError as error:
        return tuple(layers), (*unmeasured, f"condensation: {error}")
    unmeasured += _said("condensation", condensed.unmeasured)
    by_name = {layer.name: layer for layer in condensed.layers}
    layers = [dataclasses.replace(layer, condensation=by_name.get(layer.name)) for layer in layers]
    return tuple(layers), tuple(unmeasured)


def _said(what: str, reasons: dict[str, str]) -> list[str]:
    """One line for each reason, with the spaces that it is true of."""
    spaces: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        spaces.setdefault(reason, []).append(name)
    return [f"{what} of {', '.join(names)}: {reason}" for reason, names in spaces.items()]


def _with_linearity(layer: LayerDiagnosis, linear: Linearization, scale: float, share: float) -> LayerDiagnosis:
    fact = next((fact for fact in linear.layers if fact.name == layer.name), None)
    if fact is None:
        return layer
    return dataclasses.replace(
        layer,
        linearization=fact,
        linear_change=fact.max_change / scale,
        is_linear=fact.max_change <= share * scale,
        near_kinks=fact.near_kinks,
    )


def with_widths(
    layers: tuple[LayerDiagnosis, ...], exact: tuple[Dense, Reduction], practical: tuple[Dense, Reduction]
) -> tuple[LayerDiagnosis, ...]:
    """The layers of a `Dense` with the widths that two reductions leave."""
    sizes = []
    for network, reduction in (exact, practical):
        pairs = zip(network.widths[1:-1], network.num_linear, strict=True)
        kept = surviving_layers(reduction)
        # A network of no hidden layer may have been given one of linear units; the first layer holds it.
        sizes.append({f"hidden[{j}]": pair for j, pair in zip(kept or [0], pairs, strict=False)})
    return tuple(
        dataclasses.replace(layer, exact=sizes[0].get(layer.name, (0, 0)), effective=sizes[1].get(layer.name, (0, 0)))
        for layer in layers
    )


def with_sizes(layers: tuple[LayerDiagnosis, ...], exact: Network, practical: Network) -> tuple[LayerDiagnosis, ...]:
    """The layers of any network with the units that two reductions leave in each space."""
    left = [{name: (space.size, 0) for name, space in net.unit_spaces().items()} for net in (exact, practical)]
    return tuple(
        dataclasses.replace(layer, exact=left[0][layer.name], effective=left[1][layer.name]) for layer in layers
    )


def surviving_layers(reduction: Reduction) -> list[int]:
    """Which hidden layers of the big network a reduction has left, by their old index."""
    assert isinstance(reduction.start, Dense)
    left = list(range(len(reduction.start.layers) - 1))
    for step in reduction.plan:
        if isinstance(step, MergeLayer):
            del left[step.layer]
    return left


def kink_caution(layers: tuple[LayerDiagnosis, ...]) -> str | None:
    """That derivatives are one-sided, where examples lie on kinks."""
    pairs = sum(layer.near_kinks for layer in layers)
    if not pairs:
        return None
    what = "pair of a neuron and an example lies" if pairs == 1 else "pairs of a neuron and an example lie"
    return (
        f"{pairs:,} {what} at a kink of the activation: derivatives there are one-sided, so gradient and "
        "curvature hold on one side only."
    )


def _index(layer: LayerDiagnosis) -> int:
    return int(layer.name.removeprefix("hidden[").removesuffix("]"))


def _of_parameters(network: Network, space: UnitSpace) -> LayerDiagnosis:
    """What the parameters alone say, for every architecture."""
    unread = np.flatnonzero(reader_norms(network, space) == 0)
    found, missing = None, ()
    if space.shares == "any":
        writers = np.asarray(neuron_weights(network, space)[0], float)
        # Where a normalisation stands between, or no activation, only equal weights are copies for sure.
        known = space.activation if not space.is_normalised and space.kind == "neuron" else None
        leaders, _ = copies(writers, known or _NO_SYMMETRY, _COPY)
        members = [_tuple(np.flatnonzero(leaders == head)) for head in np.unique(leaders)]
        found = tuple(group for group in members if len(group) > 1)
    else:
        missing = (f"copies: the units of {space.name} cannot be shared out one by one",)
    return LayerDiagnosis(space.name, space.kind, space.size, unread=_tuple(unread), copies=found, unmeasured=missing)


def _of_readings(network: Network, landscape: Landscape) -> tuple[dict[str, dict], dict[str, str]]:
    """Constant and dead units, from what readers read; and the spaces that cannot be seen, with reasons."""
    taps = find_taps(network, landscape.inputs[0])
    low, high = ({name: np.asarray(start) for name in taps.taps} for start in (math.inf, -math.inf))
    for _, seen in unit_batches(taps, network, landscape.inputs):
        for name, values in seen.items():
            low[name] = np.minimum(low[name], values.min(axis=(0, 1)))
            high[name] = np.maximum(high[name], values.max(axis=(0, 1)))
    meets = "queries and keys meet each other; nothing reads them alone"
    hidden = {name: meets if taps.spaces[name].kind == "dimension" else why for name, why in taps.hidden.items()}
    return {name: _idle(low[name], high[name]) for name in taps.taps}, hidden


def _idle(low: Float[np.ndarray, " m"], high: Float[np.ndarray, " m"]) -> dict[str, tuple[int, ...]]:
    largest = max(np.abs(low).max(initial=0.0), np.abs(high).max(initial=0.0))
    constant = np.flatnonzero(high - low <= _FLAT * largest)
    return {"constant": _tuple(constant), "dead": _tuple(np.flatnonzero((low == 0) & (high == 0)))}


def _tuple(index: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in index)
