"""Perceptrons of scikit-learn, there and back."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from lossatlas._errors import InputError
from lossatlas.embedding import reduce, split
from lossatlas.interop import from_sklearn, to_sklearn
from lossatlas.networks import Dense


IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def fitted(estimator, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few iterations do not converge, and need not
        return estimator.fit(x, y)


def classifier(*scalers, activation="tanh", labels=IRIS[1]):
    model = MLPClassifier((7, 5), activation=activation, max_iter=30, random_state=0)
    return fitted(make_pipeline(*scalers, model), IRIS[0], labels)


def outputs(imported, x):
    values = jax.vmap(imported.network)(imported.preprocessing.inputs(x))
    return imported.preprocessing.decode(values, imported.loss)


SCALERS = [(), (StandardScaler(),), (MinMaxScaler((-1, 2)), StandardScaler(with_mean=False), MaxAbsScaler())]


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("scalers", SCALERS)
def test_a_classifier_comes_over_exactly_and_goes_back(activation, scalers):
    estimator = classifier(*scalers, activation=activation)
    imported = from_sklearn(estimator)
    assert (imported.network.widths, imported.loss) == ((4, 7, 5, 3), "cross_entropy")
    decoded = outputs(imported, IRIS[0])
    np.testing.assert_allclose(np.asarray(decoded.probabilities), estimator.predict_proba(IRIS[0]), atol=1e-12)
    back = to_sklearn(imported.network, imported.preprocessing, imported.loss)
    np.testing.assert_allclose(back.predict_proba(IRIS[0]), estimator.predict_proba(IRIS[0]), atol=1e-12)
    np.testing.assert_array_equal(back.predict(IRIS[0]), estimator.predict(IRIS[0]))


def test_two_classes_have_one_logit_and_keep_their_names():
    names = np.where(IRIS[1] == 0, "setosa", "another")
    estimator = classifier(StandardScaler(), labels=names)
    imported = from_sklearn(estimator)
    assert (imported.network.widths[-1], imported.loss) == (1, "logistic")
    decoded = outputs(imported, IRIS[0])
    np.testing.assert_allclose(np.asarray(decoded.probabilities), estimator.predict_proba(IRIS[0]), atol=1e-12)
    np.testing.assert_array_equal(decoded.labels, estimator.predict(IRIS[0]))
    back = to_sklearn(imported.network, imported.preprocessing, "logistic")
    np.testing.assert_array_equal(back.predict(IRIS[0]), estimator.predict(IRIS[0]))


@pytest.mark.parametrize("num_targets", [1, 2])
def test_a_regressor_comes_over_exactly_and_goes_back(num_targets):
    x = pd.DataFrame(DIABETES[0], columns=[f"column {i}" for i in range(10)])
    y = DIABETES[1] if num_targets == 1 else np.stack([DIABETES[1], x["column 2"]], axis=1)
    estimator = fitted(
        make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(6,), max_iter=30, random_state=0)), x, y
    )
    imported = from_sklearn(estimator)
    assert imported.preprocessing.columns == tuple(x.columns)
    expected = estimator.predict(x).reshape(len(x), -1)
    np.testing.assert_allclose(outputs(imported, x).values, expected, rtol=1e-11, atol=1e-11)
    back = to_sklearn(imported.network, imported.preprocessing)
    np.testing.assert_allclose(back.predict(x), estimator.predict(x), rtol=1e-12, atol=1e-12)


def test_a_split_estimator_predicts_the_same_and_reduces_to_what_it_was():
    estimator = classifier(StandardScaler())
    imported = from_sklearn(estimator)
    wide, _ = split(imported.network, "hidden[0]", 2, [0.3, -0.4, 1.1])
    grown = to_sklearn(wide, imported.preprocessing, imported.loss)
    assert grown.steps[-1][1].hidden_layer_sizes == (9, 5)
    np.testing.assert_allclose(grown.predict_proba(IRIS[0]), estimator.predict_proba(IRIS[0]), atol=1e-12)
    narrow, _ = reduce(wide, jnp.asarray(imported.preprocessing.inputs(IRIS[0])))
    assert narrow.widths == (4, 7, 5, 3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: from_sklearn(LogisticRegression()), "got a LogisticRegression"),
        (lambda: from_sklearn(MLPClassifier()), "not fitted"),
        (lambda: from_sklearn(classifier(RobustScaler())), "holds a RobustScaler"),
        (lambda: from_sklearn(fitted(MLPRegressor(loss="poisson", max_iter=2), *DIABETES)), "poisson"),
        (lambda: to_sklearn(Dense(jax.random.key(0), [4, 3, 3], num_linear=1), PREPARED, "cross_entropy"), "linear"),
        (lambda: to_sklearn(Dense(jax.random.key(0), [4, 3, 3], activation="gelu"), PREPARED, "mse"), "'gelu'"),
        (lambda: to_sklearn(Dense(jax.random.key(0), [4, 3, 3]), PREPARED, "mse"), "squared error"),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_the_reason(make, said):
    with pytest.raises(InputError, match=said):
        make()


PREPARED = from_sklearn(classifier()).preprocessing
