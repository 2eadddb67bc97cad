"""Held-out figures of the small networks and of the big one, and the smallest that does the job."""

import dataclasses
import functools as ft
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._journal import Journal
from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressMeter
from lossatlas._show import shown
from lossatlas.atlas._config import BIG
from lossatlas.atlas._entry import linked_targets
from lossatlas.atlas._fit import fit_starts
from lossatlas.atlas._starts import random_starts, small_network
from lossatlas.data import DataSet
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.theory import linear_levels
from lossatlas.training import train


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the networks of the held-out comparison are fitted: what a user would do, the same for every fold.

    Small networks: the best training loss of `num_starts` Glorot starts, Adam with cosine decay (linear networks
    under squared error in closed form). The big network: a Glorot start, Adam, in batches above `batch_above` rows; its
    figures are the means over `big_starts` trainings, since one start more or less moves them far.
    """

    num_starts: int = 8
    num_steps: int = 3000
    learning_rate: float = 0.03
    big_starts: int = 3
    big_steps: int = 5000
    big_learning_rate: float = 1e-3
    batch_above: int = 512
    batch_size: int = 128


@shown
class HeldOut(eqx.Module):
    """The held-out figures of one network.

    - `name`: `"(k,r)"`, or `"big network"`; `num_parameters`: its size.
    - `losses`: of every held-out row, fold after fold.
    - `correct`: whether its label was right (the share of the trainings in which it was); None for regression.
    - `folds`: the rows of each fold.
    - `overlap`: rows tested for each row trained on, in a fold.
    """

    name: str
    num_parameters: int
    losses: Float[np.ndarray, " n"]
    correct: Float[np.ndarray, " n"] | None
    folds: tuple[int, ...]
    overlap: float

    @property
    def loss(self) -> float:
        """The mean over the held-out rows."""
        return float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of that mean."""
        return self._standard_error(self.losses)

    @property
    def accuracy(self) -> float | None:
        """The share of right labels."""
        return None if self.correct is None else float(self.correct.mean())

    def behind(self, other: "HeldOut") -> tuple[float, float]:
        """By how much the loss is above that of another network, and the paired standard error of the difference."""
        difference = self.losses - other.losses
        return float(difference.mean()), self._standard_error(difference)

    def _standard_error(self, values: Float[np.ndarray, " n"]) -> float:
        if np.ptp(values) <= 1e-12 * np.abs(values).max(initial=0.0):
            return 0.0  # one value everywhere, but for rounding
        if len(self.folds) == 1:
            return float(values.std(ddof=1) / np.sqrt(values.size))
        # Folds share training rows: their variance counts for more than a share 1/J of each.
        means = [part.mean() for part in np.split(values, np.cumsum(self.folds)[:-1])]
        return float(np.std(means, ddof=1) * np.sqrt(1 / len(means) + self.overlap))


@shown
class Selection(eqx.Module):
    """The smallest network whose held-out loss is within one paired standard error of the best of all.

    - `candidates`: held-out figures, the smallest network first, the big one last.
    - `best`, `recommended`: names.
    - `network`: the recommended network, fitted on all rows by the same recipe.
    - `num_folds`, `num_repeats`: of the cross-validation; one fold for a single split.
    """

    candidates: tuple[HeldOut, ...]
    best: str
    recommended: str
    network: Dense
    num_folds: int
    num_repeats: int
    recipe: dict[str, Any]

    def __getitem__(self, name: str) -> HeldOut:
        return next(c for c in self.candidates if c.name == name)

    def r_squared(self, name: str) -> float | None:
        """For regression, the share of the held-out variance that a network explains; None for classification."""
        if self[name].correct is not None:
            return None
        return 1 - self[name].loss / self["(0,0)"].loss

    @property
    def num_rows(self) -> int:
        """How many rows were held out, each `num_repeats` times."""
        return self.candidates[0].losses.size // self.num_repeats


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
    journal: Journal,
) -> Selection:
    """Compare small networks and a big one on held-out rows.

    **Arguments:**
    - `key`: of the starts.
    - `folds`: pairs of training and test part, scaling fitted on the training part: one, or those of one or several
      cross-validations, in which every row is tested equally often.
    - `data`: all rows, on which the recommended network is fitted in the end.
    - `sizes`: the (k, r) of the small networks.
    - `hidden`: widths of the big network.
    - `journal`: keeps the figures that are finished.

    **Returns:**
    [`lossatlas.atlas.Selection`][]. Standard errors are over the rows of one split; over folds with the correction for
    training parts that overlap (Nadeau and Bengio, Machine Learning 52, 2003, eq. 9). Cost: per fold and size
    `num_starts * num_steps` gradients.
    """
    outputs = data.num_outputs(loss)
    known: dict[str, tuple[int, int] | None] = {f"({k},{r})": (k, r) for k, r in sizes} | {BIG: None}
    columns = ("losses", "correct", "num_parameters")
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in known}

    def fit(key: PRNGKeyArray, landscape: Landscape, size: tuple[int, int] | None) -> Dense:
        if size is None:
            return fit_big(key, landscape, outputs, hidden, activation, recipe)
        return fit_small(key, landscape, outputs, size, activation, recipe)

    def measure(key: PRNGKeyArray, fold: tuple[DataSet, DataSet], name: str) -> dict[str, np.ndarray]:
        starts = recipe.big_starts if name == BIG else 1
        trained = [fit(jax.random.fold_in(key, i), fold[0].landscape(loss), known[name]) for i in range(starts)]
        scores = [_score(fold[1].landscape(loss), network) for network in trained]
        row_losses, row_hits = (np.mean([np.asarray(score[i], float) for score in scores], axis=0) for i in range(2))
        figures = row_losses, row_hits, np.asarray(num_parameters(trained[0]))
        return dict(zip(columns, figures, strict=True))

    with progress.task("held-out figures", len(folds) * len(known)) as task:
        for number, fold in enumerate(folds):
            fold_key = jax.random.fold_in(key, number)
            for i, name in enumerate(known):
                task.update(number * len(known) + i, name)
                # A key of its own: what else is compared changes no figure.
                compute = ft.partial(measure, _key_of(fold_key, known[name]), fold, name)
                parts[name].append(journal(f"held-out-{number}-{i}", compute))
    tested, trained = tuple(fold[1].num_rows for fold in folds), sum(fold[0].num_rows for fold in folds)
    num_repeats = max(sum(tested) // data.num_rows, 1)
    candidates = []
    for name, figures in parts.items():
        losses, correct = (np.concatenate([part[column] for part in figures]) for column in columns[:2])
        right = correct if data.kind == "classification" else None
        count = int(figures[-1]["num_parameters"])
        candidates.append(HeldOut(name, count, losses, right, tested, sum(tested) / trained))
    candidates.sort(key=lambda c: c.num_parameters)
    best = min(candidates, key=lambda c: c.loss)
    recommended = smallest_within_error(candidates, best)
    final_key = _key_of(jax.random.fold_in(key, len(folds)), known[recommended.name])
    network = fit(final_key, data.landscape(loss), known[recommended.name])
    return Selection(
        tuple(candidates),
        best.name,
        recommended.name,
        network,
        len(folds) // num_repeats,
        num_repeats,
        dataclasses.asdict(recipe),
    )


def _key_of(key: PRNGKeyArray, size: tuple[int, int] | None) -> PRNGKeyArray:
    """The key of one network; None is the big one."""
    k, r = (-1, 0) if size is None else size
    return jax.random.fold_in(jax.random.fold_in(key, k + 1), r)


def smallest_within_error(candidates: Sequence[HeldOut], best: HeldOut) -> HeldOut:
    """The candidate with the fewest parameters whose paired gap to the best is at most one standard error."""
    for candidate in sorted(candidates, key=lambda c: c.num_parameters):
        gap, error = candidate.behind(best)
        if gap <= error:
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
