"""Training against closed forms, hand-written loops, and itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Status
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train


@pytest.fixture
def line():
    """Least squares y = w x without bias: data, network and the mean of x x^T and x y."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
    y = x @ jnp.array([[1.0], [-2.0], [0.5]]) + 0.1 * jnp.sin(7 * x[:, :1])
    network = Dense(jax.random.key(3), [3, 1], use_output_bias=False)
    return Landscape(x, y), network, np.asarray(x.T @ x) / 12, np.asarray(x.T @ y)[:, 0] / 12


@pytest.fixture
def curve():
    """A small nonlinear fit without symmetry: no gradient is zero but for rounding, which Adam would blow up."""
    x = jnp.linspace(-1, 0.7, 20)[:, None]
    return Landscape(x, jnp.sin(3 * x) + 0.5), Dense(jax.random.key(1), [1, 6, 1])


def test_gradient_descent_on_least_squares_is_the_closed_form(key, line):
    landscape, network, gram, moment = line
    run = train(key, network, landscape, learning_rate=0.3, num_steps=50, snapshots=[0, 1, 7, 50])
    values, vectors = np.linalg.eigh(gram)
    best = np.linalg.solve(gram, moment)
    start = np.asarray(ravel(network)[0]) - best
    for row, t in zip(run.parameters, run.steps, strict=True):
        exact = best + vectors @ ((1 - 0.3 * values) ** t * (vectors.T @ start))
        np.testing.assert_allclose(row, exact, rtol=1e-12, atol=1e-13)
    assert run.steps.tolist() == [0, 1, 7, 50]
    assert run.status is Status.FINISHED
    assert run.diverged_at is None


def test_snapshots_hold_loss_and_gradient_norm_of_their_parameters(key, curve):
    landscape, network = curve
    run = train(key, network, landscape, optimizer="adam", learning_rate=0.01, num_steps=60, snapshots=9)
    assert run.num_snapshots == 9
    for i in range(9):
        loss, gradient = landscape.value_and_gradient(run.network_at(i))
        np.testing.assert_allclose(run.loss[i], loss, rtol=1e-12)
        np.testing.assert_allclose(run.gradient_norm[i], np.linalg.norm(gradient), rtol=1e-10)
    np.testing.assert_array_equal(ravel(run.network)[0], run.parameters[-1])
    np.testing.assert_array_equal(ravel(network)[0], run.parameters[0])


@pytest.mark.parametrize(
    ("arguments", "transformation"),
    [
        ({"optimizer": "adam", "learning_rate": 0.02}, optax.adam(0.02)),
        ({"optimizer": "adam", "learning_rate": 0.02, "hyperparameters": {"b1": 0.5}}, optax.adam(0.02, b1=0.5)),
        ({"optimizer": optax.adamw, "learning_rate": 0.02}, optax.adamw(0.02)),
        (
            {"optimizer": optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(0.1, momentum=0.9))},
            optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(0.1, momentum=0.9)),
        ),
    ],
    ids=["adam", "adam-b1", "factory", "transformation"],
)
def test_train_equals_a_hand_written_optax_loop(key, curve, arguments, transformation):
    landscape, network = curve
    run = train(key, network, landscape, num_steps=25, snapshots=[25], **arguments)
    layers = [(layer.weight, layer.bias) for layer in network.layers]

    def loss(layers):
        (w, b), (v, c) = layers
        hidden = jnp.tanh(landscape.inputs @ w.T + b[None])
        return 0.5 * jnp.mean((hidden @ v.T + c[None] - landscape.targets) ** 2)

    with jax.numpy_dtype_promotion("standard"):
        state = transformation.init(layers)
        for _ in range(25):
            updates, state = transformation.update(jax.grad(loss)(layers), state, layers)
            layers = optax.apply_updates(layers, updates)
    expected = np.concatenate([np.ravel(a) for a in jax.tree.leaves(layers)])
    np.testing.assert_allclose(run.parameters[0], expected, rtol=1e-9, atol=1e-12)


def test_matrix_transformations_see_the_shapes_of_the_parameters(key, curve):
    landscape, network = curve
    seen = []

    def update(updates, state, params=None):
        seen.append([leaf.shape for leaf in jax.tree.leaves(updates)])
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    spy = optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # noqa: ARG005
    run = train(key, network, landscape, optimizer=spy, num_steps=5, snapshots=[5])
    plain = train(key, network, landscape, learning_rate=0.1, num_steps=5, snapshots=[5])
    assert seen[0] == [(6, 1), (6,), (1, 6), (1,)]
    np.testing.assert_allclose(run.parameters, plain.parameters, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_results_do_not_depend_on_the_chunk_length(key, curve, batch_size):
    landscape, network = curve

    def run(chunk_seconds, **options):
        return train(
            key, network, landscape, optimizer="adam", num_steps=40, batch_size=batch_size, snapshots=12,
            chunk_seconds=chunk_seconds, **options,
        )  # fmt: skip

    whole = run(10.0)
    stepwise = run(0.0)
    seen = []
    watched = run(10.0, observe=lambda step, network: seen.append(step), observe_at=[3, 17, 39])  # noqa: ARG005
    for other in (stepwise, watched, run(1e-4)):
        assert other.parameters.tobytes() == whole.parameters.tobytes()
        assert other.loss.tobytes() == whole.loss.tobytes()
        assert other.gradient_norm.tobytes() == whole.gradient_norm.tobytes()
    assert seen == [3, 17, 39]


def test_only_one_program_is_compiled_for_all_lengths_and_learning_rates(key, curve, caplog):
    landscape, network = curve

    def programs(**options):
        caplog.clear()
        with jax.log_compiles():
            train(key, network, landscape, optimizer="adam", **options)
        return [m for m in (r.getMessage() for r in caplog.records) if "Compiling" in m and "advance" in m]

    programs(num_steps=30, snapshots=[0])
    assert programs(num_steps=77, snapshots=[77], learning_rate=0.3) == []
    assert programs(num_steps=11, snapshots=[3, 7], learning_rate=0.3) != []  # the control: two snapshots are another


def test_same_key_gives_the_same_bytes_and_another_key_does_not(key, curve):
    landscape, network = curve
    run = lambda k: train(k, network, landscape, num_steps=9, batch_size=6, snapshots=[9]).parameters.tobytes()  # noqa: E731
    assert run(key) == run(key)
    assert run(key) != run(jax.random.key(1))


@pytest.mark.parametrize("batch_size", [3, 5])
def test_every_epoch_sees_every_example_once(key, batch_size):
    # The loss <w, x_i> with x_i the i-th unit vector: with rate 1, a batch takes 1 / (its size) off the w of its rows.
    n = 12
    eye = jnp.eye(n)
    landscape = Landscape.from_function(lambda w, x: x @ w, eye)
    per_epoch = -(-n // batch_size)
    run = train(
        key, jnp.zeros(n), landscape, learning_rate=1.0, num_steps=3 * per_epoch, batch_size=batch_size,
        snapshots=range(3 * per_epoch + 1),
    )  # fmt: skip
    moves = -np.diff(run.parameters, axis=0)
    orders = []
    for epoch in np.split(moves, 3):
        rows = [np.flatnonzero(move) for move in epoch]
        assert [len(r) for r in rows] == [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
        assert sorted(np.concatenate(rows)) == list(range(n))
        for move, r in zip(epoch, rows, strict=True):
            np.testing.assert_allclose(move[r], 1 / len(r), rtol=1e-12)
        orders.append(tuple(np.concatenate(rows)))
    assert len(set(orders)) == 3


def test_a_batch_of_all_data_is_the_full_batch(key, curve):
    landscape, network = curve
    full = train(key, network, landscape, num_steps=5, snapshots=[5])
    same = train(key, network, landscape, num_steps=5, snapshots=[5], batch_size=20)
    assert full.parameters.tobytes() == same.parameters.tobytes()


def test_streaming_the_landscape_changes_rounding_only(key, curve):
    landscape, network = curve
    full = train(key, network, landscape, num_steps=20, snapshots=[20])
    streamed = train(key, network, landscape.with_batch_size(7), num_steps=20, snapshots=[20])
    np.testing.assert_allclose(streamed.parameters, full.parameters, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [None, 1])
def test_divergence_is_recorded_with_its_step(key, batch_size):
    # One example x = 1, y = 0: w <- (1 - rate) w, so |w| = 99^t, and w^2 (or its half) soon overflows.
    landscape = Landscape(jnp.ones((2, 1)), jnp.zeros((2, 1)))
    network = Dense(key, [1, 1], use_output_bias=False)
    network = jax.tree.map(jnp.ones_like, network)
    run = train(
        key, network, landscape, learning_rate=100.0, num_steps=1000, snapshots=[0, 50, 1000], batch_size=batch_size
    )
    first = next(t for t in range(1000) if 2 * t * math.log(99.0) - math.log(2) > 1024 * math.log(2))
    assert run.status is Status.DIVERGED
    assert run.diverged_at == first == run.stats["num_steps"]
    assert run.steps.tolist() == [0, 50, first]
    assert np.isfinite(run.loss[:-1]).all()
    assert not np.isfinite(run.loss[-1])


def test_a_run_from_an_infinite_loss_diverges_at_step_0(key):
    landscape = Landscape(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    network = jax.tree.map(lambda w: w * 0 + 1e200, Dense(key, [1, 1], use_output_bias=False))
    run = train(key, network, landscape, num_steps=10, snapshots=[5])
    assert (run.status, run.diverged_at, run.steps.tolist()) == (Status.DIVERGED, 0, [0])


def test_training_ends_at_the_first_step_below_the_gradient_tolerance(key, line):
    landscape, network, _, _ = line
    every = train(key, network, landscape, learning_rate=0.3, num_steps=100, snapshots=range(101))
    tolerance = float(every.gradient_norm[40] * (1 + 1e-9))
    run = train(
        key, network, landscape, learning_rate=0.3, num_steps=100, snapshots=[0, 10, 90], gradient_tolerance=tolerance
    )
    first = int(np.argmax(every.gradient_norm <= tolerance))
    assert run.status is Status.CONVERGED
    assert run.steps.tolist() == [0, 10, first]
    np.testing.assert_allclose(run.parameters[-1], every.parameters[first], rtol=1e-12)
    start = train(key, network, landscape, num_steps=100, gradient_tolerance=1e9)
    assert (start.status, start.steps.tolist()) == (Status.CONVERGED, [0])


def test_minibatches_converge_at_a_snapshot(key, line):
    landscape, network, _, _ = line
    run = train(
        key, network, landscape, learning_rate=0.05, num_steps=400, batch_size=4, snapshots=[0, 200, 300, 400],
        gradient_tolerance=0.1,
    )  # fmt: skip
    assert run.status is Status.CONVERGED
    assert run.steps[-1] in (200, 300)
    assert run.gradient_norm[-1] <= 0.1


def test_observe_is_called_in_order_with_the_network_of_that_step(key, curve):
    landscape, network = curve
    seen = {}
    run = train(key, network, landscape, num_steps=12, snapshots=[0, 4, 12], observe=seen.__setitem__)
    assert list(seen) == [0, 4, 12]
    for i, step in enumerate(seen):
        np.testing.assert_array_equal(ravel(seen[step])[0], run.parameters[i])


def test_a_keyboard_interrupt_passes_and_closes_the_meter(key, curve, capsys):
    landscape, network = curve

    def interrupt(step, network):
        del network
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(key, network, landscape, num_steps=9, observe=interrupt, observe_at=[4], progress="text")
    assert "training" in capsys.readouterr().err


def test_no_steps_give_the_starting_point(key, curve):
    landscape, network = curve
    run = train(key, network, landscape, num_steps=0)
    assert run.steps.tolist() == [0]
    np.testing.assert_array_equal(run.parameters[0], ravel(network)[0])


def test_float32_stays_float32(key):
    x = jnp.linspace(-1, 1, 8, dtype=jnp.float32)[:, None]
    network = Dense(key, [1, 3, 1], dtype=jnp.float32)
    run = train(key, network, Landscape(x, x**2), optimizer="adam", num_steps=10, batch_size=3)
    assert run.parameters.dtype == run.loss.dtype == np.float32
    assert run.network.layers[0].weight.dtype == jnp.float32


def test_to_xarray_labels_steps_and_parameters(key, curve):
    landscape, network = curve
    run = train(key, network, landscape, num_steps=10, snapshots=4, learning_rate=0.2)
    data = run.to_xarray()
    assert data.sizes == {"step": 4, "parameter": 19}
    assert data.attrs["learning_rate"] == 0.2
    np.testing.assert_array_equal(data.parameters.sel(parameter="layers[1].bias").values.ravel(), run.parameters[:, -1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": -1}, "num_steps must be between 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"gradient_tolerance": -1.0}, "gradient_tolerance must be finite"),
        ({"optimizer": "adan"}, "Did you mean 'adam'"),
        ({"learning_rate": -1.0}, "learning_rate must be finite and positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and positive"),
        ({"learning_rate": np.array([0.1, 0.2])}, "train_ensemble takes arrays"),
        ({"hyperparameters": {"b3": 0.1}}, "does not take these hyperparameters"),
        ({"learning_rate": 0.1, "hyperparameters": {"learning_rate": 0.1}}, "given twice"),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "holds its own learning_rate"),
        ({"optimizer": optax.adam}, "does not take these hyperparameters"),
        ({"snapshots": 1}, "snapshots must be at least 2"),
        ({"snapshots": [3, 11]}, "between 0 and num_steps = 10"),
        ({"snapshots": np.array([0.5])}, "list of whole steps"),
        ({"observe": print, "observe_at": [-1]}, "observe_at must lie between"),
        ({"chunk_seconds": -1.0}, "chunk_seconds must not be negative"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(key, curve, options, words):
    landscape, network = curve
    with pytest.raises(InputError, match=words):
        train(key, network, landscape, **{"num_steps": 10, **options})
