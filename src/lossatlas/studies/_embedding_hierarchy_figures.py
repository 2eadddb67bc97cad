"""The figures of the study of the hierarchy, and the levels of its one-dimensional problem that are known."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.studies._study import Picture


if TYPE_CHECKING:
    import xarray as xr


# Of hierarchy-1d, computed to 1e-10 by independent code: its losses, and the inertia of equal copies in three neurons.
KNOWN = {
    0.2990502719: [2, 2, 6],
    0.3555080128: [2, 2, 6],
    0.1547960483: [1, 1, 8],
    0.0036372374: [1, 0, 9],
    0.0: [0, 0, 10],
}


def is_level(loss: Any, value: float) -> Any:
    """Whether a loss is that level: within a thousandth of it."""
    return np.abs(loss - value) < 1e-3 * (value + 1e-3)


def pictures(results: "xr.DataTree") -> dict[str, Picture]:
    """Every figure whose part is there, by name."""
    made = {}
    if "steps" in results:
        made["expansions"] = _expansions(results["steps"].ds)
    if "members" in results:
        made |= {"inertia": _inertia(results["members"].ds), "freedom": _freedom(results["dimensions"].ds)}
    if "special" in results:
        made["special"] = _special(results["special"].ds)
    if "escapes" in results and results["escapes"].sizes["direction"]:
        made["curvatures"] = _curvatures(results["escapes"].ds)
    if "functions" in results:
        made |= _hierarchy(results["functions"].ds, results["copies"].ds)
    return made


def _expansions(steps: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        groups = {}
        for kind in dict.fromkeys(steps["kind"].values):
            rows = steps["kind"].values == kind
            changed, slope = (steps[name].values[rows] for name in ("output_change", "gradient"))
            texts = [f"{kind}: outputs {c:.1e}, gradient {g:.1e}" for c, g in zip(changed, slope, strict=True)]
            groups[str(kind)] = (steps["case"].values[rows] + 1, np.maximum(slope, 1e-18), texts)
        return figures.points_figure(groups, x="network", y="gradient after", y_scale="log", compact=compact)

    return Picture(
        title="What keeps a critical point",
        caption="All five expansions keep the outputs for all inputs. Splits and null neurons keep the gradient at "
        "zero, up to rounding; the two others do not.",
        draw=draw,
    )


def _inertia(members: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        places = [str(i + 1) for i in range(members.sizes["case"])][:8]
        bars = {
            f"{size}, {sign}": members[f"{size}_{sign}"].values[: len(places)]
            for sign in ("negative", "zero")
            for size in ("narrow", "wide")
        }
        return figures.counts_figure(bars, places, x="network", y="eigenvalues", compact=compact)

    return Picture(
        title="Eigenvalues before and after",
        caption="Planted critical points and a random member of a family of embeddings: no count falls.",
        draw=draw,
    )


def _freedom(spans: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        bars = {
            "counted": spans["predicted"].values,
            "rank": spans["rank"].values,
            "zeros gained": spans["added_zeros"].values,
        }
        places = [
            str(name).replace(", ", ",<br>").replace(" and ", "<br>and ").replace(" in ", "<br>in ")
            for name in spans["family"].values
        ]
        return figures.counts_figure(bars, places, x="family", y="dimensions", compact=compact)

    return Picture(
        title="Degrees of freedom",
        caption="Of four families of embeddings: counted by the formula, the rank of the map that draws members, "
        "and the zero eigenvalues that the Hessian gains. Null neurons in adjacent layers gain more.",
        draw=draw,
    )


def _special(special: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        curves = {}
        for name in dict.fromkeys(special["residual"].values):
            rows = special["residual"].values == name
            curves[f"{name} residual"] = (special["factor"].values[rows], special["silent"].values[rows] + 1e-17)
        return figures.curves_figure(curves, x="w' / w", y="gradient", y_scale="log", markers=True, compact=compact)

    return Picture(
        title="A neuron that nothing reads",
        caption="Two neurons on four points: the gradient at (1, w, 0, w') by its incoming weight w'. It vanishes "
        "at w' = w, a copy; elsewhere for a residual chosen so, here at 2 w.",
        draw=draw,
    )


def _curvatures(escapes: "xr.Dataset") -> Picture:
    from lossatlas import figures

    def draw(compact: bool):
        groups = {}
        for name in dict.fromkeys(escapes["name"].values):
            rows = escapes["name"].values == name
            predicted, measured = (escapes[column].values[rows] for column in ("predicted", "measured"))
            texts = [f"{p:.6g} predicted, {m:.6g} measured" for p, m in zip(predicted, measured, strict=True)]
            groups[f"along {'(v, -v, 0)' if name == '2 lambda' else '(v/2, v/2, v)'}"] = (-predicted, -measured, texts)
        x, y = "minus the predicted curvature", "minus the measured one"
        return figures.points_figure(groups, x=x, y=y, x_scale="log", y_scale="log", compact=compact)

    return Picture(
        title="Ways out of minima",
        caption="Minima of 1-2-2-1 split three-fold: the curvature along two directions, as the proof predicts it and "
        "as the Hessian has it. All are negative.",
        draw=draw,
    )


def _hierarchy(functions: "xr.Dataset", copies: "xr.Dataset") -> dict[str, Picture]:
    from lossatlas import figures

    x, target = functions["x"].values, functions["target"].values
    names = [
        f"{_number(int(neurons))}, loss {loss:.4g}"
        for neurons, loss in zip(functions["neurons"].values, functions["loss"].values, strict=True)
    ]
    losses = functions["loss"].values
    nearest = {int(np.argmin(np.abs(losses - value))): value for value in KNOWN if value > 0}
    chosen = sorted(i for i, value in nearest.items() if is_level(losses[i], value))

    def draw_functions(compact: bool):
        curves = {"data": (x, target)} | {names[i]: (x, functions["prediction"].values[i]) for i in chosen}
        return figures.curves_figure(curves, x="x", y="f(x)", compact=compact)

    first = np.unique(copies["level"].values, return_index=True)[1]
    rows = sorted(first, key=lambda i: -copies["loss"].values[i])

    def draw_copies(compact: bool):
        bars = {sign: copies[sign].values[rows] for sign in ("negative", "zero", "positive")}
        places = [f"{loss if loss > 1e-12 else 0.0:.4g}" for loss in copies["loss"].values[rows]]
        return figures.counts_figure(bars, places, x="loss of the level", y="eigenvalues", compact=compact)

    return {
        "functions": Picture(
            title="Critical functions of narrow networks",
            caption="One-dimensional problem: each is a critical function of every wider network too.",
            draw=draw_functions,
        ),
        "copies": Picture(
            title="Their copies in three neurons",
            caption="Eigenvalues by sign of the equal-split copies: fewer neurons, more zeros, and more ways down.",
            draw=draw_copies,
        ),
    }


def _number(neurons: int) -> str:
    return "1 neuron" if neurons == 1 else f"{neurons} neurons"
