"""How the tangent kernel, the function and the weights move along a training run."""

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._gates import find_gates
from lossatlas.geometry._kernel_distance import alignment, effective_rank, kernel_distance, target_kernel
from lossatlas.geometry._kernel_regression import kernel_regression
from lossatlas.geometry._ntk import CONVENTIONS, METHODS, Kernel, Method, ntk
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_source import Points, as_landscape
from lossatlas.landscape import Landscape
from lossatlas.training import Flow, Training


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
    - `first`, `last`: the kernels at the ends, in the `convention` of all.
    """

    times: Float[np.ndarray, " t"]
    measures: dict[str, Float[np.ndarray, " t"]]
    first: Kernel
    last: Kernel
    convention: Convention = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Float[np.ndarray, " t"]:
        return self.measures[name]

    def to_xarray(self):
        """The measures as an `xarray.Dataset` over `time`."""
        import xarray as xr

        return xr.Dataset(
            {name: ("time", values) for name, values in self.measures.items()},
            coords={"time": self.times},
            attrs={"convention": self.convention},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import kernel_evolution_figure

        return kernel_evolution_figure(self.times, self.measures)


def kernel_evolution(
    networks: Sequence[Network] | Training | Flow,
    landscape: Points,
    times: Sequence[float] | np.ndarray | None = None,
    *,
    test: Landscape | None = None,
    convention: Convention = "full",
    method: Method = "auto",
    only: Only = None,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
) -> KernelEvolution:
    r"""Follow the tangent kernel, the function, the ReLUs and the weights along checkpoints (Fort et al. 2020).

    Kernel velocity is $v(t) = S(K_t, K_{t + dt}) / dt$; it falls when a network stops learning features, and the
    kernel at that time already predicts nearly as well as the network. Velocities over steps of different length
    are not comparable where S is curved (the start), and few examples leave a floor of about 1/n: use at least 50.
    Kernels of networks in the NTK parametrisation hardly move. In memory are four kernels at a time.

    **Arguments:**
    - `networks`: checkpoints of one architecture in order, or a run, whose snapshots are used.
    - `landscape`: the examples that kernels are made of, a landscape or inputs; keep them the same for a whole run.
    - `times`: of the checkpoints, increasing; default 0, 1, 2, ..., or the steps (times) of a run.
    - `test`: data that the frozen kernels, trained on `landscape`, predict.
    - `convention`, `method`, `batch_size`: as for [`lossatlas.geometry.ntk`][].

    **Returns:**
    A [`lossatlas.geometry.KernelEvolution`][].

    **Raises:** `InputError` for fewer than two checkpoints, different architectures, times that do not increase,
    and what [`lossatlas.geometry.ntk`][] refuses.
    """
    begin = time.perf_counter()
    checkpoints, when = _checkpoints(networks, times)
    if convention not in CONVENTIONS or method not in METHODS:
        ntk(checkpoints[0], landscape, convention=convention, method=method)  # says what is wrong
    data = as_landscape(landscape)
    options: dict[str, Any] = {"convention": convention, "method": method, "only": only, "batch_size": batch_size}
    first, last = (ntk(checkpoints[i], data, **options) for i in (0, -1))
    states = _States(checkpoints, data)
    target = target_kernel(data.targets) if isinstance(landscape, Landscape) else None
    rows: list[dict[str, float]] = []
    before = first
    with as_meter(progress).task("kernels along the run", len(checkpoints)) as task:
        for i, network in enumerate(checkpoints):
            known = {0: first, len(checkpoints) - 1: last}
            now = known[i] if i in known else ntk(network, data, **options)
            row = _of_kernel(now, first, last, target)
            row["velocity"] = np.nan if i == 0 else kernel_distance(before, now).distance / float(when[i] - when[i - 1])
            row |= states.measures(i)
            if test is not None and isinstance(landscape, Landscape):
                found = kernel_regression(network, landscape, test, **options)
                row["frozen_accuracy"] = np.nan if found.accuracy is None else found.accuracy
                row["network_accuracy"] = np.nan if found.network_accuracy is None else found.network_accuracy
            rows.append(row)
            before = now
            task.update(i + 1)
    return KernelEvolution(
        times=when,
        measures={name: np.asarray([row[name] for row in rows]) for name in rows[0]},
        first=first,
        last=last,
        convention=convention,
        stats={"seconds": time.perf_counter() - begin},
        settings={"convention": convention, "num_examples": data.size},
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
        "target_alignment": np.nan if target is None else alignment(_over_examples(now), target),
    }


def _over_examples(kernel: Kernel) -> np.ndarray:
    """A kernel over examples alone: the mean over outputs of a full one."""
    if kernel.convention != "full":
        return kernel.matrix
    size = kernel.num_outputs
    blocks = kernel.matrix.reshape(len(kernel.matrix) // size, size, -1, size)
    return np.einsum("icjc->ij", blocks) / size


class _States:
    """Predictions, ReLUs and weights of all checkpoints, and their distances."""

    def __init__(self, networks: list[Network], data: Landscape):
        link = data.loss.link if data.loss is not None else lambda prediction: prediction
        outputs = [np.asarray(_predictions(network, data)).reshape(data.size, -1) for network in networks]
        self.choices = [_choices(values) for values in outputs]
        self.linked = [np.asarray(jax.vmap(link)(values)) for values in outputs]
        self.weights = [np.asarray(ravel(network)[0], float) for network in networks]
        gates = find_gates(networks[0], data)
        self.patterns = [gates.patterns(network, data) for network in networks] if gates.variables else None

    def measures(self, i: int) -> dict[str, float]:
        """Those of one checkpoint."""
        before, last = max(i - 1, 0), len(self.weights) - 1
        found = {"output_distance_from_first": float(np.linalg.norm(self.linked[i] - self.linked[0], axis=1).mean())}
        places = {"": before, "_from_first": 0, "_to_last": last}
        for suffix, j in places.items():
            none = suffix == "" and i == 0
            found["disagreement" + suffix] = np.nan if none else _differing(self.choices, i, j)
            found["hamming" + suffix] = np.nan if none or self.patterns is None else _differing(self.patterns, i, j)
        way, whole = self.weights[i] - self.weights[0], self.weights[last] - self.weights[0]
        lengths = np.linalg.norm(way), np.linalg.norm(whole)
        found |= {
            "weight_distance_from_first": float(lengths[0]),
            "weight_distance_to_last": float(np.linalg.norm(self.weights[i] - self.weights[last])),
            "weight_change": float(lengths[0] / max(np.linalg.norm(self.weights[0]), 1e-300)),
            "direction": float(way @ whole / (lengths[0] * lengths[1])) if lengths[0] * lengths[1] > 0 else np.nan,
        }
        return found


def _choices(outputs: Float[np.ndarray, "n o"]) -> np.ndarray:
    return outputs.argmax(axis=1) if outputs.shape[1] > 1 else outputs[:, 0] > 0


def _differing(values: list[np.ndarray], i: int, j: int) -> float:
    return float(np.mean(values[i] != values[j]))


@eqx.filter_jit
def _predictions(network: Network, data: Landscape) -> Array:
    return data.predictions(network)
