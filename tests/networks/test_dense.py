import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.networks import Dense, DenseLayer, initialisation_names, named_parameters, num_parameters, weight_std


KEY = jax.random.key(0)


def test_network_computes_its_formula():
    network = Dense(KEY, [3, 4, 2, 2], num_linear=[2, 0], activation="sigmoid", init="ntk")
    x = np.array([0.3, -1.0, 2.0])
    first, second, last = (
        tuple(None if a is None else np.asarray(a) for a in (layer.weight, layer.bias, layer.linear))
        for layer in network.layers
    )

    def sigmoid(t):
        return 1 / (1 + np.exp(-t))

    one = np.concatenate([sigmoid(first[0] @ x + first[1]), first[2] @ x])
    two = sigmoid(second[0] @ one + second[1])
    np.testing.assert_allclose(network(jnp.asarray(x)), last[0] @ two + last[1], atol=1e-14)
    for got, expected in zip(network.features(jnp.asarray(x)), (x, one, two, last[0] @ two + last[1]), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-14)


def test_sizes_and_parameter_count():
    network = Dense(KEY, [4, 50, 50, 3])
    assert network.widths == (4, 50, 50, 3)
    assert network.num_linear == (0, 0)
    assert num_parameters(network) == 2953  # as printed for this network
    mixed = Dense(KEY, [4, 1, 3], num_linear=1)
    assert num_parameters(mixed) == 4 + 1 + 4 + 2 * 3 + 3
    assert num_parameters(Dense(KEY, [4, 2, 3], use_bias=False, use_output_bias=False)) == 8 + 6
    assert list(named_parameters(mixed)) == [
        "layers[0].weight",
        "layers[0].bias",
        "layers[0].linear",
        "layers[1].weight",
        "layers[1].bias",
    ]


def test_network_without_neurons_is_its_linear_part():
    network = Dense(KEY, [3, 0, 2], num_linear=2)
    x = jnp.array([0.3, -1.0, 2.0])
    linear, bias = network.layers[0].linear, network.layers[1].bias
    assert linear is not None
    assert bias is not None
    expected = network.layers[1].weight @ linear @ x + bias
    np.testing.assert_allclose(network(x), expected, atol=1e-15)


def test_linear_models_have_no_hidden_spaces():
    assert Dense(KEY, [3, 2]).unit_spaces() == {}


@pytest.mark.parametrize("name", [*initialisation_names(), 1.5])
def test_initial_weights_have_the_named_spread(name):
    network = Dense(KEY, [40, 300, 200], init=name)
    for i, (fan_in, fan_out) in enumerate(((40, 300), (300, 200))):
        expected = weight_std(name, fan_in, fan_out, is_output=i == 1)
        weight = np.asarray(network.layers[i].weight)
        # Five standard errors of a standard deviation over the entries.
        assert weight.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * weight.size))
    biases = np.asarray(network.layers[0].bias)
    assert (biases.std() > 0.05) == (name == "ntk")
    assert weight_std(1.5, 4, 50, is_output=False) == pytest.approx(50**-1.5)


def test_same_key_same_network_and_float32_on_request():
    one, two = Dense(KEY, [3, 4, 2]), Dense(KEY, [3, 4, 2])
    np.testing.assert_array_equal(one.layers[0].weight, two.layers[0].weight)
    assert Dense(KEY, [3, 4, 2], dtype=jnp.float32).layers[0].weight.dtype == jnp.float32


def test_with_sizes_resizes_and_zeroes():
    network = Dense(KEY, [3, 4, 2, 2], num_linear=[1, 0])
    other = network.with_sizes({"hidden[0]": 6, "linear[0]": 0, "linear[1]": 2})
    assert other.widths == (3, 6, 2, 2)
    assert other.num_linear == (0, 2)
    assert not any(np.asarray(a).any() for a in jax.tree.leaves(other))
    assert other.activation is network.activation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Dense(KEY, [3]), "widths must list"),
        (lambda: Dense(KEY, [0, 2, 1]), "widths must list"),
        (lambda: Dense(KEY, [3, -1, 1]), "negative number of units"),
        (lambda: Dense(KEY, [3, 2, 1], num_linear=[1, 1]), "one entry per hidden layer"),
        (lambda: Dense(KEY, [3, 2, 1], activation="tanhh"), "Did you mean 'tanh'"),
        (lambda: Dense(KEY, [3, 2, 1], init="glorott"), "Did you mean 'glorot'"),
        (lambda: Dense(KEY, [3, 2, 1], init=float("nan")), "finite"),
        (lambda: Dense(KEY, [3, 2, 1]).with_sizes({"hidden[1]": 2}), r"Known: hidden\[0\]"),
        (lambda: Dense(KEY, [3, 2, 1]).with_sizes({"hidden[0]": -1}), "must not be negative"),
        (
            lambda: Dense.from_layers([DenseLayer(jnp.ones((2, 3)), None), DenseLayer(jnp.ones((1, 3)), None)]),
            r"layers\[1\].weight has shape \(1, 3\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
