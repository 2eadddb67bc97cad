"""Critical points are found at any index, stand still, and are told apart from levels at infinity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError, NotCertifiedError
from lossatlas._status import Certificate, Status
from lossatlas.geometry import CriticalPoint, find_critical_point, find_critical_points, inertia, plant_landscape
from lossatlas.geometry._search import DECADES
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, apply_mixing, apply_permutation, apply_reflection


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    x, y = (np.asarray(a) for a in load_iris(return_X_y=True))
    return Landscape(jnp.asarray((x - x.mean(0)) / x.std(0)), jnp.asarray(np.eye(3)[y]))


@pytest.fixture(scope="module")
def hierarchy():
    x = np.linspace(-15, 15, 50)[:, None]
    y = 1.2 * np.tanh(0.8 * (x + 7)) - 1.5 * np.tanh(0.6 * x) + np.tanh(0.9 * (x - 6))
    return Landscape(jnp.asarray(x), jnp.asarray(y))


def tanh_sum(units, bias):
    """A 1-k-1 network from (w, b, a) of each unit."""
    w, b, a = np.asarray(units, dtype=float).T
    return Dense.from_layers(
        [DenseLayer(jnp.asarray(w[:, None]), jnp.asarray(b)), DenseLayer(jnp.asarray(a[None]), jnp.asarray([bias]))]
    )


def starts(landscape, k, r, num, init: str | float = "glorot"):
    widths = [landscape.inputs.shape[1], k, landscape.targets.shape[1]]
    return [Dense(jax.random.key(i), widths, num_linear=r, init=init) for i in range(num)]


def function(fn):
    """The landscape of a plain function of a parameter vector."""
    return Landscape.from_function(lambda theta, batch: fn(theta) + 0 * batch[:, 0], jnp.zeros((1, 1)))


METHODS = ["auto", "newton", "levenberg_marquardt", "trust_region"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_minimum_of_a_quadratic(method):
    a = jnp.asarray([[2.0, 0.3], [0.3, 1.0]])
    centre = jnp.asarray([1.0, -2.0])
    landscape = function(lambda t: 0.5 * (t - centre) @ a @ (t - centre) + 3.0)
    point = find_critical_point(jnp.asarray([5.0, 5.0]), landscape, method=method)
    assert point.status is Status.CONVERGED
    np.testing.assert_allclose(point.network, centre, atol=1e-12)
    np.testing.assert_allclose(point.loss, 3.0, atol=1e-14)
    assert point.drift < 1e-8


@pytest.mark.parametrize("method", ["auto", "newton", "levenberg_marquardt"])
def test_a_saddle_is_a_critical_point(method):
    landscape = function(lambda t: t[0] ** 2 - t[1] ** 2 + 0.1 * t[0] ** 3)
    point = find_critical_point(jnp.asarray([0.3, 0.2]), landscape, method=method)
    assert point.status is Status.CONVERGED
    np.testing.assert_allclose(point.network, 0.0, atol=1e-12)


def test_trust_region_leaves_an_exact_saddle():
    landscape = function(lambda t: t[0] ** 2 - t[1] ** 2 + 0.25 * t[1] ** 4)
    point = find_critical_point(jnp.zeros(2), landscape, method="trust_region")
    assert point.status is Status.CONVERGED
    np.testing.assert_allclose(np.abs(point.network), [0.0, np.sqrt(2)], atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_circle_of_minima_does_not_explode(method):
    landscape = function(lambda t: 0.25 * (jnp.sum(t**2) - 1) ** 2)
    point = find_critical_point(jnp.asarray([1.3, 0.9]), landscape, method=method)
    assert point.status is Status.CONVERGED
    np.testing.assert_allclose(np.linalg.norm(point.network), 1.0, atol=1e-12)
    np.testing.assert_allclose(point.network, jnp.asarray([1.3, 0.9]) / np.hypot(1.3, 0.9), atol=0.2)
    assert point.drift < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_degenerate_minimum_is_reached(method):
    landscape = function(lambda t: t[0] ** 4 + t[1] ** 2)
    point = find_critical_point(jnp.asarray([1.0, 1.0]), landscape, method=method)
    assert point.status is Status.CONVERGED
    assert float(point.gradient_norm) <= 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tail", ["exponential", "power"])
def test_a_tail_is_a_level_at_infinity(method, tail):
    fall = (lambda t: jnp.exp(-t)) if tail == "exponential" else (lambda t: 1 / (1 + t**2))
    landscape = function(lambda t: fall(t[0]) + t[1] ** 2)
    point = find_critical_point(jnp.asarray([2.0, 1.0]), landscape, method=method)
    assert point.status is Status.AT_INFINITY
    np.testing.assert_allclose(point.loss, 0.0, atol=1e-5)


def test_no_critical_point_is_said():
    # The gradient is at least 1 everywhere: |g| has a minimum, but there is no critical point.
    landscape = function(lambda t: t[0] + jnp.sin(t[0]) / 2 + t[1] ** 2)
    point = find_critical_point(jnp.asarray([0.1, 1.0]), landscape, method="levenberg_marquardt", max_steps=60)
    assert point.status in (Status.STALLED, Status.MAX_STEPS)
    with pytest.raises(NotCertifiedError, match="No critical point"):
        find_critical_point(jnp.asarray([0.1, 1.0]), landscape, method="levenberg_marquardt", max_steps=60, throw=True)


def test_divergence_is_a_result():
    point = find_critical_point(jnp.asarray([-1.0, 0.0]), function(lambda t: jnp.log(t[0]) + t[1] ** 2))
    assert point.status is Status.DIVERGED


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("amplitude", [0.02, 0.3])
def test_planted_points_are_found_again(key, loss, amplitude):
    network = Dense(key, [3, 3, 2])
    inputs = jax.random.normal(jax.random.key(1), (40, 3))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=amplitude, loss=loss)
    noise = iter(jax.random.split(jax.random.key(3), 99))
    near = jax.tree.map(lambda a: a + 1e-3 * jax.random.normal(next(noise), a.shape), network)
    point = find_critical_point(near, landscape)
    assert point.status is Status.CONVERGED
    # The predictions, up to the shared logit of cross-entropy.
    centre = lambda f: f - (f.mean(1, keepdims=True) if loss == "cross_entropy" else 0)  # noqa: E731
    found, planted = (np.asarray(landscape.predictions(n)) for n in (point.network, network))
    np.testing.assert_allclose(centre(found), centre(planted), atol=1e-9)


@pytest.mark.parametrize(
    ("units", "bias", "loss", "counts"),
    [
        ([(1.8, 14.0, 0.5)], -0.1, 0.2990502719, (0, 0, 4)),
        ([(2.3, -16.0, 0.4)], 0.3, 0.3555080128, (0, 0, 4)),
        ([(0.9, 6.0, 1.2), (1.3, 1.0, -0.8)], -0.3, 0.1547960483, (0, 0, 7)),
        ([(0.58, 3.9, 1.54), (-0.23, 0.48, 4.05), (0.38, -1.92, 3.2)], -0.025, 0.0036372374, (1, 0, 9)),
        ([(0.8, 5.6, 1.2), (0.6, 0.0, -1.5), (0.9, -5.4, 1.0)], 0.0, 0.0, (0, 0, 10)),
    ],
)
def test_the_levels_of_the_hierarchy(hierarchy, units, bias, loss, counts):
    # Embedding Principle card, section 5A: printed to ten digits.
    method = "newton" if counts[0] else "trust_region"
    point = find_critical_point(tanh_sum(units, bias), hierarchy, method=method)
    measured = inertia(point.network, hierarchy)
    assert point.status is Status.CONVERGED
    np.testing.assert_allclose(point.loss, loss, atol=5e-11)
    assert float(point.gradient_norm_1) < 1e-13
    assert measured.counts == counts
    assert measured.certificate is Certificate.YES


def test_random_starts_find_the_levels_of_one_unit(hierarchy):
    networks = starts(hierarchy, 1, 0, 24, init=0.0)
    losses = {
        round(float(p.loss), 9)
        for p in find_critical_points(networks, hierarchy, method="trust_region")
        if p.status is Status.CONVERGED
    }
    assert losses == {0.299050272} or losses == {0.299050272, 0.355508013}


def test_iris_levels_with_one_linear_unit_and_its_gauge(iris):
    points = find_critical_points(starts(iris, 1, 1, 6), iris, method="trust_region")
    for loss in (0.0367469506, 0.0198099153):
        found = [p for p in points if abs(float(p.loss) - loss) < 5e-11]
        assert found, [float(p.loss) for p in points]
        measured = inertia(found[0].network, iris)
        assert found[0].status is Status.CONVERGED
        assert measured.counts == (0, 1, 17)
        assert measured.gauges == {"linear mixing": 1}
        assert measured.unexplained == 0
        assert measured.is_minimum is Certificate.YES


def test_iris_linear_levels(iris):
    # Closed form: half the trace of S_yy minus the largest eigenvalues of S_yx S_xx^-1 S_xy.
    x, y = np.asarray(iris.inputs), np.asarray(iris.targets)
    y = y - y.mean(0)
    explained = np.linalg.eigvalsh(y.T @ x @ np.linalg.solve(x.T @ x, x.T @ y) / len(x))[::-1]
    for r in (1, 2):
        point = find_critical_point(starts(iris, 0, r, 1)[0], iris, method="trust_region")
        measured = inertia(point.network, iris)
        assert point.status is Status.CONVERGED
        np.testing.assert_allclose(point.loss, 0.5 * (np.trace(y.T @ y) / len(y) - explained[:r].sum()), atol=1e-12)
        assert (measured.zero, measured.unexplained) == (r * r, 0)
        assert measured.is_minimum is Certificate.YES


@pytest.mark.parametrize("method", ["trust_region", "auto"])
def test_the_step_level_of_iris_is_never_a_critical_point(iris, method):
    points = find_critical_points(starts(iris, 1, 0, 24), iris, method=method)
    at_level = [p for p in points if abs(float(p.loss) - 1 / 6) < 1e-6]
    assert at_level
    assert all(p.status is not Status.CONVERGED for p in at_level)
    settled = [p for p in at_level if p.status is Status.AT_INFINITY]
    assert settled
    for point in settled:
        (runaway,) = point.runaway
        assert runaway.kind == "step"
        assert runaway.units == ("hidden[0][0]",)
        assert runaway.smallest_preactivation > 4
    # Its zeros have no reason but infinity, so it is no certified minimum either.
    assert inertia(settled[0].network, iris).is_minimum is Certificate.NOT_CERTIFIED
    if method == "trust_region":
        assert len(settled) == len(points)


def test_two_steps_of_iris_are_at_infinity(iris):
    points = find_critical_points(starts(iris, 2, 0, 4), iris, method="trust_region")
    for point in points:
        assert point.status is Status.AT_INFINITY
        np.testing.assert_allclose(point.loss, 0.0065359477, atol=1e-9)
        assert {r.kind for r in point.runaway} == {"step"}
        assert max(r.incoming_norm for r in point.runaway) > 400


def test_a_merging_pair_is_at_infinity(hierarchy):
    point = find_critical_point(starts(hierarchy, 2, 0, 1)[0], hierarchy, method="trust_region")
    assert point.status is Status.AT_INFINITY
    (runaway,) = point.runaway
    assert runaway.kind == "merging pair"
    assert runaway.outgoing_norm > 100
    assert runaway.defect < 0.05


def test_a_unit_that_turns_linear_is_at_infinity(key):
    # The best tanh unit for linear data is infinitely small.
    x = jax.random.normal(key, (40, 2))
    y = x @ jnp.asarray([[0.7], [-0.4]])
    network = tanh_sum([(0.5, 0.0, 1.0)], 0.0)
    network = Dense.from_layers([DenseLayer(jnp.asarray([[0.5, 0.1]]), jnp.asarray([0.1])), network.layers[1]], "tanh")
    point = find_critical_point(network, Landscape(x, y), method="trust_region", max_steps=400)
    assert point.status is Status.AT_INFINITY
    assert point.runaway[0].kind == "linear"
    assert float(point.loss) < 1e-6


def test_separable_classes_are_at_infinity(iris):
    landscape = Landscape(iris.inputs, jnp.argmax(iris.targets, 1), loss="cross_entropy")
    point = find_critical_point(starts(landscape_of_three(landscape), 0, 1, 1)[0], landscape, method="trust_region")
    assert point.status is Status.AT_INFINITY
    np.testing.assert_allclose(point.loss, 0.0396618226, atol=1e-9)
    (runaway,) = point.runaway
    assert (runaway.kind, runaway.units) == ("separable", ("output[0]",))


def landscape_of_three(landscape):
    return Landscape(landscape.inputs, jnp.zeros((landscape.size, 3)))


def test_many_starts_equal_single_runs(iris):
    networks = starts(iris, 1, 1, 3)
    together = find_critical_points(networks, iris, method="trust_region")
    alone = find_critical_point(networks[2], iris, method="trust_region")
    for a, b in zip(jax.tree.leaves(together[2].network), jax.tree.leaves(alone.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_search_cut_short_says_so(iris):
    point = find_critical_point(starts(iris, 1, 1, 1)[0], iris, method="trust_region", max_steps=3)
    assert point.status is Status.MAX_STEPS
    assert point.stats["hessians"] == 3
    assert np.isnan(point.drift)


def test_gauges_of_the_start_do_not_change_what_is_found(iris):
    start = starts(iris, 2, 2, 1)[0]
    moved = apply_permutation(start, "hidden[0]", jnp.asarray([1, 0]))
    moved = apply_reflection(moved, "hidden[0]", jnp.asarray([-1.0, 1.0]))
    angle = 0.7
    rotation = jnp.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = apply_mixing(moved, "linear[0]", rotation)
    a, b = (find_critical_point(n, iris, method="trust_region", max_steps=15) for n in (start, moved))
    np.testing.assert_allclose(a.loss, b.loss, atol=1e-10)


def test_a_parameter_filter_keeps_the_rest_fixed(iris):
    start = starts(iris, 1, 1, 1)[0]
    point = find_critical_point(start, iris, method="trust_region", only="layers[1].*")
    assert point.status is Status.CONVERGED
    np.testing.assert_array_equal(point.network.layers[0].weight, start.layers[0].weight)
    # The output layer alone is least squares.
    features = np.stack([np.asarray(start.features(x)[1]) for x in iris.inputs])
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    best, *_ = np.linalg.lstsq(design, np.asarray(iris.targets), rcond=None)
    expected = 0.5 * np.mean(np.sum((design @ best - np.asarray(iris.targets)) ** 2, axis=1))
    np.testing.assert_allclose(point.loss, expected, atol=1e-12)


def test_bad_input_is_named(iris):
    network = starts(iris, 1, 0, 1)[0]
    with pytest.raises(InputError, match="Did you mean 'newton'"):
        find_critical_point(network, iris, method="newtonn")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="atol must be positive"):
        find_critical_point(network, iris, atol=0.0)
    with pytest.raises(InputError, match="max_steps must be at least 1"):
        find_critical_point(network, iris, max_steps=0)
    with pytest.raises(InputError, match="float64"):
        find_critical_point(jax.tree.map(lambda a: a.astype(jnp.float32), network), iris)
    with pytest.raises(InputError, match="11 parameters are more than max_size=10"):
        find_critical_point(network, iris, max_size=10)
    with pytest.raises(InputError, match="same shapes"):
        find_critical_points([network, starts(iris, 2, 0, 1)[0]], iris)


def test_the_documented_decades_are_those_of_the_search():
    assert CriticalPoint.__doc__ is not None
    assert f"10^0, ..., 10^-{DECADES - 1} " in CriticalPoint.__doc__
