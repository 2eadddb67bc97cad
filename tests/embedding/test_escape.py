"""Can a wider network escape: the three-fold global splitting, and the answers."""
# pyright: reportOptionalOperand=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, hessian, largest, make_inputs, make_network, outputs, random_landscape

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters, ravel
from lossatlas.embedding import escape_by_widening, global_split
from lossatlas.embedding._escape import global_directions, tripled
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Dense, Transformer


KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def minimum():
    """A minimum without zeros, planted with residuals of rms 0.003."""
    network = jax.tree.map(lambda a: 1.5 * a, make_network((1, 2, 2, 1), seed=56))
    inputs = jnp.linspace(-6.0, 6.0, 60)[:, None]
    landscape = plant_landscape(jax.random.key(3), network, inputs, amplitude=0.003)
    assert counts(hessian(landscape, network), 1e-12) == (0, 0, 13)
    return network, landscape


def _residual_hessian(network, landscape):
    """H2 by automatic differentiation of the residuals' inner product with the outputs."""
    vector, unravel = ravel(network)
    slopes = landscape.predictions(network) - landscape.targets

    def inner(v):
        return jnp.mean(jnp.sum(slopes * landscape.predictions(unravel(v)), axis=-1))

    return np.asarray(jax.hessian(inner)(vector))


def test_global_split_keeps_outputs_and_carries_gradients_at_any_point():
    network, landscape = make_network((2, 2, 1, 2, 2), "sigmoid"), random_landscape()
    wide, record = global_split(network, landscape=landscape)
    assert wide.widths == (2, 6, 3, 6, 2)
    assert record.certificate.output_change < 1e-13
    assert record.certificate.gradient_before > 1e-3
    assert record.certificate.intertwiner_defect < 1e-13
    forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
    np.testing.assert_allclose(forward.T @ backward, np.eye(forward.shape[1]), atol=1e-13)
    assert largest(ravel(record.inverse(wide))[0] - ravel(network)[0]) < 1e-13


def test_global_split_has_the_curvatures_and_the_inertia_of_the_theory(minimum):
    network, landscape = minimum
    second = _residual_hessian(network, landscape)
    below = num_parameters(network) - 3  # the readout has two weights and a bias
    lowest, most = np.linalg.eigvalsh(second[:-1, :-1])[0], np.linalg.eigvalsh(second[:below, :below])
    assert most[0] < 0 < most[-1]
    wide, record = global_split(network, landscape=landscape)
    assert record.certificate.gradient_after < 1e-14
    full = np.asarray(hessian(landscape, wide))
    assert counts(full, 1e-12) == (12, 24, 25)
    both, half = (np.asarray(tripled(network, wide, d)) for d in global_directions(network, landscape))
    assert both @ both == pytest.approx(2)
    assert half @ half == pytest.approx(1.5)
    assert both @ full @ both == pytest.approx(2 * lowest, rel=1e-10)
    assert half @ full @ half == pytest.approx(-most[-1] / 2, rel=1e-10)
    # The smallest eigenvalue below the readout, as the paper takes it: 2 lambda along (v, -v, 0).
    _, vectors = np.linalg.eigh(second[:below, :below])
    change = ravel(network)[1].tangent(jnp.concatenate([jnp.asarray(vectors[:, 0]), jnp.zeros(3)]))
    zero = jax.tree.map(jnp.zeros_like, network)
    direction = np.asarray(tripled(network, wide, (change, jax.tree.map(jnp.negative, change), zero)))
    assert direction @ full @ direction == pytest.approx(2 * most[0], rel=1e-10)


def test_a_minimum_with_residuals_is_escaped_by_a_wider_network(minimum):
    network, landscape = minimum
    found = escape_by_widening(KEY, network, landscape)
    assert found.escapes
    assert 0 < found.ratio < 1e-3
    assert "a wider network is a strict saddle here" in str(found)
    np.testing.assert_allclose(outputs(found.network, landscape.inputs), outputs(network, landscape.inputs), atol=1e-13)
    full, direction = np.asarray(hessian(landscape, found.network)), np.asarray(found.direction)
    assert direction @ direction == pytest.approx(1)
    assert direction @ full @ direction == pytest.approx(found.curvature, rel=1e-8)
    assert found.curvature < 0
    # No candidate can lie below the wide Hessian, and the global splitting is among them.
    second = _residual_hessian(network, landscape)[:-1, :-1]
    assert found.curvature <= np.linalg.eigvalsh(second)[0] * (1 - 1e-9)


def test_where_no_residual_is_left_nothing_is_returned_and_nothing_claimed():
    network, inputs = make_network((1, 2, 2, 1)), make_inputs(60, 1)
    landscape = Landscape(inputs, jnp.asarray(outputs(network, inputs)))
    found = escape_by_widening(KEY, network, landscape)
    assert not found.escapes
    assert found.network is None
    assert found.direction is None
    assert found.ratio < 1e-14
    assert "necessary condition" in found.words
    assert "is met" in found.words
    assert "no proof" in found.words


def test_a_strict_saddle_needs_no_widening():
    network = make_network((2, 3, 2))
    landscape = plant_landscape(KEY, network, make_inputs(), amplitude=1.0)
    found = escape_by_widening(KEY, network, landscape)
    assert found.escapes
    assert found.record is None
    assert "already" in found.words
    full, direction = np.asarray(hessian(landscape, network)), np.asarray(found.direction)
    assert direction @ full @ direction == pytest.approx(found.curvature)


def test_a_gradient_left_over_feigns_no_escape(minimum):
    network, landscape = minimum
    vector, unravel = ravel(network)
    moved = unravel(vector + 1e-3 * jax.random.normal(KEY, vector.shape))
    found = escape_by_widening(KEY, moved, landscape)
    assert not found.escapes
    assert "none was found beyond" in found.words


@pytest.mark.slow
def test_other_architectures_escape_by_single_units():
    network = Transformer(KEY, 2, 3, 2, num_stream=2, num_heads=1, num_hidden=2, num_blocks=1)
    inputs = jax.random.normal(KEY, (80, 3, 2))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.01)
    found = escape_by_widening(KEY, network, landscape)
    assert found.escapes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, s: global_split(Dense(KEY, [2, 2]), landscape=s), "at least one hidden layer"),  # noqa: ARG005
        (lambda n, s: global_split(make_network((2, 3, 2), num_linear=1)), "without linear units"),  # noqa: ARG005
        (lambda n, s: escape_by_widening(KEY, n, s, max_size=3), "max_size=3"),
        (lambda n, s: escape_by_widening(KEY, n.layers[0], s), "no unit spaces"),
        (lambda n, s: escape_by_widening(KEY, jax.tree.map(lambda a: a.astype("float32"), n), s), "float64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make_network((2, 3, 2)), random_landscape())
