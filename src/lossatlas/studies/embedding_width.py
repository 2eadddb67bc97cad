"""Zhang, Zhang, Luo and Xu 2021, arXiv 2105.14573: the embedding principle in width."""

import dataclasses
import functools as ft
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter
from lossatlas.studies._claims import Claim, claim_equal, claim_most, claim_near
from lossatlas.studies._parts import Parts
from lossatlas.studies._registry import register
from lossatlas.studies._study import Picture


if TYPE_CHECKING:
    import xarray as xr


_PAPER = "arXiv 2105.14573"
_NEAR = 0.2  # distance of two functions, in units of the spread of the targets


@register("embedding-width", title="Critical points of narrow networks in wider ones", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingWidth:
    """Does every wider network contain the critical points of a narrow one, and does training visit them?

    - `num_cases`: random networks on which the theorem is tested, over activations, depths, layers and shares.
    - `most_neurons`: of the narrow networks whose critical points are looked for (one-dimensional problem).
    - `random_starts`, `descents`: starts of that search, and descents whose stalls are polished, which finds saddles.
    - `wide`: neurons of the network that is trained on the same data. `wide_steps`: its gradient-descent steps.
    - `init_power`: p of its initial standard deviation `wide**-p`. `learning_rate`: of that training.
    - `digits_steps`: Adam steps on 1,000 digits (ReLU, 200 neurons); 0 leaves that part out.
    - `digits_std`: standard deviation of the initial weights there.
    - `iris_starts`: starts of the search for a saddle of two sigmoid neurons on iris; 0 leaves that part out.
    """

    num_cases: int = 48
    most_neurons: int = 3
    random_starts: int = 8
    descents: int = 8
    wide: int = 200
    wide_steps: int = 80_000
    init_power: float = 1.5
    learning_rate: float = 0.2
    digits_steps: int = 800
    digits_std: float = 1e-6
    iris_starts: int = 12

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "num_cases": 2,
            "most_neurons": 1,
            "random_starts": 3,
            "descents": 0,
            "wide": 20,
            "wide_steps": 2_000,
            "digits_steps": 0,
            "iris_starts": 0,
        },
        "quick": {},
        "paper": {"num_cases": 240, "random_starts": 24, "descents": 16, "wide": 500, "wide_steps": 300_000},
    }

    def run(self, seed: int, progress: ProgressMeter, journal: Journal | None = None) -> "xr.DataTree":
        """Everything that the claims need, part by part."""
        import jax

        from lossatlas.studies import _embedding_width as measure

        keys = jax.random.split(jax.random.key(seed), 6)
        with progress.task("embedding-width", 6) as task:
            parts = Parts(progress, journal)
            parts("maps", lambda: {"maps": measure.splits(keys[0], self.num_cases)})
            task.update(1, "critical subspaces")
            parts("subspaces", lambda: {"subspaces": measure.subspaces(keys[1])})
            task.update(2, "critical points of narrow networks")
            # Found once; again where the run was interrupted in the training that is compared with them.
            found = ft.cache(lambda: measure.levels(keys[2], self.most_neurons, self.random_starts, self.descents))
            parts("levels", lambda: {"levels": found()[0], "splits": found()[1]})
            task.update(3, "training a wide network")
            wide = (self.wide, self.init_power, self.learning_rate, self.wide_steps)
            parts("training", lambda: {"training": measure.training(keys[3], *wide, found()[2], progress)})
            task.update(4, "condensation on digits")
            if self.digits_steps:
                parts(
                    "digits", lambda: {"digits": measure.digits(keys[4], self.digits_steps, self.digits_std, progress)}
                )
            task.update(5, "a saddle of iris")
            if self.iris_starts:
                parts("iris", lambda: {"iris": measure.iris(keys[5], self.iris_starts)})
        return parts.tree()

    def claims(self, results: "xr.DataTree") -> list[Claim]:
        """Proposition 1, Theorems 1 and 2, and Figures 1, 3, 4 and 5."""
        claims = [*_theorem_claims(results["maps"].ds, results["subspaces"].ds)]
        claims += _level_claims(results["levels"].ds, results["splits"].ds)
        claims += _training_claims(results["training"].ds)
        if "digits" in results:
            claims += _digits_claims(results["digits"].ds)
        if "iris" in results:
            claims += _iris_claims(results["iris"].ds)
        return claims

    def figures(self, results: "xr.DataTree") -> dict[str, Picture]:
        """In the form of Figures 1, 3, 4 and 5."""
        return _pictures(results)


# What the paper claims


def _theorem_claims(maps: "xr.Dataset", spans: "xr.Dataset") -> list[Claim]:
    cases = f"over {maps.sizes['case']} random networks, layers and shares"
    return [
        claim_most(
            "proposition-1",
            "A split neuron leaves the outputs as they are, for all inputs.",
            f"{_PAPER}, Proposition 1",
            measured=float(maps["output_change"].max()),
            most=1e-12,
            note=f"largest change {cases}",
        ),
        claim_most(
            "theorem-1",
            "A critical point stays critical after a split.",
            f"{_PAPER}, Theorem 1",
            measured=float(maps["gradient_when_critical"].max()),
            most=1e-12,
            note=f"largest gradient at planted critical points {cases}",
        ),
        claim_most(
            "intertwiner",
            "At any point the wide gradient is B times the narrow one.",
            f"{_PAPER}, proof of Theorem 1",
            measured=float(maps["intertwiner_defect"].max()),
            most=1e-11,
            note=f"where the gradient is {float(maps['gradient'].min()):.2g} at least; {cases}",
        ),
        claim_equal(
            "theorem-2",
            "With K neurons more a critical point becomes a critical affine subspace of dimension K.",
            f"{_PAPER}, Theorem 2",
            expected=spans["neurons_more"].values,
            measured=spans["dimension"].values,
            note=f"gradient {float(spans['gradient'].max()):.1e} at most, at the points and at a mixture of them",
        ),
        claim_equal(
            "added-inertia",
            "A split adds the inertia of the block S(alpha), which the narrow network alone decides.",
            "derived from A^T B = I; eigenvalues by sign against dense Hessians",
            expected=int(maps["is_certified"].sum()),
            measured=int((maps["agrees"] & maps["is_certified"]).sum()),
            note=f"cases in which all three counts agree, of those that are certified and have a clear gap, {cases}",
        ),
    ]


# Of hierarchy-1d, computed to 1e-10 by independent code.
_KNOWN = {1: (0.2990502719, 0.3555080128), 2: (0.1547960483,), 3: (0.0, 0.0036372374)}


def _level_claims(levels: "xr.Dataset", splits: "xr.Dataset") -> list[Claim]:
    claims = []
    for neurons, values in _KNOWN.items():
        losses = levels["loss"].values[levels["neurons"].values == neurons]
        for i, value in enumerate(values):
            nearest = float(losses[np.argmin(np.abs(losses - value))]) if len(losses) else float("nan")
            found = nearest if abs(nearest - value) < 1e-3 * (value + 1e-3) else float("nan")
            claims.append(
                claim_near(
                    f"level-{neurons}{'ab'[i]}",
                    f"A critical value of {_number(neurons)} on the one-dimensional problem.",
                    f"{_PAPER}, Figure 4 (the paper prints no digits; these are of our own independent computation)",
                    expected=value,
                    measured=found,
                    tolerance=1e-8,
                    figure="levels",
                    note="" if np.isfinite(found) else "not found by this search; see the preset paper",
                )
            )
    for unit in (0, 1):
        rows = splits["neuron"].values == unit
        for name, word in (("negative", "negative eigenvalue"), ("zero", "zero eigenvalue")):
            claims.append(
                claim_equal(
                    f"split-{name}-{unit}",
                    f"Splitting neuron {unit} of the minimum of two neurons into 1, 2, 3 equal parts: one {word} more "
                    "each time.",
                    f"{_PAPER}, Figure 3 (a)",
                    expected=[0, 1, 2],
                    measured=splits[name].values[rows].astype(int) if rows.any() else None,
                    figure="splits",
                )
            )
    return claims


def _number(neurons: int) -> str:
    return "1 neuron" if neurons == 1 else f"{neurons} neurons"


def _training_claims(training: "xr.Dataset") -> list[Claim]:
    """Where the wide network is nearest in function to a narrow one's critical point, its loss is that level."""
    claims = []
    for neurons, level in ((1, _KNOWN[1][0]), (3, _KNOWN[3][1])):
        chosen = np.flatnonzero(np.abs(training["level_loss"].values - level) < 1e-6)
        measured, note = float("nan"), "this level was not found; see the preset paper"
        if len(chosen):
            distance = training["distance"].values[chosen[0]]
            at = int(np.nanargmin(distance))
            if distance[at] <= _NEAR:  # else it has not been there yet, and says nothing
                measured = float(training["loss"].values[at])
            note = f"nearest in function at step {int(training['step'].values[at]):,}, at distance {distance[at]:.2g}"
        claims.append(
            claim_near(
                f"training-near-{neurons}",
                f"Training of a wide network passes the critical point of {_number(neurons)}.",
                f"{_PAPER}, Figures 1 and 4",
                expected=level,
                measured=measured,
                tolerance=0.05 * level,
                figure="training",
                note=note,
            )
        )
    return claims


def _digits_claims(digits: "xr.Dataset") -> list[Claim]:
    return [
        claim_near(
            "condensed-digits",
            "A wide ReLU network trained from tiny weights says what one neuron per group (cosine 0.9) says.",
            f"{_PAPER}, Figure 5 (MNIST there: 400 neurons, 58 groups; the 1,797 digits of scikit-learn here)",
            expected=0.985,
            measured=float(digits["agreement"].values[0]),
            tolerance=0.015,
            figure="condensation",
            note=f"{int(digits['groups'])} groups of {digits.sizes['neuron']} neurons; agreement by the weighted mean "
            f"of each {float(digits['agreement'].values[1]):.3f}; accuracy {float(digits['accuracy']):.3f}",
        )
    ]


def _iris_claims(iris: "xr.Dataset") -> list[Claim]:
    points = sorted(set(iris["point"].values))
    steps = [np.diff(iris["negative"].values[iris["point"].values == point]).astype(int).tolist() for point in points]
    return [
        claim_equal(
            "split-iris",
            "With three outputs each equal split of a neuron of an iris critical point adds two negative eigenvalues.",
            f"{_PAPER}, Figure 3 (b): 3, 5, 7; the rank of C is at most outputs - 1 = 2",
            expected=[2, 2],
            measured=max(steps, key=steps.count) if steps else None,
            figure="iris",
            note=f"{sum(step == [2, 2] for step in steps)} of the {len(points)} critical points found",
        )
    ]


# Figures in the paper's form


def _pictures(results: "xr.DataTree") -> dict[str, Picture]:
    """Of the parts that are there: while the study runs, not all of them are."""
    pictures = {}
    if "levels" in results:
        pictures |= _level_pictures(results["levels"].ds, results["splits"].ds)
    if "training" in results:
        pictures["training"] = _training_picture(results["training"].ds)
    if "digits" in results:
        pictures["condensation"] = _condensation_picture(results["digits"].ds)
    if "iris" in results and results["iris"].sizes["split"]:
        pictures["iris"] = _iris_picture(results["iris"].ds)
    return pictures


def _level_pictures(levels: "xr.Dataset", splits: "xr.Dataset") -> dict[str, Picture]:
    from lossatlas import figures

    def draw_levels(compact: bool):
        groups = {}
        for kind, chosen in (
            ("minimum", levels["counts"].values[:, 0] == 0),
            ("saddle", levels["counts"].values[:, 0] > 0),
        ):
            texts = [
                f"{name}: {loss:.6g}, eigenvalues -/0/+ {tuple(counts)}"
                for name, loss, counts in zip(
                    *(levels[n].values[chosen] for n in ("name", "loss", "counts")), strict=True
                )
            ]
            if chosen.any():
                groups[kind] = (levels["neurons"].values[chosen], levels["loss"].values[chosen] + 1e-16, texts)
        return figures.points_figure(
            groups, x="neurons", y="loss of the critical point", y_scale="log", compact=compact
        )

    def draw_splits(compact: bool):
        bars = {
            f"neuron {unit}, {sign}": splits[sign].values[splits["neuron"].values == unit]
            for unit in (0, 1)
            for sign in ("negative", "zero")
        }
        places = ["unsplit", "2 parts", "3 parts"]
        return figures.counts_figure(bars, places, x="equal split", y="eigenvalues", compact=compact)

    pictures = {
        "levels": Picture(
            title="Critical values of narrow networks",
            caption="One-dimensional problem: each point is a critical point of one, two or three tanh neurons.",
            draw=draw_levels,
        )
    }
    if splits.sizes["split"]:
        pictures["splits"] = Picture(
            title="Eigenvalues after equal splits",
            caption="Of the minimum of two neurons: each copy adds one negative and one zero eigenvalue.",
            draw=draw_splits,
        )
    return pictures


def _training_picture(training: "xr.Dataset") -> Picture:
    from lossatlas import figures

    names, losses = training["level"].values, training["level_loss"].values
    shown = {f"{name}  {loss:.4g}": float(loss) for name, loss in zip(names, losses, strict=True) if loss > 1e-8}
    curve = {"wide network": (training["step"].values, training["loss"].values)}
    return Picture(
        title="Training of a wide network on the same data",
        caption="Dotted: the losses of critical points of narrow networks. Training slows down near some of them.",
        draw=lambda compact: figures.curves_figure(
            curve, x="step", y="loss", x_scale="log", y_scale="log", levels=shown, compact=compact
        ),
    )


def _condensation_picture(digits: "xr.Dataset") -> Picture:
    from lossatlas import figures

    cosine = digits["cosine"].values
    return Picture(
        title="Condensed neurons",
        caption="Cosines between the weights of the neurons of the wide network, sorted by group: blocks of 1 are "
        "neurons that do the same.",
        draw=lambda compact: figures.matrix_figure(
            cosine, x="neuron", y="neuron", colour="cosine", limits=(-1.0, 1.0), compact=compact
        ),
    )


def _iris_picture(iris: "xr.Dataset") -> Picture:
    from lossatlas import figures

    return Picture(
        title="Splits on iris",
        caption="Negative eigenvalues of critical points of two sigmoid neurons after splits into 1, 2 and 3 equal "
        "parts.",
        draw=lambda compact: figures.curves_figure(
            {
                f"loss {float(iris['loss'].values[rows][0]):.4g}": (
                    iris["copies"].values[rows],
                    iris["negative"].values[rows],
                )
                for rows in (iris["point"].values == point for point in sorted(set(iris["point"].values)))
            },
            x="copies",
            y="negative eigenvalues",
            markers=True,
            compact=compact,
        ),
    )
