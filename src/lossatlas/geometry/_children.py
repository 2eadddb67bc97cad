"""How far the children of a training run are apart: barriers, kernels, predictions, ReLUs, weights."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import ravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import html_page, shown
from lossatlas._types import Network, Only
from lossatlas.geometry._barrier import Barrier, barrier
from lossatlas.geometry._function_states import FunctionStates, differing
from lossatlas.geometry._kernel_distance import kernel_distance
from lossatlas.geometry._ntk import Method, ntk
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_source import Points, as_landscape
from lossatlas.geometry._path import Path, Refresh
from lossatlas.landscape import Landscape
from lossatlas.training import Spawned


_PROBE = 100  # examples that kernels are made of, unless others are given
_COLUMNS = ("error_barrier", "loss_barrier", "test_error_barrier", "test_loss_barrier", "kernel_distance")


@shown
class ChildComparison(eqx.Module):
    r"""Measures of every pair of children that left at the same time, by name; NaN where one is not defined.

    - `times`: at which the children left.
    - `pairs`: the numbers of the children of each pair.
    - `measures`: arrays over times and pairs. `loss_barrier` is
      $\max_\alpha R(\alpha w_1 + (1-\alpha) w_2) - \frac12 (R(w_1) + R(w_2))$, `error_barrier` the same of the share
      of examples that are wrong; `loss` and `error` are the means of the ends. With `test_` before their names: on test
      data. `kernel_distance` is S of [`lossatlas.geometry.KernelDistance`][], `disagreement` the share of examples
      whose largest output (the sign of a single one) differs, `hamming` the share of ReLUs and examples whose state
      differs; on the probe. `weight_distance` is Euclidean.
    - `convention`: of the kernels.
    """

    times: Float[np.ndarray, " t"]
    pairs: Int[np.ndarray, "p 2"]
    measures: dict[str, Float[np.ndarray, "t p"]]
    convention: Convention = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Float[np.ndarray, "t p"]:
        if name not in self.measures:
            raise unknown_name("measure", name, self.measures)
        return self.measures[name]

    def mean(self, name: str) -> Float[np.ndarray, " t"]:
        """A measure at every time, the mean over pairs."""
        return self[name].mean(axis=1)

    def spread(self, name: str) -> Float[np.ndarray, " t"]:
        """The standard deviation of a measure over pairs; NaN for one pair.

        Pairs that share a child are alike, so the error of the mean is larger than this over the root of their number.
        """
        if len(self.pairs) < 2:
            return np.full(len(self.times), np.nan)
        return self[name].std(axis=1, ddof=1)

    def stable_from(self, tolerance: float = 0.01, measure: str = "error_barrier") -> float | None:
        """The first time from which on the mean barrier stays within a tolerance: the basin is decided there.

        **Arguments:**
        - `tolerance`: in the unit of the measure; of errors, twice their standard error is a fair choice.
        - `measure`: such as `"error_barrier"` or `"loss_barrier"`.

        **Returns:** one of `times`; None where even the last barrier is larger, or the measure is not defined.

        **Raises:** `InputError` for a measure that there is not.
        """
        is_low = self.mean(measure) <= tolerance
        if not is_low[-1]:
            return None
        high = np.flatnonzero(~is_low)
        return float(self.times[high[-1] + 1 if len(high) else 0])

    def to_xarray(self) -> Any:
        """The measures as an `xarray.Dataset` over `time` and `pair`."""
        import xarray as xr

        names = [f"{first}-{second}" for first, second in self.pairs]
        return xr.Dataset(
            {name: (("time", "pair"), values) for name, values in self.measures.items()},
            coords={"time": self.times, "pair": names},
            attrs={"convention": self.convention},
        )

    def _repr_html_(self) -> str:
        shown = [name for name in _COLUMNS if np.isfinite(self.measures.get(name, np.nan)).any()]
        rows = [
            {"time": float(at)} | {name: f"{self.mean(name)[i]:.3g} ± {self.spread(name)[i]:.2g}" for name in shown}
            for i, at in enumerate(self.times)
        ]
        return html_page(f"Children: mean and standard deviation over {len(self.pairs)} pairs", rows)

    def _figure(self) -> Any:
        from lossatlas.figures import children_figure

        means, spreads = ({name: of(name) for name in self.measures} for of in (self.mean, self.spread))
        has_errors = bool(np.isfinite(self.measures["error_barrier"]).any())
        return children_figure(self.times, means, spreads, value="shares" if has_errors else "loss")


def compare_children(
    children: Spawned | Mapping[float, Sequence[Network]] | Mapping[int, Sequence[Network]],
    landscape: Landscape,
    *,
    test: Landscape | None = None,
    probe: Points | None = None,
    num_points: int = 25,
    refresh: Refresh | None = None,
    convention: Convention = "full",
    method: Method = "auto",
    only: Only = None,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
) -> ChildComparison:
    r"""Compare all pairs of children that left a training run at the same time (Fort et al. 2020, section 3).

    Children that left late end in one basin: no barrier lies between them, and their kernels, predictions and ReLUs
    resemble each other. The time from which on this is so tells when checkpoints may be averaged, or training with
    frozen features may begin. Barriers mean something only where the children have learned: look at `loss` and
    `error`, and lower the learning rate before the end.

    Cost: `num_points` evaluations of the loss for every pair and data set, one kernel of the probe for every child.

    **Arguments:**
    - `children`: what [`lossatlas.training.spawn`][] made, or networks trained elsewhere by the time that they left;
      as many for each time, two at least.
    - `landscape`: the training data, for the barriers. `test`: further data for them.
    - `probe`: examples for kernels, predictions and ReLUs; default the first 100 of `landscape`.
    - `num_points`: places on the straight line between two children, both ends among them.
    - `refresh`: what is done to every network on that line, see [`lossatlas.geometry.Path`][]: running statistics do
      not interpolate.
    - `convention`, `method`, `batch_size`: as for [`lossatlas.geometry.ntk`][].

    **Returns:** A [`lossatlas.geometry.ChildComparison`][].

    **Raises:** `InputError` for fewer than two children, numbers of them that differ, different architectures, running
    statistics that differ without `refresh`, and what [`lossatlas.geometry.ntk`][] refuses.

    !!! cite
        Fort et al. 2020, arXiv 2010.15110; the barrier is the instability of Frankle et al. 2020, arXiv 1912.05671.
    """
    begin = time.perf_counter()
    groups = _groups(children)
    number = len(next(iter(groups.values())))
    pairs = list(itertools.combinations(range(number), 2))
    data = landscape.subset(slice(0, _PROBE)) if probe is None else as_landscape(probe)
    options: dict[str, Any] = {"convention": convention, "method": method, "only": only, "batch_size": batch_size}
    kinds = {"": landscape} | ({} if test is None else {"test_": test})
    rows: list[dict[str, float]] = []
    with as_meter(progress).task("pairs of children", len(groups) * len(pairs)) as task:
        for networks in groups.values():
            paths = [Path((networks[i], networks[j]), refresh=refresh) for i, j in pairs]  # checks the networks
            for path, row in zip(paths, _apart(networks, pairs, data, options), strict=True):
                for prefix, of in kinds.items():
                    found = barrier(path, of, num_points=num_points, num_refinements=0)
                    row |= {prefix + name: value for name, value in _of_barrier(found).items()}
                rows.append(row)
                task.update(len(rows))
    shape = (len(groups), len(pairs))
    return ChildComparison(
        times=np.asarray(list(groups), float),
        pairs=np.asarray(pairs),
        measures={name: np.asarray([row[name] for row in rows]).reshape(shape) for name in rows[0]},
        convention=convention,
        stats={"seconds": time.perf_counter() - begin},
        settings={"convention": convention, "num_points": num_points, "num_probe_examples": data.size},
    )


def _groups(children: Any) -> dict[float, tuple[Network, ...]]:
    if isinstance(children, Spawned):
        return _checked({float(step): children.children_at(step) for step in children.spawn_steps.tolist()})
    return _checked({float(at): tuple(networks) for at, networks in sorted(children.items())})


def _checked(groups: dict[float, tuple[Network, ...]]) -> dict[float, tuple[Network, ...]]:
    numbers = {at: len(networks) for at, networks in groups.items()}
    if len(set(numbers.values())) != 1 or min(numbers.values()) < 2:
        msg = f"A comparison needs two children at least, as many at every time; got (time: children) {numbers}."
        raise InputError(msg)
    return groups


def _of_barrier(found: Barrier) -> dict[str, float]:
    error = found.error_instability
    ends = found.loss[[0, -1]]
    wrong = np.nan if found.accuracy is None else float(1 - found.accuracy[[0, -1]].mean())
    return {
        "loss_barrier": found.instability,
        "error_barrier": np.nan if error is None else error,
        "loss": float(ends.mean()),
        "error": wrong,
    }


def _apart(
    networks: Sequence[Network], pairs: list[tuple[int, int]], data: Landscape, options: dict[str, Any]
) -> list[dict[str, float]]:
    """The distances of networks, pair by pair; those of functions are NaN where there are no predictions."""
    vectors = [np.asarray(ravel(network)[0], float) for network in networks]
    lengths = [float(np.linalg.norm(vectors[i] - vectors[j])) for i, j in pairs]
    if not data.has_predictions:
        nothing = dict.fromkeys(("kernel_distance", "disagreement", "hamming"), np.nan)
        return [{**nothing, "weight_distance": length} for length in lengths]
    kernels = [ntk(network, data, **options) for network in networks]
    states = FunctionStates(networks, data)
    return [
        {
            "kernel_distance": kernel_distance(kernels[i], kernels[j]).distance,
            "disagreement": float(differing(states.choices, i, j, data.size).mean()),
            "hamming": float(differing(states.patterns, i, j, data.size).mean()),
            "weight_distance": length,
        }
        for (i, j), length in zip(pairs, lengths, strict=True)
    ]
