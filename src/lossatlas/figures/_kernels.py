"""Figures of tangent kernels: the matrix ordered by class, the spectrum, the way along training."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped

from lossatlas.figures._plain import curves_figure, matrix_figure, square
from lossatlas.figures._theme import INK


_SHARES = {
    "error_barrier": "error barrier",
    "test_error_barrier": "error barrier, test data",
    "kernel_distance": "distance of the kernels",
    "disagreement": "predictions that differ",
    "hamming": "ReLUs that differ",
}
_LOSS_BARRIERS = {"loss_barrier": "loss barrier", "test_loss_barrier": "loss barrier, test data"}
_MOST_SHOWN = 250  # rows of a matrix; of more, evenly spaced ones are shown


def kernel_matrix_figure(
    matrix: Float[np.ndarray, "n n"],
    labels: Shaped[np.ndarray, " n"] | None = None,
    *,
    limits: tuple[float, float] | None = None,
    compact: bool = False,
) -> go.Figure:
    r"""A kernel as cosines, $K_{ij} / \sqrt{K_{ii} K_{jj}}$, the examples ordered by class, lines between the classes.

    **Arguments:**
    - `matrix`: of examples with themselves. `labels`: their classes; without them the order stays.
    - `limits`: the ends of the colours; by default the least and the largest cosine. `compact`: for narrow pages.
    """
    order = np.arange(len(matrix)) if labels is None else np.argsort(labels, kind="stable")
    if len(order) > _MOST_SHOWN:
        order = order[np.linspace(0, len(order) - 1, _MOST_SHOWN).round().astype(int)]
    scale = np.sqrt(np.maximum(np.diag(matrix), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = matrix[np.ix_(order, order)] / np.outer(scale[order], scale[order])
    axis = "example" if labels is None else "example, ordered by class"
    words = {"x": axis, "y": axis, "colour": "cosine of gradients"}
    figure = matrix_figure(cosines.astype(np.float32), **words, limits=limits, compact=compact)
    square(figure)
    if labels is not None:
        names, starts = np.unique(np.asarray(labels)[order], return_index=True)
        middles = (starts + np.append(starts[1:], len(order))) / 2 - 0.5
        for start in starts[1:]:
            figure.add_hline(y=start - 0.5, line={"color": INK, "width": 0.5})
            figure.add_vline(x=start - 0.5, line={"color": INK, "width": 0.5})
        words = [str(name) for name in names.tolist()]
        figure.update_xaxes(tickvals=middles, ticktext=words, dtick=None)
        figure.update_yaxes(tickvals=middles, ticktext=words, dtick=None)
    return figure


def kernel_spectrum_figure(
    values: Float[np.ndarray, " n"] | Mapping[str, Float[np.ndarray, " _"]], *, compact: bool = False
) -> go.Figure:
    """The eigenvalues of a kernel by index, both axes logarithmic; those that are rounding (not positive) are left out.

    **Arguments:**
    - `values`: descending; those of several kernels by name. `compact`: for narrow pages.
    """
    spectra = values if isinstance(values, Mapping) else {"eigenvalues": values}
    curves = {name: (np.arange(1, len(row) + 1), np.asarray(row, float)) for name, row in spectra.items()}
    return curves_figure(
        curves,
        x="index, the largest first",
        y="eigenvalue of the tangent kernel",
        x_scale="log",
        y_scale="log",
        markers=max(map(len, spectra.values())) <= 60,
        compact=compact,
    )


def kernel_evolution_figure(
    times: Float[np.ndarray, " t"],
    measures: Mapping[str, Float[np.ndarray, " t"]],
    errors: Mapping[str, Float[np.ndarray, " t"]] | None = None,
    *,
    compact: bool = False,
) -> go.Figure:
    """How far kernel, ReLUs and function are from where they began, and how well the kernel fits the targets.

    **Arguments:**
    - `times`: of the checkpoints. `measures`, `errors`: those of [`lossatlas.geometry.KernelEvolution`][].
    - `compact`: for narrow pages.
    """
    names = {
        "distance_from_first": "kernel, distance from the first",
        "hamming_from_first": "ReLUs that differ from the first",
        "disagreement_from_first": "predictions that differ from the first",
        "target_alignment": "alignment with the targets",
        "frozen_accuracy": "accuracy of the frozen kernel",
        "network_accuracy": "accuracy of the network",
    }
    curves = {
        words: (times, measures[name])
        for name, words in names.items()
        if name in measures and np.isfinite(measures[name]).any()
    }
    bars = {words: errors[name] for name, words in names.items() if errors and name in errors}
    return curves_figure(curves, x="time", y="share, or distance", errors=bars, markers=True, compact=compact)


def children_figure(
    times: Float[np.ndarray, " t"],
    means: Mapping[str, Float[np.ndarray, " t"]],
    spreads: Mapping[str, Float[np.ndarray, " t"]],
    *,
    value: Literal["shares", "loss"] = "shares",
    compact: bool = False,
) -> go.Figure:
    """How far the children that left a run at the same time are apart, with their spread over pairs.

    **Arguments:**
    - `times`: at which children left. `means`, `spreads`: by measure, as
      [`lossatlas.geometry.ChildComparison`][] has them, over pairs of children.
    - `value`: `"shares"` for barriers of the error and for distances, `"loss"` for barriers of the loss.
    - `compact`: for narrow pages.
    """
    words = _LOSS_BARRIERS if value == "loss" else _SHARES
    shown = {name: title for name, title in words.items() if name in means and np.isfinite(means[name]).any()}
    return curves_figure(
        {title: (times, means[name]) for name, title in shown.items()},
        x="time at which the children left",
        y="loss above the mean of the ends" if value == "loss" else "share, or distance",
        errors={title: spreads[name] for name, title in shown.items()},
        markers=True,
        compact=compact,
    )


def kernel_velocity_figure(
    times: Float[np.ndarray, " t"], velocity: Float[np.ndarray, " t"], *, compact: bool = False
) -> go.Figure:
    """How fast the direction of a kernel turns, on a logarithmic axis; at the end of each step between checkpoints.

    **Arguments:**
    - `times`, `velocity`: of [`lossatlas.geometry.KernelEvolution`][]. `compact`: for narrow pages.
    """
    curves = {"kernel velocity": (times, velocity)}
    y = "kernel velocity per unit of time"
    return curves_figure(curves, x="time", y=y, y_scale="log", markers=True, compact=compact)
