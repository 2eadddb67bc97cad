"""The short table of a survey, for a terminal or a notebook."""

from typing import Any

from lossatlas.atlas import BIG


def short_table(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per size of small network (its lowest level) and per further level that training visits; the big one last.

    **Arguments:**
    - `tables`: of `lossatlas.atlas.survey_tables`.

    **Returns:**
    Rows with `network`, `words`, `parameters`, `loss` (training), `kind`, `held-out loss`, `standard error` and
    `accuracy` or `R²` (of the size, refitted, beside its lowest level), `visited` (from which training step to which)
    and `note`. Empty cells are None.
    """
    entries, selection = tables["catalogue"], tables["selection"]
    lowest = {}
    for entry in entries:
        known = lowest.get(entry["size"])
        if known is None or _loss(entry) < _loss(known):
            lowest[entry["size"]] = entry
    shown = [e for e in entries if lowest[e["size"]] is e or e["visit"]["verdict"] == "visit"]
    notes = {selection["recommended"]: "recommended"}
    rows = [_small(entry, notes.get(entry["size"]), is_lowest=lowest[entry["size"]] is entry) for entry in shown]
    return [*rows, _big(tables, notes.get(BIG))]


def _loss(entry: dict[str, Any]) -> float:
    return float("inf") if entry["loss"] is None else entry["loss"]


def _small(entry: dict[str, Any], note: str | None, *, is_lowest: bool) -> dict[str, Any]:
    # The held-out figures are of the size, refitted: they stand beside its lowest level alone.
    measured = entry if is_lowest else dict.fromkeys(entry)
    return {
        "network": entry["name"],
        "words": entry["words"],
        "parameters": entry["parameters"],
        "loss": entry["loss"],
        "kind": entry["kind"],
        "held-out loss": measured["held_out_loss"],
        "standard error": measured["held_out_error"],
        "accuracy": measured["held_out_accuracy"],
        "R²": measured["held_out_r_squared"],
        "visited": _visited(entry["visit"]),
        "note": note if is_lowest else None,
    }


def _big(tables: dict[str, Any], note: str | None) -> dict[str, Any]:
    training = next(t for t in tables["trainings"] if t["seed"] == tables["best_seed"])
    held_out = next(row for row in tables["selection"]["rows"] if row["name"] == BIG)
    return {
        "network": "big",
        "words": "-".join(map(str, training["settings"]["widths"])),
        "parameters": held_out["parameters"],
        "loss": training["final_loss"],
        "kind": training["status"],
        "held-out loss": held_out["loss"],
        "standard error": held_out["standard_error"],
        "accuracy": held_out["accuracy"],
        "R²": held_out["r_squared"],
        "visited": None,
        "note": note,
    }


def _visited(visit: dict[str, Any]) -> str | None:
    """When training was near; how near, and its control, stand in the report."""
    first, last = visit["first_step"], visit["last_step"]
    steps = f"{first:,}" if first == last else f"{first:,}-{last:,}"
    return {"visit": steps, "near": f"near {steps}"}.get(visit["verdict"])
