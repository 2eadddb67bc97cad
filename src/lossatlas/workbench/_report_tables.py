"""The tables of a report: cells with a text for people and all digits in the tooltip."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lossatlas.atlas import BIG
from lossatlas.figures import format_number, shown_training
from lossatlas.workbench._report_words import Row, listed, plural, units_text, visits_of, words_of


class Cell(NamedTuple):
    """A cell: its text, all digits or more words as a tooltip, whether it is a number, a remark in small type below."""

    text: str
    title: str = ""
    is_number: bool = False
    remark: str = ""


class Table(NamedTuple):
    """A table: its caption (also its name for screen readers), column heads with explanations, rows of cells.

    - `marked`: rows that stand out, by index.
    """

    caption: str
    heads: list[Cell]
    rows: list[list[Cell]]
    marked: tuple[int, ...] = ()


def number(value: int | float | None, digits: int = 4, *, unit: str = "") -> Cell:
    """A number for people, with all its digits in the tooltip."""
    if value is None:
        return Cell("–", "not available", True)
    return Cell(format_number(value, digits) + unit, repr(value) + unit, True)


def measured(value: float | None, error: float | None, digits: int = 3) -> Cell:
    """`0.0291 ± 0.0076`."""
    if value is None:
        return Cell("–", "not measured", True)
    if error is None:
        return number(value, digits)
    return Cell(f"{format_number(value, digits)} ± {format_number(error, 2)}", f"{value!r} ± {error!r}", True)


def percent(share: float | None) -> Cell:
    """A share as a percentage."""
    return Cell("–", "", True) if share is None else Cell(f"{100 * share:.1f} %", repr(share), True)


class Score(NamedTuple):
    """The figure beside the held-out loss: accuracy of classes, R² of numbers."""

    name: str
    head: Cell

    def cell(self, value: float | None) -> Cell:
        """One value of it."""
        return percent(value) if self.name == "accuracy" else number(value, 3)


_SCORES = (
    Score("accuracy", Cell("accuracy", "on the held-out rows", True)),
    Score("r_squared", Cell("R²", "share of the variance of the held-out rows that is explained", True)),
)


def _score_of(rows: Sequence[Row]) -> Score | None:
    return next((s for s in _SCORES if any(row[s.name] is not None for row in rows)), None)


_AS_ABOVE = Cell("", "as above: the figures are of the size", True)
_NO_CONTROL = {
    False: ("starts here", "the run starts at this entry; no path leads to it"),
    True: ("ends here", "the run ends near this entry; no path leads past it"),
}


def visits_table(tables: Row, run: Row) -> Table:
    """The visits of a run and what it came near, in order of time."""
    words = words_of(tables)
    losses = {r["name"]: r["loss"] for r in tables["catalogue"]}
    rows, marked = [], []
    for visit in visits_of(run, "visit", "near"):
        if visit["verdict"] == "visit":
            marked.append(len(rows))
        at = f"nearest at step {visit['step']:,}"
        rows.append(
            [
                Cell(_interval(visit), at),
                Cell(f"{words[visit['name']]} {visit['name']}"),
                number(losses[visit["name"]]),
                number(visit["loss"]),
                number(visit["distance"], 2),
                Cell(*_NO_CONTROL[bool(visit.get("ends"))], True)
                if visit["control"] is None
                else number(visit["control"], 2),
                Cell(visit["verdict"]),
            ]
        )
    heads = [
        Cell("steps", "while the distance stays below 0.15 and no other is nearer; for near misses the nearest step"),
        Cell("small network"),
        Cell("its loss", "training loss of the small network", True),
        Cell("loss there", "training loss of the big network at the nearest step", True),
        Cell("distance", "of the predictions, relative to the spread of the small network's", True),
        Cell("control", "how near a straight path from the network before to the one after would come", True),
        Cell("verdict"),
    ]
    return Table("What the training visited, in order of time", heads, rows, tuple(marked))


def misses_table(tables: Row, run: Row) -> Table:
    """What the run never came near, and what computes the same as a smaller entry."""
    words = words_of(tables)
    rows = [
        [
            Cell(f"{words[v['name']]} {v['name']}"),
            number(v["distance"], 2),
            number(v["control"], 2) if v["control"] is not None else Cell("–", "not approached", True),
            number(v["step"]),
            Cell("same function as a smaller entry" if v["verdict"] == "same function" else "no match"),
        ]
        for v in sorted(visits_of(run, "no match", "same function"), key=lambda v: v["distance"])
    ]
    heads = [
        Cell("small network"),
        Cell("nearest distance", "", True),
        Cell("control", "how near a straight path would come", True),
        Cell("at step", "", True),
        Cell("verdict"),
    ]
    return Table("What the training did not visit", heads, rows)


def slow_downs_table(tables: Row, run: Row) -> Table:
    """Where the loss stalls."""
    words = words_of(tables)
    rows = [
        [
            number(s["step"]),
            number(s["loss"]),
            number(s["rate"], 2),
            Cell(f"{words[s['name']]} {s['name']}" if s["name"] else "no match: unnamed"),
        ]
        for s in run["slow_downs"]
    ]
    heads = [
        Cell("step", "", True),
        Cell("loss", "", True),
        Cell("rate", "|d log loss / d log step| there", True),
        Cell("at"),
    ]
    return Table("Slow-downs of the training", heads, rows)


def seeds_table(tables: Row) -> Table:
    """What each seed did."""
    rows = [
        [
            number(run["seed"]),
            number(run["final_loss"]),
            Cell(", ".join(v["name"] for v in visits_of(run, "visit")) or "none"),
            Cell(", ".join(v["name"] for v in visits_of(run, "near")) or "none"),
            number(len(run["slow_downs"])),
            Cell(run["status"]),
        ]
        for run in tables["trainings"]
    ]
    heads = [
        Cell("seed", "", True),
        Cell("last loss", "", True),
        Cell("visits"),
        Cell("near"),
        Cell("slow-downs", "", True),
        Cell("status"),
    ]
    shown = tuple(i for i, run in enumerate(tables["trainings"]) if run["seed"] == tables["best_seed"])
    return Table("The training runs, seed by seed", heads, rows, shown)


_SHORT = 16


def long_catalogue(tables: Row) -> bool:
    """Whether the catalogue has more entries than one reads at a glance."""
    return len(tables["catalogue"]) > _SHORT


def catalogue_table(tables: Row, *, short: bool = False) -> Table:
    """Every small network of the data; in short the lowest of every size and what training came near.

    The held-out figures are of the size, refitted, and stand beside its first entry.
    """
    score = _score_of(tables["selection"]["rows"])
    verdicts = {v["name"]: v["verdict"] for v in shown_training(tables)["visits"]}
    heads = [
        Cell("network", "(neurons, linear units), with a letter where there are several"),
        Cell("in words"),
        Cell("parameters", "", True),
        Cell("training loss", "", True),
        Cell("kind (inertia)", "inertia: numbers of negative, zero and positive eigenvalues of the Hessian"),
        Cell("held-out loss", "of this size, refitted on the training rows, ± standard error", True),
        *([score.head] if score else []),
        Cell("training", "of the big network, in the run that is shown"),
    ]
    rows, marked = [], []
    sizes = set()
    for row in tables["catalogue"]:
        is_first = row["size"] not in sizes
        sizes.add(row["size"])
        if short and not is_first and verdicts[row["name"]] not in ("visit", "near"):
            continue
        if verdicts[row["name"]] == "visit":
            marked.append(len(rows))
        found = f"found by: {row['found_by']}; {plural(row['hits'], 'start')} ended here" if row["found_by"] else ""
        rows.append(
            [
                Cell(row["name"], found),
                Cell(row["words"]),
                number(row["parameters"]),
                number(row["loss"]),
                _kind(row),
                measured(row["held_out_loss"], row["held_out_error"]) if is_first else _AS_ABOVE,
                *([score.cell(row[f"held_out_{score.name}"]) if is_first else _AS_ABOVE] if score else []),
                Cell("visits it" if verdicts[row["name"]] == "visit" else verdicts[row["name"]]),
            ]
        )
    whole = "The small networks of this data"
    caption = "The lowest of every size, and what the training came near" if short else whole
    return Table(caption, heads, rows, tuple(marked))


def reductions_table(tables: Row) -> Table:
    """What is left of the big network at each tolerance."""
    rows = []
    for r in tables["ending"]["reductions"]:
        sizes = list(zip(r["neurons"], r["linear_units"], strict=True))
        left = "; ".join(units_text(k, m) for k, m in sizes) or "none: an affine map"
        allowed = Cell(
            f"{format_number(100 * r['relative_tolerance'], 2)} %", f"{r['tolerance']!r} in output units", True
        )
        extra = [number(r["parameters"])] if r.get("parameters") is not None else [number(None)]
        rows.append(
            [allowed, number(len(sizes)), Cell(left), *extra, number(r["max_change"], 2), number(r["mean_change"], 2)]
        )
    heads = [
        Cell("allowed change", "largest change of any output on the data, relative to their spread", True),
        Cell("effective depth", "hidden layers left", True),
        Cell("effective widths", "layer by layer"),
        Cell("parameters", "", True),
        Cell("largest change", "measured, in output units", True),
        Cell("mean change", "measured, in output units", True),
    ]
    return Table("Effective widths and depth at each tolerance", heads, rows)


_LAYER_COLUMNS = {
    "mpc": ("least correlation", "of a neuron's input and output over the data (MPC); 1 is linear"),
    "score": ("share not linear", "of what the next layer sees; 0 is linear"),
    "block_r2": ("R² of the best affine map", "from the layer's inputs to the next layer's; 1 is linear"),
    "max_change": ("change if linear", "largest change of an output when the layer is made affine"),
    "effective_neurons": (
        "effective neurons",
        "neurons counted by amplitude; those that point the same way count once",
    ),
    "condensation_index": ("condensation", "0: directions like random ones; 1: a single direction"),
}


def layers_table(tables: Row) -> Table:
    """How linear each hidden layer acts, and how condensed it is."""
    layers = tables["ending"]["layers"]
    known = [name for name in _LAYER_COLUMNS if any(name in layer for layer in layers)]
    has_verdict = any(layer.get("is_linear") is not None for layer in layers)
    heads = [Cell("layer"), *(Cell(*_LAYER_COLUMNS[name], True) for name in known)]
    heads += [Cell("acts linearly", "the change stays within the tolerance")] if has_verdict else []
    rows = [
        [
            Cell(f"layer {i + 1}", layer["name"]),
            *(number(layer.get(name), 3) for name in known),
            *([Cell("yes" if layer.get("is_linear") else "no")] if has_verdict else []),
        ]
        for i, layer in enumerate(layers)
    ]
    return Table("How linear and how condensed each hidden layer of the big network is", heads, rows)


def selection_table(tables: Row) -> Table:
    """Held-out figures of every candidate."""
    selection = tables["selection"]
    score = _score_of(selection["rows"])
    heads = [
        Cell("network"),
        Cell("in words"),
        Cell("parameters", "", True),
        Cell("held-out loss", "mean over the held-out rows ± standard error", True),
        *([score.head] if score else []),
        Cell("behind the best", "paired difference ± its standard error over the rows", True),
        Cell(""),
    ]
    rows, marked = [], []
    for row in selection["rows"]:
        notes = [
            *(["recommended"] if row["name"] == selection["recommended"] else []),
            *(["best"] if row["name"] == selection["best"] else []),
        ]
        if notes and notes[0] == "recommended":
            marked.append(len(rows))
        rows.append(
            [
                Cell(row["name"] if row["name"] != BIG else "big"),
                Cell(row["words"]),
                number(row["parameters"]),
                measured(row["loss"], row["standard_error"]),
                *([score.cell(row[score.name])] if score else []),
                Cell("–", "this is the best", True)
                if row["name"] == selection["best"]
                else measured(row["gap"], row["gap_error"], 2),
                Cell(", ".join(notes)),
            ]
        )
    return Table("Held-out figures", heads, rows, tuple(marked))


def settings_table(caption: str, settings: Mapping[str, Any]) -> Table:
    """Names and values."""
    rows = [[Cell(str(name).replace("_", " ")), Cell(_value(value))] for name, value in settings.items()]
    return Table(caption, [Cell("setting"), Cell("value")], rows)


def _value(value: Any) -> str:
    if value is None:
        return "by default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value) or "none"
    return format_number(value, 6) if isinstance(value, int | float) else str(value)


def _interval(visit: Row) -> str:
    first, last = visit["first_step"], visit["last_step"]
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _kind(row: Row) -> Cell:
    gradient = f"largest component of the gradient: {row['gradient_norm']!r}"
    if row["kind"] != "critical point":
        return Cell(row["kind"], gradient, remark=_remarks(row))
    words = {True: "minimum", False: "saddle"}
    text = f"critical point, {words.get(row['is_minimum'], 'type not certified')}"
    if row["inertia"] is not None:
        negative, zero, positive = row["inertia"]
        text += f" ({negative}, {zero}, {positive})".replace(", ", ",\N{NO-BREAK SPACE}")
        gradient += f"; {negative} negative, {zero} zero, {positive} positive eigenvalues"
    return Cell(text, gradient, remark=_remarks(row))


def _remarks(row: Row) -> str:
    """Which units run away, and where the zeros of the Hessian come from."""
    remarks = [_runaway(row["runaway"])] if row["runaway"] else []
    if row["inertia"] is not None and not row["inertia_certified"]:
        remarks.append("inertia not certified")
    if row["inertia"] is not None and row["inertia"][1]:
        reasons = [f"{n} by {name}" for name, n in row["gauges"].items() if n]
        reasons += [f"{row['unexplained_zeros']} unexplained"] if row["unexplained_zeros"] else []
        remarks += [f"zeros: {', '.join(reasons)}"] if reasons else []
    return "; ".join(remarks)


def _runaway(text: str) -> str:
    """Units counted from one; several that become steps are said once."""
    text = re.sub(r"hidden\[0\]\[(\d+)\]", lambda m: f"neuron {int(m[1]) + 1}", text)
    pattern = r"neuron (\d+) becomes a step \(pre-activations of ([\d.]+) (.*)\)"
    parts = [re.fullmatch(pattern, part) for part in text.split("; ")]
    steps = [part for part in parts if part is not None]
    if len(steps) < max(len(parts), 2):
        return text
    least = min((part[2] for part in steps), key=float)
    return (
        f"neurons {listed(sorted(part[1] for part in steps))} become steps (pre-activations of {least} {steps[0][3]})"
    )
