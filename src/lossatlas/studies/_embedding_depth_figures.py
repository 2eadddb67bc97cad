"""The figures of the study of the embedding principle in depth, in the form of the paper's."""

from typing import TYPE_CHECKING

import numpy as np

from lossatlas.studies._study import Picture


if TYPE_CHECKING:
    import xarray as xr


def pictures(results: "xr.DataTree") -> dict[str, Picture]:
    """Every figure whose part is there, by name."""
    made = {}
    if "spectra" in results:
        made |= {"spectrum": _spectrum(results["spectra"].ds), "spurious": _spurious(results["distances"].ds)}
    if "subsets" in results:
        made["subsets"] = _subsets(results["subsets"].ds)
    if "tanh" in results:
        made["tanh"] = _tanh(results["tanh"].ds)
    if "curves" in results:
        made |= {"stalls": _stalls(results["curves"].ds), "linear": _linear(results["curves"].ds)}
    if "iris_curves" in results:
        made["iris"] = _iris(results["iris_curves"].ds)
    if "norm" in results:
        made["norm"] = _norm(results["norm"].ds)
    if "data" in results:
        made["data"] = _data(results["data"].ds)
    if "digits" in results:
        made["pruning"] = _pruning(results["digits"].ds)
    return made


def _layers(count: int) -> str:
    return "1 hidden layer" if count == 1 else f"{count} hidden layers"


def _spectrum(spectra: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        groups = {}
        for point, name in (("exact", "at the minimum"), ("beside", "1e-4 beside it")):
            values = spectra["eigenvalue"].sel(point=point, layers=2).values
            values = np.sort(values[np.isfinite(values)])[::-1]
            for sign, word in ((1, "positive"), (-1, "negative")):
                chosen = np.flatnonzero(sign * values > 0)
                shown = np.maximum(np.abs(values[chosen]), 1e-18)
                texts = [f"eigenvalue {value:.3g} {name}" for value in values[chosen]]
                groups[f"{word}, {name}"] = (chosen + 1, shown, texts)
        x, y = "index, the largest first", "size of the eigenvalue"
        return figures.points_figure(groups, x=x, y=y, y_scale="log", compact=compact)

    return Picture(
        title="Eigenvalues of a minimum lifted by two layers",
        caption="What is below 1e-12 is zero up to rounding, whatever its sign. At the minimum nothing but positive "
        "eigenvalues and zeros is there; 1e-4 beside it some zeros have become negative: not since it was lifted, but "
        "since it is no critical point.",
        draw=draw,
    )


def _spurious(distances: "xr.Dataset") -> Picture:
    from lossatlas import figures

    curves = {"": (distances["gradient"].values, -distances["lowest"].values)}
    return Picture(
        title="The most negative eigenvalue beside a lifted minimum",
        caption="By the 1-norm of the gradient that is left: it shrinks in proportion.",
        draw=lambda compact: figures.curves_figure(
            curves,
            x="gradient",
            y="minus the lowest eigenvalue",
            x_scale="log",
            y_scale="log",
            markers=True,
            compact=compact,
        ),
    )


def _subsets(subsets: "xr.Dataset") -> Picture:
    from lossatlas import figures

    curves = {"": (subsets["examples"].values, subsets["holds"].values)}
    return Picture(
        title="Lifts for part of the data",
        caption="The share of random lifts made for the first n of 160 examples whose inserted neurons are linear on "
        "all of them.",
        draw=lambda compact: figures.curves_figure(
            curves, x="examples n", y="share that holds for all", x_scale="log", markers=True, compact=compact
        ),
    )


def _tanh(tanh: "xr.Dataset") -> Picture:
    from lossatlas import figures

    curves = {
        name: (tanh["extent"].values, tanh[column].values)
        for name, column in (
            ("change of the outputs", "output_change"),
            ("gradient", "gradient"),
            ("largest eigenvalue", "stiffness"),
        )
    }
    return Picture(
        title="Lifts of tanh",
        caption="Into [-xi, xi], where tanh is nearly a line: errors vanish like xi^2 and xi, and the Hessian grows "
        "like xi^-2.",
        draw=lambda compact: figures.curves_figure(
            curves, x="xi", y="size", x_scale="log", y_scale="log", markers=True, compact=compact
        ),
    )


def _stalls(curves: "xr.Dataset") -> Picture:
    from lossatlas import figures

    shown = {
        _layers(int(depth)): (curves["step"].values, curves["loss"].sel(depth=depth).values)
        for depth in curves["depth"].values
    }
    levels = {"straight line": float(curves["straight"])}
    return Picture(
        title="Training of tanh networks of several depths",
        caption="One-dimensional data, the papers' squared error: whatever their depth they stall together, near the "
        "loss of the best straight line.",
        draw=lambda compact: figures.curves_figure(
            shown, x="step", y="loss", x_scale="log", y_scale="log", levels=levels, compact=compact
        ),
    )


def _linear(curves: "xr.Dataset") -> Picture:
    from lossatlas import figures

    depths = curves["depth"].values
    depth = int(3 if 3 in depths else depths[-1])
    mpc = curves["mpc"].sel(depth=depth).values
    shown = {f"layer {i + 1}": (curves["measured"].values, mpc[:, i]) for i in range(depth)}
    return Picture(
        title=f"Linearity of each of {_layers(depth)}",
        caption="The minimal Pearson correlation of a layer's neurons before and after activation: 1 is linear. All "
        "are during the stall; leaving it, the network bends one layer.",
        draw=lambda compact: figures.curves_figure(
            shown, x="step", y="MPC", x_scale="log", levels={"0.99": 0.99}, compact=compact
        ),
    )


def _iris(curves: "xr.Dataset") -> Picture:
    from lossatlas import figures

    shown = {
        _layers(int(depth)): (curves["step"].values, curves["loss"].sel(depth=depth).values)
        for depth in curves["depth"].values
    }
    return Picture(
        title="Training of ReLU networks on iris",
        caption="All stall at the same loss: here that of a constant output.",
        draw=lambda compact: figures.curves_figure(
            shown,
            x="step",
            y="loss",
            x_scale="log",
            y_scale="log",
            levels={"constant": float(curves["constant"])},
            compact=compact,
        ),
    )


def _norm(norm: "xr.Dataset") -> Picture:
    from lossatlas import figures

    shown = {
        "without BatchNorm" if scale == 0 else f"scale {scale:g}": (norm["step"].values, norm["loss"].values[i])
        for i, scale in enumerate(norm["scale"].values)
    }
    return Picture(
        title="BatchNorm by its initial scale",
        caption="Two tanh layers on the one-dimensional data: with a large scale the layers are less linear, and "
        "training leaves the stall sooner.",
        draw=lambda compact: figures.curves_figure(
            shown, x="step", y="loss", x_scale="log", y_scale="log", compact=compact
        ),
    )


def _data(more: "xr.Dataset") -> Picture:
    from lossatlas import figures

    shown = {
        f"{int(n)} examples": (more["step"].values, more["loss"].values[:, i].mean(axis=0))
        for i, n in enumerate(more["examples"].values)
    }
    return Picture(
        title="More data after a stall",
        caption="Three hidden layers stalled on 70 examples go on with 70, 80 or 100: the mean of several orders of "
        "the examples.",
        draw=lambda compact: figures.curves_figure(shown, x="further steps", y="loss", y_scale="log", compact=compact),
    )


def _pruning(digits: "xr.Dataset") -> Picture:
    from lossatlas import figures

    curves = {"": (digits["layer"].values, digits["mpc"].values)}
    return Picture(
        title="Linearity of ten hidden layers on digits",
        caption="Layers above 0.99 are removed, each neuron replaced by its line.",
        draw=lambda compact: figures.curves_figure(
            curves, x="hidden layer", y="MPC", levels={"0.99": 0.99}, markers=True, compact=compact
        ),
    )
