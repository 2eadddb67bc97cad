"""What a tangent kernel says, and what two of them say together, as plain values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.geometry import (
    FunctionChange,
    Kernel,
    KernelComparison,
    alignment,
    effective_rank,
    ntk,
    target_kernel,
)
from lossatlas.geometry._kernel_distance import over_examples, rank_of_values
from lossatlas.geometry._kernel_regression import predict_frozen
from lossatlas.landscape import Landscape


_LEAST = 8  # examples below which nothing is said of predictions
_PARTS = {"whole": "as they are", "whole, centred": "centred"}


def kernel_facts(found: Kernel, values: np.ndarray, targets: Any) -> dict[str, Any]:
    """Trace, eigenvalues, ranks, alignment with the targets, and the layers.

    **Arguments:**
    - `values`: the eigenvalues of the kernel, descending. `targets`: of its examples.
    """
    if not values.any():
        effective_rank(found)  # says that a kernel of zeros has none
    return {
        "trace": float(np.trace(found.matrix)),
        "largest_eigenvalue": float(values[0]),
        "effective_rank": rank_of_values(values),
        "rank": (rank := numerical_rank(found, values)),
        "target_alignment": _aligned(found, None, targets),
        "eigenvalues": np.where(np.arange(len(values)) < rank, values, 0.0)[:10].tolist(),
        "layers": [
            {"layer": name, "share": share, "alignment": _aligned(found, name, targets)}
            for name, share in found.shares.items()
        ],
    }


def numerical_rank(found: Kernel, values: np.ndarray) -> int:
    """How many eigenvalues are more than the rounding of the kernel's entries."""
    return int((values > len(values) * np.finfo(found.matrix.dtype).eps * values[0]).sum())


def _aligned(found: Kernel, layer: str | None, targets: Any) -> float | None:
    """The centred alignment with the targets; None where either has no direction."""
    try:
        return alignment(over_examples(found, layer), target_kernel(targets))
    except InputError:
        return None


def frozen_facts(
    net: Network,
    found: Kernel,
    data: Landscape,
    tested: Landscape | None,
    options: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any] | None, np.ndarray]:
    """What ridge regression with the kernel predicts: of other data, or of a quarter of the examples.

    **Returns:** the facts, None where nothing can be said, and the measure on each test example.
    """
    if data.size < _LEAST:
        return None, np.empty(0)
    matrix = np.asarray(found.matrix, float)
    if tested is None:
        order = np.random.default_rng(seed + 1).permutation(data.size)
        test, train = order[: data.size // 4], order[data.size // 4 :]
        rows = len(matrix) // data.size  # of an example: its outputs, in the convention full
        of = lambda examples: (rows * examples[:, None] + np.arange(rows)).reshape(-1)  # noqa: E731
        own, cross = matrix[np.ix_(of(train), of(train))], matrix[np.ix_(of(test), of(train))]
        fitted, others = data.subset(train), data.subset(test)
    else:
        own, cross = matrix, np.asarray(ntk(net, tested, data, **options).matrix, float)
        fitted, others = data, tested
    try:
        made = predict_frozen(own, cross, net, fitted, others)
    except InputError:  # the targets are no rows of outputs: nothing can be said
        return None, np.empty(0)
    said: dict[str, Any] = {"train": fitted.size, "test": others.size, "ridge": made.ridge}
    if made.correct is not None:
        said |= {
            "measure": "accuracy",
            "kernel": made.accuracy,
            "standard_error": made.accuracy_error,
            "network": made.network_accuracy,
        }
        return said, made.correct
    said |= {
        "measure": "half the squared error",
        "kernel": made.squared_error,
        "standard_error": made.squared_error_error,
        "network": made.network_squared_error,
    }
    return said, made.squared_errors


def moved_facts(
    compared: KernelComparison,
    change: FunctionChange,
    first: dict[str, Any],
    second: dict[str, Any],
    scores: Sequence[np.ndarray],
) -> dict[str, Any]:
    """How far kernel, layers and function moved.

    **Arguments:**
    - `first`, `second`: the facts of both kernels. `scores`: what their frozen kernels make of each test example.
    """
    rows = {name: _row(compared, name) for name in compared.parts}
    kernels = [{"kernels": word, **rows[name]} for name, word in _PARTS.items()]
    pairs = {row["layer"]: (row, other) for row, other in zip(first["layers"], second["layers"], strict=False)}
    layers = []
    for name in compared.layers:
        row, other = pairs[name]
        layers.append(
            {
                "layer": name,
                **{column: rows[name][column] for column in ("distance", "distance error", "change", "change error")},
                "share first": row["share"],
                "share second": other["share"],
                "alignment first": row["alignment"],
                "alignment second": other["alignment"],
            }
        )
    gains = scores[1] - scores[0]  # on the same examples, so that what makes them hard or easy cancels
    return {
        "kernels": kernels,
        "layers": layers,
        "cka": None if kernels[1]["distance"] is None else 1 - kernels[1]["distance"],
        "outputs": _number(change.outputs),
        "outputs_error": _number(change.errors["outputs"]),
        "disagreement": change.disagreement,
        "disagreement_error": change.errors["disagreement"],
        "parameters": change.parameters,
        "linear_error": _number(change.linear_error),
        "linear_error_error": _number(change.errors.get("linear_error")),
        "gain": float(gains.mean()) if gains.size else None,
        "gain_error": float(gains.std() / np.sqrt(gains.size)) if gains.size else None,
    }


def _row(compared: KernelComparison, name: str) -> dict[str, Any]:
    part, errors = compared.parts[name], compared.errors[name]
    return {
        "distance": _number(part.distance),
        "distance error": _number(errors["distance"]),
        "angle": _number(float(np.degrees(part.angle))),
        "scale": _number(part.scale),
        "scale error": _number(errors["scale"]),
        "change": _number(part.change),
        "change error": _number(errors["change"]),
    }


def _number(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or not np.isfinite(value) else float(value)
