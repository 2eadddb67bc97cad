"""How much a set of vectors with amplitudes is grouped: the measures of condensation."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lossatlas._show import shown
from lossatlas.geometry._clusters import (
    REPORTED_CUTS,
    cover_bracket,
    display_order,
    labels_at,
    linkage_of,
    widest_gap,
)
from lossatlas.geometry._diversity import active_masses, hill_numbers, null_numbers, similarity_number
from lossatlas.geometry._neurons import pair_angles
from lossatlas.geometry._products import host_generator


_CURVE = np.arange(2.0, 41.0)
_AMBIGUOUS = 1.5


@shown
class Grouping(eqx.Module):
    r"""How vectors with amplitudes group by angle. All angles in degrees.

    - `active`: the neurons that hold the kept share of the amplitude, by index; `masses`: their shares.
    - `effective_number`: the similarity-sensitive number at `theta`; `curve`: the same at each of `curve_theta`.
    - `null_number`, `null_error`: mean and standard error of that number for isotropic directions of the same
      masses; `index` = 1 - log(number) / log(null): 0 random, 1 a single direction. NaN without a null model, and
      for a single neuron.
    - `labels`: the cluster of each active neuron, the heaviest is 0; `cut`: where the linkage was cut, in its widest
      gap; `hill`: Hill numbers of the cluster masses, orders 0, 1, 2.
    - `cover`: bounds on the least number of directions within cos > 0.95 of every neuron.
    - `counts`: clusters at the cuts 5, 10, 15 and 18.2; `is_ambiguous` when those at 5 to 15 differ by more
      than a factor 1.5.
    - `similarity`: cosines of the active neurons; `order`: how to order them for a picture.
    """

    active: Int[Array, " a"]
    masses: Float[Array, " a"]
    theta: float = eqx.field(static=True)
    effective_number: Float[Array, ""]
    curve_theta: Float[Array, " c"]
    curve: Float[Array, " c"]
    null_number: Float[Array, ""]
    null_error: Float[Array, ""]
    index: Float[Array, ""]
    labels: Int[Array, " a"]
    cut: float = eqx.field(static=True)
    hill: tuple[float, float, float] = eqx.field(static=True)
    cover: tuple[int, int] = eqx.field(static=True)
    counts: dict[float, int]
    is_ambiguous: bool = eqx.field(static=True)
    similarity: Float[Array, "a a"]
    order: Int[Array, " a"]

    @property
    def num_clusters(self) -> int:
        """Clusters at the widest gap."""
        return int(self.hill[0])


def group(
    units: np.ndarray,
    amplitudes: np.ndarray,
    *,
    lines: bool,
    theta: float,
    keep: float,
    null_key: PRNGKeyArray | None = None,
    null_dimension: int = 0,
    num_draws: int = 32,
) -> Grouping:
    """Group unit vectors (m, d) on the host; the null model only where a key is given."""
    masses = active_masses(amplitudes, keep)
    active = np.flatnonzero(masses > 0)
    units, masses = units[active], masses[active]
    radians = pair_angles(units, lines=lines)
    number = similarity_number(radians, masses, np.deg2rad(theta))
    curve = np.array([similarity_number(radians, masses, t) for t in np.deg2rad(_CURVE)])
    angles, cosines = np.rad2deg(radians), units @ units.T
    null, null_error, index = np.nan, np.nan, np.nan
    if null_key is not None and len(active) > 1:
        rng = host_generator(null_key)
        draws = null_numbers(rng, masses, null_dimension, np.deg2rad(theta), lines=lines, num_draws=num_draws)
        null, null_error = draws.mean(), draws.std(ddof=1) / np.sqrt(num_draws)
        # In one dimension the null model itself has a single line.
        index = 1 - np.log(number) / np.log(null) if null > 1 + 1e-9 else np.nan
    tree = linkage_of(angles)
    cut = widest_gap(tree)
    labels = _heaviest_first(labels_at(tree, cut), masses)
    counts = {float(c): int(labels_at(tree, c).max()) + 1 for c in REPORTED_CUTS}
    near = [counts[c] for c in REPORTED_CUTS[:3]]
    return Grouping(
        active=jnp.asarray(active),
        masses=jnp.asarray(masses),
        theta=theta,
        effective_number=jnp.asarray(number),
        curve_theta=jnp.asarray(_CURVE),
        curve=jnp.asarray(curve),
        null_number=jnp.asarray(null, float),
        null_error=jnp.asarray(null_error, float),
        index=jnp.asarray(index, float),
        labels=jnp.asarray(labels),
        cut=cut,
        hill=hill_numbers(np.bincount(labels, masses)),
        cover=cover_bracket(angles),
        counts=counts,
        is_ambiguous=max(near) > _AMBIGUOUS * min(near),
        similarity=jnp.asarray(cosines),
        order=jnp.asarray(display_order(cosines, labels, masses)),
    )


def _heaviest_first(labels: np.ndarray, masses: np.ndarray) -> np.ndarray:
    rank = np.empty(labels.max() + 1, int)
    rank[np.argsort(-np.bincount(labels, masses), kind="stable")] = np.arange(len(rank))
    return rank[labels]
