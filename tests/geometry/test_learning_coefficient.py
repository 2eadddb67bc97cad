"""The learning coefficient and local entropy against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geometry.flatness_points import bowl, classifier
from lossatlas._errors import InputError
from lossatlas.geometry import learning_coefficient, local_entropy, quadratic_learning_coefficient
from lossatlas.landscape import Landscape


KEY = jax.random.key(0)


def test_the_calibration_of_the_card():
    """12 eigenvalues from 0.1 to 10 at n beta = 100: numbers known from an independent calculation."""
    values = np.logspace(-1, 1, 12)
    expected = {(1e-3, 0.0): 6.432, (1e-3, 50.0): 4.135, (3e-3, 0.0): 8.581, (0.0, 0.0): 6.0}
    for (step, gamma), value in expected.items():
        assert quadratic_learning_coefficient(values, 100.0, gamma, step) == pytest.approx(value, abs=6e-4)
    assert quadratic_learning_coefficient([0.0, 0.0, 3.0], 100.0) == 0.5
    assert math.isnan(quadratic_learning_coefficient([1.0, -1.0], 100.0, 50.0))
    with pytest.raises(InputError, match="must be below 0.004"):
        quadratic_learning_coefficient(values, 100.0, 0.0, 4e-3)


def test_chains_on_a_quadratic_give_the_discretised_formula():
    matrix, point, landscape = bowl(np.logspace(0, 1, 4))
    found = learning_coefficient(
        KEY, point, landscape, inverse_temperature=100.0, localisation=50.0, num_steps=8000, burn_in=200, num_chains=2
    )
    values = np.linalg.eigvalsh(matrix)
    exact = quadratic_learning_coefficient(values, 100.0, 50.0, found.step_size)
    assert found.quadratic == pytest.approx(exact, rel=1e-9)
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.05 * exact
    assert found.discretisation_bias == pytest.approx(exact - quadratic_learning_coefficient(values, 100.0, 50.0))
    assert found.localisation_bias < 0
    assert found.quadratic_free == 2.0
    assert found.warnings == ()
    # The mean square distance from the minimum has a closed form too.
    h = 100 * values + 50
    assert found.distance == pytest.approx(np.sqrt(np.sum(1 / (h * (1 - found.step_size * h / 4)))), rel=0.05)


@pytest.mark.slow
def test_the_temperature_is_that_of_the_data_and_not_of_the_batch():
    network, landscape = classifier(widths=(2, 2, 2))
    full, batch = (
        learning_coefficient(KEY, network, landscape, num_steps=2000, num_chains=2, localisation=1e3, batch_size=size)
        for size in (None, 8)
    )
    assert full.inverse_temperature == batch.inverse_temperature == pytest.approx(30 / math.log(30))
    error = np.hypot(full.standard_error, batch.standard_error)
    assert abs(full.value - batch.value) < 5 * error
    assert error < 0.3 * max(abs(full.value), 0.3)
    assert math.isnan(batch.acceptance)
    assert 0 < full.acceptance <= 1


def test_what_speaks_against_a_number_is_said():
    _, point, saddle = bowl([5.0, 1.0, -1.0])
    found = learning_coefficient(
        KEY, point, saddle, inverse_temperature=100.0, localisation=1.0, num_steps=300, num_chains=2
    )
    text = " ".join(found.warnings)
    assert "outweighs the localisation" in text
    assert math.isnan(found.quadratic)
    assert "from 100 on" in text
    _, point, landscape = bowl([5.0, 1.0])
    short = learning_coefficient(
        KEY, point, landscape, inverse_temperature=100.0, localisation=0.0, num_steps=250, step_size=1e-5, num_chains=2
    )
    assert any("not reached their law" in warning for warning in short.warnings)
    coarse = learning_coefficient(
        KEY, point, landscape, inverse_temperature=100.0, localisation=0.0, num_steps=200, step_size=5e-3, num_chains=2
    )
    assert any("The step adds" in warning for warning in coarse.warnings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_size": 0.01}, "step_size=0.01 is unstable.*below 0.00364"),
        ({"step_size": -1.0}, "step_size must be finite and positive"),
        ({"inverse_temperature": 0.0}, "inverse_temperature must be finite and positive"),
        ({"num_steps": 10, "burn_in": 5}, "num_steps must exceed burn_in by at least 8"),
        ({"inverse_temperature": None}, "needs at least 2 examples"),
    ],
)
def test_the_learning_coefficient_refuses(options, words):
    _, point, landscape = bowl([10.0, 1.0])
    with pytest.raises(InputError, match=words):
        learning_coefficient(KEY, point, landscape, **({"inverse_temperature": 100.0} | options))


def test_local_entropy_of_a_quadratic_is_the_closed_form():
    values, w = np.asarray([0.3, 1.0, 4.0]), np.asarray([1.0, -0.5, 0.7])
    matrix, point, landscape = bowl(values, at=w)
    found = local_entropy(
        KEY, point, landscape, inverse_temperature=50.0, localisation=60.0, num_steps=4000, num_chains=2, num_points=4,
        method="mala",
    )  # fmt: skip
    gamma = found.gamma
    assert gamma == pytest.approx(1.2)
    shrunk = gamma * matrix @ np.linalg.inv(matrix + gamma * np.eye(3))
    exact = 0.5 * w @ shrunk @ w + np.sum(np.log1p(values / gamma)) / 100
    assert abs(found.value - exact) < 4 * found.standard_error + 2e-3 * exact
    assert found.standard_error < 0.02 * exact
    np.testing.assert_allclose(found.gradient, shrunk @ w, atol=0.06)
    assert found.loss == pytest.approx(0.5 * w @ matrix @ w)
    assert found.rise == found.value - found.loss
    assert found.discretisation_bias == 0  # a Metropolis test takes it away
    assert found.localisation == pytest.approx(60.0)
    with pytest.raises(InputError, match="localisation must be finite and positive"):
        local_entropy(KEY, point, landscape, localisation=0.0)
    with pytest.raises(InputError, match="num_points must be at least 2"):
        local_entropy(KEY, point, landscape, num_points=1)


def test_local_entropy_says_what_the_step_of_its_chains_adds():
    values = np.asarray([0.3, 1.0, 4.0])
    _, point, landscape = bowl(values)
    beta, stiffness, step = 50.0, 60.0, 4 * 0.4 / 260.0  # the largest h is 260
    options = {"inverse_temperature": beta, "localisation": stiffness, "num_chains": 2, "num_points": 4}
    found = local_entropy(KEY, point, landscape, step_size=step, num_steps=4000, **options)
    exact = np.sum(np.log1p(values * beta / stiffness)) / (2 * beta)
    # At every s the step is the same share of the largest; a quadrature of its own, by the trapezoidal rule in s.
    s = np.linspace(0.0, 1.0, 2001)[:, None]
    h = s * beta * values + stiffness
    steps = 4 * 0.4 / h.max(1, keepdims=True)
    added = 0.5 * np.sum(values * (1 / (h * (1 - steps * h / 4)) - 1 / h), axis=1)
    assert found.discretisation_bias == pytest.approx(np.trapezoid(added, s[:, 0]), rel=5e-3)
    assert found.value - exact > 6 * found.standard_error
    assert abs(found.value - found.discretisation_bias - exact) < 4 * found.standard_error
    low, high = found.interval()
    assert low < exact < found.value < high
    assert high - found.value < 0.5 * (found.value - low)


@pytest.mark.slow
def test_chains_give_the_formula_to_two_per_cent():
    """64 chains of 20,000 steps on twelve eigenvalues, in the three settings of the card."""
    _, point, landscape = bowl()
    for step, gamma, exact in ((1e-3, 0.0, 6.432), (1e-3, 50.0, 4.135), (3e-3, 0.0, 8.581)):
        found = learning_coefficient(
            KEY, point, landscape, inverse_temperature=100.0, localisation=gamma, step_size=step, num_steps=20_000,
            burn_in=4000, num_chains=64,
        )  # fmt: skip
        assert found.value == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [100.0, 1000.0])
def test_chains_on_fourth_powers_give_a_quarter_for_each_at_any_temperature(beta):
    """`sum w_i^4` has no curvature at its minimum: what is measured is no Hessian. 1/(2k) for w^(2k)."""
    fn = lambda params, batch: jnp.sum(batch * params[None] ** 4, axis=1)  # noqa: E731
    landscape = Landscape.from_function(fn, jnp.ones((1, 5)))
    # Lengths scale as beta^(-1/4), so the step that resolves them equally well as beta^(-1/2).
    found = learning_coefficient(
        KEY, jnp.zeros(5), landscape, inverse_temperature=beta, localisation=0.0,
        step_size=2e-4 * (100.0 / beta) ** 0.5, num_steps=12_000, num_chains=128,
    )  # fmt: skip
    assert found.value == pytest.approx(1.25, rel=0.02)
    assert found.quadratic_free == 0
