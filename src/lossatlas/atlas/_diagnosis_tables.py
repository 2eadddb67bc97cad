"""A diagnosis as plain tables: what JSON knows, for figures, pages and machines."""

import math
from typing import Any

import numpy as np

from lossatlas._parameters import num_parameters
from lossatlas.atlas._diagnosis import Diagnosis, LayerDiagnosis, Standing, WayOut
from lossatlas.embedding import Reduction
from lossatlas.geometry import CriticalPoint, Inertia


_APART = 15.0  # degrees
_MOST_SHOWN = 200  # neurons of a layer whose cosines are kept


def diagnosis_tables(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything that a diagnosis says but its networks, as plain tables.

    **Returns:** a dictionary of what JSON knows; what was not measured, or is not finite, is None.
    """
    small = diagnosis.small
    return _plain(
        {
            "verdict": diagnosis.verdict,
            "state": diagnosis.state,
            "network": {
                "kind": type(diagnosis.network).__name__,
                "parameters": num_parameters(diagnosis.network),
                "effective_depth": diagnosis.effective_depth,
            },
            "layers": [_layer(layer) for layer in diagnosis.layers],
            "small": None
            if small is None
            else {
                "words": small.words,
                "parameters": small.num_parameters,
                "distance": small.distance,
                "linearised": small.linearised,
                "reduction": _reduction(small.reduction, diagnosis.scale),
            },
            "exact": None if diagnosis.exact is None else _reduction(diagnosis.exact, diagnosis.scale),
            "standing": _standing(diagnosis.standing),
            "ways": [_way(way) for way in diagnosis.ways],
            "control": diagnosis.control,
            "scale": diagnosis.scale,
            "caution": diagnosis.caution,
            "unmeasured": list(diagnosis.unmeasured),
            "settings": diagnosis.settings,
            "seconds": diagnosis.stats["seconds"],
        }
    )


def _layer(layer: LayerDiagnosis) -> dict[str, Any]:
    condensed, linear = layer.condensation, layer.linearization
    grouping = None if condensed is None else condensed.by_direction
    similarity = None
    if condensed is not None and len(condensed.by_direction.active) <= _MOST_SHOWN:
        similarity = np.round(condensed.cosines, 4).tolist()
    return {
        "name": layer.name,
        "kind": layer.kind,
        "size": layer.size,
        "linear_units": layer.linear_units,
        "constant": None if layer.constant is None else len(layer.constant),
        "dead": None if layer.dead is None else len(layer.dead),
        "unread": len(layer.unread),
        "copies": layer.num_copies,
        "effective_number": layer.effective_number,
        "random_number": None if grouping is None else float(grouping.null_number),
        "groups": None if grouping is None else grouping.counts[_APART],
        "clusters": None if condensed is None else [list(cluster.members) for cluster in condensed.clusters],
        "masses": None if condensed is None else [cluster.mass for cluster in condensed.clusters],
        "similarity": similarity,
        "neurons_shown": None
        if grouping is None
        else [int(j) for j in np.asarray(grouping.active)[np.asarray(grouping.order)]],
        "mpc": None if linear is None else linear.mpc,
        "score": None if linear is None else linear.score,
        "linear_change": layer.linear_change,
        "is_linear": layer.is_linear,
        "exact": layer.exact,
        "effective": layer.effective,
        "near_kinks": layer.near_kinks,
        "unmeasured": list(layer.unmeasured),
    }


def _reduction(reduction: Reduction, scale: float) -> dict[str, Any]:
    certificate = reduction.certificate
    return {
        "tolerance": reduction.tolerance / scale,
        "largest_change": certificate.output_change / scale,
        "mean_change": certificate.mean_change / scale,
        "bound": certificate.bound / scale,
        "is_exact": certificate.is_exact,
        "steps": list(reduction.notes),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    names = ("loss", "gradient_norm", "sharpness", "lowest", "progress", "gradient_ratio", "distance", "is_near")
    return {name: getattr(standing, name) for name in (*names, "runaway", "predicted", "remarks")} | {
        "point": None if standing.point is None else _point(standing.point, standing.inertia),
        "here": _inertia(standing.here),
        "measured": _inertia(standing.measured),
    }


def _point(point: CriticalPoint, counted: Inertia | None) -> dict[str, Any]:
    return {
        "status": str(point.status),
        "loss": float(point.loss),
        "gradient_norm": float(point.gradient_norm),
        "drift": point.drift,
        "inertia": _inertia(counted),
    }


def _inertia(counted: Inertia | None) -> dict[str, Any] | None:
    if counted is None:
        return None
    return {
        "counts": counted.counts,
        "certificate": str(counted.certificate),
        "is_strict_saddle": str(counted.is_strict_saddle),
        "is_minimum": str(counted.is_minimum),
        "threshold": counted.threshold,
        "gauges": counted.gauges,
        "explained": counted.explained,
        "unexplained": counted.unexplained,
        "eigenvalues": np.asarray(counted.eigenvalues).tolist(),
    }


def _way(way: WayOut) -> dict[str, Any]:
    names = ("kind", "words", "space", "unit", "share", "curvature", "step", "predicted", "realised", "loss")
    return {name: getattr(way, name) for name in (*names, "how", "loss_after", "learning_rate")}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
