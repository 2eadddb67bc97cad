import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures import ARCHITECTURES
from lossatlas._errors import InputError
from lossatlas.geometry import ntk
from lossatlas.geometry._ntk import make_recipe
from lossatlas.geometry._ntk_source import as_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, replace_parameters


def inputs_of(shape, num=5):
    return np.random.default_rng(0).normal(size=(num, *shape))


def agree(found, wanted, tol=1e-12):
    assert np.abs(found - wanted).max() <= tol * np.abs(wanted).max()


# -- the methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear units", "recurrent"])
def test_structure_and_contraction_agree_layer_by_layer_and_in_batches(name):
    network, shape = ARCHITECTURES[name]
    x = inputs_of(shape)
    wanted = ntk(network, x, convention="full", method="contraction", per_layer=True)
    found = ntk(network, x, convention="full", method="structured", per_layer=True, batch_size=2)
    agree(found.matrix, wanted.matrix)
    assert found.layers.keys() == wanted.layers.keys()
    for layer, matrix in found.layers.items():
        agree(matrix, wanted.layers[layer])
    agree(sum(found.layers.values()), found.matrix)
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "batch norm" not in name])
@pytest.mark.parametrize("convention", ["full", "trace", "sum_logits"])
def test_all_methods_agree_on_every_architecture(name, convention):
    network, shape = ARCHITECTURES[name]
    x = inputs_of(shape)
    wanted = ntk(network, x, convention=convention, method="contraction").matrix
    for method in ("structured", "products", "auto"):
        agree(ntk(network, x, convention=convention, method=method).matrix, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tol"), [("float32", 1e-5), ("float64", 1e-12)])
def test_all_methods_agree_at_the_size_of_digits(dtype, tol):
    network = Dense(jax.random.key(0), [64, 64, 64, 10], activation="relu", init="he", dtype=dtype)
    x = inputs_of((64,), 200).astype(dtype)
    wanted = ntk(network, x, convention="full", method="contraction").matrix
    assert wanted.dtype == dtype
    for method in ("structured", "products"):
        agree(ntk(network, x, convention="full", method=method).matrix, wanted, tol)


@pytest.mark.parametrize("convention", ["full", "trace", "sum_logits"])
def test_kernels_are_those_of_the_jacobian(convention):
    network, x = Dense(jax.random.key(1), [3, 4, 2], activation="gelu"), inputs_of((3,))
    jacobian = np.asarray(Landscape(x, np.zeros((5, 2))).jacobian(network))
    full = np.einsum("icp,jdp->icjd", jacobian, jacobian)
    wanted = {
        "full": full.reshape(10, 10),
        "trace": np.einsum("icjc->ij", full) / 2,
        "sum_logits": full.sum((1, 3)) / 2,
    }[convention]
    for method in ("structured", "contraction", "products") if convention == "full" else ("structured",):
        found = ntk(network, x, convention=convention, method=method)
        agree(found.matrix, wanted)
        assert (found.method, found.convention, found.num_outputs) == (method, convention, 2)


def test_kernel_between_sets_is_the_block_of_the_kernel_of_both():
    network, x = Dense(jax.random.key(1), [3, 4, 2]), inputs_of((3,), 7)
    whole = ntk(network, x, convention="full").matrix
    for method in ("structured", "products"):
        agree(ntk(network, x[:3], x[3:], convention="full", method=method, batch_size=2).matrix, whole[:6, 6:])


def test_filters_leave_the_part_of_their_parameters():
    network, x = Dense(jax.random.key(1), [3, 4, 2]), inputs_of((3,))
    whole = ntk(network, x, per_layer=True)
    agree(ntk(network, x, only="layers[0].*").matrix, whole.layers["layers[0]"])
    agree(sum(ntk(network, x, only=f"*.{name}").matrix for name in ("weight", "bias")), whole.matrix)


def test_auto_takes_the_method_that_costs_least():
    class Odd(eqx.Module):  # no structure, and more outputs than makes gradients worth forming
        weight: jax.Array

        def __call__(self, x):
            return jnp.tanh(self.weight) @ x

    network = Odd(jax.random.normal(jax.random.key(0), (30, 6)))
    found = ntk(network, inputs_of((6,)), convention="full")
    assert found.method == min(found.stats["costs"], key=found.stats["costs"].get) == "products"
    agree(found.matrix, ntk(network, inputs_of((6,)), convention="full", method="structured").matrix)
    assert ntk(Dense(jax.random.key(0), [6, 9, 3]), inputs_of((6,))).method == "structured"


# -- closed forms ------------------------------------------------------------------------------------------------


class OneHidden(eqx.Module):
    """f = a . relu(W x) / sqrt(m)."""

    weight: jax.Array
    readout: jax.Array

    def __call__(self, x):
        return (self.readout @ jax.nn.relu(self.weight @ x) / np.sqrt(len(self.readout)))[None]


def test_one_hidden_layer_has_the_closed_form():
    rng = np.random.default_rng(0)
    w, a, x = rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=(6, 3))
    hidden = x @ w.T
    is_open, values = (hidden > 0).astype(float), np.maximum(hidden, 0)
    wanted = ((a**2 * is_open) @ is_open.T * (x @ x.T) + values @ values.T) / 7
    network = OneHidden(jnp.asarray(w), jnp.asarray(a))
    for method in ("structured", "contraction"):
        agree(ntk(network, x, method=method).matrix, wanted)


def test_wide_network_reaches_the_arc_cosine_value():
    # Unit vectors at 60 degrees: (x.x')(pi - t)/(2 pi) + (sin t + (pi - t) cos t)/(2 pi) = 0.471165.
    rng = np.random.default_rng(0)
    network = OneHidden(jnp.asarray(rng.normal(size=(2**17, 2))), jnp.asarray(rng.normal(size=2**17)))
    x = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    assert ntk(network, x).matrix[0, 1] == pytest.approx(0.471165, rel=0.01)


def test_scaling_a_homogeneous_network_scales_its_kernel():
    network = Dense(jax.random.key(0), [6, 9, 8, 3], activation="relu", use_bias=False, use_output_bias=False)
    scaled = jax.tree.map(lambda a: 1.7 * a, network)
    x = inputs_of((6,))
    agree(ntk(scaled, x, convention="full").matrix, 1.7**4 * ntk(network, x, convention="full").matrix, 1e-10)


def test_slopes_at_the_kink_are_those_of_jax():
    # With zero biases a ReLU on an input of zeros stands at its kink, where jax.nn.relu has the slope 0.
    network = Dense(jax.random.key(0), [3, 4, 2], activation="relu")
    x = np.zeros((2, 3))
    found = [ntk(network, x, method=method, per_layer=True) for method in ("structured", "contraction")]
    assert np.abs(found[0].layers["layers[0]"]).max() == 0
    agree(found[0].matrix, found[1].matrix)


# -- networks of others ------------------------------------------------------------------------------------------


class Odds(eqx.Module):
    """Weights behind a factor, shared, normalised, sliced, and a constant in front of the data."""

    scaled: jax.Array
    tied: jax.Array
    direction: jax.Array
    length: jax.Array
    fused: jax.Array
    first: jax.Array
    count: jax.Array

    def __call__(self, x):
        h = jnp.tanh(-(self.scaled * 0.5) @ x / np.sqrt(3))
        h = jnp.tanh(self.tied @ h) @ self.tied + h  # in and out by the same weights
        h = jnp.tanh((self.length / jnp.linalg.norm(self.direction) * self.direction) @ h)
        a, b = jnp.split(self.fused, 2)
        return (self.first @ (a + b)) @ h


def test_parameters_without_structure_have_their_gradients_formed():
    keys = iter(jax.random.split(jax.random.key(0), 6))
    normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
    network = Odds(normal(4, 3), normal(5, 4), normal(4, 4), normal(), normal(6, 4), normal(2, 3), jnp.arange(2))
    x = inputs_of((3,))
    found = ntk(network, x, convention="full", method="structured")
    assert found.settings["formed"] == ("tied", "direction", "length", "fused")
    agree(found.matrix, ntk(network, x, convention="full", method="contraction").matrix)


def test_equinox_layers_have_structure():
    keys = jax.random.split(jax.random.key(0), 5)
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 3, 3, stride=2, padding=1, dilation=2, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.ConvTranspose2d(3, 4, 2, stride=2, key=keys[1]),
            eqx.nn.Conv2d(4, 4, 3, groups=2, use_bias=False, key=keys[2]),
            eqx.nn.Lambda(lambda x: x.reshape(-1)),
            eqx.nn.LayerNorm(16),
            eqx.nn.Linear(16, 2, key=keys[3]),
        ]
    )
    x = inputs_of((2, 6, 6), 3)
    found = ntk(network, x, convention="full", method="structured", batch_size=2)
    agree(found.matrix, ntk(network, x, convention="full", method="contraction").matrix)
    formed = set(found.settings["formed"])
    assert not any(path.endswith(".weight") and "layers[5]" not in path for path in formed if "[1]" not in path)


@pytest.mark.slow
def test_torch_modules_have_kernels_as_torch_computes_them():
    torch = pytest.importorskip("torch")
    from lossatlas.interop import torch_function

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    x = torch.from_numpy(inputs_of((3,)))
    predict = lambda params, example: torch.func.functional_call(module, params, (example[None],))[0]  # noqa: E731
    jacobians = torch.func.vmap(torch.func.jacrev(predict), (None, 0))(dict(module.named_parameters()), x)
    flat = torch.cat([j.reshape(5, 2, -1) for j in jacobians.values()], dim=2).detach().numpy()
    wanted = np.einsum("icp,jdp->icjd", flat, flat).reshape(10, 10)
    network = torch_function(module, x[0])
    found = ntk(network, x.numpy(), convention="full", method="structured")
    agree(found.matrix, wanted)
    assert found.settings["formed"] == ()


def test_functions_of_a_batch_have_kernels_where_examples_are_alone():
    weight = np.random.default_rng(1).normal(size=(3,))
    x = inputs_of((3,))
    fn = lambda params, batch: 0.5 * (batch[0] @ params["w"]) ** 2  # noqa: E731
    predict = lambda params, batch: batch[0] @ params["w"]  # noqa: E731
    landscape = Landscape.from_function(fn, (x, np.zeros(5)), predict)
    params = {"w": jnp.asarray(weight)}
    for method in ("structured", "products"):
        agree(ntk(params, landscape, method=method).matrix, x @ x.T)
    mixed = Landscape.from_function(fn, (x, np.zeros(5)), lambda p, b: predict(p, b) - predict(p, b).mean())
    with pytest.raises(InputError, match="other predictions for an example alone"):
        ntk(params, mixed)
    with pytest.raises(InputError, match="without `predict`"):
        ntk(params, Landscape.from_function(fn, (x, np.zeros(5))))


def test_networks_of_one_shape_share_what_is_traced():
    data = as_landscape(inputs_of((3,)))
    recipe = lambda network, **options: make_recipe(  # noqa: E731
        network, data, None, "trace", "auto", options.get("only"), batch_size=options.get("batch_size")
    )[0]
    first = recipe(Dense(jax.random.key(0), [3, 4, 2]))
    assert recipe(Dense(jax.random.key(1), [3, 4, 2])) is first  # nothing is decided twice either
    others = [
        recipe(Dense(jax.random.key(0), [3, 4, 2], activation="sin")),
        recipe(Dense(jax.random.key(0), [3, 4, 2]), only="layers[0].*"),
        recipe(Dense(jax.random.key(0), [3, 4, 2]), only=lambda path: "bias" in path),
    ]
    assert len({id(found.source) for found in (first, *others)}) == 4
    assert recipe(Dense(jax.random.key(0), [3, 4, 2]), batch_size=2).tile == 2


class Scaled(eqx.Module):
    """A number beside the parameters, and an array of numpy."""

    weight: jax.Array
    factor: float
    offset: np.ndarray

    def __call__(self, x):
        return self.factor * (self.weight @ x) + self.offset @ x


def test_constants_tell_networks_of_one_shape_apart():
    x = inputs_of((3,))
    for factor in (1.0, 2.0, 1.0):
        network = Scaled(jnp.ones((2, 3)), factor, np.full((2, 3), factor))
        agree(ntk(network, x, only="weight").matrix, factor**2 * x @ x.T)


# -- what cannot be used -------------------------------------------------------------------------------------------


def test_bad_input_says_what_to_do():
    network, x = Dense(jax.random.key(1), [3, 4, 2]), inputs_of((3,))
    with pytest.raises(InputError, match="Did you mean 'trace'"):
        inspect.unwrap(ntk)(network, x, convention="trase")
    with pytest.raises(InputError, match="Unknown method"):
        inspect.unwrap(ntk)(network, x, method="fast")
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        ntk(network, x, batch_size=0)
    with pytest.raises(InputError, match="Products do not tell layers apart"):
        ntk(network, x, method="products", per_layer=True)
    with pytest.raises(InputError, match="two sets of examples have shapes"):
        ntk(network, x, np.zeros((2, 4)))
    with pytest.raises(InputError, match="empty"):
        ntk(network, np.zeros((0, 3)))
    with pytest.raises(InputError, match="floating point"):
        ntk(network, np.zeros((2, 3), int))
    broken = replace_parameters(network, {"layers[0].bias": jnp.full(4, jnp.nan)})
    with pytest.raises(InputError, match="not finite"):
        ntk(broken, x)
    with pytest.raises(InputError, match="per_layer=True"):
        _ = ntk(network, x).shares


def test_networks_that_mix_examples_or_are_random_are_refused():
    image = (1, 4, 4)
    mixing = Conv(jax.random.key(0), image, [2], [2], norm="batch", batch_statistics=True)
    with pytest.raises(InputError, match="with_statistics"):
        ntk(mixing, inputs_of(image))
    random = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    with pytest.raises(InputError, match="inference_mode"):
        ntk(random, inputs_of((3,)))
    assert ntk(eqx.nn.inference_mode(random), inputs_of((3,))).matrix.shape == (5, 5)
