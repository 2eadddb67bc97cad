"""Zhang, Li, Zhang, Luo and Xu 2022, arXiv 2111.15527: critical embeddings, their dimension and inertia."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter
from lossatlas.studies._claims import Claim, claim_equal, claim_most, claim_near
from lossatlas.studies._embedding_hierarchy_figures import KNOWN, is_level, pictures
from lossatlas.studies._parts import Parts
from lossatlas.studies._registry import register
from lossatlas.studies._study import Picture


if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import PRNGKeyArray


_PAPER = "arXiv 2111.15527"


@register(
    "embedding-hierarchy",
    title="Which expansions keep critical points, and what they make of them",
    papers=("zhang2022hierarchical",),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingHierarchy:
    """Which expansions of a network keep its critical points, how large do these become, and which can be left?

    The paper's one training run, 500 tanh neurons that visit the critical points of 1 and 3, is that of the study
    `embedding-width`. That a point is truly bad, so that no embedding at all makes it a strict saddle, cannot be
    tested: what can is the necessary condition.

    - `num_cases`: random networks for the one-step embeddings and their chains.
    - `num_members`: random networks and members of general compatible embeddings, over four families and activations.
    - `num_minima`: planted minima that are split three-fold; 0 leaves that part out.
    - `most_neurons`: of the narrow networks whose critical points are looked for (one-dimensional problem); 0 leaves
      that part out. `random_starts`, `descents`: starts of that search, and descents whose stalls are polished.
    """

    num_cases: int = 6
    num_members: int = 8
    num_minima: int = 4
    most_neurons: int = 3
    random_starts: int = 8
    descents: int = 8

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"num_cases": 1, "num_members": 1, "num_minima": 0, "most_neurons": 0},
        "quick": {},
        "paper": {"num_cases": 100, "num_members": 96, "num_minima": 20, "random_starts": 24, "descents": 16},
    }

    def run(self, seed: int, progress: ProgressMeter, journal: Journal | None = None) -> "xr.DataTree":
        """Everything that the claims need, part by part."""
        import jax

        from lossatlas.studies import _embedding_hierarchy as measure

        keys = jax.random.split(jax.random.key(seed), 9)
        with progress.task("embedding-hierarchy", 6) as task:
            parts = Parts(progress, journal)
            parts("steps", lambda: {"steps": measure.steps(keys[0], self.num_cases)})
            parts("conditions", lambda: {"conditions": measure.conditions(keys[1])})
            parts("subspaces", lambda: {"subspaces": measure.subspaces(keys[2])})
            task.update(1, "general compatible embeddings")
            parts("members", lambda: {"members": measure.members(keys[3], self.num_members)})
            parts("dimensions", lambda: {"dimensions": measure.dimensions(keys[4], self.num_members)})
            parts("compression", lambda: {"compression": measure.compression()})
            task.update(2, "points critical for special samples")
            parts("special", lambda: {"special": measure.special()})
            task.update(3, "bad points")
            if self.num_minima:
                parts("escapes", lambda: {"escapes": measure.escapes(keys[5], self.num_minima)})
                parts("two-layers", lambda: {"two_layers": measure.two_layer_escapes(keys[6], self.num_minima)})
                parts("interpolating", lambda: {"interpolating": measure.interpolating(keys[7], 2 * self.num_minima)})
            task.update(4, "critical points of narrow networks")
            if self.most_neurons:
                parts("levels", lambda: self._levels(keys[8]))
        return parts.tree()

    def _levels(self, key: "PRNGKeyArray") -> "dict[str, xr.Dataset]":
        from lossatlas.studies import _embedding_hierarchy as measure

        functions, copies = measure.levels(key, self.most_neurons, self.random_starts, self.descents)
        return {"functions": functions, "copies": copies}

    def claims(self, results: "xr.DataTree") -> list[Claim]:
        """Theorems 4.1 to 6.3, the degrees of freedom, and what the inertia does."""
        claims = _step_claims(results["steps"].ds, results["conditions"].ds, results["subspaces"].ds)
        claims += _member_claims(results["members"].ds, results["dimensions"].ds)
        claims += [_compression_claim(results["compression"].ds)]
        if "escapes" in results:
            claims += _bad_claims(*(results[name].ds for name in ("escapes", "two_layers", "interpolating")))
        if "copies" in results:
            claims += _level_claims(results["copies"].ds)
        return claims + _special_claims(results["special"].ds)

    def figures(self, results: "xr.DataTree") -> dict[str, Picture]:
        """What keeps what, the degrees of freedom, the curvatures, and the hierarchy of critical functions."""
        return pictures(results)


# What the paper claims


def _step_claims(steps: "xr.Dataset", conditions: "xr.Dataset", spans: "xr.Dataset") -> list[Claim]:
    kinds = steps["kind"].values
    claims = []
    for name, kind, statement, source in (
        ("theorem-4.1-split", "a split", "A split neuron", "Theorem 4.1"),
        ("theorem-4.1-null", "a null neuron", "A null neuron of any bias", "Theorem 4.1"),
        ("theorem-4.2", "a chain of four", "A chain of splits and null neurons", "Theorems 4.2 and 4.3"),
    ):
        rows = kinds == kind
        changed, slope = (float(steps[column].values[rows].max()) for column in ("output_change", "gradient"))
        claims.append(
            claim_most(
                name,
                f"{statement} leaves the outputs as they are for all inputs, and a critical point critical.",
                f"{_PAPER}, {source}",
                measured=max(changed, slope),
                most=1e-12,
                figure="expansions",
                note=f"outputs change by {changed:.1e} at most, far from the data too, the gradient is {slope:.1e}",
            )
        )
    foreign = ~np.isin(kinds, ["a split", "a null neuron", "a chain of four"])
    slope = float(steps["gradient"].values[foreign].min())
    claims.append(
        claim_equal(
            "outputs-are-not-enough",
            "Expansions that keep outputs need not keep critical points: a new neuron with random incoming weights and "
            "no readers, and copies with another share for each reader.",
            f"{_PAPER}, Section 3 (a critical embedding is more than an output-preserving one); the control is ours",
            expected=[True, False],
            measured=[float(steps["output_change"].values[foreign].max()) <= 1e-12, slope <= 1e-6],
            figure="expansions",
            note=f"outputs kept, critical; the gradient is {slope:.1e} at least",
        )
    )
    gap = abs(float(conditions["gradient_without_bias"]) - float(conditions["predicted_without_bias"]))
    return [
        *claims,
        claim_equal(
            "validator",
            "Conditions (forward, backward, biases) tell compatible embeddings from others.",
            f"{_PAPER}, Definition 5.1; recovering the shares is ours",
            expected=[True, True],
            measured=[bool(conditions["compatible"]), "backward" in str(conditions["violation"].values)],
            note=f"a drawn member passes; of the altered one is said: {conditions['violation'].values}",
        ),
        claim_most(
            "null-needs-a-bias",
            "Without a bias in the next layer a null neuron leaves the gradient |sigma(bias) E[e]|: no critical point.",
            "derived: in the proof of Theorem 4.1 the gradient of the next bias makes it vanish",
            measured=gap / float(conditions["predicted_without_bias"]),
            most=1e-9,
            note=f"gradient {float(conditions['gradient_without_bias']):.2e}, relative deviation measured",
        ),
        claim_equal(
            "theorem-6.1",
            "K one-step embeddings make a critical affine subspace of dimension K.",
            f"{_PAPER}, Theorem 6.1",
            expected=spans["steps"].values,
            measured=spans["dimension"].values,
            note=f"of splits and null neurons in two layers; gradient {float(spans['gradient'].max()):.1e} at most, at "
            "the points and at a mixture of them beyond their convex hull",
        ),
        claim_most(
            "biases-as-printed",
            "Effective neurons keep their biases.",
            f"{_PAPER}, Section 5, the first form of the condition on biases",
            measured=float(conditions["change_without_correction"]),
            most=1e-12,
            note="what null neurons send must be taken back by the biases, as the paper's figure and proof do: with "
            f"that outputs change by {float(conditions['change_with_correction']):.1e}",
        ),
    ]


def _member_claims(members: "xr.Dataset", spans: "xr.Dataset") -> list[Claim]:
    cases = f"over {members.sizes['case']} random networks"
    clear = members["is_clear"].values
    signs = ("negative", "zero", "positive")
    more = {sign: (members[f"wide_{sign}"] - members[f"narrow_{sign}"]).values[clear] for sign in signs}
    changed, slope = (float(members[name].max()) for name in ("output_change", "gradient_when_critical"))
    saddles = members["narrow_negative"].values[clear] > 0
    sure = spans["is_clear"].values
    plain = ~spans["has_nulls"].values & sure
    zeros, freedom = spans["added_zeros"].values, spans["predicted"].values
    return [
        claim_most(
            "theorem-5.1",
            "General compatible embeddings keep outputs, and critical points critical.",
            f"{_PAPER}, Theorem 5.1",
            measured=max(changed, slope),
            most=1e-12,
            note=f"outputs change by {changed:.1e} at most, the gradient at planted points is {slope:.1e}; {cases}",
        ),
        claim_most(
            "intertwiner",
            "At any point the wide gradient is B times the narrow one, with shares and constants of null neurons in B.",
            f"{_PAPER}, Lemma 5.1 (errors of copies are their shares of the neuron's)",
            measured=float(members["intertwiner_defect"].max()),
            most=1e-11,
            note=f"where the gradient is {float(members['gradient'].min()):.2g} at least; {cases}",
        ),
        *(
            claim_equal(
                f"theorem-6.2-{sign}",
                f"An embedding never has fewer {sign} eigenvalues than the narrow critical point.",
                f"{_PAPER}, Theorem 6.2",
                expected=len(more[sign]),
                measured=int((more[sign] >= 0).sum()) if len(more[sign]) else None,
                figure="inertia",
                note=f"cases in which it holds, of those whose eigenvalues have a clear gap, {cases}"
                + (f"; {int(saddles.sum())} strict saddles stay such" if sign == "negative" else ""),
            )
            for sign in signs
        ),
        claim_equal(
            "inertia-adds-up",
            "The wide inertia is the narrow one and that of the Hessian on the kernel of B^T.",
            "derived: A^T B = I and H_wide A = B H_narrow; both sides by dense eigenvalues",
            expected=int(clear.sum()),
            measured=int(members["adds_up"].values[clear].sum()) if clear.any() else None,
            figure="inertia",
            note=f"H_wide A = B H_narrow to {float(members['hessian_defect'].max()):.1e} of the largest entry; {cases}",
        ),
        claim_equal(
            "degrees-of-freedom",
            "Compatible embeddings have K + sum of K_l K_(l-1) degrees of freedom.",
            f"{_PAPER}, Section 5",
            expected=freedom,
            measured=spans["rank"].values,
            figure="freedom",
            note="measured: the rank of the map from shares, weights and null biases to the wide network; "
            + ", ".join(spans["family"].values),
        ),
        claim_equal(
            "zeros-at-least",
            "The count bounds the zeros that the Hessian gains from below.",
            f"{_PAPER}, Section 6 (an estimate there)",
            expected=int(sure.sum()),
            measured=int((zeros[sure] >= freedom[sure]).sum()) if sure.any() else None,
            figure="freedom",
            note=f"families in which it holds; zeros gained {zeros[sure].tolist()}, counted {freedom[sure].tolist()}",
        ),
        claim_equal(
            "zeros-without-nulls",
            "Without null neurons the Hessian gains as many zeros as there are degrees of freedom.",
            "derived: generic equality",
            expected=freedom[plain],
            measured=zeros[plain] if plain.any() else None,
            figure="freedom",
        ),
    ]


def _compression_claim(compression: "xr.Dataset") -> Claim:
    narrow, wide = (compression[name].values for name in ("narrow", "wide"))
    return claim_equal(
        "theorem-6.2-proof",
        "That A^T H_wide A = H_narrow with A of full rank is enough for the zero eigenvalues not to decrease.",
        f"{_PAPER}, proof of Theorem 6.2",
        expected=True,
        measured=bool(wide[1] >= narrow[1]),
        note=f"H = [[0, 1], [1, 0]], A = (1, 0): {wide.tolist()} (-/0/+) for the wide and {narrow.tolist()} for "
        "the narrow matrix. The theorem holds all the same: H_wide A = B H_narrow maps the kernel into the kernel",
    )


def _bad_claims(escapes: "xr.Dataset", two_layers: "xr.Dataset", fitted: "xr.Dataset") -> list[Claim]:
    found = escapes.sizes["direction"] > 0
    claims = []
    for name, what in (("2 lambda", "(v, -v, 0)"), ("-lambda / 2", "(v/2, v/2, v)")):
        rows = escapes["name"].values == name
        predicted, measured = (escapes[column].values[rows] for column in ("predicted", "measured"))
        claims.append(
            claim_most(
                f"theorem-6.3-{'half' if '/' in name else 'twice'}",
                f"After the three-fold splitting the curvature along {what} is {name}, with lambda an eigenvalue of H2 "
                "below the readout.",
                f"{_PAPER}, proof of Theorem 6.3",
                measured=float(np.abs(measured / predicted - 1).max()) if found else float("nan"),
                most=1e-8,
                figure="curvatures",
                note=f"relative deviation; lambda of {_list(escapes['eigenvalue'].values[rows])}",
            )
        )
    counts = [escapes[sign].values.tolist()[::2] for sign in ("negative", "zero", "positive")]
    own = fitted["name"].values
    one = own == "one split"
    return [
        *claims,
        claim_equal(
            "theorem-6.3",
            "A minimum where the residuals bend the loss (H2 is not 0) becomes a strict saddle in a wider network.",
            f"{_PAPER}, Theorem 6.3",
            expected=len(counts[0]),
            measured=int(np.sum(np.array(counts[0]) > 0)) if found else None,
            figure="curvatures",
            note=f"planted minima of 1-2-2-1 without zeros, split three-fold; counts (-/0/+) of the first "
            f"{[c[0] for c in counts] if found else 'none found'}; |H2|/|H| of {_list(escapes['ratio'].values[::2])}; "
            f"gradient {float(escapes['gradient'].max()) if found else 0:.1e} at most",
        ),
        claim_equal(
            "one-split-suffices",
            "With one hidden layer a single split, with shares inside or outside [0, 1], is enough.",
            "derived: H2 = 0 only if Q = 0 and C = 0 for every neuron",
            expected=two_layers.sizes["point"],
            measured=int((two_layers["negative"].values > 0).sum()) if two_layers.sizes["point"] else None,
            note="planted minima of 1-2-1 that some split turns into a strict saddle",
        ),
        claim_equal(
            "necessary-condition",
            "Where all residuals are zero H2 is 0, and no embedding that was drawn is a strict saddle.",
            f"{_PAPER}, Definition 6.2 and Theorem 6.3",
            expected=0,
            measured=int(fitted["negative"].max()),
            note=f"negative eigenvalues at most, of {', '.join(own[:2])} and {len(own) - 2} random members; "
            f"|H2|/|H| = {float(fitted['ratio'].max()):.1e}. The condition is necessary: this proves no point bad",
        ),
        claim_equal(
            "interpolating-split",
            "One split of a network that fits its data adds zeros alone: as many as the neuron has weights.",
            "derived: the block S vanishes with the residuals",
            expected=[0, 5, 0],
            measured=[int(fitted[sign].values[one][0]) for sign in ("negative", "zero", "positive")],
            note="2-2-2-1: two incoming weights, a bias and two readers",
        ),
    ]


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2g}" for value in values) or "none"


def _level_claims(copies: "xr.Dataset") -> list[Claim]:
    claims = []
    losses = copies["loss"].values
    for value, expected in KNOWN.items():
        rows = is_level(losses, value)
        counted = np.stack([copies[sign].values[rows] for sign in ("negative", "zero", "positive")], axis=1)
        agree = [row for row in counted.tolist() if row == expected]
        measured = None if not rows.any() else expected if len(agree) == rows.sum() else counted[0].tolist()
        claims.append(
            claim_equal(
                f"copies-{value:.4g}",
                f"The critical function of loss {value:.5g} in three neurons: eigenvalues by sign of its equal copies.",
                f"{_PAPER}, Theorems 4.3 and 6.2, Figure 4.4 (values of our own independent computation)",
                expected=expected,
                measured=measured,
                figure="copies",
                note="not found by this search; see the preset paper"
                if measured is None
                else f"copies looked at: {int(rows.sum())}; the degeneracy is 3 - m for m neurons",
            )
        )
    found = len(losses) > 0
    slopes = float(max(copies["gradient"].max(), copies["output_change"].max())) if found else float("nan")
    return [
        *claims,
        claim_most(
            "corollary-4.1",
            "The critical functions of the narrow networks are critical functions of the wide one.",
            f"{_PAPER}, Corollary 4.1",
            measured=slopes,
            most=1e-10,
            figure="functions",
            note=f"largest gradient, and change of the function, of {len(losses)} copies in three neurons",
        ),
        claim_equal(
            "copies-predicted",
            "The inertia of the copies follows from the narrow network alone, split by split.",
            "derived: closed form of the added block; both sides by eigenvalues",
            expected=len(losses),
            measured=int(copies["predicted"].sum()) if found else None,
            figure="copies",
        ),
    ]


def _special_claims(special: "xr.Dataset") -> list[Claim]:
    names, factor, silent = (special[name].values for name in ("residual", "factor", "silent"))
    general = silent[(names != "special") & (factor == 2)]
    return [
        claim_most(
            "copies-for-every-sample",
            "Copies of a neuron are critical for every sample whose narrow point is.",
            f"{_PAPER}, Theorem 4.1; arXiv 2505.13582 for this example",
            measured=float(special["copies"].max()),
            most=1e-12,
            figure="special",
        ),
        claim_equal(
            "silent-for-special-samples",
            "A second neuron of other weights that nothing reads is critical for special samples only.",
            "arXiv 2505.13582 (the residuals are solved for here: the digits printed there leave a gradient)",
            expected=[False, True],
            measured=[bool((general < 1e-3).any()), float(silent[(names == "special") & (factor == 2)][0]) < 1e-12],
            figure="special",
            note=f"at w' = 2 w: gradient {_list(general)} for general residuals",
        ),
        claim_near(
            "silent-at-w",
            "At w' = w that neuron is a copy, and critical for all of them.",
            "the same",
            expected=0.0,
            measured=float(silent[factor == 1].max()),
            tolerance=1e-12,
            figure="special",
        ),
    ]
