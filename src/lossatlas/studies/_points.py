"""What the studies of embeddings share: random networks, planted and found critical points, eigenvalues by sign."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from lossatlas import data
from lossatlas._parameters import ravel
from lossatlas.atlas import Search, make_catalogue
from lossatlas.atlas._entry import Entry
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_ZERO = 1e-10  # of the largest eigenvalue


class Signs(NamedTuple):
    """Eigenvalues by sign; `is_clear` says that none lies between what counts and a hundredth of that."""

    negative: int
    zero: int
    positive: int
    is_clear: bool

    @property
    def counts(self) -> tuple[int, int, int]:
        """(negative, zero, positive)."""
        return self[:3]


def signs_of(matrix: Any, rtol: float = _ZERO) -> Signs:
    """Eigenvalues of a symmetric matrix by sign; up to `rtol` of the largest they are zero."""
    values = np.linalg.eigvalsh(np.asarray(matrix))
    sizes = np.abs(values)
    level = rtol * max(sizes.max(initial=0.0), 1e-300)
    is_clear = not ((sizes > 0.01 * level) & (sizes <= level)).any()
    return Signs(int((values < -level).sum()), int((sizes <= level).sum()), int((values > level).sum()), is_clear)


def counts(landscape: Landscape, network: Any, rtol: float = _ZERO) -> tuple[int, int, int]:
    """Eigenvalues of the dense Hessian by sign, without any theory: (negative, zero, positive)."""
    return signs_of(hessian(landscape, network), rtol).counts


@eqx.filter_jit
def hessian(landscape: Landscape, network: Any) -> jax.Array:
    """The dense Hessian, compiled."""
    return landscape.hessian(network)


@eqx.filter_jit
def gradient(landscape: Landscape, network: Any) -> jax.Array:
    """The flat gradient, compiled."""
    return landscape.gradient(network)


@eqx.filter_jit
def outputs(network: Any, inputs: jax.Array) -> jax.Array:
    """Predictions, compiled."""
    return jax.vmap(network)(inputs)


def largest(values: Any) -> float:
    """The largest absolute entry."""
    return float(np.abs(np.asarray(values)).max(initial=0.0))


def random_network(key: jax.Array, widths: Sequence[int], activation: str, *, std: float = 0.8, **options: Any) -> Any:
    """All weights and biases normal: no critical point."""
    vector, unravel = ravel(Dense(key, widths, activation=activation, **options))
    return unravel(std * jax.random.normal(key, vector.shape))


def moved(network: Any, change: jax.Array) -> Any:
    """The network with a flat change added to its parameters."""
    vector, unravel = ravel(network)
    return unravel(vector + change)


def table(rows: Sequence[Mapping[str, Any]], dimension: str, names: Sequence[str] = ()) -> xr.Dataset:
    """Rows of one kind as arrays over a dimension; `names` where there may be no row."""
    names = list(rows[0]) if rows else names
    return xr.Dataset({name: (dimension, np.array([row[name] for row in rows])) for name in names})


def small_levels(key: jax.Array, most: int, starts: int, descents: int) -> list[Entry]:
    """Critical points of the one-dimensional problem, of one tanh neuron up to `most`, with their inertia."""
    landscape = data.load("hierarchy-1d").landscape()
    search = Search(random=starts, warm=starts, polish=starts, descents=descents, keep=starts)
    catalogue = make_catalogue(key, landscape, sizes=[(k, 0) for k in range(1, most + 1)], search=search)
    return [entry for entry in catalogue.entries if entry.kind == "critical point" and entry.inertia is not None]


def stacked(vectors: Sequence[jax.Array]) -> np.ndarray:
    """Flat parameters as rows."""
    return np.asarray(jnp.stack(list(vectors)))


def hull(key: jax.Array, networks: Sequence[Any]) -> tuple[int, list[Any]]:
    """The dimension of the affine hull of networks, and these with a random point of it beyond the convex hull."""
    vectors, unravel = stacked([ravel(network)[0] for network in networks]), ravel(networks[0])[1]
    weights = np.asarray(jax.random.normal(key, (len(vectors),)))
    mixed = (weights / weights.sum()) @ vectors
    singular = np.linalg.svd(vectors - vectors[0], compute_uv=False)
    return int(np.sum(singular > 1e-9 * singular[0])), [*networks, unravel(jnp.asarray(mixed))]
