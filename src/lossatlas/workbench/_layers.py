"""The curvature of layers as a section of a page."""

import math

from lossatlas._types import Network, Only
from lossatlas.figures import counts_figure, format_number
from lossatlas.geometry import LayerCurvature
from lossatlas.workbench._instrument import Picture, Section, facts_table, rows_table


_SAID = {
    "balanced": "curvature neither vanishes nor explodes with depth.",
    "unbalanced": "the layers differ by more than a factor of 100, and one step suits some of them only.",
    "vanishing": "curvature shrinks with depth, on the average of layers to less than a tenth; larger weights mend it.",
    "exploding": "curvature grows with depth, on the average of layers to more than tenfold; smaller weights mend it.",
}
_HEADS = {
    "layer": "where its parameters are",
    "parameters": "numbers in it",
    "trace": "of its Gauss-Newton block",
    "Frobenius norm": "of its Gauss-Newton block",
    "largest": "eigenvalue of its Gauss-Newton block",
    "gradient": "length of its part of the gradient",
    "gain": "by how much the other layers multiply its curvature; 1 with weights that keep variances",
    "is the Hessian": "whether the block is that of the Hessian, too",
}


def layer_names(network: Network, only: Only) -> list[str]:
    """The layers that are measured."""
    from lossatlas.geometry._layer_moments import layer_places

    return list(layer_places(network, only))


def layers_section(found: LayerCurvature) -> Section:
    """Bars, a table, the verdict and the steps."""
    bars = {"trace": found.traces, "Frobenius norm": found.norms, "largest eigenvalue": found.largest}
    picture = Picture(
        "layers",
        lambda compact: counts_figure(
            bars, found.layers, x="layer", y="Gauss-Newton block", y_scale="log", compact=compact
        ),
        "How curved the loss is in each layer while the others stand still.",
        "Bars of trace, norm and largest eigenvalue of every layer; the numbers are in the table below.",
    )
    errors = found.trace_errors.max()
    sentences = [f"As a start of training, {found.verdict}: {_SAID[found.verdict]}"]
    if errors:
        share = float((found.trace_errors / found.traces.clip(min=1e-300)).max())
        sentences.append(f"Traces and norms are estimates by probes, traces to {format_number(100 * share, 2)} %.")
    steps = {
        "step that lowers the loss most, to second order": found.best_step,
        "largest stable step": found.stable_step,
    }
    finite = {name: step if math.isfinite(step) else "any" for name, step in steps.items()}
    table = facts_table("Steps of gradient descent", finite)
    return Section("Layer by layer", sentences, (picture,), (rows_table("Layers", found.rows, _HEADS), table))
