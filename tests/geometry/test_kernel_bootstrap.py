import jax
import numpy as np
import pytest

from lossatlas.geometry import kernel_distance
from lossatlas.geometry._kernel_bootstrap import resample_counts, resampled_distances, resampled_means


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_resample_is_the_kernel_of_the_drawn_examples(outputs, centred):
    n = 7
    halves = RNG.normal(size=(2, n * outputs, 5)) + 1
    first, second = halves @ halves.transpose(0, 2, 1)
    drawn = RNG.integers(0, n, (4, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)
    found = resampled_distances(counts, first, second, centred=centred)
    for b, row in enumerate(drawn):
        rows = (row[:, None] * outputs + np.arange(outputs)).reshape(-1)
        place = np.ix_(rows, rows)
        wanted = kernel_distance(first[place], second[place], centred=centred)
        np.testing.assert_allclose(found["distance"][b], wanted.distance, rtol=1e-9)
        np.testing.assert_allclose(found["scale"][b], wanted.scale, rtol=1e-10)
        np.testing.assert_allclose(found["change"][b], wanted.change, rtol=1e-10)


def test_small_distances_of_resamples_do_not_cancel():
    u, v = np.array([1.0, 0.0]), np.array([np.cos(1e-7), np.sin(1e-7)])
    found = resampled_distances(np.ones((1, 2)), np.outer(u, u), np.outer(v, v))
    np.testing.assert_allclose(found["distance"], 1e-14, rtol=1e-6)
    assert resampled_distances(np.ones((1, 2)), np.outer(u, v), np.outer(u, v))["distance"] == 0


def test_errors_are_the_scatter_over_other_examples():
    # Two linear kernels x^T A x' of Gaussian examples. The distance over 300 sets of 80 examples scatters by what the
    # resamples of single sets say: their mean is within 15 % (the scatter itself is known to 4 %).
    a, b = (m @ m.T for m in RNG.normal(size=(2, 4, 4)))
    sets = RNG.normal(size=(300, 80, 4))
    distances = [kernel_distance(x @ a @ x.T, x @ b @ x.T).distance for x in sets]
    counts = resample_counts(jax.random.key(0), 80, 200)
    found = [resampled_distances(counts, x @ a @ x.T, x @ b @ x.T)["distance"].std(ddof=1) for x in sets[:20]]
    assert np.mean(found) == pytest.approx(np.std(distances, ddof=1), rel=0.15)


def test_resamples_have_as_many_examples_and_means_of_their_own():
    counts = resample_counts(jax.random.key(1), 50, 2000)
    assert counts.shape == (2000, 50) and (counts.sum(1) == 50).all()
    values = RNG.normal(size=50)
    # The exact standard deviation of the mean of a resample is that of the values, over the root of their number.
    assert resampled_means(counts, values).std() == pytest.approx(values.std() / np.sqrt(50), rel=0.05)
    assert resample_counts(jax.random.key(1), 5, 0).shape == (0, 5)
