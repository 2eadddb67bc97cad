"""Children of a run, compared: exact zeros where they are one, closed forms, and each measure by its own function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import ChildComparison, Path, barrier, compare_children, kernel_distance, ntk, relu_patterns
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import spawn


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(30, 3))
LABELS = (INPUTS[:, 0] > 0).astype(int) + (INPUTS[:, 1] > 0)
DATA = Landscape(INPUTS, LABELS, loss="cross_entropy")
TEST = Landscape(RNG.normal(size=(30, 3)), RNG.integers(0, 3, 30), loss="cross_entropy")
NETWORKS = [Dense(jax.random.key(i), [3, 5, 3], activation="relu", init="he") for i in range(3)]


def test_equal_networks_are_at_no_distance_exactly():
    copies = [jax.tree.map(lambda a: a + 0 if eqx.is_array(a) else a, NETWORKS[0]) for _ in range(3)]
    found = compare_children({0: copies, 6: copies}, DATA, test=TEST)
    apart = {name for name in found.measures if name.removeprefix("test_") not in ("loss", "error")}
    assert len(apart) == 8
    for name in apart:
        np.testing.assert_array_equal(found[name], np.zeros((2, 3)), err_msg=name)
    assert found.stable_from(0.0) == 0


def test_children_of_one_order_are_at_no_distance_exactly(key):
    x = jnp.linspace(-1, 0.7, 22)[:, None]
    curve = Landscape(x, jnp.sin(3 * x) + 0.5)
    options = {"spawn_steps": [7], "num_children": 2, "num_steps": 15, "batch_size": 6, "same_order": True}
    sgd = {"optimizer": optax.sgd, "learning_rate": 0.05, "hyperparameters": {"momentum": 0.9}}
    found = compare_children(spawn(key, Dense(jax.random.key(1), [1, 6, 1]), curve, **options, **sgd), curve)
    assert found.times.tolist() == [7]
    for name in ("loss_barrier", "kernel_distance", "disagreement", "weight_distance"):
        np.testing.assert_array_equal(found[name], [[0.0]], err_msg=name)


def test_every_measure_of_a_pair_is_that_of_its_own_function():
    children = {6: NETWORKS, 0: NETWORKS[::-1]}
    found = compare_children(children, DATA, test=TEST, probe=TEST)
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    first, _, third = NETWORKS
    at = lambda name: found[name][1, 1]  # noqa: E731
    kernels = [ntk(network, TEST, convention="full") for network in (first, third)]
    assert at("kernel_distance") == pytest.approx(kernel_distance(*kernels).distance)
    assert at("hamming") == pytest.approx(np.mean(relu_patterns(first, TEST) != relu_patterns(third, TEST)))
    on_probe, on_data = ([np.asarray(d.predictions(n)).argmax(1) for n in (first, third)] for d in (TEST, DATA))
    assert at("disagreement") == pytest.approx(np.mean(on_probe[0] != on_probe[1]))
    for prefix, data in (("", DATA), ("test_", TEST)):
        along = barrier(Path((first, third)), data, num_refinements=0)
        assert at(prefix + "loss_barrier") == pytest.approx(along.instability)
        assert along.accuracy is not None
        errors = 1 - along.accuracy
        assert at(prefix + "error_barrier") == pytest.approx(errors.max() - (errors[0] + errors[-1]) / 2)
    assert at("error") == pytest.approx(np.mean([np.mean(choice != LABELS) for choice in on_data]))
    np.testing.assert_allclose(found.mean("hamming"), found["hamming"].mean(1))
    np.testing.assert_allclose(found.spread("hamming"), found["hamming"].std(1, ddof=1))
    assert dict(found.to_xarray()["hamming"].sizes) == {"time": 2, "pair": 3}
    text = found._repr_html_()
    assert f"{found.mean('loss_barrier')[1]:.3g} ± {found.spread('loss_barrier')[1]:.2g}" in text
    figure = found._figure()
    titles = [trace.name for trace in figure.data]
    assert titles[0] == "error barrier" and "ReLUs that differ" in titles
    np.testing.assert_allclose(figure.data[0].error_y.array, found.spread("error_barrier"))


def test_children_from_elsewhere_and_functions_without_predictions():
    # L = (x^2 - 1)^2 + 0.3 x: the barrier over the mean of the ends of the card; nothing else is defined.
    well = Landscape.from_function(lambda p, b: ((p[0] ** 2 - 1) ** 2 + 0.3 * p[0]) * b, jnp.ones(1))
    children = {4.0: [jnp.full(1, 0.9), jnp.full(1, 1.1)], 0.5: [jnp.full(1, -1.0), jnp.full(1, 1.0)]}
    found = compare_children(children, well, num_points=101)
    np.testing.assert_array_equal(found.times, [0.5, 4.0])
    assert found["loss_barrier"][0, 0] == pytest.approx(1.0115, abs=1e-3)
    np.testing.assert_allclose(found["weight_distance"][:, 0], [2, 0.2])
    assert all(np.isnan(found[name]).all() for name in ("kernel_distance", "error_barrier", "hamming", "disagreement"))
    assert np.isnan(found.spread("loss_barrier")).all()  # one pair
    assert found.stable_from() is None
    assert found.stable_from(0.2, "loss_barrier") == 4.0
    assert [trace.name for trace in found._figure().data] == ["loss barrier"]


def test_linear_models_have_no_barrier_and_one_kernel():
    lines = [Dense(jax.random.key(i), [3, 3], init=0.0) for i in range(2)]
    found = compare_children({0: lines}, DATA)
    # Convex: nothing on the line is above the higher end.
    ends = np.asarray([float(DATA(line)) for line in lines])
    assert found["loss_barrier"][0, 0] == pytest.approx(ends.max() - ends.mean())
    assert found["kernel_distance"][0, 0] <= 1e-12
    assert np.isnan(found["hamming"][0, 0])


class First(eqx.Module):
    """Whatever is on the path, the same network."""

    network: Dense

    def __call__(self, network, t):
        del network, t
        return self.network


def test_networks_on_the_line_are_refreshed():
    ends = NETWORKS[:2]
    assert compare_children({0: ends}, DATA)["loss_barrier"][0, 0] > 0
    assert compare_children({0: ends}, DATA, refresh=First(ends[0]))["loss_barrier"][0, 0] == 0


def test_the_basin_is_decided_where_the_barrier_stays_low():
    barriers = np.array([[0.3], [0.005], [0.2], [0.01], [0.0]])
    measures = {"error_barrier": barriers}
    found = ChildComparison(np.array([0.0, 1, 2, 4, 8]), np.array([[0, 1]]), measures, "full", {}, {})
    assert found.stable_from() == 4
    assert found.stable_from(1.0) == 0
    assert found.stable_from(0.005) == 8
    with pytest.raises(InputError, match="Did you mean 'error_barrier'"):
        found.stable_from(measure="eror_barrier")


def test_comparisons_that_make_no_sense_are_refused():
    one, two = NETWORKS[0], Dense(jax.random.key(0), [3, 4, 3], activation="relu")
    for children in ({0: [one]}, {0: [one, one], 1: [one] * 3}, {}):
        with pytest.raises(InputError, match="two children at least, as many at every time"):
            compare_children(children, DATA)
    with pytest.raises(InputError, match="one architecture and shape"):
        compare_children({0: [one, two]}, DATA)
    with pytest.raises(InputError, match="NaN"):
        compare_children({0: [one, jax.tree.map(lambda a: a * jnp.nan, one)]}, DATA)
    with pytest.raises(InputError, match="num_points must be at least 3"):
        compare_children({0: [one, one]}, DATA, num_points=2)
    with pytest.raises(InputError, match="leaves none"):
        compare_children({0: [one, one]}, DATA, probe=DATA.subset(slice(0, 0)))
