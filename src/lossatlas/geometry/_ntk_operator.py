r"""The tangent kernel as an operator, $K v = J (J^\top v)$; the matrix is never formed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import unknown_name
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk import CONVENTIONS
from lossatlas.geometry._ntk_features import Convention, Rows, float_type
from lossatlas.geometry._ntk_source import Points, Source, as_landscape, examples_of, source_of


def ntk_operator(
    network: Network,
    landscape: Points,
    *,
    convention: Convention = "full",
    only: Only = None,
    batch_size: int | None = None,
) -> lx.AbstractLinearOperator:
    r"""The empirical tangent kernel over the whole data as a positive semidefinite operator.

    $K v = J (J^\top v)$: one reverse and one forward pass over the data a product, about five evaluations of the
    predictions (`trace`: C times that). Memory: one batch and one gradient.

    **Arguments:**
    - `landscape`: n examples, a landscape or inputs.
    - `convention`: as for [`lossatlas.geometry.ntk`][]: vectors have n C entries for `full` (index i * C + c), else n.
    - `batch_size`: examples at a time; default that of the landscape, or all at once.

    **Returns:**
    A `lineax` operator, which its solvers take, also under `jit`.

    **Raises:** `InputError` as [`lossatlas.geometry.ntk`][] does.
    """
    if convention not in CONVENTIONS:
        raise unknown_name("convention", convention, CONVENTIONS)
    data = as_landscape(landscape)
    source, leaves = source_of(network, data, only)
    rows = Rows(convention, source.plan.num_outputs)
    size = data.size
    batch = min(size, batch_size or data.batch_size or size)
    product = _Product(source, rows, size, batch, leaves, examples_of(data))
    structure = jax.ShapeDtypeStruct((size * rows.k,), float_type(leaves))
    return lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag)


class _Product(eqx.Module):
    source: Source = eqx.field(static=True)
    rows: Rows = eqx.field(static=True)
    size: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    leaves: list[Array]
    examples: Any

    def __call__(self, vector: Float[Array, " nk"]) -> Float[Array, " nk"]:
        directions = self.rows.directions(vector.dtype)
        if self.rows.convention != "trace":
            return self._through(vector.reshape(self.size, self.rows.k), directions).reshape(-1)
        # The sum over outputs of the kernels of each of them.
        of_output = lambda row: self._through(vector[:, None], row[None])[:, 0]  # noqa: E731
        return jnp.sum(jax.lax.map(of_output, directions), axis=0)

    def _through(self, vectors: Float[Array, "n k"], directions: Float[Array, "k o"]) -> Float[Array, "n k"]:
        """The product for predictions projected on some directions."""
        num = -(-self.size // self.batch)
        index = np.arange(num * self.batch)
        weights = jnp.asarray((index < self.size).reshape(num, self.batch, 1), vectors.dtype)
        index = np.where(index < self.size, index, 0).reshape(num, self.batch)
        examples = jax.tree.map(lambda a: a[index], self.examples)
        cotangents = weights * vectors[index]
        places = [self.source.paths.index(path) for path in self.source.selected]
        moved = [self.leaves[place] for place in places]

        def predict(values, batch):
            replaced = list(self.leaves)
            for place, leaf in zip(places, values, strict=True):
                replaced[place] = leaf
            outputs = jax.vmap(lambda x: self.source.fn(replaced, x).reshape(-1))(batch)
            return outputs @ directions.T

        def pull(total, piece):
            batch, cotangent = piece
            (gradient,) = jax.vjp(lambda values: predict(values, batch), moved)[1](cotangent)
            return jax.tree.map(jnp.add, total, gradient), None

        def push(batch):
            return jax.jvp(lambda values: predict(values, batch), (moved,), (gradient,))[1]

        zero = jax.tree.map(jnp.zeros_like, moved)
        if num == 1:
            gradient, _ = pull(zero, jax.tree.map(lambda a: a[0], (examples, cotangents)))
            return push(jax.tree.map(lambda a: a[0], examples))[: self.size]
        gradient, _ = jax.lax.scan(pull, zero, (examples, cotangents))
        return jax.lax.map(push, examples).reshape(num * self.batch, -1)[: self.size]
