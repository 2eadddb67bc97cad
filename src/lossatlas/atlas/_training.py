"""Train the big network from small initialisation and chart which entries it comes near."""

import functools as ft
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from lossatlas._journal import Journal
from lossatlas._parameters import ravel
from lossatlas._progress import ProgressMeter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas.atlas._catalogue import Catalogue
from lossatlas.atlas._entry import count_outputs, linked_targets
from lossatlas.atlas._visits import Visits, find_visits
from lossatlas.geometry import effective_linear_units, effective_neurons
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.training import log_spaced_steps, train_ensemble


NUM_SNAPSHOTS = 160
_MOST_STEPS, _LEAST_STEPS = 60_000, 5_000
_WORK = 9e10  # rows * parameters * steps of the default run: about a minute on one core
_MAX_HALVINGS = 6


@shown
class BigTraining(eqx.Module):
    """One run of full-batch gradient descent on the big network.

    - `steps`, `loss`, `gradient_norm`: of the snapshots, shape (s,).
    - `parameters`: shape (s, p); `network`: the last.
    - `effective_neurons`: similarity-sensitive number of neurons per hidden layer, shape (s, layers).
    - `linear_units`: effective number of units that act linearly on the data, shape (s, layers).
    - `trajectory`: predictions at the snapshots (probabilities for cross-entropy), shape (s, n, o); about 320 times the
      predictions, 1.5 GB for 60,000 rows of 10 outputs.
    - `visits`: which catalogue entries it comes near.
    - `decay_exponent`: -d log loss / d log step over the last third of a decade: a loss that falls like a power of
      time near no level is a slow valley.
    """

    seed: int
    steps: Int[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    gradient_norm: Float[np.ndarray, " s"]
    parameters: Float[np.ndarray, "s p"]
    network: Dense
    effective_neurons: Float[np.ndarray, "s layers"]
    linear_units: Float[np.ndarray, "s layers"]
    trajectory: Float[np.ndarray, "s n o"]
    visits: Visits
    status: Status
    decay_exponent: float
    settings: dict[str, Any]

    def network_at(self, index: int) -> Dense:
        """The network of one snapshot."""
        return ravel(self.network)[1](jnp.asarray(self.parameters[index]))

    def named_by(self, catalogue: Catalogue, landscape: Landscape) -> "BigTraining":
        """The same run with the visits to another catalogue."""
        visits = visits_of(self.steps, self.loss, self.trajectory, catalogue, landscape)
        return eqx.tree_at(lambda run: run.visits, self, visits)


def default_power(hidden: tuple[int, ...]) -> float:
    """The power p of std = max(fan)**-p at which stalls are visible and the run still ends: smaller for deeper."""
    return {1: 2.0, 2: 1.5}.get(len(hidden), 1.2 if len(hidden) == 3 else 1.0)


def default_num_steps(landscape: Landscape, num_parameters: int) -> int:
    """60,000 full-batch steps, fewer where data times parameters make them dear, at least 5,000."""
    return int(np.clip(round(_WORK / (landscape.size * num_parameters), -3), _LEAST_STEPS, _MOST_STEPS))


def snapshot_steps(num_steps: int) -> list[int]:
    """About 160 steps spaced by their logarithm, and 160 evenly: stalls that begin late are short on a log scale."""
    even = np.linspace(0, num_steps, NUM_SNAPSHOTS).round().astype(int)
    return [int(s) for s in np.union1d(log_spaced_steps(num_steps, NUM_SNAPSHOTS), even)]


def train_big(
    key: PRNGKeyArray,
    landscape: Landscape,
    catalogue: Catalogue,
    hidden: tuple[int, ...],
    activation: Activation,
    *,
    num_seeds: int,
    power: float,
    learning_rate: float,
    num_steps: int,
    progress: ProgressMeter,
    journal: Journal,
) -> list[BigTraining]:
    """Train from `num_seeds` small initialisations as one program and find the visits of each.

    A learning rate at which a member diverges is halved, for all of them, up to six times; the settings say so.
    """
    widths = [landscape.inputs.shape[1], *hidden, count_outputs(landscape)]
    keys = [jax.random.fold_in(key, seed) for seed in range(num_seeds)]
    networks = [Dense(k, widths, activation=activation, init=power, dtype=landscape.inputs.dtype) for k in keys]
    run = ft.partial(_train, keys, networks, landscape, learning_rate, num_steps, progress)
    trained = journal("training", run)
    unravel = ravel(networks[0])[1]
    settings = {
        "optimizer": "full-batch gradient descent",
        "init": f"std = max(fan_in, fan_out)**-{power}, biases 0",
        "learning_rate": float(trained["learning_rate"]),
        "halvings": int(trained["halvings"]),
        "num_steps": num_steps,
        "widths": widths,
    }
    results = []
    for seed in range(num_seeds):
        finite = np.isfinite(trained["loss"][seed])  # rows of members that ended early are filled up with NaN
        steps, loss = trained["steps"][seed, finite], trained["loss"][seed, finite]
        parameters = trained["parameters"][seed, finite]
        network = unravel(jnp.asarray(parameters[-1]))
        trajectory, neurons, linear = (np.asarray(a) for a in _observe(landscape, network, jnp.asarray(parameters)))
        visits = visits_of(steps, loss, trajectory, catalogue, landscape)
        results.append(
            BigTraining(
                seed=seed,
                steps=steps,
                loss=loss,
                gradient_norm=trained["gradient_norm"][seed, finite],
                parameters=parameters,
                network=network,
                effective_neurons=neurons,
                linear_units=linear,
                trajectory=trajectory,
                visits=visits,
                status=Status[str(trained["status"][seed])],
                decay_exponent=_decay_exponent(steps, loss),
                settings=settings,
            )
        )
    return results


def _train(
    keys: Sequence[PRNGKeyArray],
    networks: Sequence[Dense],
    landscape: Landscape,
    learning_rate: float,
    num_steps: int,
    progress: ProgressMeter,
) -> dict[str, np.ndarray]:
    """All members as one program, at half the learning rate as long as one diverges."""
    halvings = 0
    while True:
        runs = train_ensemble(
            jnp.stack(keys),
            networks,
            landscape,
            optimizer="gd",
            learning_rate=learning_rate / 2**halvings,
            num_steps=num_steps,
            snapshots=snapshot_steps(num_steps),
            progress=progress,
        )
        if halvings == _MAX_HALVINGS or Status.DIVERGED not in runs.status:
            break
        halvings += 1
    return {
        "steps": runs.steps,
        "loss": runs.loss,
        "gradient_norm": runs.gradient_norm,
        "parameters": runs.parameters,
        "status": np.array([status.name for status in runs.status]),
        "learning_rate": np.asarray(learning_rate / 2**halvings),
        "halvings": np.asarray(halvings),
    }


def visits_of(
    steps: np.ndarray, loss: np.ndarray, trajectory: np.ndarray, catalogue: Catalogue, landscape: Landscape
) -> Visits:
    """The closest approaches of a trajectory to the entries of a catalogue."""
    functions = [entry.predictions for entry in catalogue.entries]
    sizes = [entry.neurons + entry.linear for entry in catalogue.entries]
    levels = [entry.loss for entry in catalogue.entries]
    return find_visits(steps, loss, trajectory, functions, linked_targets(landscape), sizes, levels)


def _decay_exponent(steps: np.ndarray, loss: np.ndarray) -> float:
    late = (steps > steps[-1] / 2) & (loss > 0)
    if late.sum() < 3:
        return float("nan")
    return -float(np.polyfit(np.log(steps[late]), np.log(loss[late]), 1)[0])


@eqx.filter_jit
def _observe(landscape: Landscape, network: Dense, parameters):
    """Linked predictions, effective neurons and linear units of every snapshot."""
    unravel = ravel(network)[1]
    assert landscape.loss is not None
    link = jax.vmap(landscape.loss.link)

    def one(vector):
        point = unravel(vector)
        return (
            link(landscape.predictions(point)),
            effective_neurons(point),
            effective_linear_units(point, landscape),
        )

    return jax.lax.map(one, parameters)
