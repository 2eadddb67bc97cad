"""Paths through parameters: what they pass, how long they are, what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel
from lossatlas.geometry import BatchStatistics, Path, barrier, verify_path
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense


KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (9, 3))
LABELS = jnp.arange(9) % 2


def dense(seed, **kwargs):
    return Dense(jax.random.key(seed), [3, 4, 2], **kwargs)


def test_a_polygon_passes_its_corners_at_equal_distances_in_t():
    corners = tuple(dense(i) for i in range(4))
    path = Path(corners)
    vectors = [np.asarray(ravel(corner)[0]) for corner in corners]
    for k in range(4):
        np.testing.assert_array_equal(ravel(path(k / 3))[0], vectors[k])
    np.testing.assert_allclose(ravel(path(0.5))[0], 0.5 * (vectors[1] + vectors[2]), atol=1e-15)
    lengths = [float(np.linalg.norm(b - a)) for a, b in zip(vectors[:-1], vectors[1:], strict=True)]
    np.testing.assert_allclose(path.lengths(np.array([0.0, 0.5, 1.0])), [0, lengths[0] + lengths[1] / 2, sum(lengths)])


def test_a_bezier_curve_is_the_weighted_sum_and_as_long_as_its_chords():
    controls = tuple(dense(i) for i in range(4))
    path = Path(controls, kind="bezier")
    vectors = np.stack([np.asarray(ravel(c)[0]) for c in controls])
    t = 0.3
    weights = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    np.testing.assert_allclose(ravel(path(t))[0], weights @ vectors, rtol=1e-13)
    fine = np.linspace(0, 1, 2001)
    basis = np.stack([(1 - fine) ** 3, 3 * fine * (1 - fine) ** 2, 3 * fine**2 * (1 - fine), fine**3], axis=1)
    chords = np.linalg.norm(np.diff(basis @ vectors, axis=0), axis=1).sum()
    np.testing.assert_allclose(path.lengths(np.array([0.0, 0.4, 1.0]))[-1], chords, rtol=1e-6)


def test_the_loss_along_a_path_is_that_of_its_networks():
    landscape = Landscape(INPUTS, LABELS, loss="cross_entropy")
    path = Path(tuple(dense(i) for i in range(3)))
    before = [np.asarray(ravel(v)[0]).copy() for v in path.vertices]
    found = barrier(path, landscape, num_points=40, num_refinements=3)
    predict = eqx.filter_jit(lambda network: (landscape(network), landscape.predictions(network)))
    expected = [predict(path(t)) for t in found.t]
    np.testing.assert_allclose(found.loss, [loss for loss, _ in expected], rtol=1e-12)
    right = [np.mean(np.asarray(logits).argmax(1) == np.asarray(LABELS)) for _, logits in expected]
    assert found.accuracy is not None
    np.testing.assert_allclose(found.accuracy, right)
    for old, vertex in zip(before, path.vertices, strict=True):
        np.testing.assert_array_equal(old, ravel(vertex)[0])
    batched = barrier(path, landscape.with_batch_size(4), num_points=40, num_refinements=3)
    np.testing.assert_allclose(batched.loss, found.loss, rtol=1e-12)
    np.testing.assert_array_equal(batched.accuracy, found.accuracy)
    assert found.to_xarray()["loss"].dims == ("t",)


def test_what_both_ends_share_stays_to_the_last_bit():
    one = dense(0)
    other = eqx.tree_at(lambda n: n.layers[1].bias, one, jnp.ones(2))
    here = Path((one, other))(0.37)
    np.testing.assert_array_equal(here.layers[0].weight, one.layers[0].weight)


def normed(seed, **kwargs):
    net = Conv(jax.random.key(seed), (1, 4, 4), [3], [2], norm="batch", activation="relu", **kwargs)
    return net.with_statistics(jax.random.normal(jax.random.key(seed + 5), (8, 1, 4, 4)))


def test_running_statistics_are_refused_or_computed_anew():
    images = jax.random.normal(KEY, (9, 1, 4, 4))
    landscape = Landscape(images, LABELS, loss="cross_entropy")
    ends = normed(0), normed(1)
    with pytest.raises(InputError, match=r"convs\[0\].norm.mean.value.*BatchStatistics\(inputs\)"):
        barrier(Path(ends), landscape)
    found = barrier(Path(ends, refresh=BatchStatistics(images)), landscape, num_points=3, num_refinements=0)
    middle = Path(ends)(0.5).with_statistics(images)
    np.testing.assert_allclose(found.loss[1], float(landscape(middle)), rtol=1e-12)
    assert abs(found.loss[1] - float(landscape(Path(ends)(0.5)))) > 1e-3
    # A network that normalises by its batch has no use for running statistics.
    own = normed(0, batch_statistics=True), normed(1, batch_statistics=True)
    np.testing.assert_allclose(barrier(Path(own), landscape, num_points=3).loss[0], found.loss[0], rtol=1e-12)


def test_functions_of_parameters_have_paths_too():
    landscape = Landscape.from_function(lambda p, b: (p[0] * b - 1) ** 2, jnp.ones(2))
    found = verify_path(Path((jnp.zeros(1), jnp.full(1, 3.0))), landscape)
    assert found.function_change is None
    np.testing.assert_allclose([found.start_loss, found.end_loss, found.max_loss], [1, 4, 4])
    np.testing.assert_allclose(found.max_increase, 4 - 0.0025, atol=1e-12)  # from t = 0.35, where p = 1.05


@pytest.mark.parametrize(
    ("vertices", "said"),
    [
        ((dense(0),), "at least two networks"),
        ((dense(0), Dense(KEY, [3, 5, 2])), r"layers\[0\].bias is \(5,\) float64 and \(4,\) float64"),
        ((dense(0), dense(1, activation="relu")), "what is no array"),
        ((dense(0), jax.tree.map(lambda a: a * jnp.nan, dense(1))), r"layers\[0\].weight of vertex 1 contains NaN"),
    ],
)
def test_vertices_that_make_no_path_are_refused(vertices, said):
    with pytest.raises(InputError, match=said):
        Path(vertices)


def test_places_beyond_the_path_are_refused():
    path = Path((dense(0), dense(1)))
    with pytest.raises(InputError, match=r"between 0 and 1, got 1.5"):
        path(1.5)
    assert "3 networks" in repr(Path((dense(0), dense(1), dense(2))))
    assert set(named_arrays(path(0.5))) == set(named_arrays(dense(0)))
