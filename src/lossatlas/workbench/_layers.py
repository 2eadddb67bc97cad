"""The curvature of layers as a section of a page."""

import math

from lossatlas._parameters import num_parameters
from lossatlas._types import Network, Only
from lossatlas.figures import counts_figure, format_number
from lossatlas.geometry import LayerCurvature
from lossatlas.geometry._layer_curvature import MOST_MULTIPLICATIONS
from lossatlas.geometry._layer_moments import layer_places, moments_cost, moments_recipe
from lossatlas.landscape import Landscape
from lossatlas.workbench._instrument import Picture, Section, facts_table, rows_table


_END_PRODUCTS = 15  # that a largest eigenvalue takes
_PROBES = 30  # of a layer whose kernel would cost too much
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


def layer_products(network: Network, landscape: Landscape, only: Only) -> int:
    """How many products of the whole the measurement of all layers takes, about; its kernel turned into such."""
    count = len(layer_places(network, only))
    ends = _END_PRODUCTS * (count + 1)
    if getattr(network, "batch_statistics", False):
        return ends + _PROBES * count
    recipe, _ = moments_recipe(network, landscape, only)
    multiplications = moments_cost(recipe, landscape.size, count)
    if multiplications > MOST_MULTIPLICATIONS:
        return ends + _PROBES * count
    # A product multiplies about six times for each parameter and example.
    return ends + math.ceil(multiplications / (6 * landscape.size * num_parameters(network, only)))


def _step_sentence(found: LayerCurvature) -> str:
    """Why the step that lowers the loss most may be far above the largest stable one."""
    if not math.isfinite(found.best_step):
        return "The loss does not bend up along the gradient: by its quadratic model there, longer steps lower it more."
    along, largest = format_number(1 / found.best_step, 3), format_number(found.sharpness, 3)
    return (
        "The step that lowers the loss most is the minimum of the quadratic model along the gradient, where the "
        f"curvature is {along}; the largest stable step is 2 over the largest eigenvalue, {largest}, the curvature of "
        "another direction. Where the first step is the longer one it may pay once, and repeated it grows along the "
        "steepest direction."
    )


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
    sentences.append(_step_sentence(found))
    steps = {
        "step that lowers the loss most, to second order": found.best_step,
        "largest stable step": found.stable_step,
    }
    finite = {name: step if math.isfinite(step) else "any" for name, step in steps.items()}
    table = facts_table("Steps of gradient descent", finite)
    return Section("Layer by layer", sentences, (picture,), (rows_table("Layers", found.rows, _HEADS), table))
