import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import data
from lossatlas._errors import InputError


@pytest.fixture(scope="module")
def iris():
    return data.load("iris")


def test_landscape_holds_standardised_inputs_and_one_hot_targets(iris):
    landscape = iris.landscape()
    assert landscape.inputs.dtype == landscape.targets.dtype == jnp.float64
    np.testing.assert_allclose(np.asarray(landscape.inputs).std(axis=0), 1)
    np.testing.assert_array_equal(np.asarray(landscape.targets).sum(axis=0), [50, 50, 50])
    # The best constant, 1/3 for each class: 1/2 sum_k p_k (1 - p_k) = 1/3.
    np.testing.assert_allclose(landscape(lambda _: jnp.full(3, 1 / 3)), 1 / 3, rtol=1e-14)


def test_landscape_targets_follow_the_loss(iris):
    assert iris.landscape("auto").loss == iris.landscape("mse").loss
    targets = iris.landscape("cross_entropy").targets
    assert jnp.issubdtype(targets.dtype, jnp.integer) and targets.shape == (150,)
    assert iris.landscape(lambda f, y: jnp.sum((f - y) ** 4)).targets.shape == (150, 3)
    assert data.load("breast_cancer").landscape("logistic").targets.shape == (569, 1)
    with pytest.raises(InputError, match="Unknown loss 'mes'. Did you mean 'mse'"):
        iris.landscape("mes")
    with pytest.raises(InputError, match="loss='cross_entropy' needs classes"):
        data.load("diabetes").landscape("cross_entropy")


def test_landscape_rows_and_batches(iris):
    whole, part = iris.landscape(), iris.landscape(rows=[3, 70, 140], batch_size=2)
    np.testing.assert_array_equal(part.inputs, whole.inputs[jnp.array([3, 70, 140])])
    assert part.batch_size == 2
    mask = np.arange(150) < 5
    assert iris.landscape(rows=mask).size == 5


def test_landscape_precision_is_explicit(iris):
    with jax.enable_x64(False):
        with pytest.raises(InputError, match="enable_x64"):
            iris.landscape()
        assert iris.landscape(dtype="float32").inputs.dtype == jnp.float32


@pytest.mark.parametrize("rows", [[], [150], [-151], [0.5], np.zeros(150, bool), np.ones(3, bool), [[1, 2]]])
def test_rows_that_do_not_exist_are_refused(iris, rows):
    with pytest.raises(InputError, match="rows must"):
        iris.take(rows)


def test_split_fits_the_scaling_on_the_training_part(iris):
    train, test = iris.split(0.2, seed=3)
    assert (train.num_rows, test.num_rows) == (120, 30)
    assert train.class_counts == {"setosa": 40, "versicolor": 40, "virginica": 40}
    np.testing.assert_allclose(train.arrays()[0].mean(axis=0), 0, atol=1e-14)
    assert test.preprocessing == train.preprocessing
    np.testing.assert_allclose(
        test.arrays()[0], (test.features - train.features.mean(axis=0)) / train.features.std(axis=0), rtol=1e-12
    )
    together = np.concatenate([train.features, test.features])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(iris.features, axis=0))


def test_split_depends_on_the_seed_alone(iris):
    assert iris.split(0.3, seed=1)[0].fingerprint() == iris.split(0.3, seed=1)[0].fingerprint()
    assert iris.split(0.3, seed=1)[0].fingerprint() != iris.split(0.3, seed=2)[0].fingerprint()
    assert iris.split(0.3, stratified=False)[0].fingerprint() != iris.split(0.3)[0].fingerprint()


def test_folds_test_every_row_once(iris):
    folds = iris.folds(5, seed=1)
    tested = np.concatenate([test.features for _, test in folds])
    np.testing.assert_array_equal(np.sort(tested, axis=0), np.sort(iris.features, axis=0))
    assert all(set(test.class_counts.values()) == {10} for _, test in folds)
    diabetes = data.load("diabetes").folds(4)
    assert sum(test.num_rows for _, test in diabetes) == 442


def test_hold_out_carries_the_test_part(iris):
    training = iris.hold_out(0.2, seed=5)
    train, test = iris.split(0.2, seed=5)
    assert training.fingerprint() == train.fingerprint()
    assert training.held_out is not None and training.held_out.fingerprint() == test.fingerprint()


def test_splits_that_cannot_be_are_refused(rng):
    for fraction in (0.0, 1.0, -0.1, 0.001, 0.9999, float("nan")):
        with pytest.raises(InputError, match="test_fraction must leave both parts"):
            data.load("iris").split(fraction)
    small = data.from_arrays(rng.normal(size=12), ["a"] * 11 + ["b"])
    with pytest.raises(InputError, match=r"Class 'b' has 1 row\(s\); .* stratified=False"):
        small.split(0.5)
    with pytest.raises(InputError, match="Class 'b' has 1 row"):
        small.folds(3)
    assert small.split(0.5, stratified=False)[0].num_rows == 6
    with pytest.raises(InputError, match="gives 1 test and 11 training rows, fewer than the 2 classes"):
        data.from_arrays(rng.normal(size=12), ["a", "b"] * 6).split(0.1)
    for cut in (lambda: small.split(0.5, seed=-1, stratified=False), lambda: small.folds(3, seed=2**32)):
        with pytest.raises(InputError, match="seed must lie in 0..2"):
            cut()
    with pytest.raises(InputError, match="num must lie in 2..12"):
        small.folds(13)
    with pytest.raises(InputError, match="needs classes"):
        data.load("diabetes").split(0.5, stratified=True)


def test_constant_target_in_a_fold_still_decodes_to_itself():
    made = data.from_arrays(np.arange(4.0), [1.5, 1.5, 1.5, 2.5])
    train = made.take([0, 1, 2]).refit()
    np.testing.assert_array_equal(train.arrays()[1], np.zeros((3, 1)))
    np.testing.assert_array_equal(train.preprocessing.decode([[0.0]]).values, [[1.5]])


def test_fingerprint_hashes_the_content_and_nothing_else(iris):
    assert iris.fingerprint() == data.load("iris", name="other").fingerprint()
    assert iris.refit(scaling=2).fingerprint() == iris.refit(scaling=2.0).fingerprint()
    different = [
        iris,
        iris.take(np.arange(149)),
        iris.take(np.arange(150)[::-1]),
        iris.refit(scaling="none"),
        data.from_arrays(iris.features, iris.y),
        data.from_arrays(iris.features + 1e-15, iris.y, columns=iris.columns),
        data.from_arrays(iris.features, iris.target, columns=iris.columns),
    ]
    assert len({d.fingerprint() for d in different}) == len(different)


def test_fingerprint_is_stable():
    made = data.from_arrays([[1.0], [2.0], [4.0]], [0.5, 0.25, 0.125])
    assert made.fingerprint() == "e1c471c65906e248ddd5b4277870c884f8b24dffca75c940fb2fa61d0b715e41"


def test_data_sets_are_read_only(iris):
    with pytest.raises(ValueError, match="read-only"):
        iris.features[0, 0] = 1.0


def test_importing_data_loads_no_heavy_library():
    code = "import sys, lossatlas.data; print(sorted({'pandas', 'sklearn', 'scipy', 'pyarrow'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
