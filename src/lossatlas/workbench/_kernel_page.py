"""The page of a tangent kernel, or of two: what it says, and its pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lossatlas.figures import format_number, kernel_matrix_figure, kernel_spectrum_figure
from lossatlas.geometry import Kernel
from lossatlas.geometry._kernel_distance import over_examples
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench._instrument import Picture, Section, facts_table, rows_table
from lossatlas.workbench._report_tables import Cell, Table


TERMS = {
    "Tangent kernel": "How much a gradient step on one example moves the outputs on another: the inner product of the "
    "gradients of the outputs in all parameters. Large between examples that the network learns together.",
    "Alignment": "The cosine between the kernel and the products of the targets, both centred: 1 where the kernel "
    "groups the examples just as the targets do, near 0 where it knows nothing of them.",
    "Effective rank": "The exponential of the entropy of the eigenvalues as shares of their sum: how many directions "
    "the kernel has, counted by their weight.",
    "Frozen kernel": "Ridge regression with this kernel, as it stands: what the features of the network give without "
    "learning any further ones.",
    "Cosine of gradients": "The kernel of two examples over the geometric mean of those of each with itself.",
}
FULL_TERMS = {
    "Full convention": "A row of the kernel is one output of one example. Its spectrum, distances and predictions are "
    "of all these rows; the picture and the alignments are of the mean over the outputs, the convention trace.",
}
MOVED_TERMS = {
    "Distance S": "One minus the cosine of the two kernels as vectors: 0 where they are the same up to a factor, 1 "
    "where they have nothing in common. The angle is that of this cosine. Centred, one minus S is their CKA.",
    "Scale s and change D": "The norm of the second kernel over that of the first, and the norm of their difference "
    "over that of the first: D² = s² + 1 − 2 s (1 − S). S does not see a common factor, D does.",
    "Lazy, or kernel regime": "The outputs move, the gradients hardly do: S and D are near 0, and what training "
    "did is regression with the kernel of the first network. Features are learned where the kernel itself turns; "
    "they serve the task where its alignment, and what it predicts when frozen, get better on the way.",
    "What the linearisation misses": "The first network, linearised in its parameters, says what the second should put "
    "out. Its error, as a share of how far the outputs moved: 0 in the lazy regime, 1 is no better than saying that "
    "nothing moved.",
    "Standard errors (±)": "How far a number would scatter over other examples of the kind, from resamples of the "
    "examples.",
}
_FEW = 1e-6  # a distance in single precision below which it is rounding


def pictures(found: Sequence[Kernel], labels: np.ndarray | None) -> list[Picture]:
    """One kernel, or two, over examples in colours."""
    ordered = "" if labels is None else ", ordered by class"
    mean = ", of the mean over the outputs" if found[0].convention == "full" else ""
    cosines = f"as cosines between the gradients of two examples{ordered}{mean}"
    blocks = "" if labels is None else " Blocks on the diagonal: a step on one example of a class moves the others."
    captions = [f"The kernel {cosines}.{blocks}"]
    if len(found) == 2:
        captions = [
            f"The first kernel {cosines}.{blocks}",
            "The second kernel, of the same examples in the same order and colours.",
        ]
    matrices = [over_examples(each) for each in found]
    limits = None if len(found) == 1 else (min(map(_least_cosine, matrices)), 1.0)  # colours to be compared
    return [
        Picture(
            name,
            lambda compact, matrix=matrix: kernel_matrix_figure(matrix, labels, limits=limits, compact=compact),
            caption,
            "The matrix of the kernel in colours.",
        )
        for name, matrix, caption in zip(("kernel", "kernel-second"), matrices, captions, strict=False)
    ]


def _least_cosine(matrix: np.ndarray) -> float:
    scale = np.sqrt(np.diag(matrix))
    moved = scale > 0  # others have no cosine
    return float((matrix[np.ix_(moved, moved)] / np.outer(scale[moved], scale[moved])).min())


def spectrum_picture(spectra: Sequence[np.ndarray]) -> Picture:
    """The eigenvalues; of both kernels in one figure."""
    drawn: Any = {"first": spectra[0], "second": spectra[1]} if len(spectra) == 2 else spectra[0]
    said = "Its eigenvalues" if len(spectra) == 1 else "The eigenvalues of both kernels"
    return Picture(
        "kernel-spectrum",
        lambda compact: kernel_spectrum_figure(drawn, compact=compact),
        f"{said}: how fast gradient descent learns directions in the outputs; the steeper, the fewer. "
        "Those that are rounding are left out.",
        "Eigenvalues of the kernel by index; the largest are in the table.",
    )


def headline(facts: dict[str, Any], size: int, only: str | None) -> str:
    """What was found, in a few sentences."""
    where = "all" if only is None else only
    of_outputs = f" with {facts['outputs']} outputs each" if facts["convention"] == "full" else ""
    examples = f"{facts['examples']:,} examples{of_outputs} ({where} parameters, {size:,})"
    if "moved" in facts:
        return _moved_headline(facts, examples)
    text = f"The tangent kernel of {examples} has the effective rank {format_number(facts['effective_rank'], 3)}"
    if facts["target_alignment"] is not None:
        text += f" and the alignment {format_number(facts['target_alignment'], 3)} with the targets"
    text += "."
    frozen = facts["frozen"]
    if frozen is None:
        return text
    network = format_number(frozen["network"], 3)
    return f"{text} Kept frozen, it predicts with {frozen['measure']} {_measured(frozen)} (network: {network})."


def _moved_headline(facts: dict[str, Any], examples: str) -> str:
    moved, second = facts["moved"], facts["to"]
    (plain, centred), then = moved["kernels"], second["target_alignment"]
    text = (
        f"Between the two models the tangent kernel of {examples} turned by the distance "
        f"S = {_with_error(plain['distance'], plain['distance error'])} (centred "
        f"{format_number(centred['distance'], 2)}) and changed by "
        f"D = {_with_error(plain['change'], plain['change error'])} of its norm"
    )
    if moved["linear_error"] is not None:
        text += (
            f"; the linearisation at the first model misses "
            f"{_with_error(moved['linear_error'], moved['linear_error_error'])} of how far the outputs moved"
        )
    text += "."
    if facts["target_alignment"] is not None and then is not None:
        before, after = format_number(facts["target_alignment"], 3), format_number(then, 3)
        text += f" Alignment with the targets: {before}, then {after}."
    frozen, later = facts["frozen"], second["frozen"]
    if frozen is not None and later is not None:
        text += f" Kept frozen, they predict with {frozen['measure']} {_measured(frozen)} and {_measured(later)}"
        text += f" (difference {_with_error(moved['gain'], moved['gain_error'])})."
    return text


def _measured(frozen: dict[str, Any]) -> str:
    return f"{format_number(frozen['kernel'], 3)} ± {format_number(frozen['standard_error'], 1)}"


def _with_error(value: float | None, error: float | None) -> str:
    text = format_number(value, 3)
    return text if not error else f"{text} ± {format_number(error, 1)}"


def cautions(facts: dict[str, Any], size: int, *, only: str | None, has_test: bool, is_single: bool) -> list[str]:
    """What to know before believing it.

    **Arguments:**
    - `size`: how many examples the data have. `only`: the parameters whose kernel it is. `has_test`: whether other data
      were given. `is_single`: single precision.
    """
    said = []
    if facts["examples"] < size:
        said.append(f"Measured on {facts['examples']:,} of {size:,} examples, drawn at random; see --examples.")
    if facts["frozen"] is not None and not has_test:
        said.append(
            "The frozen kernel is tested on examples that it was not fitted to; the network may have been trained on "
            "them, and then its own figure is too good. --test takes other data."
        )
    if facts["num_shared"]:
        said.append(
            f"{facts['num_shared']:,} of the test examples are among the others: what is predicted there is known."
        )
    if "moved" in facts:
        said += _moved_cautions(facts, is_single=is_single)
        if only is not None:
            said.append(f"The kernels are those of {only}; outputs and linearisation moved with all parameters.")
    return said


def _moved_cautions(facts: dict[str, Any], *, is_single: bool) -> list[str]:
    moved = facts["moved"]
    said = []
    if moved["parameters"] == 0:
        said.append("The two models are the same: every parameter is equal.")
    if moved["parameters"] is None:
        said.append(
            "The two models are no networks of one code and shape: no linearisation joins them"
            + (", and layers are paired by their names." if moved["layers"] else ".")
        )
    if not moved["layers"]:
        said.append("The layers of the two models have different names, and are not paired.")
    if moved["losses"][0] != moved["losses"][1]:
        said.append(
            f"The models were trained on different losses ({', '.join(moved['losses'])}). Kernels do not depend on it; "
            "the figure of the second network itself is left out."
        )
    distance = moved["kernels"][0]["distance"]
    if is_single and 0 < distance < _FEW:
        said.append("A distance below 10⁻⁶ is rounding in single precision; --precision float64 has no such floor.")
    return said


def sections(facts: dict[str, Any], matrices: list[Picture], spectrum: Picture) -> list[Section]:
    """All parts of the page."""
    if "moved" in facts:
        return _moved_sections(facts, matrices, spectrum)
    summary = facts_table("The kernel", _summary(facts))
    largest = [{"rank": i + 1, "eigenvalue": value} for i, value in enumerate(facts["eigenvalues"])]
    tables = (summary, rows_table("Largest eigenvalues", largest, {"rank": "from the top", "eigenvalue": "of K"}))
    parts = [
        Section("The kernel", (), (*matrices, spectrum), tables),
        Section("Layer by layer", (_LAYERS,), (), (_layers_table("Layers", facts),)),
    ]
    frozen = facts["frozen"]
    if frozen is not None:
        sentence = (
            f"Ridge regression with the frozen kernel, fitted to {frozen['train']:,} examples, on {frozen['test']:,} "
            "others."
        )
        table = facts_table(
            "Frozen kernel",
            {
                f"{frozen['measure']}, kernel": frozen["kernel"],
                "its standard error": frozen["standard_error"],
                f"{frozen['measure']}, network on the same examples": frozen["network"],
                "ridge": frozen["ridge"],
            },
        )
        parts.append(Section("What the frozen kernel predicts", (sentence,), (), (table,)))
    return parts


_LAYERS = "The kernel is a sum over the parameters: which layers it comes from, and which of them know the targets."


def _summary(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "examples": facts["examples"],
        "outputs": facts["outputs"],
        "convention": facts["convention"],
        "trace": facts["trace"],
        "effective rank": facts["effective_rank"],
        "rank (eigenvalues above rounding)": facts["rank"],
        "centred alignment with the targets": facts["target_alignment"],
        "method": facts["method"],
        "multiplications": facts["multiplications"],
    }


def _layers_table(caption: str, facts: dict[str, Any]) -> Table:
    heads = {
        "layer": "its parameters",
        "share": "of the trace of the kernel",
        "alignment": "of its own part with the targets, centred",
    }
    return rows_table(caption, facts["layers"], heads)


def _moved_sections(facts: dict[str, Any], matrices: list[Picture], spectrum: Picture) -> list[Section]:
    second = facts["to"]
    named = f"The first model: {facts['model']}. The second: {second['model']}."
    quantities = {
        "trace": "trace",
        "largest_eigenvalue": "largest eigenvalue",
        "effective_rank": "effective rank",
        "rank": "rank (eigenvalues above rounding)",
        "target_alignment": "alignment with the targets",
    }
    both = [{"what": word, "first": facts[name], "second": second[name]} for name, word in quantities.items()]
    largest = [
        {"rank": i + 1, "first": one, "second": two}
        for i, (one, two) in enumerate(zip(facts["eigenvalues"], second["eigenvalues"], strict=True))
    ]
    heads = {"first": "of the kernel of the first model", "second": "of that of the second"}
    tables = (
        rows_table("Both kernels", both, {"what": "a number of a kernel"} | heads),
        rows_table("Largest eigenvalues", largest, {"rank": "from the top"} | heads),
    )
    parts = [_regime_section(facts, named), Section("The two kernels", (), (*matrices, spectrum), tables)]
    parts.append(_moved_layers(facts))
    frozen = {"first": facts["frozen"], "second": second["frozen"]}
    if all(frozen.values()):
        parts.append(_moved_frozen(frozen, facts["moved"]))
    return parts


def _regime_section(facts: dict[str, Any], named: str) -> Section:
    """Lazy or not, in numbers."""
    moved = facts["moved"]
    plain = moved["kernels"][0]
    sentences = [named]
    outputs = (
        f"The outputs moved by {_with_error(moved['outputs'], moved['outputs_error'])} of their norm, and the largest "
        f"one differs on {_percent(moved['disagreement'], moved['disagreement_error'])} of the examples."
    )
    if moved["outputs"] == 0:
        outputs = "The outputs did not move."
    sentences.append(outputs)
    if moved["linear_error"] is not None:
        sentences.append(
            "A lazy network moves its outputs and keeps its kernel: S and D are 0, and its linearisation at the first "
            f"model misses nothing. Here the kernel turned by {format_number(plain['angle'], 3)}°, it changed by "
            f"{format_number(plain['change'], 3)} of its norm, and the linearisation misses "
            f"{_with_error(moved['linear_error'], moved['linear_error_error'])} of how far the outputs moved."
        )
    heads = {
        "kernels": "whole; centred takes away what is common to all examples",
        "distance": "S: 0 where the direction is the same",
        "angle": "between them as vectors, in degrees",
        "scale": "s: norm of the second over that of the first",
        "change": "D: norm of the difference over that of the first",
    }
    function = [
        {"what": "outputs moved", "value": moved["outputs"], "value error": moved["outputs_error"]},
        {"what": "largest output differs", "value": moved["disagreement"], "value error": moved["disagreement_error"]},
        {"what": "linearisation misses", "value": moved["linear_error"], "value error": moved["linear_error_error"]},
        {"what": "parameters moved", "value": moved["parameters"]},
    ]
    shares = {"what": "of the function, and of what it is made from", "value": "as a share, see above"}
    tables = (_errors_table("The kernel", moved["kernels"], heads), _errors_table("The function", function, shares))
    title = "How far the kernel moved" if moved["parameters"] is None else "Lazy, or learning features"
    return Section(title, sentences, (), tables)


def _errors_table(caption: str, rows: Sequence[dict[str, Any]], heads: dict[str, str]) -> Table:
    """A table whose numbers stand with their standard errors, where they have one."""
    names = list(heads)
    head = [Cell(names[0], heads[names[0]]), *(Cell(name, heads[name], is_number=True) for name in names[1:])]
    body = [
        [
            Cell(str(row[names[0]])),
            *(cells.measured(row[name], row.get(f"{name} error") or None) for name in names[1:]),
        ]
        for row in rows
    ]
    return Table(caption, head, body)


def _percent(share: float, error: float) -> str:
    return _with_error(100 * share, 100 * error) + " %"


def _moved_layers(facts: dict[str, Any]) -> Section:
    layers = facts["moved"]["layers"]
    if not layers:
        tables = tuple(
            _layers_table(f"Layers of the {word} model", each)
            for word, each in (("first", facts), ("second", facts["to"]))
        )
        return Section("Layer by layer", (_LAYERS,), (), tables)
    heads = {
        "layer": "its parameters",
        "distance": "S of its own part of the kernel",
        "change": "D of its own part",
        "share first": "of the trace of the first kernel",
        "share second": "of the trace of the second",
        "alignment first": "of its part with the targets, centred, in the first model",
        "alignment second": "in the second",
    }
    sentence = (
        "The kernel is a sum over the parameters: where it turned. The part of a layer is made of what reaches it and "
        "of the slopes behind it, so it turns, too, where other layers learn; that of a linear last layer sees only "
        "what reaches it, the features."
    )
    return Section("Layer by layer", (sentence,), (), (_errors_table("Layers", layers, heads),))


def _moved_frozen(frozen: dict[str, dict[str, Any]], moved: dict[str, Any]) -> Section:
    one = frozen["first"]
    sentence = (
        f"Ridge regression with each kernel, fitted to the same {one['train']:,} examples, on the same {one['test']:,} "
        f"others: {one['measure']}. The second less the first, example by example: "
        f"{_with_error(moved['gain'], moved['gain_error'])}. That is what the change of the features is worth to a "
        f"linear method{'' if one['measure'] == 'accuracy' else ' (an error: less is better)'}."
    )
    heads = {
        "kernel of": "the model whose kernel it is",
        "kernel": f"{one['measure']} of the frozen kernel",
        "network": f"{one['measure']} of the network itself, on the same examples",
        "ridge": "what is added to the diagonal",
    }
    rows = [
        {"kernel of": f"the {word} model", **each, "kernel error": each["standard_error"]}
        for word, each in frozen.items()
    ]
    return Section("What the frozen kernels predict", (sentence,), (), (_errors_table("Frozen kernels", rows, heads),))
