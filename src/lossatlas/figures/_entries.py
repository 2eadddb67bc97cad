"""How entries of the catalogue are named and coloured, the same in every figure."""

import html
from collections.abc import Mapping
from typing import Any

from lossatlas.figures._numbers import format_number
from lossatlas.figures._theme import FAINT, PALETTE


Row = Mapping[str, Any]

BIG = "big network"
"""What the tables of a survey call the big network among the candidates, as `lossatlas.atlas.BIG`."""


def shown_training(tables: Row) -> Row:
    """The training run that the pictures show: that of the best seed."""
    for run in tables["trainings"]:
        if run["seed"] == tables["best_seed"]:
            return run
    return tables["trainings"][0]


def met_visits(tables: Row) -> list[Row]:
    """The visits of the shown run, and what it came near, in order of time."""
    met = [v for v in shown_training(tables)["visits"] if v["verdict"] in ("visit", "near")]
    return sorted(met, key=lambda v: (v["step"], v["distance"]))


def entry_colours(tables: Row) -> dict[str, str]:
    """A colour for every entry: those visited first, then those come near, the others grey."""
    met = sorted(met_visits(tables), key=lambda v: v["verdict"] != "visit")
    colours = {v["name"]: PALETTE[i % len(PALETTE)] for i, v in enumerate(met)}
    return {row["name"]: colours.get(row["name"], FAINT) for row in tables["catalogue"]}


def describe_kind(row: Row) -> str:
    """`critical point, a minimum` and the like."""
    if row["kind"] != "critical point":
        return row["kind"]
    if row["is_minimum"] is None:
        return "critical point, type not certified"
    return "critical point, a minimum" if row["is_minimum"] else "critical point, a saddle"


def hover_entry(row: Row) -> str:
    """What a tooltip says of an entry, safe for plotly's markup."""
    return (
        f"<b>{plain(row['name'])}</b> {plain(row['words'])}<br>"
        f"{format_number(row['parameters'])} parameters, training loss {exact(row['loss'])}<br>"
        f"{plain(describe_kind(row))}"
    )


def exact(value: float | None) -> str:
    """All digits of a number."""
    return "–" if value is None else f"{value:.10g}"


def plain(text: object) -> str:
    """Text that plotly shows as it is: no tags, no links."""
    return html.escape(str(text), quote=False)


def loss_title(tables: Row) -> str:
    """The loss with its normalisation."""
    return {"mse": "mean of ½ |f − y|²", "cross_entropy": "mean cross-entropy, nats"}.get(
        tables["loss"], str(tables["loss"])
    )
