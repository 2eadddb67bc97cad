"""Curvature layer by layer: exact against explicit blocks, and what the report says of initialisations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures import ARCHITECTURES
from lossatlas._errors import InputError
from lossatlas.geometry import LayerCurvature, layer_curvature
from lossatlas.geometry._layer_moments import (
    exact_moments,
    in_order_of_use,
    layer_places,
    output_curvatures,
    paths_by_use,
)
from lossatlas.geometry._ntk import make_recipe
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, replace_parameters


jacobian_of = eqx.filter_jit(lambda place, network: place.jacobian(network))
gradient_of = eqx.filter_jit(lambda place, network: place.gradient(network))
hessian_of = eqx.filter_jit(lambda place, network: place.hessian(network))


def classes(activation="relu", widths=(5, 6, 4, 3), *, num=12, **options):
    network = Dense(jax.random.key(0), widths, activation=activation, init="he", **options)
    x = jax.random.normal(jax.random.key(1), (num, widths[0]))
    labels = jax.random.randint(jax.random.key(2), (num,), 0, widths[-1])
    return network, Landscape(x, labels, loss="cross_entropy")


class Shared(eqx.Module):
    """Weights that serve three places, a bend, and a linear readout of all places."""

    kernel: jax.Array
    readout: jax.Array

    def __call__(self, x):
        return self.readout @ jax.nn.softplus(x.reshape(3, 2) @ self.kernel).ravel()


def test_layers_stand_in_the_order_of_their_use():
    # As PyTorch modules hold theirs: a dictionary, which JAX sorts by name.
    network = {"stem": jnp.ones((3, 2)), "norm": jnp.ones(3), "a_head": jnp.ones((1, 3)), "unused": jnp.ones(1)}

    @jax.jit
    def predict(params, batch):
        hidden = jnp.tanh(batch @ params["stem"].T) * params["norm"][None]
        return hidden @ params["a_head"].T

    landscape = Landscape.from_function(
        lambda params, batch: 0.5 * jnp.sum(predict(params, batch) ** 2, axis=1),
        jnp.ones((4, 2)),
        predict=predict,
        batch_size=2,
    )
    assert paths_by_use(network, landscape) == ["['stem']", "['norm']", "['a_head']", "['unused']"]
    places = in_order_of_use(layer_places(network), network, landscape)
    assert list(places) == ["['stem']", "['norm']", "['a_head']", "['unused']"]
    np.testing.assert_array_equal(places["['stem']"], 6 + np.arange(6))  # where they stand in the vector is as before


def agrees_with_blocks(found: LayerCurvature, network, landscape):
    """Against blocks from the Jacobian and the closed forms of the curvature of the loss; which are returned."""
    jacobian = np.asarray(jacobian_of(landscape, network))
    n, outputs = landscape.size, jacobian[0].size // jacobian.shape[-1]
    jacobian = jacobian.reshape(n, outputs, -1)
    curved = np.broadcast_to(np.eye(outputs), (n, outputs, outputs))
    if landscape.loss.name == "cross_entropy":
        p = np.asarray(jax.nn.softmax(landscape.predictions(network)))
        curved = p[:, :, None] * np.eye(outputs) - p[:, :, None] * p[:, None]
    blocks = []
    places = layer_places(network)
    assert set(found.layers) == set(places)
    for k, index in enumerate(places[name] for name in found.layers):
        part = jacobian[:, :, index]
        block = np.einsum("ncp,ncd,ndq->pq", part, curved, part, optimize=True) / n
        assert found.sizes[k] == len(index)
        np.testing.assert_allclose(found.traces[k], np.trace(block), rtol=1e-12)
        np.testing.assert_allclose(found.norms[k], np.linalg.norm(block), rtol=1e-12)
        top = np.linalg.eigvalsh(block)[-1]
        assert abs(found.largest[k] - top) <= found.residuals[k] + 1e-14 * top <= 1e-3 * top
        blocks.append(block)
    assert not found.trace_errors.any()
    assert not found.norm_errors.any()
    return blocks


@pytest.fixture(scope="module")
def measured():
    network, landscape = classes()
    return network, landscape, layer_curvature(network, landscape)


def test_traces_norms_and_eigenvalues_are_those_of_the_blocks(measured):
    network, landscape, found = measured
    blocks = agrees_with_blocks(found, network, landscape)
    hessian = np.asarray(hessian_of(landscape, network))
    places = layer_places(network)
    for index, block in zip([places[name] for name in found.layers], blocks, strict=True):
        np.testing.assert_allclose(hessian[np.ix_(index, index)], block, atol=1e-13)
    assert found.is_hessian.all()
    assert abs(found.sharpness - np.linalg.eigvalsh(hessian)[-1]) <= found.sharpness_residual
    slope = np.asarray(gradient_of(landscape, network))
    np.testing.assert_allclose(found.best_step, slope @ slope / (slope @ hessian @ slope), rtol=1e-12)
    np.testing.assert_allclose(np.sum(found.gradient_norms**2), found.gradient_norm**2, rtol=1e-12)
    assert found.stable_step == 2 / found.sharpness


def test_shared_weights_have_the_block_of_all_their_places():
    network = Shared(jax.random.normal(jax.random.key(0), (2, 4)), jax.random.normal(jax.random.key(3), (2, 12)))
    landscape = Landscape(jax.random.normal(jax.random.key(1), (5, 6)), jnp.zeros((5, 2)))
    found = layer_curvature(network, landscape)
    agrees_with_blocks(found, network, landscape)
    assert found.is_hessian.tolist() == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "batch norm" not in name])
def test_every_architecture_has_the_moments_of_its_blocks(name):
    network, shape = ARCHITECTURES[name]
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    landscape = Landscape(x, 0.1 * jnp.ones((5, *network(x[0]).shape)))
    found = layer_curvature(network, landscape)
    blocks, hessian = agrees_with_blocks(found, network, landscape), np.asarray(hessian_of(landscape, network))
    assert abs(found.sharpness - np.linalg.eigvalsh(hessian)[-1]) <= found.sharpness_residual + 1e-13
    places = layer_places(network)
    for k, index in enumerate(places[name] for name in found.layers):
        left = np.linalg.norm(hessian[np.ix_(index, index)] - blocks[k])
        assert found.is_hessian[k] == (left < 1e-12 * np.linalg.norm(blocks[k]))


def test_the_last_layer_is_softmax_regression_on_its_features(measured):
    network, landscape, found = measured
    p = jax.nn.softmax(landscape.predictions(network))
    u = jax.vmap(lambda x: jnp.append(network.features(x)[-2], 1.0))(landscape.inputs)
    squares, left = jnp.sum(u**2, axis=1), 1 - jnp.sum(p**2, axis=1)
    np.testing.assert_allclose(found.traces[2], jnp.mean(left * squares), rtol=1e-12)
    # |H|_F^2 = mean over pairs of <A_i, A_j> (u_i . u_j)^2, A = diag(p) - p p^T.
    a = jax.vmap(lambda q: jnp.diag(q) - jnp.outer(q, q))(p)
    pairs = jnp.einsum("icd,jcd->ij", a, a) * (u @ u.T) ** 2
    np.testing.assert_allclose(found.norms[2] ** 2, pairs.mean(), rtol=1e-12)
    gain = found.traces[2] / (4 * jnp.mean(landscape.inputs**2) * jnp.mean(left))
    np.testing.assert_allclose(found.gains[2], gain, rtol=1e-12)


def test_tiles_of_the_kernel_add_up(measured):
    network, landscape, whole = measured
    recipe, leaves = make_recipe(network, landscape, None, "full", "structured", None, per_layer=True, batch_size=5)
    curvatures = np.asarray(output_curvatures(network, landscape))
    found = exact_moments(recipe, leaves, landscape, curvatures, list(whole.layers))
    np.testing.assert_allclose(found.traces, whole.traces, rtol=1e-12)
    np.testing.assert_allclose(found.norms, whole.norms, rtol=1e-12)


def test_probes_agree_within_their_errors(measured):
    network, landscape, exact = measured
    probed = layer_curvature(network, landscape, method="probes", num_probes=100)
    assert np.all(np.abs(probed.traces - exact.traces) < 5 * probed.trace_errors)
    assert np.all(np.abs(probed.norms - exact.norms) < 5 * probed.norm_errors)
    assert np.all((probed.norm_errors > 0) & (probed.norm_errors < 0.2 * probed.norms))
    np.testing.assert_allclose(probed.gains / probed.traces, exact.gains / exact.traces, rtol=1e-12)


@pytest.mark.slow
def test_batches_change_nothing(measured):
    network, landscape, exact = measured
    batched = layer_curvature(network, landscape.with_batch_size(5))
    for name in ("traces", "norms", "gradient_norms", "gains"):
        np.testing.assert_allclose(getattr(batched, name), getattr(exact, name), rtol=1e-12)
    np.testing.assert_allclose(batched.largest, exact.largest, rtol=1e-4)


def test_layers_before_zeros_have_no_curvature_and_the_report_says_so(measured):
    network, landscape, _ = measured
    last = network.layers[-1]
    zeros = {"layers[2].weight": jnp.zeros_like(last.weight), "layers[2].bias": jnp.zeros(last.num_neurons)}
    found = layer_curvature(replace_parameters(network, zeros), landscape)
    assert found.traces[:2].tolist() == found.norms[:2].tolist() == found.largest[:2].tolist() == [0, 0]
    p = (1 - 1 / 3) * jnp.mean(1 + jnp.sum(jax.vmap(lambda x: network.features(x)[-2])(landscape.inputs) ** 2, axis=1))
    np.testing.assert_allclose(found.traces[2], p, rtol=1e-12)  # of I/C - 1/C^2 and the features
    assert "no curvature in layers[0], layers[1]" in found.warnings[0]


def test_a_stopped_gradient_is_said():
    landscape = Landscape(jnp.ones((3, 2)), jnp.zeros((3, 1)))
    network = Dense(jax.random.key(0), [2, 3, 1])
    stopped = lambda at, batch: jax.lax.stop_gradient(jax.vmap(at)(batch[0]))  # noqa: E731
    losses = lambda at, batch: 0.5 * jnp.sum((stopped(at, batch) - batch[1]) ** 2, axis=1)  # noqa: E731
    place = Landscape.from_function(losses, landscape.batch, stopped, loss="mse")
    found = layer_curvature(network, place)
    assert found.verdict == "vanishing"
    assert "stop_gradient" in found.warnings[0]
    assert "gradient is zero" in found.warnings[-1]
    assert found.best_step == found.stable_step == np.inf


@pytest.mark.parametrize(
    ("scale", "verdict"), [(0.4, "vanishing"), (1.0, "balanced"), (4.0, "unbalanced"), (8.0, "exploding")]
)
def test_verdicts_follow_the_scale_of_the_weights(measured, scale, verdict):
    network, landscape, _ = measured
    scaled = jax.tree.map(lambda a: scale * a, network)
    said = layer_curvature(scaled, landscape)
    assert said.verdict == verdict


@pytest.mark.slow
def test_statistics_of_the_whole_data_go_by_products():
    class Normalised(eqx.Module):
        layers: tuple
        batch_statistics: bool = eqx.field(static=True, default=True)

        def __call__(self, x):
            return self.call_batch(x[None])[0]

        def call_batch(self, x):
            z = x @ self.layers[0].weight.T
            z = (z - z.mean(0, keepdims=True)) / jnp.sqrt(z.var(0, keepdims=True) + 0.1)
            return z @ self.layers[1].weight.T

    network = Normalised(Dense(jax.random.key(0), [3, 4, 2], use_bias=False, use_output_bias=False).layers)
    landscape = Landscape(jax.random.normal(jax.random.key(1), (6, 3)), jnp.zeros((6, 2)))
    found = layer_curvature(network, landscape, num_probes=60)
    assert found.settings["method"] == "probes"
    assert np.isnan(found.gains).all()
    outer = np.asarray(landscape.gauss_newton(network))
    for k, index in enumerate(layer_places(network).values()):
        assert abs(found.traces[k] - np.trace(outer[np.ix_(index, index)])) < 5 * found.trace_errors[k]


def test_labelled_arrays_rows_and_figure_hold_the_numbers(measured):
    _, _, found = measured
    table = found.to_xarray()
    assert float(table.traces.sel(layer="layers[0]")) == found.traces[0]
    assert table.attrs["verdict"] == "balanced"
    assert found.rows[0]["Frobenius norm"] == found.norms[0]
    figure = found._figure()
    assert [list(bar.y) for bar in figure.data] == [list(a) for a in (found.traces, found.norms, found.largest)]
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_probes": 1}, "num_probes must be at least 2"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"only": "nothing"}, "selects no parameter"),
    ],
)
def test_what_cannot_be_measured_is_refused(measured, options, said):
    network, landscape, _ = measured
    with pytest.raises(InputError, match=said):
        layer_curvature(network, landscape, **options)
