"""Lines, planes and slices of any dimension through the loss: values on a grid."""

import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Shaped

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._parameters import Unravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._cost import duration
from lossatlas.geometry._directions import Directions
from lossatlas.geometry._slice_values import Loop, SliceValues
from lossatlas.landscape import Landscape


if TYPE_CHECKING:
    import xarray as xr

LONG_NAMES = {
    "loss": "mean loss over the data",
    "gradient_norm": "Euclidean norm of the gradient",
    "accuracy": "share of right predictions",
    "test_loss": "mean loss over the test data",
    "test_accuracy": "share of right predictions on the test data",
}
_NUM = {1: 101, 2: 41, 3: 15}  # points along each direction, by the number of directions
_NUM_OTHERS = 7


@shown
class Slice(eqx.Module):
    """The loss and what else was asked for on a grid along directions from a network.

    - `values`: by name (`loss`, `gradient_norm`, `accuracy`, `test_loss`, `test_accuracy`), an array with an axis for
      each direction. What is not finite stays so: it is a masked cell, counted by `num_masked` and drawn as such.
    - `coordinates`: along each direction; the network lies at 0.
    - `directions`: what spans the grid. `origin`: the moving parameters of the network, flat.
    - `rest`: a digest of everything else that the network holds, which tells another network.
    - `error`: by name, how far the values may be off by interpolation, None where every one was computed.
    - `stats`: `points`, `evaluations` (of the training loss) and `seconds`.
    - `settings`: what was run; with the directions and the origin they make the same numbers again.
    """

    values: dict[str, Float[np.ndarray, "..."]]
    coordinates: tuple[Float[np.ndarray, " _"], ...]
    directions: Directions
    origin: Shaped[np.ndarray, " p"]
    rest: str
    error: dict[str, float] | None
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def num_masked(self) -> int:
        """How many cells have a loss that is not finite."""
        return int((~np.isfinite(self.values["loss"])).sum())

    @property
    def lowest(self) -> tuple[tuple[float, ...], float]:
        """The coordinates of the least finite loss, and that loss.

        **Raises:** `InputError` where every cell is masked.
        """
        loss = self.values["loss"]
        if self.num_masked == loss.size:
            msg = "Every cell is masked: no loss on this slice is finite. Look at a smaller extent."
            raise InputError(msg)
        place = np.unravel_index(np.argmin(np.where(np.isfinite(loss), loss, np.inf)), loss.shape)
        return tuple(float(axis[i]) for axis, i in zip(self.coordinates, place, strict=True)), float(loss[place])

    def error_at(self, quantity: str, values: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
        """How far values of a quantity may be off by interpolation: 0 where they were computed.

        It is `error`, but where the tolerance was relative to the value, the largest such share of the value.
        """
        values = np.asarray(values, float)
        if self.error is None:
            return np.zeros_like(values)
        share = self.settings.get("refined", {}).get("relative_error", {}).get(quantity)
        return np.full_like(values, self.error[quantity]) if share is None else np.asarray(share * np.abs(values))

    def to_xarray(self) -> "xr.Dataset":
        """Everything as one data set, which `from_xarray` reads: values, directions, origin, settings.

        It has plain attributes, so that it can be written as NetCDF or zarr.
        """
        import xarray as xr

        names = [f"direction_{i + 1}" for i in range(len(self.coordinates))]
        values = {name: (names, array, self._words(name)) for name, array in self.values.items()}
        coordinates = {
            name: (name, axis, {"long_name": title})
            for name, axis, title in zip(names, self.coordinates, self.directions.names, strict=True)
        }
        facts = {f"fact_{name}": ("direction", numbers) for name, numbers in self.directions.facts.items()}
        return xr.Dataset(
            values
            | facts
            | {
                "vectors": (("direction", "parameter"), self.directions.vectors),
                "origin": ("parameter", self.origin),
                "extents": (("direction", "end"), np.asarray(self.directions.extents)),
            },
            coords=coordinates,
            attrs={
                "parameters": json.dumps(self.directions.parameters),
                "directions": json.dumps(self.directions.settings),
                "networks": json.dumps(self.directions.networks),
                "rest": self.rest,
                "error": json.dumps(self.error),
                "stats": json.dumps(self.stats),
                "settings": json.dumps(self.settings),
                "masked": self.num_masked,
            },
        )

    def _words(self, name: str) -> dict[str, Any]:
        """What a quantity is, and how far the least value of it may be off where it was interpolated."""
        words: dict[str, Any] = {"long_name": LONG_NAMES[name]}
        finite = self.values[name][np.isfinite(self.values[name])]
        if self.error is not None and finite.size:
            words["error"] = float(self.error_at(name, finite.min()))
        return words

    @classmethod
    def from_xarray(cls, dataset: "xr.Dataset") -> "Slice":
        """The slice that `to_xarray` wrote.

        **Raises:** `InputError` for a data set that is no slice.
        """
        if "settings" not in dataset.attrs or "vectors" not in dataset:
            msg = "This data set is no slice: it has no settings or no vectors. Slice.to_xarray makes one."
            raise InputError(msg)
        attributes = {name: json.loads(text) for name, text in dataset.attrs.items() if name not in ("rest", "masked")}
        names = [f"direction_{i + 1}" for i in range(dataset.sizes["direction"])]
        directions = Directions(
            vectors=dataset["vectors"].to_numpy(),
            parameters=tuple(attributes["parameters"]),
            names=tuple(dataset[name].attrs["long_name"] for name in names),
            extents=tuple((float(low), float(high)) for low, high in dataset["extents"].to_numpy()),
            facts={
                str(name).removeprefix("fact_"): dataset[name].to_numpy()
                for name in dataset.data_vars
                if str(name).startswith("fact_")
            },
            settings=attributes["directions"],
        )
        return cls(
            values={name: dataset[name].to_numpy() for name in LONG_NAMES if name in dataset},
            coordinates=tuple(dataset[name].to_numpy() for name in names),
            directions=directions,
            origin=dataset["origin"].to_numpy(),
            rest=dataset.attrs["rest"],
            error=attributes["error"],
            stats=attributes["stats"],
            settings=attributes["settings"],
        )

    def _figure(self) -> Any:
        from lossatlas.figures import line_figure, plane_figure

        if len(self.coordinates) == 1:
            return line_figure(self.to_xarray())
        return plane_figure(self.to_xarray()) if len(self.coordinates) == 2 else None


@shown
class SliceCost(eqx.Module):
    """What a slice will cost.

    - `points`: of the grid. `evaluations`: of the training loss that they come to, a gradient counted as three.
    - `seconds`: of one point, measured after compiling. `bytes`: of the results, directions and parameters; the
      activations of one batch come on top.
    """

    points: int
    evaluations: float
    seconds: float
    bytes: int

    def words(self, num_points: int | None = None) -> str:
        """The cost of so many points, by default those of the grid, in words."""
        points = self.points if num_points is None else num_points
        evaluations = points * self.evaluations / self.points
        return (
            f"{points:,} points, {evaluations:,.0f} evaluations of the loss, {1e3 * self.seconds:.3g} ms a point, "
            f"about {duration(points * self.seconds)}"
        )


def slice_cost(
    network: Network,
    landscape: Landscape,
    directions: Directions,
    *,
    num: int | Sequence[int] | None = None,
    test: Landscape | None = None,
    gradient_norm: bool = False,
    accuracy: bool | None = None,
) -> SliceCost:
    """What [`lossatlas.geometry.loss_slice`][] with these arguments will cost, said beforehand.

    One point is computed, after compiling; the program is kept for the slice.

    **Arguments:**
    - `num`, `test`, `gradient_norm`, `accuracy`: as there.

    **Raises:** `InputError` as there.
    """
    at = SliceValues(network, landscape, directions, test=test, gradient_norm=gradient_norm, accuracy=accuracy)
    points = int(np.prod(_counts(num, len(directions))))
    here = np.zeros((1, len(directions)))
    at(here)
    begin = time.perf_counter()
    at(here)
    held = directions.vectors.nbytes + 2 * at.origin.nbytes
    return SliceCost(
        points=points,
        evaluations=points * at.evaluations,
        seconds=time.perf_counter() - begin,
        bytes=held + points * 8 * (len(at.names) + len(directions)),
    )


def loss_slice(
    network: Network,
    landscape: Landscape,
    directions: Directions,
    *,
    num: int | Sequence[int] | None = None,
    extents: Sequence[tuple[float | int, float | int]] | None = None,
    test: Landscape | None = None,
    gradient_norm: bool = False,
    accuracy: bool | None = None,
    loop: Loop = "auto",
    folder: pathlib.Path | None = None,
    progress: ProgressLike | None = None,
) -> Slice:
    r"""The loss on a grid along directions from a network: a line, a plane, or more.

    The value at coordinates $a$ is $R(\theta + \sum_i a_i d_i)$, computed at every point of the grid, all quantities
    in the same pass. The network is never modified. Cost: one evaluation of the loss a point, two more for the gradient
    norm, those of the test data; [`lossatlas.geometry.slice_cost`][] says it beforehand. For a smooth picture
    from far fewer evaluations see [`lossatlas.geometry.refined_slice`][]. A landscape with a `batch_size` streams.

    **Arguments:**
    - `directions`: from [`lossatlas.geometry.random_directions`][] and its like. One makes a line, two a plane.
    - `num`: points along each direction, one number or one for each; default 101 for a line, 41 for a plane. An odd
      number over a symmetric extent has the network itself on the grid.
    - `extents`: the first and last coordinate along each; default those of the directions.
    - `test`: another landscape, for the same quantities on test data.
    - `gradient_norm`: also the norm of the gradient of the training loss in the moving parameters.
    - `accuracy`: also the share of right predictions; default where the losses are those of classes.
    - `loop`: `"map"` one point after another in a compiled loop, `"host"` driven from Python, `"vmap"` side by side;
      `"auto"` takes the fastest for the device and the network.
    - `folder`: where finished chunks are kept. The same call, after an interruption, goes on where it stopped.

    **Returns:** [`lossatlas.geometry.Slice`][]; cells whose loss is not finite are masked.

    **Raises:** `InputError` for directions of another network, grids of less than two points, and extents that are not
    increasing.

    !!! cite
        Goodfellow, Vinyals and Saxe 2015, arXiv 1412.6544 (lines); Li et al. 2018, arXiv 1712.09913 (planes).
    """
    begin = time.perf_counter()
    at = SliceValues(
        network, landscape, directions, test=test, gradient_norm=gradient_norm, accuracy=accuracy, loop=loop
    )
    counts = _counts(num, len(directions))
    extents = check_extents(extents, directions)
    axes = tuple(np.linspace(low, high, count) for (low, high), count in zip(extents, counts, strict=True))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    settings = {
        "num": list(counts),
        "extents": [list(pair) for pair in extents],
        "gradient_norm": gradient_norm,
        "accuracy": at.accuracy,
        "test": test is not None,
        "loop": at.loop,
        "batch_size": landscape.batch_size,
        "convention": "mean over examples",
    }
    rest = rest_digest(at.unravel)
    found = _computed(at, points, folder, f"{rest}{json.dumps(settings)}", progress)
    return Slice(
        values={name: found[:, i].reshape(counts) for i, name in enumerate(at.names)},
        coordinates=axes,
        directions=directions,
        origin=np.asarray(at.origin),
        rest=rest,
        error=None,
        stats={
            "points": len(points),
            "evaluations": len(points) * at.evaluations,
            "seconds": time.perf_counter() - begin,
        },
        settings=settings,
    )


def regenerate_slice(found: Slice, network: Network, landscape: Landscape, *, test: Landscape | None = None) -> Slice:
    """Compute a slice again from what it stores: the same numbers on the same machine.

    **Arguments:**
    - `found`: of `loss_slice`, perhaps read from a file.
    - `network`: the same network, or one of its structure: the moving parameters are taken from the slice.
    - `landscape`, `test`: the same data.

    **Raises:** `InputError` where something that does not move differs, or the test data are missing.
    """
    if found.error is not None:
        msg = "This slice was interpolated; regenerate it by refined_slice with its settings."
        raise InputError(msg)
    _, unravel = found.directions.split(network)
    if rest_digest(unravel) != found.rest:
        msg = "What does not move along the directions differs from the network that the slice was made from."
        raise InputError(msg)
    settings = found.settings
    if settings["test"] != (test is not None):
        msg = f"The slice was made {'with' if settings['test'] else 'without'} test data; give the same."
        raise InputError(msg)
    return loss_slice(
        unravel(jax.numpy.asarray(found.origin)),
        landscape.with_batch_size(settings["batch_size"]),
        found.directions,
        num=settings["num"],
        extents=[(low, high) for low, high in settings["extents"]],
        test=test,
        gradient_norm=settings["gradient_norm"],
        accuracy=settings["accuracy"],
        loop=settings["loop"],
    )


def _computed(
    at: SliceValues, points: np.ndarray, folder: pathlib.Path | None, key: str, progress: ProgressLike | None
) -> np.ndarray:
    """The values at points, part after part, each kept in the folder under a name that no other slice has."""
    digest = hashlib.sha256(key.encode())
    for array in (at.origin, at.vectors, *jax.tree.leaves([each.batch for each in at.landscapes])):
        digest.update(np.ascontiguousarray(array).tobytes())
    journal, name = Journal(folder), digest.hexdigest()[:16]
    size = 64 * at.chunk
    parts = []
    with as_meter(progress).task("slice", len(points)) as task:
        for start in range(0, len(points), size):
            part = points[start : start + size]

            def compute(part=part, start=start):
                return {"values": at(part, lambda done: task.update(start + done))}

            parts.append(journal(f"slice-{name}-{start:09d}", compute)["values"])
            task.update(start + len(part))
    return np.concatenate(parts)


def rest_digest(unravel: Unravel) -> str:
    """A digest of all arrays of a network that do not move."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(unravel.rest, eqx.is_array)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _counts(num: int | Sequence[int] | None, k: int) -> tuple[int, ...]:
    num = _NUM.get(k, _NUM_OTHERS) if num is None else num
    counts = (num,) * k if isinstance(num, int) else tuple(num)
    if len(counts) != k or min(counts) < 2:
        msg = f"num must be at least 2 along each of the {k} directions, one number or {k}; got {num}."
        raise InputError(msg)
    return counts


def check_extents(
    extents: Sequence[tuple[float | int, float | int]] | None, directions: Directions
) -> tuple[tuple[float, float], ...]:
    """The extents of a slice: increasing, finite, one pair for each direction."""
    pairs = tuple((float(low), float(high)) for low, high in (directions.extents if extents is None else extents))
    if len(pairs) != len(directions) or any(not (np.isfinite([a, b]).all() and a < b) for a, b in pairs):
        msg = f"extents must be {len(directions)} pairs of increasing numbers, one for each direction; got {extents}."
        raise InputError(msg)
    return pairs
