"""Condensation: how many directions the neurons of each layer really use, and which belong together."""

import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._diversity import check_keep, check_theta
from lossatlas.geometry._grouping import Grouping, group
from lossatlas.geometry._hidden import HiddenState, require_dense, state_batches, triangular_factor
from lossatlas.geometry._neurons import neuron_spaces, neuron_weights, orientation_and_amplitude, parity
from lossatlas.geometry._unit_activations import find_stages, unit_directions
from lossatlas.geometry._unit_outputs import UnitTaps, find_taps, unit_batches
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, UnitSpace


@shown
class Cluster(eqx.Module):
    r"""Neurons of one direction.

    - `members`: neurons of the layer by index; `mass`: their share of the amplitude.
    - `direction`: their amplitude-weighted mean orientation; `radius`: the largest angle to it, in degrees.
    - `outgoing`: $\sum_j \pm a_j |w_j|$, the signed total amplitude for each reader; cancellation shows here. The
      sign is that of a neuron folded onto the direction, for odd activations.
    - `kink`: -b/w, where the pre-activation vanishes, for one-dimensional inputs with a bias; else None.
    """

    members: tuple[int, ...] = eqx.field(static=True)
    mass: float = eqx.field(static=True)
    direction: Float[Array, " d"]
    radius: float = eqx.field(static=True)
    outgoing: Float[Array, " o"]
    kink: float | None = eqx.field(static=True)


@shown
class LayerCondensation(eqx.Module):
    """Condensation of one unit space.

    - `orientation` (rows: weights, then bias; a normalisation by running statistics is multiplied in) and `amplitude`
      |a| |(w, b)|: of every unit of the layer.
    - `by_direction`: the [`lossatlas.geometry.Grouping`][] of the weight vectors, `clusters` its clusters.
    - `by_function`: the grouping of the neurons' outputs over the data; None without a landscape.
    - `are_lines`: whether opposite weight vectors count as the same (odd and even activations).
    - `dead`: neurons whose output is 0 on all data; None without a landscape.
    """

    name: str = eqx.field(static=True)
    orientation: Float[Array, "m d"]
    amplitude: Float[Array, " m"]
    by_direction: Grouping
    by_function: Grouping | None
    clusters: tuple[Cluster, ...]
    are_lines: bool = eqx.field(static=True)
    dead: tuple[int, ...] | None = eqx.field(static=True)

    @property
    def effective_number(self) -> Float[Array, ""]:
        """The effective number of neurons, by direction."""
        return self.by_direction.effective_number

    @property
    def cosines(self) -> Float[np.ndarray, "a a"]:
        """Between active neurons' weight vectors, ordered by group; without sign where opposite ones are the same."""
        order = np.asarray(self.by_direction.order)
        cosines = np.asarray(self.by_direction.similarity)[order][:, order]
        return np.abs(cosines) if self.are_lines else cosines


@shown
class Condensation(eqx.Module):
    """Condensation of all hidden layers; see [`lossatlas.geometry.condensation`][].

    `unmeasured`: the spaces whose units have no direction of their own, or no amplitude, and why.
    """

    layers: tuple[LayerCondensation, ...]
    unmeasured: dict[str, str]
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def effective_neurons(self) -> Float[Array, " layers"]:
        """The effective number of neurons of each layer, by direction."""
        return jnp.stack([layer.effective_number for layer in self.layers]) if self.layers else jnp.zeros(0)

    def __getitem__(self, name: str) -> LayerCondensation:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown_name("unit space", name, [layer.name for layer in self.layers])

    def to_xarray(self):
        """The numbers of each layer as an `xarray.Dataset` over `layer`."""
        import xarray as xr

        groups = [layer.by_direction for layer in self.layers]
        columns = {
            "effective_number": [float(g.effective_number) for g in groups],
            "null_number": [float(g.null_number) for g in groups],
            "index": [float(g.index) for g in groups],
            "num_clusters": [g.num_clusters for g in groups],
            "cover_lower": [g.cover[0] for g in groups],
            "cover_upper": [g.cover[1] for g in groups],
            "is_ambiguous": [g.is_ambiguous for g in groups],
        }
        return xr.Dataset(
            {name: ("layer", column) for name, column in columns.items()},
            coords={"layer": [layer.name for layer in self.layers]},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import groups_figure

        rows = [
            {
                "name": layer.name,
                "size": len(layer.amplitude),
                "effective_number": float(layer.effective_number),
                "similarity": layer.cosines.tolist(),
                "neurons_shown": np.asarray(layer.by_direction.active)[np.asarray(layer.by_direction.order)].tolist(),
            }
            for layer in self.layers
        ]
        return groups_figure({"layers": rows}) if any(row["similarity"] for row in rows) else None


def condensation(
    network: Network,
    landscape: Landscape | None = None,
    *,
    keep: float = 0.99,
    theta: float = 15.0,
    fold: Literal["auto", "lines", "directions"] = "auto",
    metric: Literal["weights", "data"] = "weights",
    num_draws: int = 32,
    key: PRNGKeyArray | None = None,
) -> Condensation:
    r"""Measure how far the neurons of each hidden layer have condensed onto a few directions.

    A neuron is its writer w (weights and bias) and its reader a (the column of the next layer); orientation
    $w/|w|$, amplitude $|a||w|$. The effective number of neurons (Leinster and Cobbold 2012) needs no clustering and no
    threshold beside the angle `theta`; a null model of isotropic directions says what a random layer of this size
    would show. Clusters, Hill numbers and bounds on the effective number of Zhang and Xu (2024, Definition 1) stand
    beside it. Cost: $m^2$ angles a layer and `num_draws` random ones; memory $m^2$ numbers.

    Of a channel the kernel is the writer. Where units are normalised by running statistics, the direction is that of
    the affine map to their pre-activation, the statistics multiplied in. Linear units, heads, queries, keys and values
    may be mixed freely among each other, a stream is shared by all blocks, and a gated unit has two writers: these have
    no direction that says what they do, and are left out.

    **Arguments:**
    - `network`: states its unit spaces, or was discovered. Those of neurons are measured; with a landscape those of
      channels too, and what is normalised.
    - `landscape`: its inputs are used to compare the units' outputs as well (functional condensation), to find dead
      units, and for `metric="data"`, which needs a [`lossatlas.networks.Dense`][].
    - `keep`: the share of the amplitude that is kept; the smallest neurons beyond it are dropped.
    - `theta`: the angle in degrees below which neurons count together.
    - `fold`: `"auto"` takes opposite vectors as the same when the activation, tested on [-3, 3], is odd or even.
    - `metric`: `"weights"` takes angles as they are, so they depend on the units of the inputs; `"data"` takes the
      angles between the pre-activations over the data, which affine changes of the inputs leave alone.
    - `num_draws`: draws of the null model, at least 2. `key`: of these draws; default `jax.random.key(0)`.

    **Returns:**
    A [`lossatlas.geometry.Condensation`][], layer by layer.

    **Raises:** `InputError` for NaN parameters, a fully connected layer whose amplitudes are all 0, theta <= 0, keep
    outside (0, 1], unknown options, and inputs that do not fit.

    !!! cite
        Zhou, Zhou, Luo, Zhang and Xu 2022, arXiv 2105.11686; Zhang and Xu 2024, arXiv 2207.05952; Leinster and
        Cobbold 2012.
    """
    begin = time.perf_counter()
    check_theta(theta)
    check_keep(keep)
    if fold not in ("auto", "lines", "directions"):
        raise unknown_name("fold", fold, ("auto", "lines", "directions"))
    if metric not in ("weights", "data"):
        raise unknown_name("metric", metric, ("weights", "data"))
    if metric == "data" and landscape is None:
        msg = "metric='data' compares pre-activations over the data; give the landscape too."
        raise InputError(msg)
    if num_draws < 2:
        msg = f"num_draws must be at least 2 for the null model to have an error, got {num_draws}."
        raise InputError(msg)
    if not isinstance(network, Dense) and metric == "data":
        require_dense(network, "condensation(metric='data')")
    neurons = {space.name: space for space in neuron_spaces(network)}
    _check_finite(network)
    found: dict[str, tuple[UnitSpace, np.ndarray, _Observed | None]] = {}
    unmeasured: dict[str, str] = {}
    if landscape is None or isinstance(network, Dense):
        seen = dict.fromkeys(neurons) if landscape is None else _observe(network, landscape)
        for name, space in neurons.items():
            if space.is_normalised:
                unmeasured[name] = "its units are normalised; give the landscape too, to measure what they then receive"
            elif space.size:
                found[name] = space, np.asarray(_weights(network, space)[0], float), seen[name]
    else:
        taps = find_taps(network, landscape.inputs[0])
        stages = find_stages(taps, network)
        seen = _observe_units(taps, network, landscape)
        unmeasured |= {name: _NO_DIRECTION.get(taps.spaces[name].kind, why) for name, why in stages.missing.items()}
        for name, rows in unit_directions(stages, network, landscape.inputs[0]).items():
            found[name] = taps.spaces[name], rows, seen.get(name)
    key = jax.random.key(0) if key is None else key
    layers = []
    for i, (name, (space, rows, observed)) in enumerate(found.items()):
        readers = np.asarray(_weights(network, space)[1], float)
        if not (np.linalg.norm(rows, axis=1) @ np.linalg.norm(readers, axis=1)) > 0 and not isinstance(network, Dense):
            unmeasured[name] = "all its units have amplitude 0"
            continue
        parts = rows, readers, observed, jax.random.fold_in(key, i)
        layers.append(_measure_layer(space, *parts, keep, theta, fold, metric, num_draws))
    return Condensation(
        layers=tuple(layers),
        unmeasured=unmeasured,
        stats={"seconds": time.perf_counter() - begin},
        settings={"keep": keep, "theta": theta, "fold": fold, "metric": metric, "num_draws": num_draws},
    )


_NO_DIRECTION = {
    "gated": "a gated unit has two writers, and the direction of neither says what it does",
    "head": "coordinates of a head may be mixed freely, so its weights have no direction of their own",
    "dimension": "the coordinates may be mixed freely, so they have no direction of their own",
    "linear": "linear units may be mixed freely, so they have no direction of their own",
    "stream": "it is shared by all blocks, so no single writer says what a coordinate does",
}

# Compiled whole: a first call op by op costs seconds.
_weights = eqx.filter_jit(neuron_weights)


class _Observed(eqx.Module):
    """What the data show of a layer: R factors of the neurons' inputs (with a 1) and outputs, divided by sqrt(n).

    `entering` is None for other architectures than `Dense`; their positions count as examples.
    """

    entering: np.ndarray | None
    outputs: np.ndarray
    largest: np.ndarray


def _observe(network: Network, landscape: Landscape) -> dict[str, _Observed]:
    dense = require_dense(network, "condensation(network, landscape)")
    factors: list[list[Any]] = [[None, None, 0.0] for _ in dense.layers[:-1]]
    for states in state_batches(dense, landscape):
        for factor, state, layer in zip(factors, states, dense.layers, strict=False):
            factor[0] = triangular_factor(factor[0], _with_one(state, layer.bias is not None))
            factor[1] = triangular_factor(factor[1], np.asarray(state.after))
            factor[2] = np.maximum(factor[2], np.abs(state.after).max(0, initial=0.0))
    root = np.sqrt(landscape.size)
    return {
        f"hidden[{i}]": _Observed(entering / root, outputs / root, largest)
        for i, (entering, outputs, largest) in enumerate(factors)
    }


def _observe_units(taps: UnitTaps, network: Network, landscape: Landscape) -> dict[str, _Observed]:
    """What the readers of every space read."""
    factors: dict[str, np.ndarray] = {}
    largest: dict[str, np.ndarray] = {}
    for _, seen in unit_batches(taps, network, landscape.inputs):
        for name, values in seen.items():
            flat = values.reshape(-1, values.shape[-1]).astype(float)
            factors[name] = triangular_factor(factors.get(name), flat)
            largest[name] = np.maximum(np.abs(flat).max(0, initial=0.0), largest.get(name, 0.0))
    root = np.sqrt(landscape.size)
    return {name: _Observed(None, factor / root, largest[name]) for name, factor in factors.items()}


def _with_one(state: HiddenState, has_bias: bool) -> np.ndarray:
    entering = np.asarray(state.entering)
    return np.concatenate([entering, np.ones((len(entering), 1))], axis=1) if has_bias else entering


def _measure_layer(
    space: UnitSpace,
    writers: np.ndarray,
    readers: np.ndarray,
    observed: _Observed | None,
    key: PRNGKeyArray,
    keep: float,
    theta: float,
    fold: str,
    metric: str,
    num_draws: int,
) -> LayerCondensation:
    # Without a named activation nothing is known of its symmetry.
    kind = "none" if space.activation is None else parity(space.activation)
    lines = fold == "lines" or (fold == "auto" and kind != "none")
    compared, dimension = writers, writers.shape[1]
    if metric == "data" and observed is not None and observed.entering is not None:
        compared = writers @ observed.entering.T
        dimension = int(np.linalg.matrix_rank(observed.entering))
    units, amplitudes = orientation_and_amplitude(compared, readers)
    if not float(amplitudes.sum()) > 0:
        msg = (
            f"All neurons of {space.name} have amplitude |a| |(w, b)| = 0, so they have no orientation. Measure a "
            "network that was initialised, or reduce this layer first."
        )
        raise InputError(msg)
    by_direction = group(
        units,
        amplitudes,
        lines=lines,
        theta=theta,
        keep=keep,
        null_key=key,
        null_dimension=dimension,
        num_draws=num_draws,
    )
    by_function, dead = None, None
    if observed is not None:
        by_function = _by_function(observed, readers, keep, theta)
        dead = tuple(int(j) for j in np.flatnonzero(observed.largest == 0))
    orientation, _ = orientation_and_amplitude(writers, readers)
    odd = lines and kind != "even"
    return LayerCondensation(
        name=space.name,
        orientation=jnp.asarray(orientation),
        amplitude=jnp.asarray(amplitudes),
        by_direction=by_direction,
        by_function=by_function,
        clusters=_clusters(by_direction, writers, readers, lines, odd, has_bias=len(space.writers) > 1),
        are_lines=lines,
        dead=dead,
    )


def _by_function(observed: _Observed, readers: np.ndarray, keep: float, theta: float) -> Grouping | None:
    """Outputs of the same shape up to a factor, of either sign, can share a neuron: lines in function space."""
    units, amplitudes = orientation_and_amplitude(observed.outputs.T, readers)
    if not float(amplitudes.sum()) > 0:
        return None  # every neuron is dead or unread
    return group(units, amplitudes, lines=True, theta=theta, keep=keep)


def _clusters(
    grouping: Grouping, writers: np.ndarray, readers: np.ndarray, lines: bool, odd: bool, *, has_bias: bool
) -> tuple[Cluster, ...]:
    active, labels = np.asarray(grouping.active), np.asarray(grouping.labels)
    rows, outgoing_rows = writers[active], readers[active]
    masses, size = np.asarray(grouping.masses), np.linalg.norm(rows, axis=1)
    units = rows / size[:, None]
    clusters = []
    for label in range(grouping.num_clusters):
        inside = np.flatnonzero(labels == label)
        heaviest = inside[masses[inside].argmax()]
        signs = np.where(units[inside] @ units[heaviest] < 0, -1.0, 1.0) if lines else np.ones(len(inside))
        folded = signs[:, None] * units[inside]
        mean = masses[inside] @ folded
        mean = mean / np.linalg.norm(mean)
        apart = 2 * np.arctan2(np.linalg.norm(folded - mean, axis=1), np.linalg.norm(folded + mean, axis=1))
        outgoing = ((signs if odd else 1.0) * size[inside]) @ outgoing_rows[inside]
        kink = -mean[1] / mean[0] if has_bias and len(mean) == 2 and mean[0] != 0 else None
        clusters.append(
            Cluster(
                members=tuple(int(j) for j in active[inside]),
                mass=float(masses[inside].sum()),
                direction=jnp.asarray(mean),
                radius=float(np.rad2deg(apart.max())),
                outgoing=jnp.asarray(outgoing),
                kink=None if kink is None else float(kink),
            )
        )
    return tuple(clusters)


def _check_finite(network: Network) -> None:
    for name, array in named_parameters(network).items():
        if not np.isfinite(np.asarray(array)).all():
            msg = f"The parameter {name} contains NaN or infinity, so its neurons have no orientation."
            raise InputError(msg)
