"""What to cite: a table of our methods and the papers they come from, as BibTeX.

A method that is added to the library adds its line to `_SOURCES`, and its paper to `_references.bib` when it is new.
"""

import functools as ft
import importlib.resources
import re
from typing import Any

from lossatlas._errors import InputError, unknown_name
from lossatlas._version import __version__


class Bibliography(str):
    """BibTeX entries as text; a prompt or a notebook shows them line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def citation(*names_or_results: Any) -> Bibliography:
    """BibTeX for what was used: LossAtlas itself, and the papers behind methods or results.

    !!! example
        ```python
        print(lossatlas.citation("embedding.split", "geometry.condensation"))
        print(lossatlas.citation(survey))
        ```

    **Arguments:**
    - `names_or_results`: any of: a public function or class of ours, a result that one returned, a name such as
      `"embedding.split"` (or `"split"`, where it is unique), or the key of a paper such as
      `"zhang2021embedding"`. Without any, the entry of LossAtlas alone.

    **Returns:**
    BibTeX text (a `str`): LossAtlas first, then every paper once, in the order asked for. What of ours rests on no
    paper adds nothing.

    **Raises:** `InputError` for a name that is not in the table, with the nearest one that is, and for objects that
    are not ours.
    """
    keys = ["lossatlas"]
    for item in names_or_results:
        keys += _papers_of(item)
    return Bibliography("\n\n".join(_papers()[key] for key in dict.fromkeys(keys)))


def _papers_of(item: Any) -> tuple[str, ...]:
    if type(item).__name__ in ("StudyRun", "SweepRun", "StudyKind"):  # they know theirs
        return item.papers
    if not isinstance(item, str):
        return _SOURCES.get(_method_name(item), ())
    if item in _papers():
        return (item,)
    name = item.removeprefix("lossatlas.")
    found = {papers for full, papers in _SOURCES.items() if name in (full, full.partition(".")[2])}
    if len(found) != 1:
        raise unknown_name("method", item, [*_SOURCES, *_papers()])
    return found.pop()


def _method_name(item: Any) -> str:
    """`geometry.Spectrum` for that class and for what it makes, and likewise for functions."""
    named = item if hasattr(item, "__qualname__") else type(item)
    package, _, rest = str(named.__module__).partition(".")
    if package != "lossatlas":
        msg = (
            "citation() takes functions, classes and results of lossatlas, or names of them; "
            f"got {named.__qualname__} of {named.__module__}."
        )
        raise InputError(msg)
    return f"{rest.partition('.')[0]}.{named.__qualname__.partition('.')[0]}"


@ft.cache
def _papers() -> dict[str, str]:
    """The entries of `_references.bib` by key, and that of LossAtlas itself."""
    text = importlib.resources.files("lossatlas").joinpath("_references.bib").read_text(encoding="utf-8")
    entries = {match[2]: match[1] for match in re.finditer(r"(@\w+\{([^,\s]+),\n.*?\n\})", text, re.DOTALL)}
    return {"lossatlas": _OURSELVES, **entries}


_OURSELVES = f"""@software{{lossatlas,
  author  = {{{{The LossAtlas authors}}}},
  title   = {{{{LossAtlas}}: charts of the loss landscape of neural networks}},
  version = {{{__version__}}},
  year    = {{2026}},
}}"""

_WIDTH = ("zhang2021embedding", "zhang2022hierarchical")
_DEPTH = ("bai2024depth",)
_SPLIT = (*_WIDTH, "fukumizu2000local")
_PRUNE = ("zhang2021embedding", "hassibi1993surgeon", "izenman1975reduced")
_REDUCE = (*_WIDTH, *_DEPTH, "chen2024condensation")
_BARRIER = ("frankle2020linear", "entezari2022role", "ainsworth2023rebasin")
_CONDENSATION = ("zhou2022condensation", "luo2021phase", "leinster2012diversity")
_DIAGNOSIS = (*_REDUCE, *_CONDENSATION, "liu2019splitting")
_TANGENTS = ("novak2022fast", "mohamadi2023fast")
_EVOLUTION = ("fort2020deep",)
_LAZY = ("chizat2019lazy",)
_LIMITS = ("jacot2018neural", "lee2018deep", "cho2009kernel", "sohldickstein2020infinite")
_SURVEY = (*_REDUCE, *_CONDENSATION, "baldi1989linear", "nadeau2003inference")
_ENERGY = ("pittorino2021entropic", "li2018visualizing")
_SHARPNESS = ("foret2021sharpness", "kwon2021asam")
_CHAINS = ("welling2011bayesian", "roberts1996exponential", "gelman2013bayesian")
_LEARNING = ("lau2025local", "watanabe2013widely", *_CHAINS)
_FLATNESS = (
    "dinh2017sharp",
    *_ENERGY,
    *_SHARPNESS,
    "jiang2020fantastic",
    "maurer2004note",
    "dziugaite2017computing",
    "chaudhari2017entropy",
    *_LEARNING,
)

_SOURCES: dict[str, tuple[str, ...]] = {
    "atlas.Diagnosis": _DIAGNOSIS,
    "atlas.Monitor": (*_REDUCE, "leinster2012diversity"),
    "atlas.Survey": _SURVEY,
    "atlas.diagnose": _DIAGNOSIS,
    "atlas.survey": _SURVEY,
    "workbench.SurveyRun": _SURVEY,
    "workbench.survey": _SURVEY,
    "embedding.add_null_unit": _WIDTH,
    "embedding.split": _SPLIT,
    "embedding.discover_units": _WIDTH,
    "embedding.Discovery": _WIDTH,
    "embedding.plan_growth": (*_WIDTH, "liu2019splitting"),
    "embedding.Growth": (*_WIDTH, "liu2019splitting"),
    "embedding.match": ("ainsworth2023rebasin",),
    "embedding.Match": ("ainsworth2023rebasin",),
    "embedding.match_activations": ("ainsworth2023rebasin", "li2016convergent"),
    "embedding.match_straight_through": ("ainsworth2023rebasin",),
    "embedding.rebasin": ("ainsworth2023rebasin",),
    "embedding.Rebasin": ("ainsworth2023rebasin",),
    "embedding.repair": ("jordan2023repair",),
    "embedding.Repair": ("jordan2023repair",),
    "embedding.permutation_path": ("simsek2021geometry",),
    "embedding.expansion_path": ("simsek2021geometry",),
    "embedding.descending_path": ("li2018benefit", "sun2020global"),
    "embedding.sublevel_path": ("nguyen2019connected", "venturi2019spurious"),
    "embedding.part_copies": _WIDTH,
    "embedding.pruning_path": _PRUNE,
    "embedding.PruningPath": _PRUNE,
    "embedding.PrunedPoint": _PRUNE,
    "embedding.validate_map": ("zhang2022hierarchical",),
    "embedding.widen": _WIDTH,
    "embedding.replicate": _WIDTH,
    "embedding.compatible_embedding": ("zhang2022hierarchical",),
    "embedding.CompatibleStep": ("zhang2022hierarchical",),
    "embedding.Record": _WIDTH,
    "embedding.check_compatible": ("zhang2022hierarchical",),
    "embedding.compatible_dimension": ("zhang2022hierarchical",),
    "embedding.escape_by_widening": ("zhang2022hierarchical",),
    "embedding.WideningEscape": ("zhang2022hierarchical",),
    "embedding.global_split": ("zhang2022hierarchical",),
    "embedding.lift": _DEPTH,
    "embedding.LiftStep": _DEPTH,
    "embedding.add_null_block": _DEPTH,
    "embedding.deepen": _DEPTH,
    "embedding.lift_block": _DEPTH,
    "embedding.lift_convolution": _DEPTH,
    "embedding.merge_block": _DEPTH,
    "embedding.walk_lift": _DEPTH,
    "embedding.merge_layer": _DEPTH,
    "embedding.prune_by_linearization": _DEPTH,
    "embedding.reduce": _REDUCE,
    "embedding.Reduction": _REDUCE,
    "geometry.attribute_barrier": _BARRIER,
    "geometry.BarrierAttribution": _BARRIER,
    "geometry.balance_layers": ("skorski2021revisiting",),
    "geometry.BalancedLayers": ("skorski2021revisiting",),
    "geometry.barrier": _BARRIER,
    "geometry.Barrier": _BARRIER,
    "geometry.compare_kernels": _EVOLUTION,
    "geometry.compare_children": (*_EVOLUTION, "frankle2020linear"),
    "geometry.ChildComparison": (*_EVOLUTION, "frankle2020linear"),
    "geometry.find_curve": ("garipov2018loss",),
    "geometry.last_layer_certificate": ("nguyen2017wide", "sun2020global"),
    "geometry.LastLayerCertificate": ("nguyen2017wide", "sun2020global"),
    "geometry.condensation": _CONDENSATION,
    "geometry.Condensation": _CONDENSATION,
    "geometry.effective_neurons": _CONDENSATION,
    "geometry.find_critical_point": ("zhang2021embedding",),
    "geometry.find_critical_points": ("zhang2021embedding",),
    "geometry.CriticalPoint": ("zhang2021embedding",),
    "geometry.adaptive_sharpness": _SHARPNESS,
    "geometry.compare_flatness": _FLATNESS,
    "geometry.FlatnessComparison": _FLATNESS,
    "geometry.flatness_report": _FLATNESS,
    "geometry.FlatnessReport": _FLATNESS,
    "geometry.learning_coefficient": _LEARNING,
    "geometry.LearningCoefficient": _LEARNING,
    "geometry.local_energy": _ENERGY,
    "geometry.LocalEnergy": _ENERGY,
    "geometry.local_entropy": ("chaudhari2017entropy", *_CHAINS),
    "geometry.LocalEntropy": ("chaudhari2017entropy", *_CHAINS),
    "geometry.pac_bayes_bound": ("maurer2004note", "dziugaite2017computing"),
    "geometry.PacBayesBound": ("maurer2004note", "dziugaite2017computing"),
    "geometry.pac_bayes_sigma": ("jiang2020fantastic",),
    "geometry.PacBayesSigma": ("jiang2020fantastic",),
    "geometry.rewrite": ("dinh2017sharp",),
    "geometry.Rewriting": ("dinh2017sharp",),
    "geometry.sharpness": _SHARPNESS,
    "geometry.Sharpness": _SHARPNESS,
    "geometry.layer_curvature": ("skorski2021revisiting", *_TANGENTS),
    "geometry.LayerCurvature": ("skorski2021revisiting", *_TANGENTS),
    "geometry.inertia": _DEPTH,
    "geometry.Inertia": _DEPTH,
    "geometry.Kernel": _TANGENTS,
    "geometry.KernelComparison": _EVOLUTION,
    "geometry.KernelDistance": _EVOLUTION,
    "geometry.KernelEvolution": (*_EVOLUTION, *_TANGENTS),
    "geometry.KernelRegression": _EVOLUTION,
    "geometry.alignment": ("kornblith2019similarity", "cristianini2001kernel"),
    "geometry.effective_rank": ("roy2007effective",),
    "geometry.kernel_distance": _EVOLUTION,
    "geometry.kernel_evolution": (*_EVOLUTION, *_TANGENTS),
    "geometry.kernel_regression": _EVOLUTION,
    "geometry.kernel_spectrum": ("wu2000thick", "kuczynski1992estimating", "roy2007effective"),
    "geometry.KernelSpectrum": ("wu2000thick", "kuczynski1992estimating", "roy2007effective"),
    "geometry.linearization": _DEPTH,
    "geometry.Linearization": _DEPTH,
    "geometry.ntk": _TANGENTS,
    "geometry.relu_patterns": _EVOLUTION,
    "geometry.function_change": _LAZY,
    "geometry.FunctionChange": _LAZY,
    "geometry.residual_curvature": ("zhang2022hierarchical",),
    "geometry.ResidualCurvature": ("zhang2022hierarchical",),
    "geometry.spectral_density": ("ubaru2017fast",),
    "geometry.SpectralDensity": ("ubaru2017fast",),
    "geometry.random_directions": ("li2018visualizing",),
    "geometry.Directions": ("li2018visualizing",),
    "geometry.trajectory_directions": ("li2018visualizing",),
    "geometry.hessian_directions": ("wu2000thick", "kuczynski1992estimating"),
    "geometry.loss_slice": ("goodfellow2015qualitatively", "li2018visualizing"),
    "geometry.Slice": ("goodfellow2015qualitatively", "li2018visualizing"),
    "geometry.refined_slice": ("li2018visualizing", "trefethen2013approximation"),
    "geometry.RefinedSlice": ("li2018visualizing", "trefethen2013approximation"),
    "geometry.merge_tree": ("edelsbrunner2002topological",),
    "geometry.MergeTree": ("edelsbrunner2002topological",),
    "geometry.persistence": ("edelsbrunner2002topological", "wagner2012efficient"),
    "geometry.Persistence": ("edelsbrunner2002topological", "wagner2012efficient"),
    "workbench.plane": ("li2018visualizing", "trefethen2013approximation", "edelsbrunner2002topological"),
    "geometry.spectrum": ("wu2000thick", "kuczynski1992estimating"),
    "geometry.Spectrum": ("wu2000thick", "kuczynski1992estimating"),
    "geometry.trace": ("epperly2024xtrace", "meyer2021hutch"),
    "geometry.TraceEstimate": ("epperly2024xtrace", "meyer2021hutch"),
    "geometry.diagonal": ("bekas2007estimator",),
    "geometry.DiagonalEstimate": ("bekas2007estimator",),
    "geometry.store_ntk": _TANGENTS,
    "geometry.StoredKernel": _TANGENTS,
    "theory.critical_set_dimension": ("zhang2022hierarchical",),
    "networks.balanced_std": ("skorski2021revisiting",),
    "theory.expected_layer_traces": ("skorski2021revisiting",),
    "theory.infinite_conv": (*_LIMITS, "novak2019bayesian", "arora2019exact"),
    "theory.infinite_dense": _LIMITS,
    "theory.InfiniteKernel": _LIMITS,
    "theory.lift_inertia": _DEPTH,
    "theory.LiftedInertia": _DEPTH,
    "theory.linear_levels": ("baldi1989linear",),
    "theory.LinearLevels": ("baldi1989linear",),
    "theory.null_unit_inertia": _SPLIT[1:],
    "theory.split_inertia": _SPLIT[1:],
    "theory.AddedInertia": _SPLIT[1:],
    "training.asam": ("kwon2021asam",),
    "training.sam": ("foret2021sharpness",),
    "training.sample": _CHAINS,
    "training.spawn": (*_EVOLUTION, "frankle2020linear"),
    "training.Spawned": (*_EVOLUTION, "frankle2020linear"),
    "training.Chains": _CHAINS,
    "training.gradient_flow": ("kidger2022neural",),
    "training.Flow": ("kidger2022neural",),
    "training.train_curve": ("garipov2018loss",),
    "training.CurveTraining": ("garipov2018loss",),
}
"""Methods and their results by name, `sub-package.name`, and the papers that they implement."""
