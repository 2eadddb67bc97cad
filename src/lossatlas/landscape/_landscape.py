"""A landscape is data plus a loss; a point on it is a network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, ravel
from lossatlas._types import LossFn, Network, Only, Vector
from lossatlas.landscape._checks import check_batch_size, check_data, is_one_hot
from lossatlas.landscape._fisher import fisher_information, loss_curvature, require_likelihood, sampled_slopes
from lossatlas.landscape._loss import Loss, as_loss


_MAX_DENSE = 4000


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
        if self.loss.name == "cross_entropy" and is_one_hot(targets):
            targets = targets.astype(inputs.dtype)  # rows of probabilities, written in whole numbers
        self._num_labels = check_data(inputs, targets, self.loss)
        self.batch = (inputs, targets)
        self.size = inputs.shape[0]
        self.batch_size = check_batch_size(batch_size, self.size)
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
            "batch_size": check_batch_size(batch_size, size),
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

    @property
    def has_predictions(self) -> bool:
        """Whether there are outputs: those of a network on inputs, or of the `predict` of a function."""
        return self._example_losses is None or self._predict is not None

    def with_batch_size(self, batch_size: int | None) -> "Landscape":
        """The same landscape computed in batches of another size."""
        new = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            object.__setattr__(new, name, getattr(self, name))
        object.__setattr__(new, "batch_size", check_batch_size(batch_size, self.size))
        return new

    def subset(self, index: Any) -> "Landscape":
        """The landscape of some of the examples, all in one batch.

        **Arguments:**
        - `index`: a slice, or an array of positions or of booleans.

        **Raises:** `InputError` where nothing is left.
        """
        batch = jax.tree.map(lambda a: a[index], self.batch)
        if jax.tree.leaves(batch)[0].shape[0] == 0:
            msg = f"The index {index!r} leaves none of the {self.size} examples."
            raise InputError(msg)
        return self.with_batch_size(None)._with_batch(batch)

    def sharded(self, devices: Sequence[Any] | None = None) -> "Landscape":
        """The same landscape with its examples spread over devices, on which everything measured on it is computed.

        **Arguments:**
        - `devices`: of one platform; default all of `jax.devices()`.

        **Raises:** `InputError` where the examples cannot be shared out equally.
        """
        devices = list(jax.devices()) if devices is None else list(devices)
        if self.size % len(devices):
            msg = (
                f"{self.size} examples cannot be shared out equally among {len(devices)} devices; leave "
                f"{self.size % len(devices)} of them out by landscape.subset(slice({len(devices)} * "
                f"{self.size // len(devices)})), or give fewer devices."
            )
            raise InputError(msg)
        mesh = jax.sharding.Mesh(np.array(devices), ("examples",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
        return self._with_batch(jax.tree.map(lambda a: jax.device_put(a, spread), self.batch))

    def _with_batch(self, batch: PyTree[Array]) -> "Landscape":
        new = self.with_batch_size(self.batch_size)
        object.__setattr__(new, "batch", batch)
        object.__setattr__(new, "size", int(jax.tree.leaves(batch)[0].shape[0]))
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
        loss = self._require_loss()

        def product(push, pull, predictions, batch, tangent):
            return pull(loss_curvature(loss, predictions, batch[-1])(push(tangent)))

        return self._jacobian_operator(network, only, product)

    def fisher_operator(
        self,
        network: Network,
        only: Only = None,
        *,
        kind: Literal["fisher", "sampled_fisher", "empirical_fisher"] = "fisher",
        key: PRNGKeyArray | None = None,
        num_samples: int = 1,
    ) -> lx.AbstractLinearOperator:
        r"""A Fisher matrix $\frac1n \sum_i J_i^\top F_i J_i$ as an operator.

        **Arguments:**
        - `kind`: `"fisher"`: $F = E[s s^\top]$ with $s = \nabla_f \ell$ at targets of the network's own likelihood
          (equal to Gauss-Newton for the losses known by name); `"sampled_fisher"`: the mean over `num_samples` targets
          drawn by `key`, the same ones in every product; `"empirical_fisher"`: s at the targets of the data.
        - `num_samples`: targets drawn for each example.

        **Raises:** `InputError` for a loss without a known likelihood, and for samples without a key.
        """
        if kind == "fisher":
            loss = self._require_loss()
            require_likelihood(loss)
            exact = lambda push, pull, f, _, t: pull(fisher_information(loss, f)(push(t)))  # noqa: E731
            return self._jacobian_operator(network, only, exact)
        return self._slope_operator(network, only, self._slopes(network, kind, key, num_samples))

    def _slopes(self, network: Network, kind: str, key: PRNGKeyArray | None, num_samples: int) -> Array:
        """Vectors s of every example, shape (n, samples, ...), of which F is the mean of s s^T."""
        if kind == "empirical_fisher":
            return self.residuals(network)[:, None]
        if key is None or num_samples < 1:
            msg = f"A sampled Fisher matrix needs a key and num_samples of at least 1, got {key} and {num_samples}."
            raise InputError(msg)
        return sampled_slopes(key, self._require_loss(), self.predictions(network), num_samples)

    def _slope_operator(self, network: Network, only: Only, slopes: Array) -> lx.AbstractLinearOperator:
        def product(push, pull, predictions, batch, tangent):
            del predictions
            slopes = batch[1].reshape(*batch[1].shape[:2], -1)
            pushed = push(tangent)
            along = jnp.einsum("nso,no->ns", slopes, pushed.reshape(len(pushed), -1))
            return pull((jnp.einsum("ns,nso->no", along, slopes) / slopes.shape[1]).reshape(pushed.shape))

        return self._jacobian_operator(network, only, product, slopes)

    def _jacobian_operator(self, network: Network, only: Only, of_batch: Callable, extra: Array | None = None):
        """The operator of products J^T F J. `of_batch(push, pull, predictions, batch, tangent)` makes one batch's part;
        with `extra`, an array of the examples, its batch is (batch, part of extra).
        """
        vector, unravel = ravel(network, only)
        data = self if extra is None else self._with_batch((self.batch, extra))

        def part(tangent, batch, weights):
            own = batch if extra is None else batch[0]
            predict = lambda v: self._predictions_of(unravel(v), own)  # noqa: E731
            predictions, push = jax.linearize(predict, vector)

            def pull(pulled):
                keep = weights.reshape(-1, *([1] * (pulled.ndim - 1))) > 0
                return jax.linear_transpose(push, vector)(jnp.where(keep, pulled, 0.0))[0]

            return of_batch(push, pull, predictions, batch, tangent)

        product = lambda tangent: data._mean(lambda batch, weights: part(tangent, batch, weights))  # noqa: E731
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
