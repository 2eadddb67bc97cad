"""Ridge regression with a tangent kernel that is kept frozen."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._classes import ClassKind, class_kind
from lossatlas.geometry._kernel_distance import target_rows
from lossatlas.geometry._ntk import Method, ntk
from lossatlas.geometry._ntk_features import Convention
from lossatlas.landscape import Landscape


_RIDGE = 1e-3


@shown
class KernelRegression(eqx.Module):
    r"""What a frozen kernel makes of the training data, on other data.

    - `predictions`: on the test data, shape (n, o); for classes scores around one-hot rows.
    - `coefficients`: $\alpha = (K + \lambda I)^{-1} Y$, shape (m, o).
    - `ridge`: $\lambda$.
    - `accuracy`, `network_accuracy`: the share of test examples whose largest score (whose sign, with logistic loss)
      is right, for the kernel and for the network itself on the same examples; None without classes.
      `accuracy_error`: standard deviation of the first, given what was counted and a uniform prior.
    - `squared_error`, `network_squared_error`: means of $\frac12 |f - y|^2$ on the test data, of kernel and network,
      whose outputs mean something else with cross-entropy. `squared_error_error`: standard error of the first.
    - `correct` (1 or 0, the share of several logits; None without classes), `squared_errors`: of the kernel on each
      test example, what the two are means of. Compare two kernels by the differences of these.
    """

    predictions: Float[np.ndarray, "n o"]
    coefficients: Float[np.ndarray, "m o"]
    ridge: float
    accuracy: float | None
    accuracy_error: float | None
    network_accuracy: float | None
    squared_error: float
    squared_error_error: float
    network_squared_error: float
    correct: Float[np.ndarray, " n"] | None
    squared_errors: Float[np.ndarray, " n"]
    stats: dict[str, Any]
    settings: dict[str, Any]


def kernel_regression(
    network: Network,
    landscape: Landscape,
    test: Landscape,
    *,
    ridge: float | None = None,
    convention: Convention = "trace",
    method: Method = "auto",
    only: Only = None,
    batch_size: int | None = None,
) -> KernelRegression:
    r"""Predict test data by ridge regression with the tangent kernel of a network, kept as it is.

    $f(x) = \bar y + k(x)^\top (K + \lambda I)^{-1} (Y - \bar y)$: what the kernel at this point of training would
    give (Fort et al. 2020, frozen kernels; the predictions of the network itself are not used). Classes are one-hot
    rows, and $\bar y$ is 1/C for them, the mean of the training targets otherwise. To train the linearised network
    instead, which starts from its predictions, train a [`lossatlas.networks.Expansion`][].

    **Arguments:**
    - `landscape`: the training data, m examples; memory and time grow like m^2 and m^3. `test`: those to be predicted.
    - `ridge`: $\lambda$, positive; default 0.001 of the mean of the diagonal of K.
    - `convention`, `method`, `batch_size`: as for [`lossatlas.geometry.ntk`][]; with `full` outputs share information.

    **Returns:**
    A [`lossatlas.geometry.KernelRegression`][].

    **Raises:** `InputError` for a ridge that is not positive, targets that do not fit the outputs, and what
    [`lossatlas.geometry.ntk`][] refuses.
    """
    begin = time.perf_counter()
    _check_ridge(ridge)
    options: dict[str, Any] = {"convention": convention, "method": method, "only": only, "batch_size": batch_size}
    own = ntk(network, landscape, **options)
    cross = ntk(network, test, landscape, **options)
    found = predict_frozen(np.asarray(own.matrix), np.asarray(cross.matrix), network, landscape, test, ridge=ridge)
    settings = {"convention": convention, **found.settings}
    return dataclasses.replace(found, stats={"seconds": time.perf_counter() - begin}, settings=settings)


def _check_ridge(ridge: float | None) -> None:
    if ridge is not None and not (ridge > 0 and np.isfinite(ridge)):
        msg = f"ridge must be positive, got {ridge}."
        raise InputError(msg)


def predict_frozen(
    own: np.ndarray,
    cross: np.ndarray,
    network: Network,
    landscape: Landscape,
    test: Landscape,
    *,
    ridge: float | None = None,
) -> KernelRegression:
    """Kernel regression with matrices that are there: of the training examples, and of the test examples with them.

    **Raises:** `InputError` as [`lossatlas.geometry.kernel_regression`][].
    """
    _check_ridge(ridge)
    outputs = np.asarray(test.predictions(network), float).reshape(test.size, -1)
    size, kind = outputs.shape[1], class_kind(landscape)
    targets, wanted = (_rows(each, kind, size) for each in (landscape, test))
    if targets.shape[1] != size or wanted.shape[1] != size:
        msg = f"The network has {size} outputs, but the targets have {targets.shape[1]} and {wanted.shape[1]} entries."
        raise InputError(msg)
    offset = targets.mean(axis=0) if kind in (None, "signs") else np.full(size, 1 / size)
    predictions, coefficients, ridge = kernel_ridge(own, cross, targets - offset[None], ridge)
    predictions = predictions + offset[None]
    accuracy = error = of_network = correct = None
    if kind is not None:
        shifted = predictions - 0.5 if kind == "signs" else predictions  # the sign tells, as of a logit
        correct = _correct(kind, shifted, wanted)
        accuracy, of_network = float(correct.mean()), float(_correct(kind, outputs, wanted).mean())
        share = (correct.sum() + 1) / (len(wanted) + 2)  # Laplace's rule: all right in ten is not certainty
        error = float(np.sqrt(share * (1 - share) / (len(wanted) + 3)))
    errors = 0.5 * np.sum((predictions - wanted) ** 2, axis=1)
    return KernelRegression(
        predictions=predictions,
        coefficients=coefficients,
        ridge=ridge,
        accuracy=accuracy,
        accuracy_error=error,
        network_accuracy=of_network,
        squared_error=float(errors.mean()),
        squared_error_error=float(errors.std() / np.sqrt(len(errors))),
        network_squared_error=float(0.5 * np.mean(np.sum((outputs - wanted) ** 2, axis=1))),
        correct=correct,
        squared_errors=errors,
        stats={},
        settings={"ridge": ridge, "offset": offset.tolist()},
    )


def _rows(landscape: Landscape, kind: ClassKind | None, size: int) -> Float[np.ndarray, "n o"]:
    targets = np.asarray(landscape.targets)
    return targets.reshape(len(targets), -1).astype(float) if kind == "signs" else target_rows(targets, size)


def _correct(kind: ClassKind, scores: np.ndarray, wanted: np.ndarray) -> Float[np.ndarray, " n"]:
    if kind == "signs":
        return ((scores > 0) == (wanted > 0.5)).mean(axis=1)
    return (scores.argmax(1) == wanted.argmax(1)).astype(float)


def kernel_ridge(
    own: np.ndarray, cross: np.ndarray, targets: Float[np.ndarray, "m o"], ridge: float | None = None
) -> tuple[Float[np.ndarray, "n o"], Float[np.ndarray, "m o"], float]:
    """Ridge regression with matrices of a kernel.

    **Arguments:**
    - `own`: the kernel of the training examples, (m, m), or (m o, m o) over examples and outputs. `cross`: of the test
      examples with them. `targets`: centred, shape (m, o). `ridge`: as for [`lossatlas.geometry.kernel_regression`][].

    **Returns:** predictions (n, o), coefficients (m, o), and the ridge.

    **Raises:** `InputError` for a kernel that is not positive definite with the ridge.
    """
    from scipy.linalg import cho_factor, cho_solve

    own, cross = own.astype(float), cross.astype(float)
    ridge = _RIDGE * float(np.trace(own)) / len(own) if ridge is None else ridge
    flat = targets if len(own) == len(targets) else targets.reshape(-1, 1)
    try:
        factor = cho_factor(own + ridge * np.eye(len(own)), lower=True)
    except np.linalg.LinAlgError as error:
        msg = f"The kernel is not positive definite with the ridge {ridge:g}; give a larger one."
        raise InputError(msg) from error
    coefficients = cho_solve(factor, flat)
    predictions = cross @ coefficients
    return predictions.reshape(-1, targets.shape[1]), coefficients.reshape(targets.shape), ridge
