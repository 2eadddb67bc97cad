import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel
from lossatlas._status import Certificate
from lossatlas.embedding import split
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Dense
from lossatlas.theory import lift_inertia, split_inertia


def _network(widths, activation="tanh", seed=0, **options):
    network = Dense(jax.random.key(seed), widths, activation=activation, **options)
    leaves, treedef = jax.tree.flatten(network)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(treedef, [0.7 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])


def _basis(wide, unit, shares):
    """ker B^T of a split in hidden[0] of a network (d, m, o), written down from its definition."""
    k, rows = len(shares), [unit, *range(wide.widths[1] - len(shares) + 1, wide.widths[1])]
    template = jax.tree.map(jnp.zeros_like, wide)
    columns = []

    def add(changes):
        values = dict(named_parameters(template))
        for name, index, value in changes:
            values[name] = values[name].at[index].set(value)
        leaves = [values[name] for name in named_parameters(template)]
        columns.append(jnp.concatenate([leaf.ravel() for leaf in leaves]))

    d, o = wide.widths[0], wide.widths[2]
    for j in range(1, k):
        for entry in range(d + 1):
            amounts = [float(i == j) - shares[j] for i in range(k)]
            name = "layers[0].weight" if entry < d else "layers[0].bias"
            add([(name, (r, entry) if entry < d else r, a) for r, a in zip(rows, amounts, strict=True)])
    for j in range(1, k):
        for out in range(o):
            add([("layers[1].weight", (out, rows[j]), 1.0), ("layers[1].weight", (out, rows[0]), -1.0)])
    return jnp.stack(columns, axis=1)


@pytest.mark.parametrize("shares", [[0.3, 0.7], [-1.0, 2.0], [0.5, -0.7, 1.2]], ids=str)
def test_block_is_the_wide_hessian_on_the_new_directions(shares):
    network = _network((2, 3, 2))
    inputs = jax.random.normal(jax.random.key(5), (40, 2))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    wide, _ = split(network, "hidden[0]", 1, shares)
    basis = _basis(wide, 1, shares)
    added = split_inertia(network, landscape, "hidden[0]", 1, shares)
    full = eqx.filter_jit(lambda landscape, network: landscape.hessian(network))(landscape, wide)
    np.testing.assert_allclose(added.block, basis.T @ full @ basis, atol=1e-12)
    np.testing.assert_allclose(added.metric, basis.T @ basis, atol=1e-12)
    direction = basis @ added.direction
    assert float(direction @ direction) == pytest.approx(1.0)
    assert float(direction @ full @ direction) == pytest.approx(added.lowest, rel=1e-9)
    assert added.certificate is Certificate.YES


def test_closed_form_of_the_saddle_point_matrix():
    """Card 2.3: with r = rank C the counts are (r + n-(N'QN), ...); here C has rank m_out - 1 at a critical point."""
    network = _network((2, 3, 3))
    inputs = jax.random.normal(jax.random.key(5), (40, 2))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    added = split_inertia(network, landscape, "hidden[0]", 1, 0.5)
    outgoing = network.layers[1].weight[:, 1]
    assert np.abs(outgoing @ added.coupling).max() < 1e-14
    rank = np.linalg.matrix_rank(added.coupling, tol=1e-12)
    assert rank == 2
    kernel = np.linalg.svd(added.coupling)[2][rank:]
    inner = np.linalg.eigvalsh(0.25 * kernel @ added.curvature @ kernel.T)
    assert added.negative == rank + int(np.sum(inner < 0))
    assert added.zero == 3 - rank


def test_scalar_output_has_no_coupling_and_relu_no_curvature():
    inputs = jax.random.normal(jax.random.key(5), (40, 2))
    network = _network((2, 3, 1))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    assert np.abs(split_inertia(network, landscape, "hidden[0]", 0).coupling).max() < 1e-13
    network = _network((2, 3, 2), "relu")
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    assert not split_inertia(network, landscape, "hidden[0]", 0).curvature.any()


def test_moments_stream_over_the_data():
    network = _network((2, 3, 2, 2), num_linear=1)
    x, y = jax.random.normal(jax.random.key(5), (23, 2)), jax.random.normal(jax.random.key(6), (23, 2))
    full = split_inertia(network, Landscape(x, y), "hidden[0]", 0, 0.3)
    streamed = split_inertia(network, Landscape(x, y, batch_size=5), "hidden[0]", 0, 0.3)
    np.testing.assert_allclose(streamed.block, full.block, atol=1e-14)


def test_gradient_left_over_is_not_certified():
    network = _network((2, 3, 1))
    inputs = jax.random.normal(jax.random.key(5), (40, 2))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    vector, unravel = ravel(network)
    moved = unravel(vector + 1e-3 * jax.random.normal(jax.random.key(1), vector.shape))
    assert split_inertia(network, landscape, "hidden[0]", 0).certificate is Certificate.YES
    assert split_inertia(moved, landscape, "hidden[0]", 0).certificate is Certificate.NOT_CERTIFIED


def test_lift_inertia_counts_the_card_example():
    lifted = lift_inertia((5, 5, 13), entering=3, width=4, leaving=2)
    assert (lifted.negative, lifted.zero, lifted.positive) == (5, 23, 13)
    assert lifted.is_exact
    assert not lift_inertia((4, 4, 10), entering=2, width=2, leaving=2, defect=1).is_exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, s: split_inertia(n, s, "hidden[1]", 0), r"hidden\[0\]"),
        (lambda n, s: split_inertia(n, s, "hidden[0]", 9), "unit must be"),
        (lambda n, s: split_inertia(n, s, "hidden[0]", 0, [0.5, 0.6]), "sum to one"),
        (lambda n, s: split_inertia(jax.tree.map(lambda a: a.astype("float32"), n), s, "hidden[0]", 0), "float64"),
        (lambda n, s: lift_inertia((1, 2, 3), entering=-1, width=1, leaving=1), "entering=-1"),  # noqa: ARG005
    ],
)
def test_bad_input_is_named(call, message):
    network = _network((2, 3, 2))
    landscape = Landscape(jnp.ones((3, 2)), jnp.zeros((3, 2)))
    with pytest.raises(InputError, match=message):
        call(network, landscape)


def test_all_neurons_of_a_layer_share_one_program(caplog):
    network = _network((2, 3, 2), num_linear=1)
    landscape = Landscape(jnp.ones((7, 2)), jnp.zeros((7, 2)))

    def programs(space, unit):
        caplog.clear()
        with jax.log_compiles():
            split_inertia(network, landscape, space, unit)
        return [m for m in (r.getMessage() for r in caplog.records) if "Compiling" in m and "moments" in m]

    assert programs("hidden[0]", 0) != []
    assert programs("hidden[0]", 2) == []
    assert programs("linear[0]", 0) != []  # the control: a unit without activation is another
