"""Multi-layer perceptrons of scikit-learn, both ways and exactly."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.data import Preprocessing
from lossatlas.networks import Dense, DenseLayer


if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
_LOSSES = {"softmax": "cross_entropy", "logistic": "logistic", "identity": "mse"}


@shown
@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of another library as a point of the landscape.

    - `network`: reads scaled inputs; its outputs are logits for the losses `"cross_entropy"` and `"logistic"`.
    - `preprocessing`: from raw columns to these inputs, and from outputs to labels or values.
    - `loss`: what the model was trained on.
    """

    network: Dense
    preprocessing: Preprocessing
    loss: str


def from_sklearn(estimator: "BaseEstimator") -> Imported:
    """A fitted `MLPClassifier` or `MLPRegressor`, alone or last in a `Pipeline` of scalers, as a network.

    Nothing is approximated: outputs agree up to rounding. Float64 whatever the global setting.

    **Arguments:**
    - `estimator`: fitted; scalers may be `StandardScaler`, `MinMaxScaler` and `MaxAbsScaler`.

    **Returns:** An [`lossatlas.interop.Imported`][].

    **Raises:** `InputError` for other estimators and scalers, unfitted ones, and several labels per row.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    steps: list[Any] = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    *scalers, model = steps
    if not isinstance(model, MLPClassifier | MLPRegressor):
        msg = f"from_sklearn reads an MLPClassifier or an MLPRegressor, got a {type(model).__name__}."
        raise InputError(msg)
    try:
        for step in (*scalers, model):
            check_is_fitted(step)
    except NotFittedError:
        msg = f"The {type(model).__name__} is not fitted; call fit(X, y) first."
        raise InputError(msg) from None
    is_classifier = isinstance(model, MLPClassifier)
    if model.out_activation_ not in _LOSSES:
        msg = f"A {type(model).__name__} with loss={model.loss!r} is not supported, only the usual losses."
        raise InputError(msg)
    loss = _LOSSES[model.out_activation_]
    if is_classifier and loss == "logistic" and model.n_outputs_ > 1:
        msg = "A classifier with several labels per row is not supported; fit one per label."
        raise InputError(msg)
    size = len(model.coefs_[0])
    means, scales = _affine(scalers, size)
    names = getattr((*scalers, model)[0], "feature_names_in_", [f"x{i}" for i in range(size)])
    outputs = model.n_outputs_
    preprocessing = Preprocessing(
        kind="classification" if is_classifier else "regression",
        columns=tuple(str(name) for name in names),
        categories={},
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        classes=tuple(model.classes_.tolist()) if is_classifier else (),
        target_means=() if is_classifier else (0.0,) * outputs,
        target_scales=() if is_classifier else (1.0,) * outputs,
    )
    with jax.enable_x64(True):
        layers = [
            DenseLayer(jnp.asarray(weight.T, jnp.float64), jnp.asarray(bias, jnp.float64))
            for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)
        ]
        return Imported(Dense.from_layers(layers, _ACTIVATIONS[model.activation]), preprocessing, loss)


def _affine(scalers: list[Any], size: int) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Means and scales of all scalers one after the other."""
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

    means, scales = np.zeros(size), np.ones(size)
    for scaler in scalers:
        mean, scale = np.zeros(size), np.ones(size)
        if isinstance(scaler, StandardScaler):
            mean = np.asarray(scaler.mean_) if scaler.with_mean else mean
            scale = np.asarray(scaler.scale_) if scaler.with_std else scale
        elif isinstance(scaler, MinMaxScaler) and not scaler.clip:
            factor = np.asarray(scaler.scale_)
            mean, scale = -np.asarray(scaler.min_) / factor, 1 / factor
        elif isinstance(scaler, MaxAbsScaler):
            scale = np.asarray(scaler.scale_)
        else:
            msg = (
                f"The pipeline holds a {type(scaler).__name__}; StandardScaler, MinMaxScaler (clip=False) and "
                "MaxAbsScaler can be taken over. Transform the data first and give the last step alone."
            )
            raise InputError(msg)
        means, scales = means + mean * scales, scales * scale
    return means, scales


def to_sklearn(network: Dense, preprocessing: Preprocessing, loss: str = "mse") -> "Pipeline":
    """A network as a fitted `Pipeline` of a `StandardScaler` and an `MLPClassifier` or `MLPRegressor`.

    **Arguments:**
    - `network`: fully connected, with tanh, sigmoid, relu or identity, and no linear units.
    - `preprocessing`: of its inputs and outputs, as [`lossatlas.interop.from_sklearn`][] gives it or a survey saves it.
    - `loss`: for classes `"cross_entropy"` or `"logistic"`, whose outputs are logits; for numbers `"mse"`.

    **Returns:** The pipeline; it predicts without LossAtlas. Means and scales of regression targets are folded into the
    last layer.

    **Raises:** `InputError` for what scikit-learn cannot express: linear units, other activations, text columns, and
    classes that were fitted by squared error.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import LabelBinarizer, StandardScaler

    act = _expressible(network, preprocessing, loss)
    weights = [np.asarray(layer.weight, float).T.copy() for layer in network.layers]
    biases = [
        np.zeros(layer.weight.shape[0]) if layer.bias is None else np.asarray(layer.bias, float).copy()
        for layer in network.layers
    ]
    scales = np.array(preprocessing.scales)
    weights[0][scales == 0] = 0.0  # a column that was constant becomes 0
    is_classifier = preprocessing.kind == "classification"
    if not is_classifier:
        factor = np.array(preprocessing.target_scales)
        weights[-1], biases[-1] = weights[-1] * factor, biases[-1] * factor + np.array(preprocessing.target_means)
    make = MLPClassifier if is_classifier else MLPRegressor
    size, classes = len(scales), np.array(preprocessing.classes)
    model = _fitted(
        make(hidden_layer_sizes=network.widths[1:-1], activation=act),
        coefs_=weights,
        intercepts_=biases,
        n_layers_=len(weights) + 1,
        n_outputs_=network.widths[-1],
        n_features_in_=size,
        out_activation_={name: out for out, name in _LOSSES.items()}[loss],
        **({"classes_": classes, "_label_binarizer": LabelBinarizer().fit(classes)} if is_classifier else {}),
    )
    named = preprocessing.columns != tuple(f"x{i}" for i in range(size))
    scale = np.where(scales == 0, 1.0, scales)
    scaler = _fitted(
        StandardScaler(),
        mean_=np.array(preprocessing.means),
        scale_=scale,
        var_=scale**2,
        n_features_in_=size,
        n_samples_seen_=1,
        **({"feature_names_in_": np.array(preprocessing.columns, dtype=object)} if named else {}),
    )
    return make_pipeline(scaler, model)


def _fitted(estimator: Any, **learned: Any) -> Any:
    """An estimator with what fitting it would have learned."""
    for name, value in learned.items():
        setattr(estimator, name, value)
    return estimator


def _expressible(network: Dense, preprocessing: Preprocessing, loss: str) -> str:
    """The name of the activation in scikit-learn."""
    if any(network.num_linear):
        msg = "scikit-learn has no linear units beside neurons; reduce with linear=False, or export to PyTorch."
        raise InputError(msg)
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    if network.activation.name not in names:
        msg = f"scikit-learn has no activation {network.activation.name!r}; it knows {', '.join(_ACTIVATIONS)}."
        raise InputError(msg)
    if preprocessing.categories:
        msg = f"Text columns ({', '.join(preprocessing.categories)}) need an encoder of your own in scikit-learn."
        raise InputError(msg)
    if preprocessing.kind == "classification" and loss == "mse":
        msg = "An MLPClassifier puts out probabilities; a network fitted to classes by squared error has none."
        raise InputError(msg)
    return names[network.activation.name]
