"""The main job: the small networks of a data set, and what a big network's training makes of them."""

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._journal import Journal
from lossatlas._parameters import num_parameters
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike, ProgressMeter, as_meter
from lossatlas._show import shown
from lossatlas.atlas._catalogue import Catalogue, default_sizes, make_catalogue
from lossatlas.atlas._config import BIG, SurveyConfig
from lossatlas.atlas._discovery import with_found_by_training
from lossatlas.atlas._search import FULL, FULL_LARGE, QUICK, QUICK_LARGE, default_learning_rate
from lossatlas.atlas._selection import HeldOut, Recipe, Selection, select
from lossatlas.atlas._training import (
    BigTraining,
    default_num_steps,
    default_power,
    train_big,
)
from lossatlas.data import DataSet
from lossatlas.embedding import Reduction, reduce
from lossatlas.geometry import Condensation, Linearization, condensation, linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.networks import activation as as_activation


TOLERANCES = (0.1, 0.3)
_MANY_INPUTS = 30
# Refits are least-squares problems over all outputs: seconds at 3,000, a minute at 20,000.
_FEW_OUTPUTS, _MANY_OUTPUTS = 3_000, 20_000
_LEAST_ROWS = 10
_REPEATS = 3
_SEARCHES = {  # full, many inputs
    (False, False): QUICK,
    (False, True): QUICK_LARGE,
    (True, False): FULL,
    (True, True): FULL_LARGE,
}


class Ending(eqx.Module):
    """What a training run became.

    - `reductions`: the end point reduced at several tolerances, from strict to loose: the largest change of any output
      on the data, relative to `output_scale`, the root mean square deviation of the predictions from their mean.
    - `linearization`, `condensation`: per hidden layer, how linear it acts on the data, and how many directions its
      neurons really use.
    - `refitted`: whether the reductions refit layers by least squares (up to 3,000 outputs in all, 20,000 for
      `full`), or only merge.
    - `words`: the honest name of the end point.
    """

    reductions: tuple[tuple[float, Dense, Reduction], ...]
    output_scale: float
    linearization: Linearization
    condensation: Condensation
    refitted: bool
    words: str


@shown
class Survey(eqx.Module):
    """The answer of a survey.

    - `data`, `config`, `loss`: what was asked.
    - `catalogue`: the small networks. `trainings`: the runs of the big one, with their visits. `ending`: what the
      run that is shown became. `selection`: held-out figures and the recommended network.
    - `headline`: the answer in a sentence.
    - `seconds`: by stage.
    """

    data: DataSet = eqx.field(static=True)
    config: SurveyConfig = eqx.field(static=True)
    loss: str = eqx.field(static=True)
    catalogue: Catalogue
    trainings: tuple[BigTraining, ...]
    ending: Ending
    selection: Selection
    headline: str = eqx.field(static=True)
    seconds: dict[str, float] = eqx.field(static=True)

    @property
    def best_training(self) -> BigTraining:
        """The run with the most visits, the nearest first: the one that the atlas picture shows."""
        return best_run(self.trainings)

    def networks(self) -> dict[str, Dense]:
        """Every network worth keeping: the recommended one, the trained big one, and the catalogue."""
        saved = {"recommended": self.selection.network, "big": self.best_training.network}
        return saved | {entry.name: entry.network for entry in self.catalogue.entries}

    def _figure(self) -> Any:
        from lossatlas.atlas._export import survey_arrays, survey_tables
        from lossatlas.figures import atlas_figure

        return atlas_figure(survey_tables(self), survey_arrays(self))


def best_run(runs: Sequence[BigTraining]) -> BigTraining:
    """The run with the most visits; among equals the one that comes nearest."""

    def merit(run: BigTraining) -> tuple[int, float]:
        hits = [v.distance for v in run.visits.visits if v.verdict == "visit"]
        return -len(hits), float(np.sum(hits))

    return min(runs, key=merit)


def survey(
    data: DataSet,
    *,
    config: SurveyConfig | None = None,
    progress: ProgressLike = "none",
    journal: Journal | None = None,
) -> Survey:
    """Chart the small networks of a data set, the training of a big one, and the smallest that does the job.

    Runs under float64 whatever the global setting.

    **Arguments:**
    - `data`: all rows; the catalogue and the training use every one, the held-out figures come from refits.
    - `config`: [`lossatlas.atlas.SurveyConfig`][].
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.
    - `journal`: keeps the finished sizes of the catalogue, the training and the held-out fits.

    **Returns:**
    [`lossatlas.atlas.Survey`][]. Nothing is written; [`lossatlas.survey`][] also stores it with a report.

    **Raises:** `InputError` for settings that do not fit the data, before any long work.
    """
    config = config or SurveyConfig()
    loss = "mse" if config.loss == "auto" else config.loss
    check_config(data, config, loss)
    meter = as_meter(progress)
    with jax.enable_x64(True):
        return _survey(data, config, loss, meter, journal or Journal())


def check_config(data: DataSet, config: SurveyConfig, loss: str) -> None:
    """See that settings can work on this data.

    **Raises:** `InputError` for the first that cannot.
    """
    as_activation(config.activation)
    for name, known in (("preset", ("quick", "full")), ("loss", ("auto", "mse", "cross_entropy"))):
        if getattr(config, name) not in known:
            raise unknown_name(name, getattr(config, name), known)
    if not 0 <= config.seed < 2**32:
        msg = f"seed (--seed) must lie in 0..2**32 - 1, got {config.seed}."
        raise InputError(msg)
    if data.num_rows < _LEAST_ROWS:
        msg = f"A survey needs at least {_LEAST_ROWS} rows (some are held out), got {data.num_rows}."
        raise InputError(msg)
    if not config.hidden or min(config.hidden) < 1:
        msg = f"hidden (--hidden) must list widths of at least 1, like (50, 50), got {config.hidden}."
        raise InputError(msg)
    if loss == "cross_entropy" and data.kind != "classification":
        msg = "The loss cross_entropy needs classes; the target of this data is a number. Use mse."
        raise InputError(msg)
    for name in ("seeds", "max_units", "num_steps"):
        value = getattr(config, name)
        if value is not None and value < 1:
            msg = f"{name} ({_option(name)}) must be at least 1, got {value}."
            raise InputError(msg)
    if not 0 < config.hold_out < 1:
        msg = f"hold_out (--hold-out), the share of rows kept aside, must lie between 0 and 1, got {config.hold_out}."
        raise InputError(msg)
    if config.learning_rate is not None and not 0 < config.learning_rate < np.inf:
        msg = f"learning_rate (--learning-rate) must be positive and finite, got {config.learning_rate}."
        raise InputError(msg)
    if config.init is not None and not 0 < config.init < 10:
        msg = f"init (--init), the power p of std = max(fan)**-p, must lie between 0 and 10, got {config.init}."
        raise InputError(msg)
    try:
        test = data.split(config.hold_out, seed=config.seed)[1]
    except InputError as error:
        msg = f"hold_out={config.hold_out} (--hold-out) cannot be used: {error}"
        raise InputError(msg) from None
    if test.num_rows < 2:
        msg = f"hold_out={config.hold_out} (--hold-out) keeps {test.num_rows} row aside; at least 2 are needed."
        raise InputError(msg)


def _survey(data: DataSet, config: SurveyConfig, loss: str, meter: ProgressMeter, journal: Journal) -> Survey:
    clock = _Clock()
    act = as_activation(config.activation)
    landscape = data.landscape(loss)
    require_float64(landscape.inputs, "A survey")
    key = jax.random.key(config.seed)
    full = config.preset == "full"
    max_units = config.max_units or (3 if data.num_inputs <= _MANY_INPUTS else 2)
    catalogue = make_catalogue(
        jax.random.fold_in(key, 0),
        landscape,
        activation=act,
        max_units=max_units,
        search=_SEARCHES[full, data.num_inputs > _MANY_INPUTS],
        progress=meter,
        journal=journal,
    )
    clock.lap("catalogue")
    big = Dense(key, [data.num_inputs, *config.hidden, data.num_outputs(loss)])
    trainings = train_big(
        jax.random.fold_in(key, 1),
        landscape,
        catalogue,
        config.hidden,
        act,
        num_seeds=config.seeds or (5 if full else 1),
        power=config.init or default_power(config.hidden),
        learning_rate=config.learning_rate or default_learning_rate(landscape),
        num_steps=config.num_steps or default_num_steps(landscape, num_parameters(big)),
        progress=meter,
        journal=journal,
    )
    if landscape.size * data.num_outputs(loss) <= _FEW_OUTPUTS:
        catalogue = with_found_by_training(catalogue, best_run(trainings), landscape, progress=meter)
        trainings = [run.named_by(catalogue, landscape) for run in trainings]
    clock.lap("training")
    most = _MANY_OUTPUTS if full else _FEW_OUTPUTS
    ending = _ending(jax.random.fold_in(key, 3), best_run(trainings), landscape, most)
    clock.lap("reduction")
    folds = [data.split(config.hold_out, seed=config.seed)]
    if full:
        folds = [fold for repeat in range(_REPEATS) for fold in data.folds(5, seed=config.seed + repeat)]
    selection = select(
        jax.random.fold_in(key, 2),
        folds,
        data,
        default_sizes(landscape, max_units),
        config.hidden,
        loss=loss,
        activation=act,
        recipe=Recipe(big_starts=1) if full else Recipe(),  # folds and repeats average over starts too
        progress=meter,
        journal=journal,
    )
    clock.lap("held-out figures")
    return Survey(
        data=data,
        config=config,
        loss=loss,
        catalogue=catalogue,
        trainings=tuple(trainings),
        ending=ending,
        selection=selection,
        headline=headline(data, selection, loss),
        seconds=clock.laps,
    )


def _ending(key: PRNGKeyArray, run: BigTraining, landscape: Landscape, most_outputs: int) -> Ending:
    linear = linearization(run.network, landscape)
    unit = linear.output_scale
    refit = landscape.size * run.network.widths[-1] <= most_outputs
    reductions = tuple(
        (share, *reduce(run.network, landscape, tolerance=share * unit, bottlenecks="merge", refit=refit))
        for share in TOLERANCES
    )
    condensed = condensation(run.network, key=key)
    return Ending(reductions, unit, linear, condensed, refit, _words(run))


def _words(run: BigTraining) -> str:
    gradient = float(run.gradient_norm[-1])
    if gradient < 1e-12:
        return f"at a standstill after {int(run.steps[-1]):,} steps (gradient norm {gradient:.1e})"
    trend = f"falls like the power -{run.decay_exponent:.2f} of the step number"
    if not run.decay_exponent > 0.01:
        trend = "hardly falls"
    return (
        f"still moving after {int(run.steps[-1]):,} steps (gradient norm {gradient:.1g}): "
        f"the loss {trend}; not a critical point"
    )


def headline(data: DataSet, selection: Selection, loss: str) -> str:
    """The answer in a sentence or two."""
    small, big = selection[selection.recommended], selection[BIG]
    figures = {c.name: _figures(c, selection.r_squared(c.name)) for c in (small, big)}
    measured = f"Measured on {describe_folds(selection)}."
    if selection.recommended == BIG:
        return (
            f"On {data.name}, no small network of the catalogue does as well as the big one "
            f"({big.num_parameters:,} parameters): {figures[BIG]}. {measured}"
        )
    k, r = (int(n) for n in selection.recommended.strip("()").split(","))
    words = describe_size(k, r, data.num_outputs(loss))
    network = f"a network of {words}" if k else words
    gap, error = small.behind(big)
    verdict = "does better than" if gap < -error else "does the job of" if gap <= error else "comes close to"
    if small.accuracy is not None and big.accuracy is not None and small.accuracy < big.accuracy and gap <= error:
        verdict = "is right less often but has no higher loss than"
    return (
        f"On {data.name}, {network} ({small.num_parameters} parameters) {verdict} the big network "
        f"({big.num_parameters:,} parameters): {figures[small.name]}, against {figures[BIG]}. "
        f"{measured}"
    )


def describe_folds(selection: Selection) -> str:
    """What the held-out figures were measured on."""
    rows = f"{selection.num_rows:,} held-out rows"
    if selection.num_folds == 1:
        return f"{rows} (one split)"
    repeated = "" if selection.num_repeats == 1 else f", repeated {selection.num_repeats} times"
    return f"{rows} ({selection.num_folds} folds{repeated})"


def describe_size(neurons: int, linear: int, num_outputs: int) -> str:
    """`(1, 2)` in words: one neuron beside two linear units."""
    if neurons == 0:
        return "a constant" if linear == 0 else f"a linear model{'' if num_outputs == 1 else f' of rank {linear}'}"
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    count = lambda n, noun: f"{words.get(n, n)} {noun}{'' if n == 1 else 's'}"  # noqa: E731
    nonlinear = count(neurons, "neuron")
    return nonlinear if linear == 0 else f"{nonlinear} beside {count(linear, 'linear unit')}"


def _figures(candidate: HeldOut, explained: float | None) -> str:
    text = f"loss {candidate.loss:.3g} ± {candidate.standard_error:.2g}"
    if candidate.accuracy is not None:
        return f"{text}, accuracy {100 * candidate.accuracy:.1f} %"
    if explained is None or explained <= 0:
        return f"{text}, worse than the mean"
    return f"{text}, {100 * explained:.1f} % of the variance explained"


def _option(name: str) -> str:
    """What a setting is called on the command line."""
    return f"--{name.replace('_', '-')}"


class _Clock:
    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 2)
        self._last = now
