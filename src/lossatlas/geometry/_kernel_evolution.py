"""How the tangent kernel, the function and the weights move along a training run."""

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import html_page, shown
from lossatlas._types import Network, Only
from lossatlas.geometry._function_states import FunctionStates
from lossatlas.geometry._kernel_bootstrap import resample_counts, resampled_distances, resampled_means
from lossatlas.geometry._kernel_distance import (
    alignment,
    as_matrix,
    effective_rank,
    kernel_distance,
    over_examples,
    target_kernel,
)
from lossatlas.geometry._kernel_regression import kernel_regression
from lossatlas.geometry._ntk import CONVENTIONS, METHODS, Kernel, Method, ntk
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_source import Points, as_landscape
from lossatlas.landscape import Landscape
from lossatlas.training import Flow, Training


_COLUMNS = (
    *("velocity", "distance_from_first", "hamming_from_first", "disagreement_from_first", "target_alignment"),
    *("frozen_accuracy", "network_accuracy"),
)


@shown
class KernelEvolution(eqx.Module):
    r"""Measures of every checkpoint, by name; NaN where one is not defined.

    - `times`: of the checkpoints, in the unit that was given.
    - `measures`: arrays over the checkpoints. Kernels, with S, s and D of [`lossatlas.geometry.KernelDistance`][]:
      `velocity` (S from the checkpoint before over the time between), `distance_from_first`, `distance_to_last`,
      `scale`, `change` (s and D from the first), `centred_distance_from_first`, `trace`, `effective_rank`,
      `target_alignment` (centred). Functions: `disagreement`, `disagreement_from_first`, `disagreement_to_last`,
      the share of examples whose largest output (the sign of a single one) differs; `output_distance_from_first`,
      mean Euclidean distance of what the loss makes of outputs (probabilities for classes). ReLUs: `hamming`,
      `hamming_from_first`, `hamming_to_last`, the share of units, all alike, and examples whose state differs.
      Weights: `weight_distance_from_first`, `weight_distance_to_last`, `weight_change` (relative to the first),
      `direction`, the cosine of the way so far with the whole way. With test data: `frozen_accuracy` (kernel
      regression) and `network_accuracy`.
    - `errors`: standard errors of measures by name: how far they would scatter over other examples of the kind, from
      resamples of the examples (bootstrap); of accuracies, from the number of test examples. Weights have none, nor
      has `effective_rank`. Empty where no resamples were asked for.
    - `first`, `last`: the kernels at the ends, in the `convention` of all.
    """

    times: Float[np.ndarray, " t"]
    measures: dict[str, Float[np.ndarray, " t"]]
    errors: dict[str, Float[np.ndarray, " t"]]
    first: Kernel
    last: Kernel
    convention: Convention = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Float[np.ndarray, " t"]:
        return self.measures[name]

    def to_xarray(self):
        """The measures, and their errors as `..._error`, as an `xarray.Dataset` over `time`."""
        import xarray as xr

        columns = self.measures | {f"{name}_error": values for name, values in self.errors.items()}
        return xr.Dataset(
            {name: ("time", values) for name, values in columns.items()},
            coords={"time": self.times},
            attrs={"convention": self.convention},
        )

    def _repr_html_(self) -> str:
        shown = [name for name in _COLUMNS if np.isfinite(self.measures.get(name, np.nan)).any()]
        rows = [
            {"time": float(at)} | {name: self._in_words(name, i) for name in shown} for i, at in enumerate(self.times)
        ]
        return html_page(f"Kernels along a run, convention {self.convention}", rows)

    def _in_words(self, name: str, i: int) -> str:
        error = self.errors.get(name, np.full(len(self.times), np.nan))[i]
        return f"{self.measures[name][i]:.3g}" + (f" ± {error:.1g}" if error > 0 else "")

    def _figure(self) -> Any:
        from lossatlas.figures import kernel_evolution_figure

        return kernel_evolution_figure(self.times, self.measures, self.errors)


def kernel_evolution(
    networks: Sequence[Network] | Training | Flow,
    landscape: Points,
    times: Sequence[float | int] | np.ndarray | None = None,
    *,
    test: Landscape | None = None,
    convention: Convention = "full",
    method: Method = "auto",
    only: Only = None,
    batch_size: int | None = None,
    num_resamples: int = 200,
    key: PRNGKeyArray | None = None,
    progress: ProgressLike = "none",
) -> KernelEvolution:
    r"""Follow the tangent kernel, the function, the ReLUs and the weights along checkpoints (Fort et al. 2020).

    Kernel velocity is $v(t) = S(K_t, K_{t + dt}) / dt$; it falls when a network stops learning features, and the
    kernel at that time already predicts nearly as well as the network. Velocities over steps of different length
    are not comparable where S is curved (the start), and few examples leave a floor of about 1/n: use at least 50.
    Kernels of networks in the NTK parametrisation hardly move. In memory are four kernels at a time; their resamples
    cost no further kernels.

    **Arguments:**
    - `networks`: checkpoints of one architecture in order, or a run, whose snapshots are used.
    - `landscape`: the examples that kernels are made of, a landscape or inputs; keep them the same for a whole run.
    - `times`: of the checkpoints, increasing; default 0, 1, 2, ..., or the steps (times) of a run.
    - `test`: data that the frozen kernels, trained on `landscape`, predict.
    - `convention`, `method`, `batch_size`: as for [`lossatlas.geometry.ntk`][].
    - `num_resamples`: of the examples, for the standard errors; 0 for none.
    - `key`: decides the resamples; None for the same in every call, so that runs are compared on the same ones.

    **Returns:**
    A [`lossatlas.geometry.KernelEvolution`][].

    **Raises:** `InputError` for fewer than two checkpoints, different architectures, times that do not increase,
    a single resample, and what [`lossatlas.geometry.ntk`][] refuses.
    """
    begin = time.perf_counter()
    checkpoints, when = _checkpoints(networks, times)
    if num_resamples < 0 or num_resamples == 1:
        msg = f"num_resamples must be at least 2, or 0 for no errors, got {num_resamples}."
        raise InputError(msg)
    if convention not in CONVENTIONS or method not in METHODS:
        ntk(checkpoints[0], landscape, convention=convention, method=method)  # says what is wrong
    data = as_landscape(landscape)
    options: dict[str, Any] = {"convention": convention, "method": method, "only": only, "batch_size": batch_size}
    first, last = (ntk(checkpoints[i], data, **options) for i in (0, -1))
    states = FunctionStates(checkpoints, data)
    target = target_kernel(data.targets) if isinstance(landscape, Landscape) else None
    counts = resample_counts(jax.random.key(0) if key is None else key, data.size, num_resamples)
    rows: list[dict[str, float]] = []
    errors: list[dict[str, float]] = []
    before = first
    with as_meter(progress).task("kernels along the run", len(checkpoints)) as task:
        for i, network in enumerate(checkpoints):
            known = {0: first, len(checkpoints) - 1: last}
            now = known[i] if i in known else ntk(network, data, **options)
            row = _of_kernel(now, first, last, target)
            step = np.nan if i == 0 else float(when[i] - when[i - 1])
            row["velocity"] = kernel_distance(before, now).distance / step
            shares = states.shares(i)
            row |= {name: float(values.mean()) for name, values in shares.items()} | states.of_weights(i)
            error: dict[str, float] = {}
            if num_resamples:
                error = _kernel_errors(counts, before, now, first, last, target, step)
                error |= {name: _scatter(resampled_means(counts, values)) for name, values in shares.items()}
            if test is not None and isinstance(landscape, Landscape):
                found = kernel_regression(network, landscape, test, **options)
                for name, value in (("frozen_accuracy", found.accuracy), ("network_accuracy", found.network_accuracy)):
                    row[name] = np.nan if value is None else value
                    if num_resamples:
                        error[name] = np.sqrt(row[name] * (1 - row[name]) / test.size)
            rows.append(row)
            errors.append(error)
            before = now
            task.update(i + 1)
    return KernelEvolution(
        times=when,
        measures={name: np.asarray([row[name] for row in rows]) for name in rows[0]},
        errors={name: np.asarray([error[name] for error in errors]) for name in errors[0]},
        first=first,
        last=last,
        convention=convention,
        stats={"seconds": time.perf_counter() - begin},
        settings={"convention": convention, "num_examples": data.size, "num_resamples": num_resamples},
    )


def _checkpoints(networks: Any, times: Any) -> tuple[list[Network], np.ndarray]:
    if isinstance(networks, Training | Flow):
        own = networks.steps if isinstance(networks, Training) else networks.times
        times = own if times is None else times
        networks = [networks.network_at(i) for i in range(networks.num_snapshots)]
    networks = list(networks)
    if len(networks) < 2:
        msg = f"An evolution needs at least two checkpoints, got {len(networks)}."
        raise InputError(msg)
    when = np.arange(len(networks), dtype=float) if times is None else np.asarray(times, float)
    if when.shape != (len(networks),) or not (np.diff(when) > 0).all():
        msg = f"times must increase, one for each of the {len(networks)} checkpoints, got {when.tolist()}."
        raise InputError(msg)
    shapes = [
        jax.tree.map(lambda a: (a.shape, str(a.dtype)), eqx.filter(network, eqx.is_array)) for network in networks
    ]
    if any(shape != shapes[0] for shape in shapes):
        msg = "The checkpoints have different architectures; an evolution follows one network."
        raise InputError(msg)
    return networks, when


def _of_kernel(now: Kernel, first: Kernel, last: Kernel, target: np.ndarray | None) -> dict[str, float]:
    moved = kernel_distance(first, now)
    return {
        "distance_from_first": moved.distance,
        "distance_to_last": kernel_distance(now, last).distance,
        "scale": moved.scale,
        "change": moved.change,
        "centred_distance_from_first": kernel_distance(first, now, centred=True).distance,
        "trace": float(np.trace(now.matrix)),
        "effective_rank": effective_rank(now),
        "target_alignment": np.nan if target is None else alignment(over_examples(now), target),
    }


def _kernel_errors(
    counts: np.ndarray,
    before: Kernel,
    now: Kernel,
    first: Kernel,
    last: Kernel,
    target: np.ndarray | None,
    step: float,
) -> dict[str, float]:
    """The standard errors of what `_of_kernel` measures, and of the velocity over a time `step`."""
    at = {"before": before, "now": now, "first": first, "last": last}
    matrices = {name: as_matrix(kernel) for name, kernel in at.items()}
    moved = resampled_distances(counts, matrices["first"], matrices["now"])
    found = {
        "velocity": resampled_distances(counts, matrices["before"], matrices["now"])["distance"] / step,
        "distance_from_first": moved["distance"],
        "distance_to_last": resampled_distances(counts, matrices["now"], matrices["last"])["distance"],
        "scale": moved["scale"],
        "change": moved["change"],
        "centred_distance_from_first": resampled_distances(counts, matrices["first"], matrices["now"], centred=True)[
            "distance"
        ],
        "trace": counts @ np.diag(matrices["now"]).reshape(counts.shape[1], -1).sum(1),
    }
    if target is not None:
        own = over_examples(now)
        found["target_alignment"] = resampled_distances(counts, own, target, centred=True)["distance"]
    return {name: _scatter(values) for name, values in found.items()}


def _scatter(values: Float[np.ndarray, " b"]) -> float:
    return float(values.std(ddof=1))
