"""Bai, Luo, Xu and Zhang, arXiv 2205.13283 (v1 to v3; CSIAM 2024): the embedding principle in depth."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter
from lossatlas.studies._claims import Claim, claim_equal, claim_most, claim_near
from lossatlas.studies._embedding_depth_claims import (
    iris_claim,
    more_data_claims,
    norm_claims,
    pruning_claims,
    stall_claims,
)
from lossatlas.studies._parts import Parts
from lossatlas.studies._registry import register
from lossatlas.studies._study import Picture


if TYPE_CHECKING:
    import xarray as xr


_PAPER = "arXiv 2205.13283v3"


@register("embedding-depth", title="Critical points of shallow networks in deeper ones", papers=("bai2024depth",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingDepth:
    """Does every deeper network contain the critical points of a shallow one, what are they, and who stalls there?

    The paper's one-dimensional target is only drawn in it: ours is 0.6 sin 2.2x + 0.4 tanh 3x on [-3, 3]. Pruning on
    MNIST (its Figure 7) is `examples/prune_depth_mnist.py`; here it is done on the digits of scikit-learn. Left out
    are the training runs of residual networks (Figure B3), whose lifts are tested.

    - `num_cases`: random networks on which lifts are tested, over activations, places and widths.
    - `num_lifts`: lifts of each part of the data, for the dependency on data.
    - `iris_starts`: starts of the search for critical points of two leaky-ReLU neurons on iris; 0 leaves that out.
    - `depths`: hidden layers of the tanh networks on the line; none leaves that part out. `width`, `std`,
      `learning_rate`, `num_steps`: their neurons, initial weights, and gradient descent.
    - `iris_depths`, `iris_std`, `iris_steps`: of the ReLU networks on iris; none leaves that part out.
    - `norm_steps`: of the networks with BatchNorm; `data_steps`: after more data came; `digits_steps`: Adam steps of
      ten layers on digits; 0 leaves each out. `digits_std`: initial weights there.
    """

    num_cases: int = 9
    num_lifts: int = 20
    iris_starts: int = 6
    depths: tuple[int, ...] = (1, 3, 4, 5)
    width: int = 50
    std: float = 0.1
    learning_rate: float = 0.01
    num_steps: int = 40_000
    iris_depths: tuple[int, ...] = (3, 4, 5)
    iris_std: float = 0.05
    iris_steps: int = 6_000
    norm_steps: int = 2_000
    data_steps: int = 4_000
    digits_steps: int = 250
    digits_std: float = 0.1

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "num_cases": 1,
            "num_lifts": 3,
            "iris_starts": 0,
            "depths": (),
            "iris_depths": (),
            "norm_steps": 0,
            "data_steps": 0,
            "digits_steps": 0,
        },
        "quick": {},
        "paper": {
            "num_cases": 54,
            "num_lifts": 100,
            "iris_starts": 24,
            "depths": (1, 2, 3, 4, 5),
            "num_steps": 100_000,
            "iris_std": 0.07**0.5,
            "iris_steps": 100_000,
            "norm_steps": 12_000,
        },
    }

    def run(self, seed: int, progress: ProgressMeter, journal: Journal | None = None) -> "xr.DataTree":
        """Everything that the claims need, part by part."""
        import jax

        from lossatlas.studies import _embedding_depth as points
        from lossatlas.studies import _embedding_depth_training as training

        keys = jax.random.split(jax.random.key(seed), 16)
        with progress.task("embedding-depth", 7) as task:
            parts = Parts(progress, journal)
            parts("lifts", lambda: {"lifts": points.lifts(keys[0], self.num_cases)})
            parts("chains", lambda: {"chains": points.chains(keys[1], self.num_cases)})
            parts("blocks", lambda: {"blocks": points.blocks(keys[2], self.num_cases)})
            parts("tanh", lambda: {"tanh": points.tanh_lifts(keys[3])})
            task.update(1, "what depends on the data")
            parts("subsets", lambda: {"subsets": points.subsets(keys[4], self.num_lifts)})
            parts("chance", lambda: {"chance": points.chance(keys[5], 50_000)})
            task.update(2, "inertia, and what an inexact point feigns")
            parts("spurious", lambda: _named(("spectra", "distances"), points.spurious(keys[6])))
            parts("remainder", lambda: {"remainder": points.remainder(keys[7])})
            parts("deficient", lambda: {"deficient": points.deficient(keys[8], self.num_cases)})
            if self.iris_starts:
                parts("iris-points", lambda: {"iris_points": points.iris_points(keys[9], self.iris_starts)})
            task.update(3, "stalls on the line")
            line = (self.depths, self.width, self.std, self.learning_rate, self.num_steps)
            if self.depths:
                parts("line", lambda: _named(("curves", "stalls"), training.stalls(keys[10], *line, progress)))
            task.update(4, "stalls on iris")
            iris = (self.iris_depths, self.iris_std, self.iris_steps)
            if self.iris_depths:
                parts("iris", lambda: _named(("iris_curves", "iris_stalls"), training.iris(keys[11], *iris, progress)))
            task.update(5, "BatchNorm, and more data")
            factors, sizes = (0.0, 0.1, 1.0, 1.5), (70, 80, 100)
            if self.norm_steps:
                parts("norm", lambda: {"norm": training.normalised(keys[12], factors, self.norm_steps, progress)})
            if self.data_steps:
                parts("data", lambda: {"data": training.more_data(keys[13], sizes, 4, 500, self.data_steps, progress)})
            task.update(6, "pruning of digits")
            digits = (self.digits_steps, self.digits_std)
            if self.digits_steps:
                parts("digits", lambda: _named(("digits", "pruning"), training.pruned(keys[14], *digits, progress)))
        return parts.tree()

    def claims(self, results: "xr.DataTree") -> list[Claim]:
        """Propositions 1 to 3, Theorem 1, Figures 1 and 3 to 7, and the inertia as printed and as it is."""
        claims = _lift_claims(*(results[name].ds for name in ("lifts", "chains", "blocks")))
        claims += _data_claims(results["subsets"].ds, results["chance"].ds)
        claims += _inertia_claims(*(results[name].ds for name in ("lifts", "spectra", "distances", "remainder")))
        claims += [_deficient_claim(results["deficient"].ds), *_tanh_claims(results["tanh"].ds)]
        if "iris_points" in results:
            claims += _iris_point_claims(results["iris_points"].ds)
        if "stalls" in results:
            claims += stall_claims(results["curves"].ds, results["stalls"].ds)
        if "iris_stalls" in results:
            claims += [iris_claim(results["iris_curves"].ds, results["iris_stalls"].ds)]
        if "norm" in results:
            claims += norm_claims(results["norm"].ds)
        if "data" in results:
            claims += more_data_claims(results["data"].ds)
        return claims + (pruning_claims(results["digits"].ds, results["pruning"].ds) if "digits" in results else [])

    def figures(self, results: "xr.DataTree") -> dict[str, Picture]:
        """In the form of Figures 1 and 3 to 7."""
        from lossatlas.studies._embedding_depth_figures import pictures

        return pictures(results)


# Lifts of critical points


def _named(names: tuple[str, ...], datasets: "Iterable[xr.Dataset]") -> "dict[str, xr.Dataset]":
    return dict(zip(names, datasets, strict=True))


def _lift_claims(lifts: "xr.Dataset", chains: "xr.Dataset", blocks: "xr.Dataset") -> list[Claim]:
    cases = f"over {lifts.sizes['case']} random networks, places and widths"
    wide = lifts["width"].values >= np.array([2, 3, 2])[lifts["before"].values]
    walked = float(lifts["gradient_walked"].max())
    return [
        claim_most(
            "proposition-1",
            "A lift leaves the outputs on the data, and the features of the layers that were there, as they are.",
            f"{_PAPER}, Proposition 1",
            measured=float(max(lifts["output_change"].max(), lifts["feature_change"].max())),
            most=1e-11,
            note=f"largest change {cases}",
        ),
        claim_equal(
            "proposition-1-span",
            "The inserted layer spans, with a constant, what enters it if it is at least as wide.",
            f"{_PAPER}, Proposition 1 (representations are kept); the condition on the width is derived",
            expected=int(wide.sum()),
            measured=int(lifts["features_span"].values[wide].sum()),
            note=f"of {lifts.sizes['case']} lifts; narrower ones, which lose it, span: "
            f"{int(lifts['features_span'].values[~wide].sum())} of {int((~wide).sum())}",
        ),
        claim_most(
            "proposition-2",
            "A critical point stays critical at every one of its lifts.",
            f"{_PAPER}, Proposition 2",
            measured=float(max(lifts["gradient"].max(), walked)),
            most=1e-11,
            note=f"largest gradient at lifts of planted points, and {walked:.1e} after a walk among the lifts, "
            f"{float(lifts['walked'].min()):.2g} away at least; {cases}",
        ),
        claim_most(
            "theorem-1",
            "Every critical point of a shallower network has one of the same outputs in a deeper one.",
            f"{_PAPER}, Theorem 1",
            measured=float(max(chains["output_change"].max(), chains["gradient"].max())),
            most=1e-11,
            note=f"two layers more, one after the other, in {chains.sizes['case']} random networks",
        ),
        claim_equal(
            "residual-lift",
            "Residual networks are lifted likewise: outputs and critical points stay, and zeros alone are added.",
            f"{_PAPER}, Section 3 (residual lifting); that zeros alone are added is derived",
            expected=blocks.sizes["case"],
            measured=int(
                ((blocks["output_change"] < 1e-11) & (blocks["gradient"] < 1e-11) & blocks["adds_zeros_alone"]).sum()
            ),
            note=f"cases in which all three hold; gradient {float(blocks['gradient'].max()):.1e} at most",
        ),
    ]


def _data_claims(subsets: "xr.Dataset", chance: "xr.Dataset") -> list[Claim]:
    holds = subsets["holds"].values
    shares, examples = chance["share"].values, chance["examples"].values
    expected = 2.0 ** (1 - examples)
    errors = np.sqrt(expected * (1 - expected) / 50_000)
    return [
        claim_most(
            "proposition-3",
            "A lift for more data is one for every part of it.",
            f"{_PAPER}, Proposition 3",
            measured=float(subsets["on_part"].max()),
            most=1e-11,
            figure="subsets",
            note="largest change of outputs on the first five examples, over lifts for the first 5 to 160",
        ),
        claim_equal(
            "more-data-fewer-lifts",
            "Lifts for part of the data are lifts for all of it the more rarely the smaller the part.",
            f"{_PAPER}, Proposition 3 and Figure 6",
            expected=[True, True],
            measured=[bool((np.diff(holds) >= -0.25).all()), bool(holds[-1] == 1 and holds[0] < 0.5)],
            figure="subsets",
            note=f"share of lifts of {', '.join(str(n) for n in subsets['examples'].values)} examples whose neurons "
            f"stay linear on 160: {', '.join(f'{share:.2g}' for share in holds)}",
        ),
        claim_most(
            "chance-of-linear-neurons",
            "A random ReLU neuron without bias is linear on n symmetric random inputs of its own with chance 2^(1-n).",
            "derived: all signs of the pre-activations agree",
            measured=float(np.max(np.abs(shares - expected) / errors)),
            most=5.0,
            note=f"largest deviation in standard errors; n = {examples.tolist()}: "
            + ", ".join(f"{share:.4f}" for share in shares),
        ),
    ]


# Inertia: as printed in v1 to v3, and as it is


def _inertia_claims(
    lifts: "xr.Dataset", spectra: "xr.Dataset", distances: "xr.Dataset", remainder: "xr.Dataset"
) -> list[Claim]:
    clear = lifts["is_clear"].values
    negative = spectra["counts"].values[:, :, 0]
    exact, beside, polished = negative.tolist()
    rows = spectra["counts"].values[0].tolist()
    counts, grown = _words(rows), _words([[0, rows[0][1] + 6 * k, rows[0][2]] for k in range(3)])
    slope = float(np.polyfit(np.log(distances["gradient"]), np.log(-distances["lowest"]), 1)[0])
    defect = float(np.abs(remainder["measured"] - remainder["predicted"]).max())
    return [
        claim_equal(
            "printed-strict-saddles",
            "Lifting turns a local minimum into a strict saddle: its negative eigenvalues, and after one and two more "
            "layers.",
            f"{_PAPER}, Section 3 and Figure 4 (v1 to v3; the abstract of v4 has it no longer)",
            expected=[0, 1, 2],
            measured=exact,
            figure="spectrum",
            note="at an exact critical point lifts add zeros alone. The figure's negatives are what an inexact one "
            f"shows: 1e-4 beside the minimum (gradient {float(spectra['gradient'].values[1, 0]):.1e}) there are "
            f"{beside}, and {polished} after polishing that point",
        ),
        claim_equal(
            "inertia-minimum",
            "Lifting a minimum of 1-2-1 adds zero eigenvalues alone, six with each layer of two neurons.",
            "derived: near a lift the deep loss is the shallow one of Phi, D Phi is onto (v4: increased degeneracy)",
            expected=grown,
            measured=counts,
            figure="spectrum",
            note="eigenvalues -/0/+, of the minimum and after one and two more layers",
        ),
        claim_equal(
            "inertia",
            "At critical points full-rank lifts keep the numbers of negative and positive eigenvalues, and add zeros.",
            "derived: H_deep = D Phi^T H_shallow D Phi; both sides by dense eigenvalues",
            expected=int(clear.sum()),
            measured=int((lifts["is_predicted"] & lifts["signs_stay"]).values[clear].sum()) if clear.any() else None,
            note=f"cases whose eigenvalues have a clear gap; H_deep is D Phi^T H D Phi to "
            f"{float(lifts['hessian_defect'].max()):.1e} of its largest entry",
        ),
        claim_near(
            "spurious-shrink",
            "The negative eigenvalues beside a lifted minimum shrink in proportion to the gradient that is left.",
            "derived: they are those of <[G_W, g_b], dU [dV, db]>",
            expected=1.0,
            measured=slope,
            tolerance=0.05,
            figure="spurious",
            note=f"slope on logarithmic axes over gradients from {float(distances['gradient'].min()):.1e} to "
            f"{float(distances['gradient'].max()):.1e}",
        ),
        claim_most(
            "spurious-closed-form",
            "What a gradient left over adds to the Hessian has the eigenvalues +-sigma_i([G_W, g_b]), each as often as "
            "the inserted layer has neurons.",
            "derived, for slope 1",
            measured=defect,
            most=1e-9,
            note=f"largest deviation; the largest sigma is {float(remainder['predicted'].max()):.3g}",
        ),
        claim_equal(
            "spurious-certified",
            "None of the three points, lifted by one layer, is certified as a strict saddle.",
            "the certificate of geometry.inertia",
            expected=[False, False, False],
            measured=spectra["certified_saddle"].values,
        ),
    ]


def _distinct(rows: Iterable[Iterable[int]]) -> list[int]:
    return sorted({int(number) for row in rows for number in row})


def _words(rows: list[list[int]]) -> list[str]:
    return ["/".join(map(str, row)) for row in rows]


def _deficient_claim(deficient: "xr.Dataset") -> Claim:
    shallow, full, low = (deficient[name].values for name in ("shallow", "full", "low"))
    return claim_equal(
        "low-rank-factors",
        "Lifts with factors of too low a rank can only lose negative eigenvalues, full-rank ones lose none.",
        "derived: then D Phi is not onto; depth can hide the way down",
        expected=[True, True],
        measured=[bool((low <= shallow).all()), bool((full == shallow).all())],
        note=f"negative eigenvalues: shallow {shallow.tolist()}, full rank {full.tolist()}, rank one {low.tolist()}",
    )


def _iris_point_claims(points: "xr.Dataset") -> list[Claim]:
    found = sorted(set(points["point"].values[points["certified"].values.astype(bool)].tolist()))
    rows = {i: points["point"].values == i for i in found}
    trains = [points["negative"].values[rows[i]].astype(int).tolist() for i in found]
    zeros = [np.diff(points["zero"].values[rows[i]]).astype(int).tolist() for i in found]
    return [
        claim_equal(
            "printed-iris",
            "On iris the negative eigenvalues grow by one with each lifted layer.",
            f"{_PAPER}, Figure 4 (b): 1, 2, 3",
            expected=[1, 1],
            measured=np.diff(trains[0]).tolist() if trains else None,
            note=f"negative eigenvalues by depth of the critical points found: {trains}; see printed-strict-saddles",
        ),
        claim_equal(
            "inertia-iris",
            "On iris too lifts add zeros alone.",
            "derived",
            expected=[[0], [6]],
            measured=[_distinct(np.diff(train) for train in trains), _distinct(zeros)] if trains else None,
            note=f"negative and zero eigenvalues that each layer of two neurons adds to {len(trains)} critical points "
            f"of 4-2-3; negative ones by depth {trains}",
        ),
    ]


def _tanh_claims(tanh: "xr.Dataset") -> list[Claim]:
    claims = []
    for name, what, expected in (
        ("output_change", "change of the outputs", 2.0),
        ("gradient", "gradient", 1.0),
        ("stiffness", "largest eigenvalue of the Hessian", -2.0),
    ):
        slope = float(np.polyfit(np.log(tanh["extent"])[1:], np.log(tanh[name])[1:], 1)[0])
        claims.append(
            claim_near(
                f"tanh-{name.replace('_', '-')}",
                f"Lifts of tanh into [-xi, xi] are approximate: the {what} goes like xi^{expected:g}.",
                f"{_PAPER}, Figure 4 (tanh, xi = 0.01); the orders are derived",
                expected=expected,
                measured=slope,
                tolerance=0.1,
                figure="tanh",
                note=f"{float(tanh[name][0]):.2g} at xi = 0.3 to {float(tanh[name][-1]):.2g} at 0.003",
            )
        )
    return claims
