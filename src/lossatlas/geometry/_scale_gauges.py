"""Scales of units that leave the function as it is, found in its derivatives and tested on the data."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._types import Network
from lossatlas.geometry._products import host_generator
from lossatlas.landscape import Landscape
from lossatlas.networks import Axis, UnitSpace


# By bytes: relative singular values below these are zero, to rounding or but for the eps of a normalisation.
_NULL = {8: (1e-9, 1e-3), 4: (1e-4, 1e-2)}
KEPT = {8: 1e-4, 4: 1e-3}
"""By bytes: how far outputs may move, relative to their size, and still be called the same."""
_TESTED = 3.0  # the largest factor of the test; large ones may leave the range in which the eps of a norm is nothing
_FEW = 16  # examples for the derivatives
_POINTS = 3  # at which they are taken
_WHOLE = 0.05  # how far an exponent may be from a multiple of one half


@dataclasses.dataclass(frozen=True)
class ScaleGauge:
    """Multiply the slices of a unit by powers of one positive factor; the outputs stay.

    - `space`: its unit space. `exponents`: one for each of `axes`, the writers and then the readers of the space.
    - `is_common`: whether only one factor for all units of the space keeps the function (as before a LayerNorm).
    """

    space: str
    axes: tuple[Axis, ...]
    exponents: tuple[float, ...]
    is_common: bool = False

    def apply(self, network: Network, factors: Float[np.ndarray, " k"]) -> Network:
        """The network with the units of the space scaled; all by the first factor where it has to be common."""
        if self.is_common:
            factors = np.full(len(factors), factors[0])
        arrays = {path: np.asarray(array) for path, array in named_arrays(network).items()}
        changed = {}
        for axis, exponent in zip(self.axes, self.exponents, strict=True):
            if exponent:
                array = changed.get(axis.path, arrays[axis.path])
                changed[axis.path] = array * along(axis, array, factors**exponent)
        made = {path: jnp.asarray(array, arrays[path].dtype) for path, array in changed.items()}
        return replace_parameters(network, made)

    @property
    def words(self) -> str:
        """`weight c, bias c, next weight 1/c` and the like, by path."""
        powers = {1.0: "c", -1.0: "1/c", 0.5: "c^1/2", -0.5: "c^-1/2"}
        named = {axis.path: power for axis, power in zip(self.axes, self.exponents, strict=True) if power}
        return ", ".join(f"{path} times {powers.get(power, f'c^{power:g}')}" for path, power in named.items())


def scale_gauges(
    key: PRNGKeyArray, network: Network, landscape: Landscape
) -> tuple[tuple[ScaleGauge, ...], dict[str, str]]:
    r"""The scales of each unit space that keep the outputs, and why the other spaces have none.

    For the blocks $\theta_j$ of a space (its writers and readers, running statistics among them) the derivatives
    $\theta_j \cdot \partial f/\partial\theta_j$ are linearly dependent when $\theta_j \to c^{e_j}\theta_j$ keeps f. The
    null space is taken at randomly changed parameters, its vectors are rounded to halves, and each is tested at the
    network itself with a random factor for every unit. Homogeneous activations, weights before a normalisation, queries
    against keys and values against the output of attention are all found like this, in any network with unit spaces.
    Cost: 6 Jacobian products on 16 examples for each block, and a forward pass for each scale that is tested.
    """
    few = landscape.subset(slice(_FEW))
    outputs = outputs_of(landscape)
    now = np.asarray(outputs(network, landscape))
    precision = np.dtype(now.dtype).itemsize
    found: list[ScaleGauge] = []
    reasons: dict[str, str] = {}
    for i, (name, space) in enumerate(network.unit_spaces().items()):
        axes = (*space.writers, *space.readers)
        place = jax.random.fold_in(key, i)
        factors = random_factors(place, space.size, _TESTED)
        kept: dict[tuple[float, ...], ScaleGauge] = {}
        for is_common in (False, True):
            for exponents in _candidates(place, network, few, space, precision, is_common=is_common):
                gauge = ScaleGauge(name, axes, exponents, is_common)
                moved = gauge.apply(network, factors)
                if exponents in kept or not _differs(moved, network):
                    continue
                if change(np.asarray(outputs(moved, landscape)), now) <= KEPT[precision]:
                    kept[exponents] = gauge
        found += kept.values()
        if not kept:
            reasons[name] = "no scale of its units keeps the outputs"
    return tuple(found), reasons


def random_factors(key: PRNGKeyArray, size: int, most: float) -> Float[np.ndarray, " k"]:
    """Factors that no unit has near 1: even in the logarithm between the cube root of `most` and `most`, or one over
    such a number.
    """
    rng = host_generator(key)
    return most ** (rng.choice([-1.0, 1.0], size) * rng.uniform(1 / 3, 1.0, size))


def outputs_of(landscape: Landscape) -> Any:
    """What has to stay: the predictions, or the losses of a landscape that has no predictions."""
    return _predictions if landscape.has_predictions else _losses


@eqx.filter_jit
def _predictions(network: Network, landscape: Landscape) -> Array:
    return landscape.predictions(network)


@eqx.filter_jit
def _losses(network: Network, landscape: Landscape) -> Array:
    return landscape.losses(network)


def change(new: np.ndarray, old: np.ndarray) -> float:
    """The largest change of an output, relative to the root mean square of all."""
    size = float(np.sqrt(np.mean(old**2)))
    return float(np.abs(new - old).max(initial=0.0)) / (size or 1.0)


def along(axis: Axis, array: Any, values: np.ndarray, rest: float = 1.0) -> np.ndarray:
    """A factor for every entry of a parameter along the axis of a space: that of its unit, `rest` beside the space."""
    units = np.tile(np.repeat(values, axis.inner), axis.outer)
    full = np.full(array.shape[axis.axis], rest)
    full[axis.offset : axis.offset + len(units)] = units
    shape = [1] * array.ndim
    shape[axis.axis] = -1
    return full.reshape(shape)


def _differs(one: Network, other: Network) -> bool:
    """Whether some parameter is another; a common factor of rows and columns of one matrix cancels."""
    pairs = zip(named_arrays(one).values(), named_arrays(other).values(), strict=True)
    return any(not np.allclose(a, b, rtol=1e-6, atol=0) for a, b in pairs)


def _candidates(
    key: PRNGKeyArray, network: Network, landscape: Landscape, space: UnitSpace, precision: int, *, is_common: bool
) -> list[tuple[float, ...]]:
    """Null vectors of the derivatives, in reduced echelon form, rounded to halves; exact ones first."""
    # Several points and weights of the units, so that no relation is an accident of one of them.
    rng = host_generator(jax.random.fold_in(key, int(is_common)))
    weights = [np.ones(space.size) if is_common else rng.uniform(0.3, 1.0, space.size) for _ in range(_POINTS)]
    columns = np.concatenate([_slopes(rng, network, landscape, space, weight) for weight in weights])
    sizes = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or not (sizes > 0).any():
        return []
    _, values, rows = np.linalg.svd(columns / sizes.max(), full_matrices=True)
    values = np.concatenate([values, np.zeros(len(rows) - len(values))])
    found: dict[tuple[float, ...], None] = {}
    for limit in _NULL[precision]:
        for row in _echelon(rows[values <= limit * values.max()]):
            rounded = np.round(2 * row) / 2
            if np.abs(row - rounded).max() <= _WHOLE and np.abs(rounded).max() <= 4:
                found[tuple(float(power) for power in rounded)] = None
    return list(found)


def _echelon(rows: np.ndarray) -> np.ndarray:
    """Reduced row echelon form with the largest pivot of each column."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[pivot, column]) < _WHOLE:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows[:done]


def _slopes(
    rng: np.random.Generator, network: Network, landscape: Landscape, space: UnitSpace, weights: np.ndarray
) -> Float[np.ndarray, "n m"]:
    """The derivative of all outputs along each block, unit by unit weighted, at a point in general position."""
    arrays = {path: _jittered(rng, np.asarray(a)) for path, a in named_arrays(network).items()}
    zeros = {path: np.zeros_like(a) for path, a in arrays.items()}
    columns = []
    for axis in (*space.writers, *space.readers):
        block = arrays[axis.path] * along(axis, arrays[axis.path], weights, 0.0)
        tangent = zeros | {axis.path: block.astype(arrays[axis.path].dtype)}
        columns.append(np.asarray(_slope(network, landscape, arrays, tangent)))
    return np.stack(columns, axis=1).astype(float)


@eqx.filter_jit
def _slope(network: Network, landscape: Landscape, arrays: dict, tangent: dict) -> Float[Array, " n"]:
    outputs = outputs_of(landscape).__wrapped__

    def at(values):
        return jnp.ravel(outputs(replace_parameters(network, values), landscape))

    return jax.jvp(at, (arrays,), (tangent,))[1]


def _jittered(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Near the array but in general position: no zeros, and what is positive stays so."""
    stretched = array * rng.uniform(0.7, 1.3, array.shape)
    size = float(np.sqrt(np.mean(array**2))) if array.size else 0.0
    size = size or 1.0
    moved = stretched if (array > 0).all() else stretched + 0.2 * size * rng.standard_normal(array.shape)
    return moved.astype(array.dtype)
