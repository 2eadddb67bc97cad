"""The loss around a stored model, or between stored models: a plane or a line, as a page."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters, ravel, replace_parameters
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.workbench._instrument import (
    BatchSize,
    Measured,
    Point,
    check_least,
    check_readers,
    command_words,
    cost_line,
    instrument_folder,
    mean_loss,
    measured_cost,
    open_point,
    write_measured,
)
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model
from lossatlas.workbench._plane_page import TERMS, View, cautions, headline, plane_facts, sections


if TYPE_CHECKING:
    from lossatlas.geometry import Directions
    from lossatlas.geometry._slice import SliceCost


KIND = "plane"
Kind = Literal["filter", "layer", "model", "none", "hessian"]
_PICTURE = {1: 301, 2: 81}  # points along each direction of the picture of a refined slice, as in its merge tree
_USUAL_POINTS = {1: 100, 2: 300}
_POINTS_THROUGH_THREE = 500  # of a plane that has three networks on the grids of its cells
_USUAL_ERROR = 0.01


def plane(
    model: Model | str | os.PathLike[str],
    table: Any,
    *,
    directions: Kind = "filter",
    num_directions: Literal[1, 2] = 2,
    to: Sequence[str | os.PathLike[str]] = (),
    snapshots: Sequence[str | os.PathLike[str]] = (),
    extent: float | None = None,
    grid: int | None = None,
    max_error: float = 0.01,
    relative_to: Literal["range", "value"] = "range",
    gradient_norm: bool = False,
    include_biases: bool = False,
    only: str | None = None,
    test: Any = None,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    origin: str | None = None,
    loaded: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    announce: Callable[[str], None] | None = None,
) -> Measured:
    """Draw the loss around a stored model, or between stored models, and write a page, JSON and labelled arrays.

    **Arguments:**
    - `model`, `table`, `network`, `target`, `batch_size`, `precision`, `origin`, `loaded`: see
      `open_point`.
    - `directions`: random ones normalised by `"filter"`, `"layer"`, `"model"` or `"none"`, or `"hessian"`, the
      eigenvectors of largest curvature. `num_directions`: 2 for a plane, 1 for a line. `include_biases`: random
      directions move biases and normalisations too. `only`: a parameter filter: what moves.
    - `to`: other models of the same shape, loaded with the same `network`, architecture and loss: one makes a line to
      it, two a plane through the three.
    - `snapshots`: models of the same shape, in the order of training: the plane of their principal components, with
      their path and an animation.
    - `extent`: how far to look along each direction, on both sides; by default what suits the directions.
    - `grid`: points along each direction, all computed; by default the loss is computed where needed, until its
      interpolation is within `max_error` of the spread of the losses (`relative_to="range"`), or of the loss itself
      (`"value"`).
    - `gradient_norm`: its picture too, interpolated to `max_error` of its own spread, for at most as many points again
      and 500 more. `test`: other data, for the test loss on the same points.
    - `seed`: of random directions and checks. `out`: the folder to write into; default `plane` in the folder of runs.
    - `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.geometry.RefinedSlice`][], or with `grid` a
    [`lossatlas.geometry.Slice`][].

    **Raises:** `InputError` for what cannot be read or written, before any long work; models of other shapes.
    """
    from lossatlas import geometry

    _check(directions, num_directions, to, snapshots, extent)
    _check_used(directions, num_directions, to, snapshots, include_biases, only)
    if grid is not None:
        check_least("grid", grid, 2)
    folder = instrument_folder(KIND, out)
    with jax.enable_x64(True):
        opened = {"network": network, "target": target, "batch_size": batch_size, "precision": precision}
        point = open_point(model, table, origin=origin, loaded=loaded, only=only, **opened)
        others = [_other(path, point, network, loaded or {}) for path in (*to, *snapshots)]
        tested = None if test is None else open_point(point.model, test, only=only, **opened).landscape
        keys = jax.random.split(jax.random.key(seed), 2)
        spanned, rows = _spanned(
            keys[0], point, directions, num_directions, others, bool(snapshots), include_biases, only
        )
        extents = None if extent is None else [(-extent, extent)] * len(spanned)
        options: dict[str, Any] = {"test": tested, "gradient_norm": gradient_norm}
        cost = geometry.slice_cost(point.network, point.landscape, spanned, num=grid or 2, **options)
        if announce is not None:
            usual = _POINTS_THROUGH_THREE if len(to) == 2 else _USUAL_POINTS[len(spanned)]
            points = cost.points if grid else usual
            usually = "" if grid else "usually "
            if not grid and (relative_to == "value" or max_error < _USUAL_ERROR or gradient_norm):
                usually = "at least "
            line = _cost(point, cost, points, usually=usually, gradient_norm=gradient_norm)
            often = "; relative to the value often thousands of points" if not grid and relative_to == "value" else ""
            announce(line + often)
        options |= {"extents": extents, "progress": progress}
        if grid is None:
            found = geometry.refined_slice(
                keys[1],
                point.network,
                point.landscape,
                spanned,
                max_error=max_error,
                relative_to=relative_to,
                **options,
            )
            picture = found.on_grid(_PICTURE[len(spanned)])
        else:
            found = picture = geometry.loss_slice(point.network, point.landscape, spanned, num=grid, **options)
        tree = geometry.merge_tree(found)
        trajectory = None
        if rows is not None:
            losses = _losses(point, rows)
            trajectory = geometry.project_trajectory(point.network, spanned, rows)
            trajectory = eqx.tree_at(lambda t: t.loss, trajectory, losses)
        networks = [
            {"network": name, "at": list(place), "loss": _loss_at(point, spanned, place)}
            for name, place in spanned.networks.items()
            if all(axis[0] <= at <= axis[-1] for at, axis in zip(place, picture.coordinates, strict=True))
        ]
        here = mean_loss(point.network, point.landscape)
        buffered = _buffered(point, [] if only else others[: len(to)])
    view = View(found, picture, tree, trajectory)
    facts = plane_facts(view, here, networks, buffered)
    words = {
        "directions": None if to or snapshots else directions,
        "extent": extent,
        "grid": grid,
        "max_error": max_error,
        "relative_to": relative_to,
        "only": only,
        "seed": seed,
    }
    asked: dict[str, Any] = {name: value for name, value in words.items() if value not in (None, _DEFAULTS.get(name))}
    asked |= {"line": num_directions == 1, "gradient_norm": gradient_norm, "include_biases": include_biases}
    import xarray as xr

    arrays = {"picture": picture.to_xarray(), "minima": tree.to_xarray()}
    if isinstance(found, geometry.RefinedSlice):
        arrays["samples"] = found.to_xarray()
    if trajectory is not None:
        arrays["trajectory"] = trajectory.to_xarray()
    left_out = set() if trajectory is not None else {"Share in the plane"}
    terms = {word: meaning for word, meaning in TERMS.items() if word not in left_out}
    asked |= {"to": tuple(to), "snapshots": tuple(snapshots)}
    return write_measured(
        folder,
        KIND,
        found,
        title="The loss around the network" if not to else "The loss between networks",
        headline=headline(facts, len(spanned)),
        point=point,
        sections=sections(view, facts),
        facts=facts,
        settings=words
        | {"precision": precision, "num_directions": len(spanned), "include_biases": include_biases, **found.settings},
        regenerate=command_words(KIND, point, test=test, **asked),
        cautions=cautions(facts),
        terms=terms,
        arrays=xr.DataTree.from_dict(arrays),
    )


_DEFAULTS = {"directions": "filter", "max_error": 0.01, "relative_to": "range", "seed": 0}


def _check(directions: str, num_directions: int, to: Sequence, snapshots: Sequence, extent: float | None) -> None:
    if to and snapshots:
        msg = "Give either other models (to) or snapshots of a trajectory, not both."
        raise InputError(msg)
    if len(to) > 2:
        msg = f"A plane goes through at most three networks: at most two other models, got {len(to)}."
        raise InputError(msg)
    if 0 < len(snapshots) <= num_directions:
        msg = (
            f"{num_directions} principal components need at least {num_directions + 1} snapshots, got {len(snapshots)}."
        )
        raise InputError(msg)
    if num_directions not in (1, 2):
        msg = f"num_directions must be 1 (a line) or 2 (a plane), got {num_directions}."
        raise InputError(msg)
    if extent is not None and not (np.isfinite(extent) and extent > 0):
        msg = f"extent must be a positive number, got {extent}."
        raise InputError(msg)
    if directions not in ("filter", "layer", "model", "none", "hessian"):
        msg = f"directions must be filter, layer, model, none or hessian, got {directions!r}."
        raise InputError(msg)


def _check_used(
    directions: str, num_directions: int, to: Sequence, snapshots: Sequence, include_biases: bool, only: str | None
) -> None:
    """Refuse what would change nothing."""
    if to or snapshots:
        given = "to (--to)" if to else "snapshots (--snapshots)"
        if directions != "filter":
            msg = f"directions (--directions) goes with neither to nor snapshots: {given} says the directions."
            raise InputError(msg)
        if include_biases:
            msg = f"include_biases (--include-biases) goes with random directions; {given} moves all that differs."
            raise InputError(msg)
    if include_biases and directions == "hessian":
        msg = "include_biases (--include-biases) goes with random directions; those of the Hessian move all parameters."
        raise InputError(msg)
    if snapshots and only is not None:
        msg = "only (--only) does not go with snapshots (--snapshots): their principal components move all parameters."
        raise InputError(msg)
    if len(to) == 2 and num_directions == 1:
        msg = "Two other models (--to) span a plane: give one for a line, or leave out num_directions=1 (--line)."
        raise InputError(msg)


def _other(path: str | os.PathLike[str], point: Point, network: str, loaded: Mapping[str, Any]) -> Network:
    """Another model's network, in the precision of the first one; it must read data as that does."""
    options = {name: loaded.get(name) for name in ("architecture", "loss")}
    other = load_model(path, network, **options)
    check_readers(point.model, other)
    dtype = ravel(point.network)[0].dtype
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array_like(a) else a, other.network)


def _spanned(
    key, point: Point, kind: str, num: int, others: list[Network], is_trajectory: bool, include_biases: bool, only
) -> "tuple[Directions, np.ndarray | None]":
    """The directions, and the parameters of the snapshots where there are such."""
    from lossatlas import geometry

    network, landscape = point.network, point.landscape
    if others and not is_trajectory:
        return geometry.directions_to(network, *others, only=only), None
    if others:
        size = ravel(network)[0].size
        rows = [np.asarray(ravel(other)[0], float) for other in others]
        odd = [i for i, row in enumerate(rows) if row.size != size]
        if odd:
            msg = (
                f"Snapshot {odd[0] + 1} has {rows[odd[0]].size} parameters, the model {size}: give models of one shape."
            )
            raise InputError(msg)
        return geometry.trajectory_directions(network, np.stack(rows), num), np.stack(rows)
    if kind == "hessian":
        return geometry.hessian_directions(network, landscape, num_top=num, only=only, key=key), None
    options: dict[str, Any] = {"normalise": kind, "include_biases": include_biases, "only": only}
    return geometry.random_directions(key, network, num, **options), None


def _cost(point: Point, cost: "SliceCost", points: int, *, usually: str, gradient_norm: bool) -> str:
    count = points * cost.evaluations / cost.points
    work = f"{usually}{points:,} points, {count:,.0f} evaluations of the loss, {1e3 * cost.seconds:.3g} ms a point"
    at = Landscape.value_and_gradient if gradient_norm else Landscape.__call__
    _, memory = measured_cost(lambda network, landscape: at(landscape, network), point.network, point.landscape)
    return cost_line(work, points * cost.seconds, cost.bytes + memory, " with one point at a time")


def _buffered(point: Point, others: list[Network]) -> list[dict[str, Any]]:
    """The other models with buffers that are not those of the first: their own loss, and that in the picture."""
    network, found = point.network, []
    arrays, moving = named_arrays(network), named_parameters(network).keys()
    for number, other in enumerate(others, 2):
        theirs = named_arrays(other)
        odd = [name for name in arrays.keys() - moving if not np.array_equal(arrays[name], theirs[name])]
        if not odd:
            continue
        drawn = replace_parameters(network, {name: theirs[name] for name in moving})
        own, there = (mean_loss(net, point.landscape) for net in (other, drawn))
        if not np.isclose(own, there, rtol=1e-6):
            found.append({"model": number, "buffer": min(odd), "loss": own, "loss_in_picture": there})
    return found


def _loss_at(point: Point, directions: "Directions", place: Sequence[float]) -> float:
    from lossatlas.geometry import moved_along

    return mean_loss(moved_along(point.network, directions, place), point.landscape)


def _losses(point: Point, rows: np.ndarray) -> np.ndarray:
    vector, unravel = ravel(point.network)
    return np.array([mean_loss(unravel(jnp.asarray(row, vector.dtype)), point.landscape) for row in rows])
