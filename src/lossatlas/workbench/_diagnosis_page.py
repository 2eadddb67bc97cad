"""The page of a diagnosis: one HTML file that works offline."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from lossatlas.figures import (
    eigenvalues_figure,
    format_number,
    groups_figure,
    stall_figure,
    ways_figure,
    widths_figure,
)
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench import _report_words as words
from lossatlas.workbench._page import render_page, sized_figures
from lossatlas.workbench._report_tables import Cell, Table, number


Row = Mapping[str, Any]
_RATE = "one over the sharpness where it starts"


def render_diagnosis(
    tables: Row,
    *,
    curve: tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]] | None,
    regenerate: str,
    versions: Mapping[str, str],
    files: Mapping[str, bool],
) -> str:
    """The text of the page.

    **Arguments:**
    - `tables`: of `lossatlas.atlas.diagnosis_tables`, with `name` of the model, `data` and `loss`.
    - `curve`: steps and training losses of the run, None without one.
    - `regenerate`: the command that makes it again. `versions`: of the packages that made it.
    - `files`: the model files that stand beside the page.
    """
    point = tables["standing"]["point"]
    has_eigenvalues = point is not None and point["inertia"] is not None
    makers = {
        "widths": (bool(tables["layers"]), widths_figure),
        "groups": (any(layer["similarity"] for layer in tables["layers"]), groups_figure),
        "ways": (bool(tables["ways"]), ways_figure),
        "eigenvalues": (has_eigenvalues, eigenvalues_figure),
    }
    shown = {name: _maker(make, tables) for name, (is_there, make) in makers.items() if is_there}
    if curve is not None:
        shown["stall"] = lambda compact: stall_figure(curve, tables, compact=compact)
    return render_page(
        "diagnosis.html",
        sized_figures(shown),
        tables=tables,
        shown=tuple(shown),
        layers=layers_table(tables),
        ways=ways_table(tables),
        facts=facts_table(tables),
        standing=standing_sentence(tables),
        behind=behind_sentence(tables),
        leaving=leaving_sentence(tables),
        settings=[
            cells.settings_table("Settings", {k: v for k, v in tables["settings"].items() if k != "runs"}),
            cells.settings_table("The short runs", tables["settings"]["runs"]),
            cells.settings_table("Seconds by part", tables["seconds"]),
            cells.settings_table("Versions", versions),
        ],
        regenerate=regenerate,
        files=[name for name, is_there in files.items() if is_there],
        words=words,
    )


def layers_table(tables: Row) -> Table:
    """A row for each layer."""
    heads = [
        Cell("layer"),
        Cell("units", "neurons (or channels, ...), and linear units beside them", True),
        Cell("effectively different", "effective number of units, by the direction of what writes them", True),
        Cell("if random", "what a random layer of this size would show", True),
        Cell("groups", "of units that point the same way, within 15 degrees", True),
        Cell("copies", "units made by the same weights as another", True),
        Cell("constant", "units that put out the same on all rows", True),
        Cell("unread", "units whose readers are all zero", True),
        Cell("MPC", "the least correlation of a unit before and after its activation; 1 is linear", True),
        Cell(
            "change if linear",
            "of an output, at most, when the activation is replaced by an affine map of each unit",
            True,
        ),
        Cell("left", "units and linear units left at the practical tolerance", True),
    ]
    rows = [
        [
            Cell(layer["name"]),
            Cell(sizes_text((layer["size"], layer["linear_units"])), "", True),
            number(layer["effective_number"], 3),
            number(layer["random_number"], 3),
            number(layer["groups"]),
            number(layer["copies"]),
            number(layer["constant"]),
            number(layer["unread"]),
            number(layer["mpc"], 4),
            number(layer["linear_change"], 2),
            Cell(sizes_text(layer["effective"]), "", True),
        ]
        for layer in tables["layers"]
    ]
    return Table("The layers, from the inputs", heads, rows)


def ways_table(tables: Row) -> Table:
    """A row for each way out."""
    heads = [
        Cell("step"),
        Cell("curvature", "along the step, at unit length", True),
        Cell("length", "of the step", True),
        Cell("predicted fall", "of the loss, by the quadratic model at this length", True),
        Cell("measured fall", "of the big network's loss", True),
        Cell("loss after the step", "", True),
        Cell("after a short run", f"of as many steps of gradient descent, each at its own rate: {_RATE}", True),
    ]
    rows = [
        [
            Cell(words.capital(way["words"]), "", False, way["how"]),
            number(way["curvature"], 3),
            number(way["step"], 3),
            number(way["predicted"], 3),
            number(way["realised"], 3),
            number(way["loss"], 4),
            _after_run(way["loss_after"], way["learning_rate"]),
        ]
        for way in tables["ways"]
    ]
    if tables["control"] is not None:
        dash = Cell("–", "", True)
        loss = number(tables["standing"]["loss"], 4)
        after = _after_run(tables["control"], tables["settings"]["runs"]["learning_rate_without_a_step"])
        rows.append([Cell("No step: the control"), dash, dash, dash, dash, loss, after])
    return Table("The ways out, the lowest loss after a short run first", heads, rows, (0,) if tables["ways"] else ())


def _after_run(loss: float | None, rate: float | None) -> Cell:
    cell = number(loss, 4)
    return cell if rate is None else cell._replace(remark=f"rate {format_number(rate, 2)}")


def facts_table(tables: Row) -> Table:
    """Where the network stands, in numbers."""
    standing, point = tables["standing"], tables["standing"]["point"]
    rows = [
        [Cell("loss"), number(standing["loss"], 6)],
        [Cell("gradient, largest entry"), number(standing["gradient_norm"], 3)],
        [Cell("gradient, in units of a stall"), number(standing["gradient_ratio"], 3)],
        [Cell("largest curvature"), number(standing["sharpness"], 4)],
        [Cell("smallest curvature"), number(standing["lowest"], 4)],
    ]
    if tables["network"]["effective_depth"] is not None:
        deep = Cell("effective depth", "hidden layers, or unit spaces, that still bend at the practical tolerance")
        rows.append([deep, number(tables["network"]["effective_depth"])])
    if point is not None:
        rows += [
            [Cell("loss of the level of the small network"), number(point["loss"], 8)],
            [Cell("its gradient"), number(point["gradient_norm"], 2)],
            [Cell("distance of the functions"), number(standing["distance"], 3)],
            [Cell("search for it"), Cell(point["status"])],
        ]
        rows += _inertia_rows("inertia in the small network", point["inertia"])
    if standing["predicted"] is not None:
        rows.append([Cell("inertia in the big network, predicted"), Cell(counts_text(standing["predicted"]))])
    rows += _inertia_rows("inertia in the big network, measured", standing["measured"])
    rows += _inertia_rows("inertia of the network as it is", standing["here"])
    # Numbers and words in one column: all to the left.
    rows = [[cell._replace(is_number=False) for cell in row] for row in rows]
    return Table("Where it stands", [Cell("what"), Cell("value")], rows)


def standing_sentence(tables: Row) -> str:
    """Whether it stands still, and by what measure."""
    standing = tables["standing"]
    text = (
        f"A gradient step of the largest sensible length would save {_share(standing['progress'])} of the loss; below "
        "0.1 % is a stall."
    )
    point = standing["point"]
    if point is None or not standing["is_near"]:
        return f"{text} No level of a small network lies nearby."
    text += (
        f" The nearest level of a small network is {format_number(point['loss'], 5)}; its function is at distance "
        f"{format_number(standing['distance'], 2)} (below 0.15 counts as near)."
    )
    if standing["runaway"]:
        text += f" It is a level at infinity: {standing['runaway']}."
    return text


def behind_sentence(tables: Row) -> str:
    """What small network stands behind, and how sure that is."""
    small = tables["small"]
    if small is None:
        return "The network states no unit spaces, so no small network can be looked for behind it."
    certificate = small["reduction"]
    total, size = tables["network"]["parameters"], words.plural(small["parameters"], "parameter")
    text = (
        f"Behind {total:,} parameters stands {_article(small['words'])}, {size}: on these data no output changes by "
        f"more than {_share(certificate['largest_change'])} of the spread of the targets when the reduced one takes "
        f"over (allowed: {_share(certificate['tolerance'])})."
    )
    if small["linearised"]:
        text += (
            " The reduced network acts so linearly that a more linear one stands for it; the functions "
            f"are then {format_number(small['distance'], 2)} of the spread apart, in the root mean square."
        )
    return text


def leaving_sentence(tables: Row) -> str:
    """What the best step does."""
    ways, control = tables["ways"], tables["control"]
    if not ways or ways[0]["realised"] <= 0:
        return "No step that was tried lowers the loss."
    best, loss = ways[0], tables["standing"]["loss"]
    text = (
        f"{words.capital(best['words'])}: the loss falls from {format_number(loss)} to {format_number(best['loss'])}. "
        f"In the big network this is {best['how']}."
    )
    if best["loss_after"] is not None and control is not None:
        runs = tables["settings"]["runs"]
        text += (
            f" {runs['num_steps']:,} steps of gradient descent from there reach {format_number(best['loss_after'])}; "
            f"the same run without the step {format_number(control)}."
        )
    return text


def sizes_text(sizes: Any) -> str:
    """`2+1`: two neurons beside one linear unit; `gone` for a layer that is not needed."""
    if sizes is None:
        return "–"
    neurons, linear = sizes
    if not neurons and not linear:
        return "gone"
    return f"{neurons}+{linear}" if linear else f"{neurons}"


def counts_text(counts: Any) -> str:
    """`1 negative, 0 zero, 9 positive`."""
    negative, zero, positive = counts
    return f"{negative} negative, {zero} zero, {positive} positive"


def _inertia_rows(label: str, counted: Row | None) -> list[list[Cell]]:
    if counted is None:
        return []
    sure = {"yes": "certified", "no": "no critical point here"}.get(counted["certificate"], "not certified")
    return [[Cell(label), Cell(f"{counts_text(counted['counts'])} ({sure})")]]


def _article(what: str) -> str:
    return what if what.startswith("a ") else f"a network of {what}"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{format_number(100 * value, 2)} %"


def _maker(make: Any, tables: Row) -> Any:
    return lambda compact: make(tables, compact=compact)
