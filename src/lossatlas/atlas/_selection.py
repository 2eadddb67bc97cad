"""Held-out figures of the small networks and of the big one, and the smallest that does the job."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressMeter
from lossatlas.atlas._catalogue import linked_targets
from lossatlas.atlas._fit import fit_starts
from lossatlas.atlas._starts import random_starts, small_network
from lossatlas.data import DataSet
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.theory import linear_levels
from lossatlas.training import train


BIG = "big network"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the networks of the held-out comparison are fitted: what a user would do, the same for every fold.

    Small networks: the best training loss of `num_starts` Glorot starts, Adam with cosine decay (linear networks
    under squared error in closed form). The big network: one Glorot start, Adam, in batches above `batch_above` rows.
    """

    num_starts: int = 8
    num_steps: int = 3000
    learning_rate: float = 0.03
    big_steps: int = 5000
    big_learning_rate: float = 1e-3
    batch_above: int = 512
    batch_size: int = 128


class HeldOut(eqx.Module):
    """The held-out figures of one network.

    - `name`: `"(k,r)"`, or `"big network"`; `num_parameters`: its size.
    - `losses`: of every held-out row, in the order of the folds.
    - `correct`: whether its label was right; None for regression.
    """

    name: str
    num_parameters: int
    losses: Float[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"] | None

    @property
    def loss(self) -> float:
        """The mean over the held-out rows."""
        return float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of that mean."""
        return float(self.losses.std(ddof=1) / np.sqrt(self.losses.size))

    @property
    def accuracy(self) -> float | None:
        """The share of right labels."""
        return None if self.correct is None else float(self.correct.mean())


class Selection(eqx.Module):
    """The smallest network whose held-out loss is within one paired standard error of the best of all.

    - `candidates`: held-out figures, the smallest network first, the big one last.
    - `best`, `recommended`: names.
    - `network`: the recommended network, fitted on all rows by the same recipe.
    - `num_rows`, `num_folds`: held-out rows in all, and in how many folds.
    """

    candidates: tuple[HeldOut, ...]
    best: str
    recommended: str
    network: Dense
    num_rows: int
    num_folds: int
    recipe: dict[str, Any]

    def __getitem__(self, name: str) -> HeldOut:
        return next(c for c in self.candidates if c.name == name)

    def gap(self, name: str) -> tuple[float, float]:
        """Held-out loss minus that of the best, and its paired standard error over the rows."""
        difference = self[name].losses - self[self.best].losses
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(difference.size))


def select(
    key: PRNGKeyArray,
    folds: Sequence[tuple[DataSet, DataSet]],
    data: DataSet,
    sizes: Sequence[tuple[int, int]],
    hidden: tuple[int, ...],
    *,
    loss: str,
    activation: Activation,
    recipe: Recipe,
    progress: ProgressMeter,
) -> Selection:
    """Compare small networks and a big one on held-out rows.

    **Arguments:**
    - `key`: of the starts.
    - `folds`: pairs of training and test part, scaling fitted on the training part.
    - `data`: all rows, on which the recommended network is fitted in the end.
    - `sizes`: the (k, r) of the small networks.
    - `hidden`: widths of the big network.

    **Returns:**
    [`lossatlas.atlas.Selection`][]. Cost: per fold and size `num_starts * num_steps` gradients.
    """
    names = [f"({k},{r})" for k, r in sizes]
    losses: dict[str, list[np.ndarray]] = {name: [] for name in [*names, BIG]}
    hits: dict[str, list[np.ndarray]] = {name: [] for name in losses}
    counts: dict[str, int] = {}
    with progress.task("held-out figures", len(folds) * (len(sizes) + 1)) as task:
        done = 0
        for number, (training, test) in enumerate(folds):
            seen, unseen = training.landscape(loss), test.landscape(loss)
            outputs = data.num_outputs(loss)
            fold_key = jax.random.fold_in(key, number)
            for i, name in enumerate(losses):
                task.update(done, name)
                size_key = jax.random.fold_in(fold_key, i)
                if name == BIG:
                    network = fit_big(size_key, seen, outputs, hidden, activation, recipe)
                else:
                    network = fit_small(size_key, seen, outputs, sizes[i], activation, recipe)
                counts[name] = num_parameters(network)
                row_losses, row_hits = _score(unseen, network)
                losses[name].append(np.asarray(row_losses))
                if data.kind == "classification":
                    hits[name].append(np.asarray(row_hits))
                done += 1
    candidates = [
        HeldOut(n, counts[n], np.concatenate(losses[n]), np.concatenate(hits[n]) if hits[n] else None) for n in losses
    ]
    candidates.sort(key=lambda c: c.num_parameters)
    best = min(candidates, key=lambda c: c.loss)
    recommended = smallest_within_error(candidates, best)
    final_key = jax.random.fold_in(key, len(folds))
    everything = data.landscape(loss)
    outputs = data.num_outputs(loss)
    if recommended.name == BIG:
        network = fit_big(final_key, everything, outputs, hidden, activation, recipe)
    else:
        size = sizes[names.index(recommended.name)]
        network = fit_small(final_key, everything, outputs, size, activation, recipe)
    return Selection(
        tuple(candidates),
        best.name,
        recommended.name,
        network,
        best.losses.size,
        len(folds),
        dataclasses.asdict(recipe),
    )


def smallest_within_error(candidates: Sequence[HeldOut], best: HeldOut) -> HeldOut:
    """The candidate with the fewest parameters whose paired gap to the best is at most one standard error."""
    for candidate in sorted(candidates, key=lambda c: c.num_parameters):
        gap = candidate.losses - best.losses
        if gap.mean() <= gap.std(ddof=1) / np.sqrt(gap.size):
            return candidate
    return best


def fit_small(
    key: PRNGKeyArray,
    landscape: Landscape,
    outputs: int,
    size: tuple[int, int],
    act: Activation,
    recipe: Recipe,
) -> Dense:
    """One small network by the recipe."""
    k, r = size
    if k == 0 and landscape.loss is not None and landscape.loss.name == "mse":
        inputs = np.asarray(landscape.inputs)
        levels = linear_levels(inputs, linked_targets(landscape))
        rank = min(r, levels.rank)  # a training part may have less rank than all rows
        writers, readers, bias = (jnp.asarray(a) for a in levels.weights(rank))
        d = inputs.shape[1]
        return small_network(jnp.zeros((0, d)), jnp.zeros(0), writers, jnp.zeros((outputs, 0)), readers, bias, act)
    starts = random_starts(key, landscape, outputs, k, r, act, recipe.num_starts)
    fitted = fit_starts(starts, landscape, num_steps=recipe.num_steps, learning_rate=recipe.learning_rate)
    return min(fitted, key=lambda fit: fit.loss if np.isfinite(fit.loss) else np.inf).network


def fit_big(
    key: PRNGKeyArray,
    landscape: Landscape,
    outputs: int,
    hidden: tuple[int, ...],
    act: Activation,
    recipe: Recipe,
) -> Dense:
    """The big network as one would train it: Glorot, Adam."""
    network = Dense(key, [landscape.inputs.shape[1], *hidden, outputs], activation=act)
    return train(
        key,
        network,
        landscape,
        optimizer="adam",
        learning_rate=recipe.big_learning_rate,
        num_steps=recipe.big_steps,
        batch_size=recipe.batch_size if landscape.size > recipe.batch_above else None,
        snapshots=[recipe.big_steps],
    ).network


@eqx.filter_jit
def _score(landscape: Landscape, network: Dense):
    """The loss of every row, and whether its largest output is the right class."""
    targets = landscape.targets
    labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1)
    guesses = jnp.argmax(landscape.predictions(network), axis=-1)
    return landscape.losses(network), guesses == labels
