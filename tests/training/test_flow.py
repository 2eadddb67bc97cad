"""The gradient flow against its closed form on least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Status
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import _flow, gradient_flow, train


@pytest.fixture
def problem():
    """Least squares with curvatures over three decades."""
    x = np.random.default_rng(0).normal(size=(12, 3)) * np.array([1.0, 0.3, 0.05])
    y = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * np.sin(7 * x[:, :1])
    network = Dense(jax.random.key(3), [3, 1], use_output_bias=False)
    return Landscape(x, y), network, x.T @ x / 12, x.T @ y[:, 0] / 12


@pytest.mark.parametrize("solver", ["tsit5", "kvaerno5"])
def test_flow_on_least_squares_is_the_matrix_exponential(problem, solver):
    landscape, network, gram, moment = problem
    flow = gradient_flow(network, landscape, t1=30.0, rtol=1e-9, atol=1e-12, snapshots=6, solver=solver)
    values, vectors = np.linalg.eigh(gram)
    best = np.linalg.solve(gram, moment)
    start = vectors.T @ (np.asarray(ravel(network)[0]) - best)
    exact = np.stack([best + vectors @ (np.exp(-t * values) * start) for t in flow.times])
    np.testing.assert_allclose(flow.parameters, exact, atol=2e-8)
    assert flow.times[0] == 0
    assert flow.times[-1] == 30
    assert flow.status is Status.FINISHED
    loss = [0.5 * np.mean((landscape.inputs @ w - landscape.targets[:, 0]) ** 2) for w in exact]
    np.testing.assert_allclose(flow.loss, loss, atol=1e-8)
    np.testing.assert_allclose(flow.gradient_norm, np.linalg.norm(exact @ gram - moment, axis=1), atol=1e-7)


def test_looser_tolerances_cost_fewer_steps_and_more_error(problem):
    landscape, network, _, _ = problem
    fine, coarse = (gradient_flow(network, landscape, t1=30.0, rtol=r, atol=r, snapshots=2) for r in (1e-10, 1e-3))
    assert coarse.stats["num_accepted"] < fine.stats["num_accepted"]
    assert 1e-9 < np.abs(coarse.parameters - fine.parameters).max() < 1e-2


def test_gradient_descent_approaches_the_flow_at_first_order(key):
    x = jnp.linspace(-1, 1, 10)[:, None]
    landscape, network = Landscape(x, jnp.sin(3 * x)), Dense(key, [1, 4, 1])
    flow = gradient_flow(network, landscape, t1=2.0, rtol=1e-9, atol=1e-11, snapshots=[2.0])
    errors = []
    for rate in (0.02, 0.01):
        steps = round(2.0 / rate)
        run = train(key, network, landscape, learning_rate=rate, num_steps=steps, snapshots=[steps])
        errors.append(np.abs(run.parameters[0] - flow.parameters[0]).max())
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


def test_flow_ends_at_the_gradient_tolerance(problem):
    landscape, network, _, _ = problem
    flow = gradient_flow(network, landscape, t1=100.0, snapshots=20, gradient_tolerance=0.05)
    assert flow.status is Status.CONVERGED
    assert flow.gradient_norm[-1] <= 0.05 < flow.gradient_norm[-2]
    np.testing.assert_array_equal(ravel(flow.network)[0], flow.parameters[-1])
    np.testing.assert_array_equal(ravel(flow.network_at(-1))[0], flow.parameters[-1])


def test_too_few_solver_steps_are_a_status(problem):
    landscape, network, _, _ = problem
    flow = gradient_flow(network, landscape, t1=1e4, rtol=1e-9, snapshots=[0.0, 1e4], max_steps=3)
    assert flow.status is Status.MAX_STEPS
    assert flow.times.tolist() == [0.0]
    assert flow.to_xarray().sizes["time"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t1": 0.0}, "t1 must be finite and positive"),
        ({"rtol": -1.0}, "rtol must be finite and positive"),
        ({"solver": "euler"}, "Unknown solver 'euler'"),
        ({"snapshots": [0.0, 2.0]}, "times between 0 and t1 = 1.0"),
        ({"snapshots": 1}, "at least 2"),
    ],
)
def test_bad_input_is_refused(problem, options, words):
    landscape, network, _, _ = problem
    with pytest.raises(InputError, match=words):
        gradient_flow(network, landscape, **{"t1": 1.0, **options})


@pytest.mark.parametrize(("exhausted", "status"), [(True, Status.MAX_STEPS), (False, Status.STALLED)])
def test_a_solver_that_fails_is_told_from_one_that_runs_out_of_steps(problem, monkeypatch, exhausted, status):
    """A stand-in for diffrax, whose other failures need a broken solver."""

    def integrate(problem, vector, *_):
        del problem
        return vector, jnp.zeros(2, int), jnp.asarray(False), jnp.asarray(exhausted)

    monkeypatch.setattr(_flow, "_integrator", lambda *_: integrate)
    landscape, network, _, _ = problem
    flow = gradient_flow(network, landscape, t1=1.0, snapshots=[0.0, 1.0])
    assert flow.status is status
    assert flow.times.tolist() == [0.0]
