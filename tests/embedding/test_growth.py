"""Growth by one unit: what is promised is kept, and what saves most comes first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from lossatlas import Landscape, data
from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.atlas import make_catalogue
from lossatlas.embedding import plan_growth
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Conv, Dense, Recurrent
from lossatlas.theory import split_inertia


KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def planted():
    network = Dense(jax.random.key(1), [2, 3, 2])
    inputs = jax.random.normal(jax.random.key(2), (60, 2))
    return network, plant_landscape(jax.random.key(3), network, inputs, amplitude=0.5)


def test_decreases_are_real_and_in_order(planted):
    network, landscape = planted
    ways = plan_growth(network, landscape)
    assert len(ways) == 1 + 3 * 3
    before = float(landscape(network))
    for way in ways:
        assert before - float(landscape(way.network)) == pytest.approx(way.decrease, abs=1e-12)
        assert way.network.widths == (2, 4, 2)
    assert [way.decrease for way in ways] == sorted((way.decrease for way in ways), reverse=True)
    assert ways[0].decrease > 0
    assert "loss falls by" in str(ways[0])


def test_curvature_is_that_of_the_theory(planted):
    network, landscape = planted
    for way in plan_growth(network, landscape, shares=[0.5]):
        if way.unit is not None:
            # A split into halves opens directions of unit length; the theory scales them the same way.
            predicted = split_inertia(network, landscape, way.space, way.unit, 0.5).lowest
            assert np.sign(way.curvature) == np.sign(min(predicted, 0.0))
            assert way.curvature == pytest.approx(min(predicted, 0.0), rel=1e-6)


@pytest.mark.slow
def test_the_realised_decrease_leads_where_curvature_does_not():
    landscape = data.load("hierarchy-1d").landscape()
    catalogue = make_catalogue(jax.random.key(0), landscape, sizes=[(1, 0), (2, 0)])
    (best,) = [entry.network for entry in catalogue.of_size(2, 0) if abs(entry.loss - 0.1547960483) < 1e-9]
    ways = plan_growth(best, landscape)
    halves = [way for way in ways if way.share == 0.5]
    steepest = min(halves, key=lambda way: way.curvature)
    ends = {name: _descended(way.network, landscape) for name, way in (("first", ways[0]), ("steepest", steepest))}
    assert ends["first"] < 1e-6
    assert ends["steepest"] > 0.1


def _descended(network, landscape):
    vector, unravel = ravel(network)
    fn = jax.jit(jax.value_and_grad(lambda v: landscape(unravel(v))))
    both = lambda v: [np.asarray(a) for a in fn(jnp.asarray(v))]  # noqa: E731
    options = {"maxiter": 3000, "ftol": 1e-16, "gtol": 1e-12}
    end = minimize(both, np.asarray(vector), jac=True, method="L-BFGS-B", options=options)
    return float(end.fun)


@pytest.mark.parametrize(
    ("network", "shape", "space"),
    [(Conv(KEY, (1, 4, 4), [2], [2]), (1, 4, 4), "channels[0]"), (Recurrent(KEY, 2, 2, 2), (3, 2), "hidden[0]")],
)
def test_other_architectures_grow_too(network, shape, space):
    inputs = jax.random.normal(jax.random.key(2), (60, *shape))
    landscape = plant_landscape(jax.random.key(3), network, inputs, amplitude=0.5)
    best = plan_growth(network, landscape, spaces=[space])[0]
    assert best.decrease > 0
    assert best.network.unit_spaces()[space].size == network.unit_spaces()[space].size + 1


def test_at_a_perfect_fit_nothing_is_to_be_saved():
    network = Dense(jax.random.key(1), [2, 3, 2])
    inputs = jax.random.normal(jax.random.key(2), (20, 2))
    ways = plan_growth(network, Landscape(inputs, jax.vmap(network)(inputs)))
    assert max(way.decrease for way in ways) < 1e-20


def test_too_large_units_are_refused(planted):
    network, landscape = planted
    with pytest.raises(InputError, match="max_size=2"):
        plan_growth(network, landscape, max_size=2)
    with pytest.raises(InputError, match="Did you mean 'hidden"):
        plan_growth(network, landscape, spaces=["hiden[0]"])
