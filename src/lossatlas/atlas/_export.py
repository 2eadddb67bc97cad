"""A survey as plain tables (JSON) and labelled arrays (xarray): what is stored, and what reports are made of."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas._parameters import num_parameters
from lossatlas._status import Certificate
from lossatlas.atlas._config import BIG
from lossatlas.atlas._entry import Entry, linked_targets
from lossatlas.atlas._survey import Survey, describe_folds, describe_size
from lossatlas.atlas._training import BigTraining
from lossatlas.embedding import Reduction
from lossatlas.networks import Dense


if TYPE_CHECKING:
    import xarray as xr


def survey_tables(survey: Survey) -> dict[str, Any]:
    """Every table of a survey, JSON-safe (NaN and infinity become None).

    Keys: `headline`, `data`, `config`, `loss`, `catalogue` (rows), `leads_to` (pairs of names), `trainings` (each
    with `settings`, `visits`, `slow_downs`, `status`), `best_seed`, `ending`, `selection`, `seconds`.
    """
    names = [e.name for e in survey.catalogue.entries]
    tables = {
        "headline": survey.headline,
        "data": _data(survey),
        "config": dataclasses.asdict(survey.config),
        "loss": survey.loss,
        "catalogue": [_entry(survey, i, e) for i, e in enumerate(survey.catalogue.entries)],
        "leads_to": [[names[i], names[j]] for i, j in survey.catalogue.leads_to],
        "catalogue_settings": survey.catalogue.settings,
        "trainings": [_training(run, names) for run in survey.trainings],
        "best_seed": survey.best_training.seed,
        "ending": _ending(survey),
        "selection": _selection(survey),
        "seconds": survey.seconds,
    }
    return _json_safe(tables)


def survey_arrays(survey: Survey) -> "xr.DataTree":
    """The arrays of a survey, labelled.

    Groups: `/catalogue` (predictions of every entry), `/training` (by seed and snapshot: loss, gradient norm, distance
    to every entry, effective neurons and linear units by hidden layer), `/data` (targets as probabilities or scaled
    values). Steps of seeds that diverged early are NaN at the end.
    """
    import xarray as xr

    names = [e.name for e in survey.catalogue.entries]
    seeds = [run.seed for run in survey.trainings]
    layers = [f"hidden[{i}]" for i in range(len(survey.config.hidden))]
    outputs = [str(c) for c in survey.data.classes] or [f"target[{i}]" for i in range(survey.data.num_outputs("mse"))]
    longest = max(run.steps.size for run in survey.trainings)

    def stack(values: list[np.ndarray]) -> np.ndarray:
        padded = [
            np.pad(np.asarray(v, float), [(0, longest - len(v)), *[(0, 0)] * (v.ndim - 1)], constant_values=np.nan)
            for v in values
        ]
        return np.stack(padded)

    runs = survey.trainings
    training = xr.Dataset(
        {
            "step": (("seed", "snapshot"), stack([r.steps for r in runs])),
            "loss": (("seed", "snapshot"), stack([r.loss for r in runs])),
            "gradient_norm": (("seed", "snapshot"), stack([r.gradient_norm for r in runs])),
            "distance": (("seed", "snapshot", "entry"), stack([r.visits.distance for r in runs])),
            "effective_neurons": (("seed", "snapshot", "layer"), stack([r.effective_neurons for r in runs])),
            "linear_units": (("seed", "snapshot", "layer"), stack([r.linear_units for r in runs])),
        },
        coords={"seed": seeds, "entry": names, "layer": layers},
    )
    catalogue = xr.Dataset(
        {
            "predictions": (("entry", "row", "output"), np.stack([e.predictions for e in survey.catalogue.entries])),
            "loss": ("entry", [e.loss for e in survey.catalogue.entries]),
        },
        coords={"entry": names, "output": outputs},
    )
    targets = linked_targets(survey.data.landscape(survey.loss, dtype="float32"))
    data = xr.Dataset({"targets": (("row", "output"), targets)}, coords={"output": outputs})
    return xr.DataTree.from_dict({"/catalogue": catalogue, "/training": training, "/data": data})


def _data(survey: Survey) -> dict[str, Any]:
    data = survey.data
    return {
        "name": data.name,
        "source": data.source,
        "kind": data.kind,
        "rows": data.num_rows,
        "inputs": data.num_inputs,
        "outputs": data.num_outputs(survey.loss),
        "classes": [str(c) for c in data.classes],
        "notes": list(data.notes),
        "fingerprint": data.fingerprint(),
    }


def _entry(survey: Survey, index: int, entry: Entry) -> dict[str, Any]:
    visit = survey.best_training.visits.visits[index]
    layers = list(zip(entry.network.widths[1:-1], entry.network.num_linear, strict=True))
    # What training found may have several hidden layers, which is a size of its own.
    size = f"({entry.neurons},{entry.linear})" if len(layers) == 1 else entry.name
    sizes = [c.name for c in survey.selection.candidates]
    held_out = survey.selection[size] if size in sizes else None
    inertia, outputs = entry.inertia, survey.data.num_outputs(survey.loss)
    return {
        "name": entry.name,
        "size": size,
        "words": ", then ".join(describe_size(k, r, outputs) for k, r in layers),
        "neurons": entry.neurons,
        "linear": entry.linear,
        "parameters": entry.num_parameters,
        "loss": entry.loss,
        "kind": entry.kind,
        "is_minimum": entry.is_minimum,
        "inertia": None if inertia is None else [inertia.negative, inertia.zero, inertia.positive],
        "inertia_certified": inertia is not None and inertia.certificate is Certificate.YES,
        "gauges": {} if inertia is None else {k: int(v) for k, v in inertia.gauges.items()},
        "unexplained_zeros": None if inertia is None else int(inertia.unexplained),
        "gradient_norm": entry.gradient_norm,
        "runaway": entry.runaway,
        "found_by": entry.found_by,
        "hits": entry.hits,
        "held_out_loss": None if held_out is None else held_out.loss,
        "held_out_error": None if held_out is None else held_out.standard_error,
        "held_out_accuracy": None if held_out is None else held_out.accuracy,
        "held_out_r_squared": None if held_out is None else survey.selection.r_squared(size),
        "visit": dataclasses.asdict(visit),
    }


def _training(run: BigTraining, names: list[str]) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "settings": run.settings,
        "status": str(run.status),
        "final_loss": float(run.loss[-1]),
        "final_gradient_norm": float(run.gradient_norm[-1]),
        "decay_exponent": run.decay_exponent,
        "visits": [
            dataclasses.asdict(v) | {"name": names[v.entry], "ends": np.isinf(v.control) and v.step == run.steps[-1]}
            for v in run.visits.visits
        ],
        "slow_downs": [
            dataclasses.asdict(s) | {"name": None if s.entry is None else names[s.entry]} for s in run.visits.slow_downs
        ],
    }


def _ending(survey: Survey) -> dict[str, Any]:
    pairs = zip(survey.ending.linearization.layers, survey.ending.condensation.layers, strict=True)
    return {
        "words": survey.ending.words,
        "output_scale": survey.ending.output_scale,
        "refitted": survey.ending.refitted,
        "reductions": [_reduction(*reduction) for reduction in survey.ending.reductions],
        "layers": [
            {
                "name": layer.name,
                "mpc": layer.mpc,
                "score": layer.score,
                "block_r2": layer.block_r2,
                "max_change": layer.max_change,
                "is_linear": layer.is_linear,
                "effective_neurons": float(condensed.by_direction.effective_number),
                "condensation_index": float(condensed.by_direction.index),
                "directions": condensed.by_direction.num_clusters,
            }
            for layer, condensed in pairs
        ],
    }


def _reduction(share: float, network: Dense, reduction: Reduction) -> dict[str, Any]:
    return {
        "relative_tolerance": share,
        "tolerance": reduction.tolerance,
        "neurons": list(network.widths[1:-1]),
        "linear_units": list(network.num_linear),
        "parameters": num_parameters(network),
        "max_change": reduction.certificate.output_change,
        "mean_change": reduction.certificate.mean_change,
    }


def _selection(survey: Survey) -> dict[str, Any]:
    selection, outputs = survey.selection, survey.data.num_outputs(survey.loss)
    rows = []
    for candidate in selection.candidates:
        is_big = candidate.name == BIG
        gap, gap_error = candidate.behind(selection[selection.best])
        rows.append(
            {
                "name": candidate.name,
                "words": "the big network" if is_big else describe_size(*parse_size(candidate.name), outputs),
                "parameters": candidate.num_parameters,
                "loss": candidate.loss,
                "standard_error": candidate.standard_error,
                "accuracy": candidate.accuracy,
                "r_squared": selection.r_squared(candidate.name),
                "gap": gap,
                "gap_error": gap_error,
            }
        )
    return {
        "rows": rows,
        "best": selection.best,
        "recommended": selection.recommended,
        "measured_on": describe_folds(selection),
        "held_out_rows": selection.num_rows,
        "folds": selection.num_folds,
        "repeats": selection.num_repeats,
        "recipe": selection.recipe,
    }


def parse_size(name: str) -> tuple[int, int]:
    """`"(1,2)"` as (1, 2)."""
    k, r = name.strip("()").split(",")
    return int(k), int(r)


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
