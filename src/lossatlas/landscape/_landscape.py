"""A landscape is data plus a loss; a point on it is a network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, ravel
from lossatlas._types import LossFn, Network, Only, Vector
from lossatlas.landscape._loss import Loss, as_loss


_MAX_DENSE = 4000
_PROBABILITY = 1e-6  # how far the sum of a row of probabilities may be from one


class Landscape(eqx.Module):
    r"""Data and a loss: $R(\theta) = \frac1n \sum_i \ell(f_\theta(x_i), y_i)$, the mean over the examples.

    Squared error is $\frac12 |f - y|^2$ (`loss="mse"`). A landscape takes any network that fits the data: a narrow
    network and the wide one that it embeds into are two points of the same landscape. It is a pytree and may be
    passed to `jit`.

    **Arguments:**
    - `inputs`: floating array, shape (n, ...).
    - `targets`: array, shape (n,) or (n, o): real values, integer class labels, or rows of probabilities, which
      sum to one (one-hot rows of whole numbers too).
    - `loss`: `"mse"`, `"cross_entropy"`, `"logistic"`, or a callable on (prediction, target) of one example.
    - `batch_size`: None computes on all examples at once; a number streams over the data in batches of that size
      (the last may be smaller), with the same results up to rounding and memory in proportion.

    **Raises:** `InputError` for empty data, different lengths, NaN, or labels that do not fit the loss.

    !!! example
        >>> landscape = Landscape(jnp.ones((3, 1)), jnp.zeros((3, 1)))
        >>> float(landscape(lambda x: x))
        0.5
    """

    batch: PyTree[Array]
    size: int = eqx.field(static=True)
    loss: Loss | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    _example_losses: Callable | None = eqx.field(static=True)
    _predict: Callable | None = eqx.field(static=True)
    _num_labels: int = eqx.field(static=True)  # the largest class label + 1; 0 without labels

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        *,
        loss: str | LossFn | Loss = "mse",
        batch_size: int | None = None,
    ):
        inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
        self.loss = as_loss(loss)
        if self.loss.name == "mse" and not jnp.issubdtype(targets.dtype, jnp.inexact):
            targets = targets.astype(inputs.dtype)  # whole numbers are values too
        if self.loss.name == "cross_entropy" and _is_one_hot(targets):
            targets = targets.astype(inputs.dtype)  # rows of probabilities, written in whole numbers
        self._num_labels = _check_data(inputs, targets, self.loss)
        self.batch = (inputs, targets)
        self.size = inputs.shape[0]
        self.batch_size = _check_batch_size(batch_size, self.size)
        self._example_losses = None
        self._predict = None

    @classmethod
    def from_function(
        cls,
        fn: Callable[[Any, Any], Array],
        batch: PyTree,
        predict: Callable[[Any, Any], Array] | None = None,
        *,
        loss: str | LossFn | Loss | None = None,
        batch_size: int | None = None,
    ) -> "Landscape":
        """A landscape of any function of parameters and data.

        **Arguments:**
        - `fn`: `fn(params, batch)` gives one loss per example, shape (n,), so that ragged batches stay exact.
        - `batch`: a pytree of arrays with the same leading axis.
        - `predict`: `predict(params, batch)` gives the predictions, shape (n, ...); without it whatever needs
          predictions raises.
        - `loss`: the loss between prediction and target where Gauss-Newton products are wanted; then
          `batch[-1]` must be the targets.

        **Raises:** `InputError` for leading axes that differ.
        """
        sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1 or sizes == {0}:
            msg = f"All arrays of the batch need the same non-empty leading axis, got lengths {sorted(sizes)}."
            raise InputError(msg)
        self = object.__new__(cls)
        (size,) = sizes
        values = {
            "batch": jax.tree.map(jnp.asarray, batch),
            "size": size,
            "loss": None if loss is None else as_loss(loss),
            "batch_size": _check_batch_size(batch_size, size),
            "_example_losses": fn,
            "_predict": predict,
            "_num_labels": 0,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        return self

    @property
    def inputs(self) -> Array:
        """The inputs, shape (n, ...)."""
        return self.batch[0]

    @property
    def targets(self) -> Array:
        """The targets, shape (n,) or (n, o)."""
        return self.batch[-1]

    def with_batch_size(self, batch_size: int | None) -> "Landscape":
        """The same landscape computed in batches of another size."""
        new = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            object.__setattr__(new, name, getattr(self, name))
        object.__setattr__(new, "batch_size", _check_batch_size(batch_size, self.size))
        return new

    def subset(self, index: Any) -> "Landscape":
        """The landscape of some of the examples, all in one batch.

        **Arguments:**
        - `index`: a slice, or an array of positions or of booleans.

        **Raises:** `InputError` where nothing is left.
        """
        batch = jax.tree.map(lambda a: a[index], self.batch)
        new = self.with_batch_size(None)
        object.__setattr__(new, "batch", batch)
        object.__setattr__(new, "size", int(jax.tree.leaves(batch)[0].shape[0]))
        if new.size == 0:
            msg = f"The index {index!r} leaves none of the {self.size} examples."
            raise InputError(msg)
        return new

    # -- one batch ---------------------------------------------------------------------------------------------

    def _losses_of(self, network: Network, batch: PyTree[Array]) -> Float[Array, " b"]:
        if self._example_losses is not None:
            return self._example_losses(network, batch)
        return jax.vmap(self._require_loss())(self._predictions_of(network, batch), batch[1])

    def _predictions_of(self, network: Network, batch: PyTree[Array]) -> Array:
        if self._example_losses is None:
            predictions = self._forward(network, batch[0])
            if self._num_labels and (predictions.ndim != 2 or predictions.shape[1] < self._num_labels):
                msg = (
                    f"The labels go up to {self._num_labels - 1}, so the network needs {self._num_labels} outputs, "
                    f"got predictions of shape {predictions.shape[1:]}."
                )
                raise InputError(msg)
            return predictions
        if self._predict is None:
            msg = (
                "This landscape was made by Landscape.from_function without `predict`, so it has no predictions, "
                "residuals, Jacobian, Gauss-Newton operator or kernel. Give predict=fn(params, batch)."
            )
            raise InputError(msg)
        return self._predict(network, batch)

    def _forward(self, network: Network, inputs: Array) -> Array:
        if not getattr(network, "batch_statistics", False):
            return jax.vmap(network)(inputs)
        if self.batch_size is not None:
            msg = "This network normalises by statistics of the whole data, so it needs batch_size=None."
            raise InputError(msg)
        return network.call_batch(inputs)

    def _require_loss(self) -> Loss:
        if self.loss is None:
            msg = "This landscape was made by Landscape.from_function without `loss`; give it to use this."
            raise InputError(msg)
        return self.loss

    def _mean(self, per_batch: Callable[[PyTree[Array], Array], PyTree]) -> PyTree:
        """The mean over examples of `per_batch(batch, weights)`, a weighted sum over one batch."""
        n = self.size
        if self.batch_size is None:
            dtype = jnp.zeros(()).dtype
            total = per_batch(self.batch, jnp.ones((n,), dtype))
        else:
            batches, weights = self._batches()
            shapes = jax.eval_shape(per_batch, jax.tree.map(lambda a: a[0], batches), weights[0])
            zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def step(total, piece):
                return jax.tree.map(jnp.add, total, per_batch(*piece)), None

            # Checkpointed, so that differentiating through the sum keeps one batch in memory.
            total, _ = jax.lax.scan(jax.checkpoint(step), zero, (batches, weights))
        return jax.tree.map(lambda a: a / n, total)

    def _batches(self) -> tuple[PyTree[Array], Float[Array, "batches b"]]:
        """The data cut into equal batches; the last is padded with copies of example 0 of weight 0."""
        size = self.batch_size
        assert size is not None
        num = -(-self.size // size)
        index = np.arange(num * size)
        weights = jnp.asarray((index < self.size).reshape(num, size), jnp.zeros(()).dtype)
        index = np.where(index < self.size, index, 0)
        cut = lambda a: a[index].reshape(num, size, *a.shape[1:])  # noqa: E731
        return jax.tree.map(cut, self.batch), weights

    def _map(self, per_batch: Callable[[PyTree[Array]], PyTree]) -> PyTree:
        """Per-example results, shape (n, ...)."""
        if self.batch_size is None:
            return per_batch(self.batch)
        batches, _ = self._batches()
        results = jax.lax.map(per_batch, batches)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: self.size], results)

    # -- values and derivatives --------------------------------------------------------------------------------

    def __call__(self, network: Network) -> Float[Array, ""]:
        """The mean loss over the data."""

        def weighted(batch, weights):
            losses = self._losses_of(network, batch)
            return jnp.sum(jnp.where(weights > 0, losses, 0.0))

        return self._mean(weighted)

    def losses(self, network: Network) -> Float[Array, " n"]:
        """The loss of every example."""
        return self._map(lambda batch: self._losses_of(network, batch))

    def predictions(self, network: Network) -> Array:
        """The outputs on every example, shape (n, ...)."""
        return self._map(lambda batch: self._predictions_of(network, batch))

    def residuals(self, network: Network) -> Array:
        """dloss/dprediction of every example, shape (n, ...): f - y for squared error, p - y for cross-entropy."""
        loss = self._require_loss()

        def of_batch(batch):
            return jax.vmap(jax.grad(loss.fn))(self._predictions_of(network, batch), batch[-1])

        return self._map(of_batch)

    def gradient(self, network: Network, only: Only = None) -> Vector:
        """The gradient of the mean loss in the selected parameters, flattened in `ravel_pytree` order."""
        vector, unravel = ravel(network, only)
        return self._gradient_at(vector, unravel)

    def value_and_gradient(self, network: Network, only: Only = None) -> tuple[Float[Array, ""], Vector]:
        """The mean loss and its gradient in one pass."""
        vector, unravel = ravel(network, only)

        def of_batch(batch, weights):
            return jax.value_and_grad(self._weighted_loss)(vector, unravel, batch, weights)

        return self._mean(of_batch)

    def _weighted_loss(self, vector: Vector, unravel: Unravel, batch, weights):
        losses = self._losses_of(unravel(vector), batch)
        return jnp.sum(jnp.where(weights > 0, losses, 0.0))

    def _gradient_at(self, vector: Vector, unravel: Unravel) -> Vector:
        def of_batch(batch, weights):
            return jax.grad(self._weighted_loss)(vector, unravel, batch, weights)

        return self._mean(of_batch)

    def hessian_operator(self, network: Network, only: Only = None) -> lx.AbstractLinearOperator:
        """The Hessian of the mean loss as a symmetric operator on flat parameter vectors.

        Linearized once without batches; with `batch_size` each product streams over the data. Cost of a product:
        about four evaluations of the loss.
        """
        vector, unravel = ravel(network, only)
        if self.batch_size is None:
            _, product = jax.linearize(lambda v: self._gradient_at(v, unravel), vector)
        else:

            def product(tangent):
                def of_batch(batch, weights):
                    gradient = jax.grad(lambda v: self._weighted_loss(v, unravel, batch, weights))
                    return jax.jvp(gradient, (vector,), (tangent,))[1]

                return self._mean(of_batch)

        structure = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return lx.FunctionLinearOperator(product, structure, lx.symmetric_tag)

    def gauss_newton_operator(self, network: Network, only: Only = None) -> lx.AbstractLinearOperator:
        r"""The generalised Gauss-Newton matrix $\frac1n \sum_i J_i^\top \ell''(f_i) J_i$ as an operator."""
        vector, unravel = ravel(network, only)
        loss = self._require_loss()

        def product(tangent):
            def of_batch(batch, weights):
                predict = lambda v: self._predictions_of(unravel(v), batch)  # noqa: E731
                predictions, pushed = jax.jvp(predict, (vector,), (tangent,))
                _, pull = jax.vjp(predict, vector)
                slope = jax.vmap(jax.grad(loss.fn))
                _, curved = jax.jvp(lambda p: slope(p, batch[-1]), (predictions,), (pushed,))
                keep = weights.reshape(-1, *([1] * (curved.ndim - 1))) > 0
                return pull(jnp.where(keep, curved, 0.0))[0]

            return self._mean(of_batch)

        structure = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag)

    def hessian(self, network: Network, only: Only = None, *, max_size: int = _MAX_DENSE) -> Float[Array, "p p"]:
        """The Hessian of the mean loss as a dense matrix, symmetrised.

        **Raises:** `InputError` above `max_size` parameters (default 4,000: 128 MB in float64); use
        [`lossatlas.landscape.Landscape.hessian_operator`][] or a parameter filter there.
        """
        matrix = _dense(self.hessian_operator(network, only), max_size, "Hessian")
        return 0.5 * (matrix + matrix.T)

    def gauss_newton(self, network: Network, only: Only = None, *, max_size: int = _MAX_DENSE) -> Float[Array, "p p"]:
        """The Gauss-Newton matrix, dense and symmetrised; refused above `max_size` parameters."""
        matrix = _dense(self.gauss_newton_operator(network, only), max_size, "Gauss-Newton matrix")
        return 0.5 * (matrix + matrix.T)

    def jacobian(self, network: Network, only: Only = None) -> Float[Array, "n ... p"]:
        """The derivative of every prediction in the selected parameters, shape (n, ..., p); n * o * p numbers.

        Example by example, so that the cost is n times that of one; functions of a whole batch (`from_function`,
        networks with batch statistics) are differentiated as such, at n^2.
        """
        vector, unravel = ravel(network, only)
        mixes_examples = self._example_losses is not None or getattr(network, "batch_statistics", False)

        def of_batch(batch):
            return jax.jacrev(lambda v: self._predictions_of(unravel(v), batch))(vector)

        def of_example(x):
            return of_batch((x[None],))[0]

        if not mixes_examples:
            return self._map(lambda batch: jax.vmap(of_example)(batch[0]))
        return self._map(of_batch)

    def gram(self, network: Network, only: Only = None) -> Float[Array, "no no"]:
        r"""The Gram matrix $J J^\top$ of the stacked predictions (the empirical neural tangent kernel).

        Memory: the whole Jacobian, n o p numbers (also with `batch_size`), and (n o)^2 for the result.
        """
        jacobian = self.jacobian(network, only)
        flat = jacobian.reshape(-1, jacobian.shape[-1])
        return flat @ flat.T


def _dense(operator: lx.AbstractLinearOperator, max_size: int, what: str) -> Float[Array, "p p"]:
    size = operator.in_size()
    if size > max_size:
        msg = (
            f"A dense {what} of {size} parameters needs {8 * size * size / 1e9:.1f} GB; at most {max_size} are "
            "allowed. Use the operator, a filter such as only='layers[0].*', or raise max_size."
        )
        raise InputError(msg)
    basis = jnp.eye(size, dtype=operator.in_structure().dtype)
    # For large matrices 64 products at a time: all at once needs p times the memory of one.
    if size <= 256:
        return jax.vmap(operator.mv)(basis)
    return jax.lax.map(operator.mv, basis, batch_size=64)


def _check_batch_size(batch_size: int | None, size: int) -> int | None:
    if batch_size is None or batch_size >= size:
        return None
    if batch_size < 1:
        msg = f"batch_size must be at least 1, got {batch_size}."
        raise InputError(msg)
    return int(batch_size)


def _check_data(inputs: Array, targets: Array, loss: Loss) -> int:
    """Raise for data that cannot be used; otherwise how many outputs integer labels need."""
    if inputs.ndim == 0 or inputs.shape[0] == 0:
        msg = f"The data is empty: inputs have shape {inputs.shape}."
        raise InputError(msg)
    if targets.ndim == 0 or targets.shape[0] != inputs.shape[0]:
        msg = f"inputs and targets must have as many examples, got shapes {inputs.shape} and {targets.shape}."
        raise InputError(msg)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        msg = f"inputs must be floating point, got {inputs.dtype}; convert with inputs.astype(float)."
        raise InputError(msg)
    try:
        np.asarray(inputs)
        np.asarray(targets)
    except jax.errors.TracerArrayConversionError:
        return 0  # made inside a jitted function: the values are not known yet
    for name, array in (("inputs", inputs), ("targets", targets)):
        if jnp.issubdtype(array.dtype, jnp.floating) and not bool(jnp.isfinite(array).all()):
            row = int(np.argwhere(~np.isfinite(np.asarray(array)))[0][0])
            msg = f"{name} contain NaN or infinity (first in row {row}); remove or impute those rows."
            raise InputError(msg)
    if loss.name == "cross_entropy":
        return _check_classes(np.asarray(targets))
    if loss.name == "logistic" and (float(targets.min()) < 0 or float(targets.max()) > 1):
        msg = f"logistic needs targets in [0, 1], got [{float(targets.min())}, {float(targets.max())}]."
        raise InputError(msg)
    return 0


def _is_one_hot(targets: Array) -> bool:
    """Whether the shape is that of one-hot rows of whole numbers; the values are checked with other probabilities."""
    return targets.ndim == 2 and targets.shape[1] > 1 and not jnp.issubdtype(targets.dtype, jnp.inexact)


def _check_classes(targets: np.ndarray) -> int:
    """Raise for targets that cross-entropy cannot use; otherwise how many outputs integer labels need."""
    if np.issubdtype(targets.dtype, np.integer) and targets.size == len(targets):
        if targets.min() < 0:
            msg = f"Class labels must be 0, 1, ..., got {targets.min()}."
            raise InputError(msg)
        return int(targets.max()) + 1
    if targets.ndim != 2:
        msg = (
            "cross_entropy needs integer labels of shape (n,) or rows of probabilities of shape (n, classes), "
            f"got {targets.dtype} of shape {targets.shape}."
        )
        raise InputError(msg)
    rows = np.asarray(targets, dtype=float)
    bad = np.flatnonzero((rows.min(axis=1) < 0) | (np.abs(rows.sum(axis=1) - 1) > _PROBABILITY))
    if len(bad):
        msg = (
            f"Rows of probabilities must be non-negative and sum to one; row {bad[0]} has the smallest entry "
            f"{rows[bad[0]].min():g} and the sum {rows[bad[0]].sum():g}. Normalise the rows, or give integer labels "
            "of shape (n,)."
        )
        raise InputError(msg)
    return 0
