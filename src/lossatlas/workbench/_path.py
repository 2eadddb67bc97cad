"""Paths between two stored models: how far the loss rises on the way, as they are, matched, repaired, along a curve."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, num_parameters, replace_parameters
from lossatlas._progress import ProgressLike
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.figures import format_number, path_figure
from lossatlas.training._curve import check_ends
from lossatlas.workbench._instrument import (
    BatchSize,
    Measured,
    Picture,
    Point,
    Section,
    check_least,
    check_readers,
    command_words,
    cost_line,
    instrument_folder,
    mean_loss,
    measured_cost,
    open_point,
    rows_table,
    write_measured,
)
from lossatlas.workbench._load import load as load_model
from lossatlas.workbench._model import Model
from lossatlas.workbench._resized import write_resized
from lossatlas.workbench._units import with_unit_spaces


if TYPE_CHECKING:
    from lossatlas.embedding import Rebasin
    from lossatlas.geometry import Barrier, Path
    from lossatlas.landscape import Landscape


KIND = "path"
MATCHED = "matched.safetensors"
_MATCHINGS = {
    "none": (),
    "weights": ("weights",),
    "activations": ("activations",),
    "straight-through": ("straight-through",),
    "best": ("weights", "activations"),
    "all": ("weights", "activations", "straight-through"),
}
_CURVES = ("none", "bezier", "polygon")
_REFINEMENTS = 8
_CURVE_BATCH = 128  # examples of a step of a curve
_SAME = 1e-6  # of the largest output
_ROUNDING = 1e-9  # of the loss: what rises less is rounding
_DEFAULTS = {"match": "best", "repair": False, "curve": "none", "bends": 1, "steps": 2000, "points": 25, "seed": 0}
_STRAIGHT, _MATCHED, _REPAIRED, _CURVE = "straight line", "after matching", "matched and repaired", "curve"
_TERMS = {
    "Barrier": "The largest rise of the mean loss above the straight line between the losses of the two ends.",
    "Instability": "The largest loss minus the mean of the two ends, another definition; equal where the ends are.",
    "Matching": "Hidden units have no order, and some no sign or scale: the second model is rewritten so that its "
    "units stand beside those of the first that do the same. It still computes exactly what it did.",
    "Repair": "Between two networks hidden units vary too little; weights are rescaled so that every unit has the mean "
    "and the spread that lie between those of the ends.",
    "Curve": "A path whose inner points were trained so that the loss is low all along; the ends are the models.",
}


@shown
@dataclasses.dataclass(frozen=True)
class Connection:
    """Paths between two models, measured.

    - `barriers`: by path and then by data (`"train"`, `"test"`), a [`lossatlas.geometry.Barrier`][].
    - `paths`: by the same names, [`lossatlas.geometry.Path`][].
    - `rebasin`: how the second model was matched, None without; `matched`: it as a model that says the same.
    - `unrepaired`: why there is no repaired line though it was asked for, else None.
    """

    barriers: dict[str, dict[str, "Barrier"]]
    paths: dict[str, "Path"]
    rebasin: "Rebasin | None"
    matched: Model | None
    unrepaired: str | None = None

    def _figure(self) -> Any:
        return path_figure(_drawn(self.barriers))


def _drawn(barriers: dict[str, dict[str, "Barrier"]]) -> dict[str, Any]:
    """As figures take it: data are named where there is more than one."""
    return {name: found if len(found) > 1 else next(iter(found.values())) for name, found in barriers.items()}


def path(
    model: Model | str | os.PathLike[str],
    other: Model | str | os.PathLike[str],
    table: Any,
    *,
    test: Any = None,
    match: Literal["none", "weights", "activations", "straight-through", "best", "all"] = "best",
    repair: bool = False,
    curve: Literal["none", "bezier", "polygon"] = "none",
    bends: int = 1,
    steps: int = 2000,
    points: int = 25,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    origins: tuple[str, str] | None = None,
    loaded: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    announce: Callable[[str], None] | None = None,
) -> Measured:
    """Measure how far the loss rises between two stored models, and write a page, JSON, arrays and the matched model.

    **Arguments:**
    - `model`, `other`: the two ends, of one architecture, shape and preprocessing. `origins`: where they come from;
      `loaded`: what they were loaded with, see `open_point`, and `checkpoint_b` for the second.
    - `table`, `network`, `target`, `batch_size`, `precision`: see `open_point`. `test`: further data, measured too.
    - `match`: how units of the second model are brought beside those of the first; `"best"` tries weights and
      activations, `"all"` straight-through matching too. See [`lossatlas.embedding.rebasin`][].
    - `repair`: also measure the line with repaired statistics of hidden units.
    - `curve`: also train a curve between the models as they are, with so many `bends`, for so many `steps`.
    - `points`: of every path. `seed`: of the curve. `out`: the folder to write into; default `path` in the folder of
      runs.
    - `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.workbench.Connection`][].

    **Raises:** `InputError` for models that are not of one kind, and what cannot be read or written, before any long
    work.
    """
    if match not in _MATCHINGS:
        raise unknown_name("matching", match, _MATCHINGS)
    if curve not in _CURVES:
        raise unknown_name("curve", curve, _CURVES)
    if curve != "none":
        check_least("steps", steps, 1)
        check_least("bends", bends, 1)
    check_least("points", points, 3)
    folder = instrument_folder(KIND, out)
    if not isinstance(model, Model) and not isinstance(other, Model):
        origins = str(model), str(other)
    first, second = (m if isinstance(m, Model) else load_model(m, network=network) for m in (model, other))
    check_readers(first, second)
    asked: dict[str, Any] = {"match": match, "repair": repair, "curve": curve, "bends": bends, "steps": steps}
    asked |= {"points": points, "seed": seed}
    opened: dict[str, Any] = {"network": network, "target": target, "batch_size": batch_size, "precision": precision}
    with jax.enable_x64(True):
        point = open_point(first, table, origin=origins[0] if origins else None, loaded=loaded, **opened)
        opened["batch_size"] = point.landscape.batch_size
        end = open_point(second, table, **opened).network
        data = {"train": point.landscape}
        if test is not None:
            data["test"] = open_point(first, test, **opened).landscape
        start, end = _one_structure(point, end)
        if curve != "none":
            check_ends(start, end, bends)
        if match != "none" or repair:
            start = with_unit_spaces(start, point.landscape.inputs[0])
            end = end if type(end) is type(start) else eqx.tree_at(lambda n: n.params, start, end)
        if announce is not None:
            announce(_cost(start, point.landscape, asked, len(data)))
        found = _measure(start, end, data, asked, progress)
    matched = None
    if found.rebasin is not None:
        matched = Model(
            _as(second.network, found.paths[_MATCHED].vertices[1], point.network),
            second.preprocessing,
            second.loss,
            f"{second.summary}, matched to another",
        )
    found = dataclasses.replace(found, matched=matched)
    with jax.enable_x64(True):
        stored = [mean_loss(net, point.landscape) for net in (start, end)]
    facts = _facts(found, data) | {"stored_losses": stored}
    lines, files = [], {}
    if matched is not None and (origins is not None or _is_ours(matched)):
        folder.mkdir(parents=True, exist_ok=True)
        lines = write_resized(folder / MATCHED, matched, origins[1] if origins else "")
        files = {"matched": str(folder / MATCHED), "use": lines}
    chosen = {name: value for name, value in asked.items() if value != _DEFAULTS[name]}
    return write_measured(
        folder,
        KIND,
        found,
        title="From one model to another",
        headline=_headline(facts),
        point=point,
        sections=_sections(found, facts),
        facts=facts | files,
        settings=asked | {"second_model": second.summary, "precision": precision},
        regenerate=command_words(KIND, point, origins=origins or (), models="model, other", test=test, **chosen),
        cautions=_cautions(found, facts),
        terms=_TERMS,
        arrays=_arrays(found),
    )


def _one_structure(point: Point, end: Network) -> tuple[Network, Network]:
    """Both networks with the code of the first, as long as that computes what the second one did.

    **Raises:** `InputError` for networks that differ in more than numbers.
    """
    from lossatlas.geometry import Path

    start = point.network
    if jax.tree.structure(start) == jax.tree.structure(end):
        Path((start, end))  # says which shapes differ
        return start, end
    shapes, others = ({n: a.shape for n, a in named_arrays(net).items()} for net in (start, end))
    same = type(start) is type(end) and shapes == others
    if same:
        made = replace_parameters(start, named_arrays(end))
        few = point.landscape.inputs[:32]
        wanted, found = (np.asarray(_outputs(net, few)) for net in (end, made))
        same = bool(np.abs(wanted - found).max() <= _SAME * max(np.abs(wanted).max(), 1.0))
        end = made
    if not same:
        names = [n for n in sorted(shapes.keys() | others.keys()) if shapes.get(n) != others.get(n)]
        where = f" ({names[0]} is {shapes.get(names[0])} and {others.get(names[0])})" if names else ""
        msg = f"Only models of one architecture, shape and activation are joined by paths; these two differ{where}."
        raise InputError(msg)
    return start, end


@eqx.filter_jit
def _outputs(network: Network, inputs: Any) -> Any:
    return jax.vmap(network)(inputs)


def _measure(
    start: Network, end: Network, data: Mapping[str, "Landscape"], asked: dict[str, Any], progress: ProgressLike
) -> Connection:
    from lossatlas import embedding, geometry
    from lossatlas.embedding._rebasin import line_between

    landscape = data["train"]
    paths = {_STRAIGHT: line_between(start, end, landscape)}
    made = None
    if asked["match"] != "none":
        _, made = embedding.rebasin(
            end,
            start,
            landscape,
            methods=_MATCHINGS[asked["match"]],
            num_points=asked["points"],
            progress=progress,
        )
        paths[_MATCHED] = made.path
    unrepaired = None
    if asked["repair"]:
        ends = (made.path if made is not None else paths[_STRAIGHT]).vertices
        if getattr(start, "has_statistics", False):
            unrepaired = "Running statistics are computed anew along all paths, so there is no other repair."
        else:
            try:
                paths[_REPAIRED] = embedding.repair(geometry.Path(ends), landscape)
            except InputError as error:
                unrepaired = str(error)
    if asked["curve"] != "none":
        key = jax.random.key(asked["seed"])
        options = {"kind": asked["curve"], "num_bends": asked["bends"], "num_steps": asked["steps"]}
        paths[_CURVE], _ = geometry.find_curve(key, start, end, landscape, progress=progress, **options)
    barriers = {
        name: {
            which: geometry.barrier(way, rows, num_points=asked["points"], num_refinements=_REFINEMENTS)
            for which, rows in data.items()
        }
        for name, way in paths.items()
    }
    return Connection(barriers, paths, made, None, unrepaired)


def _as(network: Network, made: Network, like: Network) -> Network:
    """A network with the numbers of another in its own precision; `like` is without the discovered unit spaces."""
    arrays, own = named_arrays(made if type(made) is type(like) else made.params), named_arrays(network)
    return replace_parameters(network, {name: array.astype(own[name].dtype) for name, array in arrays.items()})


def _is_ours(model: Model) -> bool:
    from lossatlas.networks import check_savable

    try:
        check_savable(model.network)
    except InputError:
        return False
    return True


def _cost(network: Network, landscape: "Landscape", asked: dict[str, Any], num_data: int) -> str:
    """What will be computed, with the time of one evaluation of the loss."""
    seconds, memory = measured_cost(lambda network, landscape: landscape(network), network, landscape)
    tried = {"none": 0, "weights": 2, "activations": 2, "straight-through": 2, "best": 5, "all": 6}[asked["match"]]
    lines = 1 + (asked["match"] != "none") + asked["repair"] + (asked["curve"] != "none")
    count = (asked["points"] + 2 * _REFINEMENTS + 2) * (tried + num_data * lines) + 40 * lines
    work, total = f"about {count:,} evaluations of the loss of {1e3 * seconds:.3g} ms", count * seconds
    has_gradients = asked["match"] in ("straight-through", "all")
    if has_gradients or asked["curve"] != "none":
        each, memory = measured_cost(lambda network, landscape: landscape.gradient(network), network, landscape)
        if has_gradients:
            work += f", 100 gradients of the loss of {num_parameters(network):,} parameters"
            total += 100 * each
        if asked["curve"] != "none":
            work += f", {asked['steps']:,} steps of training on {_CURVE_BATCH} examples"
            total += asked["steps"] * each * min(1, _CURVE_BATCH / landscape.size)
    return cost_line(work, total, memory)


def _facts(found: Connection, data: Mapping[str, Any]) -> dict[str, Any]:
    straight = found.barriers[_STRAIGHT]["train"]
    chord = float(straight.length[-1])
    rows = []
    for name, by_data in found.barriers.items():
        for which, barrier in by_data.items():
            rows.append(
                {
                    "path": name,
                    "data": which,
                    "barrier": _number(0.0 if barrier.barrier < _ROUNDING * abs(barrier.loss[0]) else barrier.barrier),
                    "at": barrier.t_barrier,
                    "instability": _number(barrier.instability),
                    "largest loss": _number(float(np.max(barrier.loss))),
                    "accuracy falls by": None if barrier.accuracy_drop is None else round(barrier.accuracy_drop, 12),
                    "length": float(barrier.length[-1]) / chord if chord else None,
                }
            )
    best = min((row for row in rows if row["data"] == "train"), key=lambda row: row["barrier"] or np.inf)
    facts: dict[str, Any] = {
        "start_loss": float(straight.loss[0]),
        "end_loss": float(straight.loss[-1]),
        "distance": chord,
        "paths": rows,
        "lowest": best["path"],
        "matchings": [],
        "num_data": {name: landscape.size for name, landscape in data.items()},
        "half_of_the_rise": _half(found, data["train"]),
    }
    if found.rebasin is not None:
        facts["matchings"] = [
            {
                "matching": candidate.name,
                "barrier": _number(candidate.barrier.barrier),
                "objective": candidate.objective,
                "sweeps": candidate.match.sweeps if candidate.match else None,
                "outputs changed by": candidate.match.function_change if candidate.match else None,
                "seconds": candidate.seconds,
            }
            for candidate in found.rebasin.candidates
        ]
    return facts


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return float(value) if np.isfinite(value) else None


def _half(found: Connection, landscape: "Landscape") -> dict[str, int]:
    """By path, how many examples make up half of the rise of the cross-entropy."""
    from lossatlas.geometry import attribute_barrier

    if landscape.loss is None or landscape.loss.name != "cross_entropy":
        return {}
    counts = {}
    with jax.enable_x64(True):
        for name, by_data in found.barriers.items():
            barrier = by_data["train"]
            if not 0 < barrier.barrier < np.inf:
                continue
            rises = np.sort(attribute_barrier(found.paths[name], landscape, t=barrier.t_barrier).excess)[::-1]
            counts[name] = int(np.searchsorted(np.cumsum(rises), 0.5 * rises.sum())) + 1
    return counts


def _headline(facts: dict[str, Any]) -> str:
    rises = {row["path"]: row["barrier"] for row in facts["paths"] if row["data"] == "train"}
    words = {name: _words(rise) for name, rise in rises.items()}
    text = f"On the straight line the loss rises by {words[_STRAIGHT]} above its ends"
    if _MATCHED in rises:
        text += f", after matching ({facts['matchings'][0]['matching']}) by {words[_MATCHED]}"
    if _REPAIRED in rises:
        text += f", with repaired statistics by {words[_REPAIRED]}"
    if _CURVE in rises:
        text += f"; along the trained curve by {words[_CURVE]}"
    return f"{text}."


def _words(rise: float | None) -> str:
    if rise is None:
        return "more than any number (it is not finite)"
    return format_number(rise, 3)


def _cautions(found: Connection, facts: dict[str, Any]) -> list[str]:
    said = []
    if not facts["distance"]:
        said.append("The two models are the same: every parameter is equal.")
    ends = [facts["start_loss"], facts["end_loss"]]
    if not np.allclose(facts["stored_losses"], ends, rtol=1e-6):
        stored, ends = (" and ".join(format_number(loss, 4) for loss in two) for two in (facts["stored_losses"], ends))
        said.append(
            f"Running statistics are computed anew from the data all along the paths. With those that are stored the "
            f"losses of the models are {stored}, with these {ends}."
        )
    if any(row["barrier"] is None for row in facts["paths"]):
        said.append("The loss is not finite somewhere on the way.")
    if found.rebasin is not None and (best := found.rebasin.best.match) is not None:
        said += [f"Units of {name} were not matched: {reason}" for name, reason in best.closed.items()]
    said += [found.unrepaired] if found.unrepaired else []
    refresh = found.paths[_REPAIRED].refresh if _REPAIRED in found.paths else None
    said += [f"Statistics of {name} were not repaired: {reason}." for name, reason in getattr(refresh, "left", ())]
    if found.rebasin is not None and found.rebasin.naive.barrier.barrier < found.rebasin.best.barrier.barrier:
        said.append("No matching lowered the barrier; the models may share more than their units' order, or no basin.")
    return said


def _sections(found: Connection, facts: dict[str, Any]) -> list[Section]:
    drawn = _drawn(found.barriers)
    pictures = [
        Picture(
            "loss",
            lambda compact: path_figure(drawn, compact=compact),
            "The mean loss along every path; the vertical lines are the barriers on the training data, above the "
            "dotted line between the ends.",
            "Loss along the paths; the barriers are in the table below.",
        )
    ]
    if found.barriers[_STRAIGHT]["train"].accuracy is not None:
        pictures.append(
            Picture(
                "accuracy",
                lambda compact: path_figure(drawn, value="accuracy", compact=compact),
                "The share of examples whose class is right, along every path.",
                "Accuracy along the paths; the largest falls are in the table below.",
            )
        )
    heads = {
        "path": "between the two models",
        "data": "on which the loss is the mean",
        "barrier": "largest rise above the line between the losses of the ends",
        "at": "where, from 0 (first model) to 1 (second)",
        "instability": "largest loss minus the mean of the ends",
        "largest loss": "anywhere on the path",
        "accuracy falls by": "largest fall below the line between the accuracies of the ends",
        "length": "in parameters, in units of the straight line between the models as they are",
    }
    sentences = [
        f"{name.capitalize()}: half of the rise comes from {count:,} of {facts['num_data']['train']:,} examples."
        for name, count in facts["half_of_the_rise"].items()
    ]
    sections = [Section("Along the way", sentences, pictures, (rows_table("Paths", facts["paths"], heads),))]
    if facts["matchings"]:
        heads = {
            "matching": "by what units were compared",
            "barrier": "of the straight line that it leaves",
            "objective": "sum of products of the weights of both models; it ranks nothing",
            "sweeps": "over the layers",
            "outputs changed by": "the matching itself, on the data: rounding",
            "seconds": "that it took",
        }
        sentence = "Every matching computes what the second model does; the lowest measured barrier is kept."
        sections.append(Section("Matchings", (sentence,), (), (rows_table("Tried", facts["matchings"], heads),)))
    return sections


def _arrays(found: Connection) -> Any:
    import xarray as xr

    return xr.DataTree.from_dict(
        {
            f"/{name.replace(' ', '_')}/{which}": barrier.to_xarray()
            for name, by_data in found.barriers.items()
            for which, barrier in by_data.items()
        }
    )
