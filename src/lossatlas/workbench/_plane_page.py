"""The page of a plane: what it says, and its pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lossatlas._status import Status
from lossatlas.figures import format_number, line_figure, merge_tree_figure, plane_figure, training_animation
from lossatlas.workbench._instrument import Picture, Section, facts_table, rows_table


if TYPE_CHECKING:
    from lossatlas.geometry import MergeTree, ProjectedTrajectory, RefinedSlice, Slice


_MOST_MINIMA = 10
_SMALL_SHARE = 0.5
_LOG_ERROR = 0.2  # of the lowest loss, which logarithmic colours would show
TERMS = {
    "Plane": "Two directions from the network in the space of all parameters; the coordinates say how far along each. "
    "What lies beside the plane is not seen: in other directions the loss may be quite different.",
    "Filter-normalised": "Random directions in which every filter (what makes one output) is as long as the network's, "
    "so that a step of 1 means a change as large as the weights themselves. Biases and normalisations stand still.",
    "Computed and interpolated": "The loss is computed at the white points and is a polynomial between them. How far "
    "that may be off was measured at fresh random points.",
    "Minima of the plane": "Points where the loss was computed and is lower than all around. Basins that are less deep "
    "than twice what the interpolation may be off are not counted, and nothing is drawn below the least loss that was "
    "computed. Off the plane there is usually a way down.",
    "Gap": "How far the loss must rise on the plane from a minimum to reach a lower one: the height of the saddle "
    "above it.",
    "Share in the plane": "How much of the squared distances of the trajectory from the network lies in the plane. "
    "Where it is small, the drawn path is a shadow and the loss below it is not that of the trajectory.",
}


class View(NamedTuple):
    """What was measured and what is drawn of it."""

    found: "Slice | RefinedSlice"
    picture: "Slice"
    tree: "MergeTree"
    trajectory: "ProjectedTrajectory | None"


def plane_facts(
    view: View, here: float, networks: list[dict[str, Any]], buffered: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What was found, as plain values.

    **Arguments:**
    - `here`: the loss of the network. `networks`: all that lie on the slice; `buffered`: those of them with buffers
      that are not those of the first.
    """
    picture, found = view.picture, view.found
    computed = found.values["loss"][np.isfinite(found.values["loss"])]
    loss = picture.values["loss"]
    known = [found.lowest, *((row["at"], row["loss"]) for row in networks if np.isfinite(row["loss"]))]
    place, lowest = min(known, key=lambda pair: pair[1])
    directions = picture.directions
    refined = picture.settings.get("refined")
    facts: dict[str, Any] = {
        "loss": here,
        "lowest": lowest,
        "lowest_at": list(place),
        "highest": float(computed.max()),
        "networks": networks,
        "buffered": list(buffered),
        "masked_share": picture.num_masked / loss.size,
        "points": found.stats["points"],
        "evaluations": found.stats["evaluations"],
        "seconds": found.stats["seconds"],
        "directions": [
            {"direction": name, "from": float(axis[0]), "to": float(axis[-1])}
            | {fact: float(numbers[i]) for fact, numbers in directions.facts.items()}
            for i, (name, axis) in enumerate(zip(directions.names, picture.coordinates, strict=True))
        ],
        "cosine": round(float(directions.cosines[0, 1]), 12) + 0.0 if len(directions) == 2 else None,
        "error": picture.error,
        "error_at_lowest": float(picture.error_at("loss", lowest)),
        "interpolation": refined,
        "num_minima": len(view.tree.losses),
        "minima": _minima(view.tree),
        "captured": None if view.trajectory is None else view.trajectory.captured,
    }
    return facts


def _minima(tree: "MergeTree") -> list[dict[str, Any]]:
    rows = []
    for i in range(min(len(tree.losses), _MOST_MINIMA)):
        gap = float(tree.persistence[i])
        rows.append(
            {
                "minimum": float(tree.losses[i]),
                "at": ", ".join(format_number(float(a), 3) for a in tree.minima[i]),
                "saddle": float(tree.saddle_losses[i]) if np.isfinite(gap) else None,
                "gap": gap if np.isfinite(gap) else None,
            }
        )
    return rows


def headline(facts: dict[str, Any], num: int) -> str:
    """The lowest and the highest loss, and how well they are known, on a line (1) or a plane (2)."""
    what = "plane" if num == 2 else "line"
    text = f"The loss is {format_number(facts['loss'])} here"
    for row in facts["networks"][1:]:
        text += f", {format_number(row['loss'])} at {row['network']}"
    text += f" and up to {format_number(facts['highest'])} on this {what}"
    if facts["loss"] - facts["lowest"] > 1e-3 * abs(facts["loss"]):
        at = ", ".join(format_number(a, 2) for a in facts["lowest_at"])
        text += f"; the lowest that was computed, {format_number(facts['lowest'])}, is at ({at})"
    else:
        text += "; no point that was computed is clearly lower"
    refined = facts["interpolation"]
    text += f". Computed at {facts['points']:,} points"
    if refined is None:
        return text + ", none interpolated."
    error = format_number(facts["error"]["loss"], 2)
    if refined["status"] != str(Status.CONVERGED):
        return text + f"; between them it may be off by {error} or more."
    within = format_number(refined["allowed"], 2)
    if refined["relative_to"] == "value":
        within = f"{format_number(100 * refined['max_error'], 2)} % of itself"
    return (
        text + f"; between them the loss is within {within} on "
        f"{100 * refined['coverage']:g} % of the {what} (confidence {100 * refined['confidence']:g} %)."
    )


def cautions(facts: dict[str, Any]) -> list[str]:
    """What must be known before the picture is believed."""
    said = []
    if facts["masked_share"]:
        share = f"{100 * facts['masked_share']:.2g} %"
        said.append(f"On {share} of the picture the loss is not finite: marked with crosses, and left out.")
    refined = facts["interpolation"]
    if refined is not None and refined["status"] != str(Status.CONVERGED):
        said.append(
            "The interpolation did not reach its tolerance: the loss is rough here. Ask for a larger --max-error, a "
            "smaller --extent, or a --grid."
        )
    is_log = facts["lowest"] >= 0 and facts["highest"] > 20 * facts["lowest"]
    if is_log and facts["error_at_lowest"] > _LOG_ERROR * facts["lowest"]:
        said.append(
            "Colours are logarithmic, and where the loss is lowest the interpolation may be off by as much: ask for "
            "--relative-to value there."
        )
    if facts["captured"] is not None and facts["captured"] < _SMALL_SHARE:
        said.append(f"Only {100 * facts['captured']:.2g} % of the trajectory lies in the plane: the path is a shadow.")
    if facts["cosine"] is not None and abs(facts["cosine"]) > 0.1:
        angle = np.degrees(np.arccos(np.clip(facts["cosine"], -1, 1)))
        said.append(f"The directions are not orthogonal ({angle:.0f} degrees): the picture is sheared.")
    for other in facts["buffered"]:
        shown, own = (format_number(other[name]) for name in ("loss_in_picture", "loss"))
        said.append(
            f"Model {other['model']} has running statistics or other buffers of its own ({other['buffer']}), and the "
            f"picture keeps those of the first: it shows {shown} where the loss of that model is {own}. "
            "`lossatlas path` computes statistics anew on the way."
        )
    return said


def sections(view: View, facts: dict[str, Any]) -> list[Section]:
    """The parts of the page."""
    is_plane = len(view.picture.coordinates) == 2
    drawn = ("loss",) if is_plane else ("loss", "test_loss")  # a line shows both in one picture
    standing = {
        "loss of the network": facts["loss"],
        **{f"loss of {row['network']}": row["loss"] for row in facts["networks"][1:]},
        "lowest loss computed": facts["lowest"],
        "highest loss computed": facts["highest"],
        "points computed": facts["points"],
        "evaluations of the loss": facts["evaluations"],
        "largest error seen": None if facts["error"] is None else facts["error"]["loss"],
        "error at the lowest loss": None if facts["error"] is None else facts["error_at_lowest"],
        "cosine of the directions": facts["cosine"],
        "share of the trajectory in the plane": facts["captured"],
    }
    tables = (
        facts_table("Where it stands", {name: value for name, value in standing.items() if value is not None}),
        rows_table("Directions", facts["directions"], {name: _HEADS[name] for name in facts["directions"][0]}),
    )
    parts = [Section("The loss", (), _pictures(view, "loss"), tables)]
    more = [name for name in view.picture.values if name not in drawn]
    if more:
        parts.append(Section("On the same points", (), [p for name in more for p in _pictures(view, name)]))
    if view.trajectory is not None and is_plane:
        parts.append(Section("Training", (), (_animation(view),)))
    if len(view.tree.losses) > 1:
        picture = Picture(
            "tree",
            lambda compact: merge_tree_figure(view.tree.to_xarray(), compact=compact),
            "Each line is a minimum and goes up to the saddle where its basin joins a deeper one.",
            "Merge tree of the minima; the numbers are in the table below.",
        )
        heads = {
            "minimum": "loss there",
            "at": "coordinates",
            "saddle": "on the way to a lower one",
            "gap": "between them",
        }
        table = rows_table(f"The {len(facts['minima'])} deepest minima", facts["minima"], heads)
        parts.append(Section("Minima and saddles", (), (picture,), (table,)))
    return parts


_HEADS = {
    "direction": "what it is",
    "from": "first coordinate",
    "to": "last coordinate",
    "eigenvalue": "curvature of the loss",
    "residual": "how far that may be off",
    "explained_variance": "share of the variance of the snapshots",
}
_CAPTIONS = {
    "loss": "The loss in colours, with lines of equal loss",
    "test_loss": "The loss on the test data",
    "accuracy": "The share of right predictions",
    "test_accuracy": "The share of right predictions on the test data",
    "gradient_norm": "The length of the gradient",
}


def _pictures(view: View, name: str) -> list[Picture]:
    from lossatlas.geometry import RefinedSlice

    data = view.picture.to_xarray()
    is_loss = name == "loss"
    interpolated = ""
    if not is_loss and view.picture.error is not None:
        error = format_number(view.picture.error[name], 2)
        interpolated = f" Interpolated between the same points; off by up to {error}."
    if len(view.picture.coordinates) == 1:
        chosen = None if is_loss else (name,)
        what = "The loss" if is_loss else _CAPTIONS[name]
        caption = f"{what} along the line; the network stands at 0." + interpolated + _below(data[name])

        def line(compact: bool) -> Any:
            return line_figure(data, quantities=chosen, compact=compact)

        return [Picture(name, line, caption, f"{_CAPTIONS[name]}, along the line.")]
    samples = view.found.to_xarray() if is_loss and isinstance(view.found, RefinedSlice) else None
    minima = view.tree.to_xarray() if is_loss and 1 < len(view.tree.losses) <= _MOST_MINIMA else None
    trajectory = view.trajectory.to_xarray() if view.trajectory is not None else None

    def make(compact: bool) -> Any:
        drawn: dict[str, Any] = {"trajectory": trajectory, "minima": minima, "samples": samples}
        return plane_figure(data, quantity=name, compact=compact, **drawn)

    caption = _CAPTIONS[name] + ("; white points are where it was computed." if samples is not None else ".")
    caption += interpolated + _below(data[name])
    return [Picture(name, make, caption, f"{_CAPTIONS[name]}, on the plane.")]


def _below(values: Any) -> str:
    """That small values are not told apart, where they are less than interpolation may be off."""
    error = float(values.attrs.get("error", 0.0))
    if error <= float(values.min()):
        return ""
    shaded = " (shaded)" if values.ndim == 1 else ""
    return f" What is below {format_number(error, 2)}{shaded} is less than the interpolation may be off."


def _animation(view: View) -> Picture:
    assert view.trajectory is not None
    data, path = view.picture.to_xarray(), view.trajectory.to_xarray()
    return Picture(
        "training",
        lambda compact: training_animation(data, path, compact=compact),
        "The path of training on the plane, step by step: press play, or move the slider.",
        "The path of training on the plane.",
    )
