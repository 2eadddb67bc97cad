"""Effective width and depth during a training loop."""

import doctest
import logging

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas import atlas, embedding
from lossatlas._errors import InputError
from lossatlas.atlas import _monitor
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer


X = jnp.linspace(-1.0, 1.0, 40)[:, None]
DATA = Landscape(X, jnp.sin(3 * X))


def look(monitor: atlas.Monitor, step: int, network, loss=None) -> atlas.Observation:
    """A look that is due."""
    seen = monitor(step, network, loss)
    assert seen is not None
    return seen


@pytest.fixture(scope="module")
def plateau() -> Dense:
    """Two neurons in a layer of five."""
    as_array = lambda value: jnp.asarray(value, float)  # noqa: E731
    first = DenseLayer(as_array([[3.0], [4.0]]), as_array([1.0, -2.0]), None)
    narrow = Dense.from_layers([first, DenseLayer(as_array([[1.0, -2.0]]), as_array([0.1]), None)], "tanh")
    return embedding.widen(narrow, [5])[0]


def test_copies_are_seen_as_one_small_network(plateau):
    seen = look(atlas.Monitor(DATA, every=10), 20, plateau, 0.25)
    assert (seen.step, seen.loss, seen.words, seen.neurons, seen.depth) == (20, 0.25, "2 neurons", (2,), 1)
    assert seen.parameters == 7
    assert seen.effective_neurons[0] < 2.5


def test_steps_between_two_looks_cost_nothing(plateau):
    monitor = atlas.Monitor(DATA, every=10)
    assert monitor(7, plateau) is None
    assert str(monitor) == "Monitor: looks every 10 steps; nothing seen yet."


def test_missing_loss_is_measured_on_the_probe(plateau):
    seen = look(atlas.Monitor(DATA, every=1, rows=1000), 0, plateau)
    assert seen.loss == pytest.approx(float(DATA(plateau)))


def test_standing_still_is_warned_of_once_for_each_plateau(plateau, caplog):
    monitor = atlas.Monitor(DATA, every=10, patience=3)
    with caplog.at_level(logging.WARNING):
        for step in range(0, 80, 10):
            monitor(step, plateau, 0.25)
    (text,) = monitor.warnings
    assert text.startswith("since step 0 the network is 2 neurons (7 parameters), and the loss stands at 0.25")
    assert [record.getMessage() for record in caplog.records] == [text]
    constant = eqx.tree_at(lambda n: n.layers[1].weight, plateau, jnp.zeros((1, 5)))
    for step in range(80, 110, 10):
        monitor(step, constant, 0.25)
    assert len(monitor.warnings) == 2
    assert monitor.warnings[1].startswith("since step 80 the network is a constant (1 parameter)")


def test_falling_loss_is_no_plateau(plateau):
    monitor = atlas.Monitor(DATA, every=1, patience=3)
    for step in range(8):
        monitor(step, plateau, 0.9**step)
    assert not monitor.warnings


def test_history_is_labelled(plateau):
    monitor = atlas.Monitor(DATA, every=5)
    for step in range(0, 11, 5):
        monitor(step, plateau, jnp.asarray(0.5))
    history = monitor.history
    assert dict(history.sizes) == {"step": 3, "layer": 1}
    assert history["neurons"].sel(step=10, layer="hidden[0]").item() == 2
    assert history["words"].to_numpy().tolist() == ["2 neurons"] * 3
    took, share = monitor.overhead
    assert took == pytest.approx(float(history["seconds"].sum()))
    assert 0 < share <= 1
    assert "3 looks" in str(monitor)


def test_parameters_that_are_not_finite_end_no_loop(plateau):
    lost = eqx.tree_at(lambda n: n.layers[0].bias, plateau, jnp.full(5, jnp.nan))
    assert look(atlas.Monitor(DATA, every=1), 0, lost, float("nan")).words == "not finite"


@pytest.mark.slow
def test_torch_module_is_watched_through_a_converter():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    with torch.no_grad():
        module[0].weight[3:] = module[0].weight[:3]
        module[0].bias[3:] = module[0].bias[:3]

    def convert(model):
        first, _, last = model
        arrays = [tuple(jnp.asarray(p.detach().numpy()) for p in (m.weight, m.bias)) for m in (first, last)]
        return Dense.from_layers([DenseLayer(weight, bias, None) for weight, bias in arrays], "tanh")

    data = Landscape(X.astype(jnp.float32), DATA.targets.astype(jnp.float32))
    seen = look(atlas.Monitor(data, every=1, convert=convert, tolerance=1e-3), 0, module)
    assert seen.neurons[0] + seen.linear[0] <= 3
    assert np.isfinite(seen.loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"rows": 1}, "rows must be at least 2"),
        ({"patience": 1}, "patience must be at least 2"),
        ({"tolerance": 1e-9}, "tolerance is a share"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        atlas.Monitor(DATA, **options)


def test_other_networks_and_steps_backwards_are_refused(plateau, key):
    monitor = atlas.Monitor(DATA, every=1)
    with pytest.raises(InputError, match="got MLP"):
        monitor(0, eqx.nn.MLP(1, 1, 2, 1, key=key))
    monitor(3, plateau)
    with pytest.raises(InputError, match="steps must grow"):
        monitor(3, plateau)
    bare = Landscape.from_function(lambda _, batch: batch, X[:, 0])
    with pytest.raises(InputError, match="with targets"):
        atlas.Monitor(bare)


def test_example_of_the_docstring_runs():
    assert optax.sgd(0.1) is not None  # what the example needs
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(atlas.Monitor, "Monitor", globs={"atlas": _monitor})
    assert example.examples
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
