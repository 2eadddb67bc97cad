import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lossatlas._errors import InputError
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_N = 11
_LOSSES = ["mse", "cross_entropy", "soft", "logistic"]


def _landscape(loss="mse", batch_size=None) -> Landscape:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(_N, 2))
    y = {
        "mse": rng.normal(size=(_N, 3)),
        "cross_entropy": rng.integers(0, 3, _N),
        "soft": rng.dirichlet([1.0, 1.0, 1.0], _N),
        "logistic": rng.integers(0, 2, (_N, 3)).astype(float),
    }[loss]
    return Landscape(x, y, loss="cross_entropy" if loss == "soft" else loss, batch_size=batch_size)


@pytest.fixture(scope="module")
def network():
    return Dense(jax.random.key(2), [2, 3, 3], num_linear=1)


class Linear(eqx.Module):
    """A linear map, whose landscape under squared error is known in closed form."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(3)
    x, y, w = rng.normal(size=(7, 3)), rng.normal(size=(7, 2)), rng.normal(size=(2, 3))
    return x, y, w


@eqx.filter_jit
def _measure(landscape: Landscape, network, only=None):
    value, gradient = landscape.value_and_gradient(network, only)
    vector = jnp.arange(1.0, 1 + len(gradient))
    return {
        "value": landscape(network),
        "value again": value,
        "losses": landscape.losses(network),
        "predictions": landscape.predictions(network),
        "residuals": landscape.residuals(network),
        "gradient": landscape.gradient(network, only),
        "gradient again": gradient,
        "product": landscape.hessian_operator(network, only).mv(vector),
        "hessian": landscape.hessian(network, only),
        "gauss-newton": landscape.gauss_newton(network, only),
        "jacobian": landscape.jacobian(network, only),
    }


# -- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 3])
def test_linear_map_under_squared_error_in_closed_form(linear, batch_size):
    x, y, w = linear
    landscape, net = Landscape(x, y, batch_size=batch_size), Linear(jnp.asarray(w))
    residuals = x @ w.T - y
    hessian = np.kron(np.eye(2), x.T @ x / 7)
    gradient = (residuals.T @ x / 7).ravel()
    expected = {
        "value": 0.5 * (residuals**2).sum() / 7,
        "value again": 0.5 * (residuals**2).sum() / 7,
        "losses": 0.5 * (residuals**2).sum(axis=1),
        "predictions": x @ w.T,
        "residuals": residuals,
        "gradient": gradient,
        "gradient again": gradient,
        "product": hessian @ np.arange(1.0, 7.0),
        "hessian": hessian,
        "gauss-newton": hessian,
        "jacobian": np.stack([np.kron(np.eye(2), row) for row in x]),
    }
    found = _measure(landscape, net)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-13, atol=1e-13, err_msg=name)


def test_softmax_regression_has_the_known_hessian():
    landscape = _landscape("cross_entropy")
    w = np.random.default_rng(4).normal(size=(3, 2))
    x = np.asarray(landscape.inputs)
    p = np.exp(x @ w.T)
    p /= p.sum(axis=1, keepdims=True)
    hessian = sum(np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row)) for q, row in zip(p, x, strict=True)) / _N
    np.testing.assert_allclose(landscape.hessian(Linear(jnp.asarray(w))), hessian, atol=1e-14)
    np.testing.assert_allclose(
        landscape.residuals(Linear(jnp.asarray(w))), p - np.eye(3)[landscape.targets], atol=1e-14
    )


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "batch_size"), [*((loss, 4) for loss in _LOSSES), ("mse", 1)])
def test_batches_give_the_same_as_everything_at_once(network, loss, batch_size):
    # 11 examples: batches of 4, 4 and a ragged 3.
    whole = _measure(_landscape(loss), network)
    parts = _measure(_landscape(loss, batch_size), network)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_batch_size_at_or_above_the_data_means_everything(linear):
    x, y, _ = linear
    assert Landscape(x, y, batch_size=7).batch_size is None
    assert Landscape(x, y).with_batch_size(3).batch_size == 3
    assert Landscape(x, y, batch_size=3).with_batch_size(None).batch_size is None


# -- derivatives against an independent implementation -----------------------------------------------------------


@pytest.mark.parametrize("loss", _LOSSES)
def test_derivatives_agree_with_direct_differentiation(network, loss):
    landscape = _landscape(loss)
    vector, unravel = ravel_pytree(eqx.filter(network, eqx.is_inexact_array))
    static = eqx.filter(network, eqx.is_inexact_array, inverse=True)

    def total(v):
        losses = jax.vmap(lambda x, y: landscape.loss(eqx.combine(unravel(v), static)(x), y))(*landscape.batch)  # pyright: ignore[reportOptionalCall]
        return losses.mean()

    gradient, hessian = jax.jit(lambda v: (jax.grad(total)(v), jax.hessian(total)(v)))(vector)
    found = _measure(landscape, network)
    np.testing.assert_allclose(found["gradient"], gradient, atol=1e-14)
    np.testing.assert_allclose(found["hessian"], hessian, atol=1e-13)


def test_gradient_agrees_with_differences(network):
    landscape = _landscape()
    vector, unravel = ravel_pytree(eqx.filter(network, eqx.is_inexact_array))
    static = eqx.filter(network, eqx.is_inexact_array, inverse=True)
    step = 1e-6 * jnp.sin(jnp.arange(vector.size, dtype=float))
    ahead, behind = (landscape(eqx.combine(unravel(vector + s * step), static)) for s in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2, landscape.gradient(network) @ step, rtol=1e-8)


@pytest.mark.parametrize("loss", _LOSSES)
def test_gauss_newton_is_the_jacobian_around_the_curvature_of_the_loss(network, loss):
    landscape = _landscape(loss)
    found = _measure(landscape, network)
    curve = jax.vmap(jax.hessian(landscape.loss.fn))  # pyright: ignore[reportOptionalMemberAccess]
    curvature = jax.jit(curve)(found["predictions"], landscape.targets)
    expected = np.einsum("nap,nab,nbq->pq", found["jacobian"], curvature, found["jacobian"]) / _N
    np.testing.assert_allclose(found["gauss-newton"], expected, atol=1e-14)


def test_operators_are_tagged_and_linear(network):
    landscape = _landscape()
    operator = landscape.hessian_operator(network)
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(landscape.gauss_newton_operator(network))
    np.testing.assert_allclose(operator.as_matrix(), _measure(landscape, network)["hessian"], atol=1e-14)


# -- parameter filters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 4])
def test_filter_selects_the_block_of_everything(network, batch_size):
    landscape = _landscape(batch_size=batch_size)
    names, start = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array)):
        names[jax.tree_util.keystr(path).lstrip(".")] = np.arange(start, start := start + leaf.size)
    chosen = np.concatenate([names["layers[0].weight"], names["layers[1].weight"]])
    block = np.ix_(chosen, chosen)
    everything, part = _measure(landscape, network), _measure(landscape, network, "layers[*].weight")
    for name in ("gradient", "gradient again", "jacobian"):
        np.testing.assert_allclose(part[name], everything[name][..., chosen], atol=1e-14)
    for name in ("hessian", "gauss-newton"):
        np.testing.assert_allclose(part[name], everything[name][block], atol=1e-14)
    by_predicate = landscape.gradient(network, lambda name: name.endswith("weight"))
    np.testing.assert_allclose(by_predicate, part["gradient"], atol=1e-15)


def test_filter_may_be_a_tree_of_truth_values(network):
    spec = jax.tree.map(lambda _: False, network)
    spec = eqx.tree_at(lambda n: n.layers[1].bias, spec, replace=True)
    landscape = _landscape()
    np.testing.assert_array_equal(landscape.gradient(network, spec), landscape.gradient(network, "layers[1].bias"))


def test_filter_that_selects_nothing_is_refused(network):
    with pytest.raises(InputError, match=r"only='layers\[9\].weight' selects no parameter. .*layers\[0\].weight"):
        _landscape().gradient(network, "layers[9].weight")


def test_dense_matrices_are_refused_above_the_stated_size(network):
    landscape = _landscape()
    size = len(landscape.gradient(network))
    assert eqx.filter_eval_shape(landscape.hessian, network, max_size=size).shape == (size, size)
    with pytest.raises(InputError, match=f"dense Hessian of {size} parameters .* at most {size - 1} are allowed"):
        landscape.hessian(network, max_size=size - 1)
    with pytest.raises(InputError, match="dense Gauss-Newton matrix"):
        landscape.gauss_newton(network, max_size=size - 1)
    with pytest.raises(InputError, match="of 4011 parameters needs 0.1 GB; at most 4000"):
        landscape.hessian(Dense(jax.random.key(0), [2, 668, 3]))


# -- functions in place of networks ------------------------------------------------------------------------------


def test_from_function_equals_the_landscape_of_the_network(linear):
    x, y, w = linear
    reference = Landscape(x, y)
    net = Linear(jnp.asarray(w))

    def predict(weight, batch):
        return batch[0] @ weight.T

    def fn(weight, batch):
        return 0.5 * jnp.sum((predict(weight, batch) - batch[1]) ** 2, axis=1)

    for batch_size in (None, 3):
        made = Landscape.from_function(fn, (x, y), predict, loss="mse", batch_size=batch_size)
        expected, found = _measure(reference, net), _measure(made, jnp.asarray(w))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_from_function_without_predict_says_what_it_lacks(linear):
    x, y, w = linear
    made = Landscape.from_function(lambda v, batch: jnp.sum((batch[0] @ v.T - batch[1]) ** 2, axis=1), (x, y))
    w = jnp.asarray(w)
    assert eqx.filter_eval_shape(made.hessian, w).shape == (6, 6)
    for call in (made.predictions, made.jacobian):
        with pytest.raises(InputError, match="without `predict`"):
            call(w)
    for call in (made.residuals, made.gauss_newton):
        with pytest.raises(InputError, match="without `loss`"):
            call(w)
    with_loss = Landscape.from_function(lambda v, batch: batch[0] @ v[0], (x, y), loss="mse")
    with pytest.raises(InputError, match="without `predict`"):
        with_loss.residuals(w)


def test_from_function_needs_one_leading_axis():
    for batch in ((jnp.zeros(3), jnp.zeros(2)), jnp.zeros(()), jnp.zeros((0, 2)), ()):
        with pytest.raises(InputError, match="same non-empty leading axis"):
            Landscape.from_function(lambda w, b: b * w, batch)


# -- use under jit, shapes, bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 4])
def test_landscapes_pass_through_jit_as_arguments(network, batch_size):
    traces = []

    @eqx.filter_jit
    def value(landscape, net):
        traces.append(1)
        return landscape(net)

    first = _landscape(batch_size=batch_size)
    second = Landscape(2 * first.inputs, first.targets, batch_size=batch_size)
    np.testing.assert_allclose(value(first, network), first(network), rtol=1e-14)
    np.testing.assert_allclose(value(second, network), second(network), rtol=1e-14)
    assert len(traces) == 1


def test_landscapes_can_be_made_inside_jit(network):
    landscape = _landscape()
    made = jax.jit(lambda x, y: Landscape(x, y)(network))(landscape.inputs, landscape.targets)
    np.testing.assert_allclose(made, landscape(network), rtol=1e-14)


def test_ensembles_by_vmap():
    ensemble = eqx.filter_vmap(lambda key: Dense(key, [2, 3, 3]))(jax.random.split(jax.random.key(0), 3))
    landscape = _landscape(batch_size=4)
    values = eqx.filter_vmap(lambda net: landscape(net))(ensemble)
    single = jax.tree.map(lambda a: a[1] if eqx.is_array(a) else a, ensemble)
    np.testing.assert_allclose(values[1], landscape(single), rtol=1e-14)


def test_whole_numbers_are_targets_of_squared_error():
    x = jnp.arange(3.0)[:, None]
    np.testing.assert_allclose(Landscape(x, np.array([0, 1, 3]))(lambda v: v), 0.5 / 3)


def test_networks_with_other_outputs_are_refused():
    x = jnp.ones((4, 2))
    labels = Landscape(x, np.array([0, 1, 2, 3]), loss="cross_entropy")
    with pytest.raises(InputError, match=r"labels go up to 3, so the network needs 4 outputs, got .* \(2,\)"):
        labels(lambda v: v)
    with pytest.raises(InputError, match="needs 4 outputs"):
        labels.residuals(lambda v: v)
    for landscape in (Landscape(x, jnp.ones((4, 3))), Landscape(x, jnp.full((4, 3), 1 / 3), loss="cross_entropy")):
        with pytest.raises(InputError, match=r"predicts shape \(2,\), but a target has shape \(3,\)"):
            landscape(lambda v: v)
    with pytest.raises(InputError, match="as many entries"):
        Landscape(x, jnp.ones(4), loss="logistic")(lambda v: v)


def test_single_precision_stays_single(network):
    landscape = _landscape()
    small = Landscape(landscape.inputs.astype(jnp.float32), landscape.targets.astype(jnp.float32), batch_size=4)
    net = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, network)
    for result in (small(net), small.gradient(net), small.hessian_operator(net).mv(small.gradient(net))):
        assert result.dtype == jnp.float32
    np.testing.assert_allclose(small(net), landscape(network), rtol=1e-5)


def test_targets_of_one_axis_fit_a_single_output():
    x = jnp.arange(3.0)[:, None]
    landscape = Landscape(x, jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(landscape(lambda v: v), 0.5 / 3)


_X = np.ones((3, 2))


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), {}, "data is empty"),
        (_X, np.zeros(2), {}, r"as many examples, got shapes \(3, 2\) and \(2,\)"),
        (_X.astype(int), np.zeros(3), {}, "must be floating point, got int"),
        (np.where(np.arange(6).reshape(3, 2) == 4, np.nan, _X), np.zeros(3), {}, r"inputs contain NaN .* row 2"),
        (_X, np.array([0.0, np.inf, 0.0]), {}, "targets contain NaN or infinity .* row 1"),
        (_X, np.array([0, -1, 1]), {"loss": "cross_entropy"}, "labels must be 0, 1, ..., got -1"),
        (_X, np.array([0.0, 1.0, 1.0]), {"loss": "cross_entropy"}, "integer labels of shape"),
        (_X, np.eye(3) - 0.1, {"loss": "cross_entropy"}, "row 0 has the smallest entry -0.1 and the sum 0.7"),
        (_X, np.eye(3) * [[1], [1.1], [1]], {"loss": "cross_entropy"}, "sum to one; row 1 .* sum 1.1. Normalise"),
        (_X, np.array([[0, 1], [2, 0], [0, 1]]), {"loss": "cross_entropy"}, "sum to one; row 1 .* give integer"),
        (_X, np.zeros((3, 2, 2), int), {"loss": "cross_entropy"}, "integer labels of shape"),
        (_X, np.array([0.0, 2.0, 1.0]), {"loss": "logistic"}, r"targets in \[0, 1\]"),
        (_X, np.zeros(3), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (_X, np.zeros(3), {"loss": "msee"}, "Unknown loss 'msee'. Did you mean 'mse'"),
    ],
)
def test_bad_data_is_refused(inputs, targets, options, message):
    with pytest.raises(InputError, match=message):
        Landscape(inputs, targets, **options)


@pytest.mark.parametrize("dtype", [int, bool])
def test_one_hot_rows_of_whole_numbers_are_probabilities(network, dtype):
    labels = _landscape("cross_entropy")
    rows = Landscape(labels.inputs, np.eye(3)[labels.targets].astype(dtype), loss="cross_entropy")
    np.testing.assert_allclose(rows(network), labels(network), rtol=1e-14)
    column = Landscape(labels.inputs, np.asarray(labels.targets)[:, None], loss="cross_entropy")
    np.testing.assert_allclose(column(network), labels(network), rtol=1e-14)


def test_jacobian_costs_as_many_examples_as_there_are(network):
    """And not their square, as reverse differentiation of the whole batch does."""

    def operations(n):
        jacobian = jax.jit(lambda x: Landscape(x, jnp.zeros((n, 3))).jacobian(network))
        costs = jacobian.lower(jnp.ones((n, 2))).compile().cost_analysis()
        assert costs is not None
        return costs["flops"]

    assert operations(80) < 12 * operations(8)


def test_filter_of_truth_values_is_checked(network):
    landscape = _landscape()
    nothing = jax.tree.map(lambda _: False, network)
    with pytest.raises(InputError, match=r"selects no parameter. .*layers\[0\].weight"):
        landscape.gradient(network, nothing)
    other = jax.tree.map(lambda _: True, Dense(jax.random.key(0), [2, 3, 3, 3]))
    with pytest.raises(InputError, match="another structure than the network. Make it from this network"):
        landscape.gradient(network, other)
    # A prefix of the structure stands for all that is below it.
    prefix = eqx.tree_at(lambda n: n.layers[1], nothing, replace=True)
    np.testing.assert_array_equal(landscape.gradient(network, prefix), landscape.gradient(network, "layers[1].*"))
