"""The empirical neural tangent kernel of any network."""

import dataclasses
import functools as ft
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk_blocks import Batches, Tile, convention_words, example_bytes, tile_rows, tiles
from lossatlas.geometry._ntk_cost import method_costs
from lossatlas.geometry._ntk_features import (
    Convention,
    Rows,
    block,
    contracted,
    direct_paths,
    float_type,
    structured,
    summed_block,
)
from lossatlas.geometry._ntk_source import Points, Source, as_landscape, examples_of, source_of
from lossatlas.landscape import Landscape


Method = Literal["auto", "structured", "contraction", "products"]
CONVENTIONS = ("full", "trace", "sum_logits")
METHODS = ("auto", "structured", "contraction", "products")
ALL = "all"
"""The one layer of a kernel that is not split."""


@shown
class Kernel(eqx.Module):
    """An empirical neural tangent kernel.

    - `matrix`: shape (n, m), or (n C, m C) for the convention `full`, the index of example i and output c being
      i * C + c. Exact up to rounding; without a factor 1/n or 1/p.
    - `layers`: by layer, what its parameters contribute: matrices that sum to `matrix`. Empty unless asked for.
    - `num_outputs`: C.
    - `convention`: `"full"`, `"trace"` or `"sum_logits"`, see [`lossatlas.geometry.ntk`][].
    - `method`: the one that was used; `settings` holds `formed`, the parameters whose gradients were formed.
    """

    matrix: Float[np.ndarray, "n m"]
    layers: dict[str, Float[np.ndarray, "n m"]]
    num_outputs: int = eqx.field(static=True)
    convention: Convention = eqx.field(static=True)
    method: str = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def shares(self) -> dict[str, float]:
        """The part of the trace that each layer contributes; they sum to one.

        **Raises:** `InputError` where the kernel was not split by layers, or lies between different examples.
        """
        if not self.layers or self.matrix.shape[0] != self.matrix.shape[1]:
            msg = "Shares need a kernel of examples with themselves, split by layers: ntk(..., per_layer=True)."
            raise InputError(msg)
        whole = np.trace(self.matrix)
        return {name: float(np.trace(part) / whole) for name, part in self.layers.items()}

    def to_xarray(self):
        """The matrix, and those of layers, as an `xarray.Dataset` over `row` and `column`."""
        import xarray as xr

        data: dict[str, Any] = {"kernel": (("row", "column"), self.matrix)}
        coords = {}
        if self.layers:
            data["layers"] = (("layer", "row", "column"), np.stack(list(self.layers.values())))
            coords["layer"] = list(self.layers)
        return xr.Dataset(data, coords=coords, attrs={"convention": self.convention, "method": self.method})

    def _figure(self) -> Any:
        from lossatlas.figures import matrix_figure

        words = "row" if self.convention == "full" else "example"
        return matrix_figure(np.asarray(self.matrix, float), x=words, y=words, colour="tangent kernel")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the blocks of a kernel are made, the same for all networks of one shape.

    - `features_of`, `block_of`: of the leaves of a network and a batch, and of those and the features of two.
    """

    source: Source
    features_of: Callable[[list[Array], Any], Any]
    block_of: Callable[[list[Array], Any, Any], dict[str, Array]]
    method: str
    tile: int
    bytes_each: int
    rows: Rows
    formed: tuple[str, ...]
    costs: dict[str, float]
    dtype: Any


def ntk(
    network: Network,
    landscape: Points,
    other: Points | None = None,
    *,
    convention: Convention = "trace",
    method: Method = "auto",
    only: Only = None,
    per_layer: bool = False,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
) -> Kernel:
    r"""The empirical neural tangent kernel, $J(x) J(x')^\top$ with $J(x) = \partial f(x) / \partial \theta$.

    The conventions (Fort et al. 2020; Mohamadi, Bae and Sutherland 2023), for C outputs before any softmax:

    - `full`: all entries, $K_{(i,c),(j,d)} = \langle \nabla f_c(x_i), \nabla f_d(x_j) \rangle$.
    - `trace`: $K_{ij} = \frac1C \sum_c \langle \nabla f_c(x_i), \nabla f_c(x_j) \rangle$.
    - `sum_logits`: $K_{ij} = \langle \nabla g(x_i), \nabla g(x_j) \rangle$, $g = \frac{1}{\sqrt C} \sum_c f_c$; C times
      cheaper than `trace`, with the same limit for wide networks, but another matrix at finite width.

    The methods agree to rounding:

    - `structured` (Novak, Sohl-Dickstein and Schoenholz 2022): every parameter is followed through the jaxpr of the
      network to the operation that consumes it. A product or a convolution makes its gradient a sum of outer
      products of what it reads and the slope behind it, so the kernel of a layer is one Gram matrix times another,
      entry by entry, and the gradient is never formed; a bias shares the slopes. Parameters that meet something
      else (scales of normalisations, products over the batch axis), and convolutions over many places, have their
      gradients formed and contracted.
    - `contraction`: all gradients formed, $J J^\top$. `products`: column by column, $J (J^\top v)$; memory of one
      gradient.
    - `auto`: the cheapest by a count of multiplications (`Kernel.stats["costs"]`); it works at any activation.

    Memory: the result, blocks of a quarter of a gigabyte, features of at most about a gigabyte.

    **Arguments:**
    - `network`: any that predicts on one example; networks that mix examples or are random are refused.
    - `landscape`: the data, n examples: a [`lossatlas.landscape.Landscape`][] or an array of inputs. `other`: m
      examples of the columns; default the same, and only the blocks above the diagonal are computed.
    - `convention`, `method`: as above.
    - `per_layer`: also what each layer contributes (not with `products`).
    - `batch_size`: examples of a block along both axes; default by memory. The result is the same to rounding.

    **Returns:**
    A [`lossatlas.geometry.Kernel`][].

    **Raises:** `InputError` for unknown names, networks whose predictions on an example depend on others, data of other
    shape, and kernels that are not finite.

    !!! example
        >>> network = Dense(jax.random.key(0), [2, 8, 3], activation="relu")
        >>> ntk(network, jnp.ones((5, 2)), convention="full").matrix.shape
        (15, 15)
    """
    begin = time.perf_counter()
    first = as_landscape(landscape)
    second = None if other is None else as_landscape(other)
    recipe, leaves = make_recipe(
        network, first, second, convention, method, only, per_layer=per_layer, batch_size=batch_size
    )
    rows, columns = first.size, first.size if second is None else second.size
    k = recipe.rows.k
    matrices: dict[str, np.ndarray] = {}
    with as_meter(progress).task("kernel", rows * columns) as task:
        done = 0
        for tile in kernel_tiles(recipe, leaves, first, second):
            for name, values in tile.values.items():
                if name not in matrices:
                    matrices[name] = np.empty((rows, k, columns, k), recipe.dtype)
                put(matrices[name], recipe.tile, tile, values, symmetric=second is None)
            done += covered(tile, symmetric=second is None)
            task.update(done)
    flat = {name: matrix.reshape(rows * k, columns * k) for name, matrix in matrices.items()}
    matrix = flat[ALL] if not per_layer else sum_of(list(flat.values()))
    return Kernel(
        matrix=matrix,
        layers=flat if per_layer else {},
        num_outputs=recipe.rows.num_outputs,
        convention=convention,
        method=recipe.method,
        stats={"seconds": time.perf_counter() - begin, "costs": dict(recipe.costs), "tile": recipe.tile},
        settings={"convention": convention_words(convention), "formed": recipe.formed},
    )


def ntk_costs(
    network: Network,
    landscape: Points,
    other: Points | None = None,
    *,
    convention: Convention = "trace",
    only: Only = None,
) -> dict[str, float]:
    """What each method would cost for a kernel, in multiplications: the numbers by which `auto` decides.

    **Arguments:**
    - `other`, `convention`: as for [`lossatlas.geometry.ntk`][].

    **Returns:** multiplications by method; nothing is computed.

    **Raises:** `InputError` as [`lossatlas.geometry.ntk`][] does.
    """
    second = None if other is None else as_landscape(other)
    recipe, _ = make_recipe(network, as_landscape(landscape), second, convention, "auto", only)
    return dict(recipe.costs)


def make_recipe(
    network: Network,
    first: Landscape,
    second: Landscape | None,
    convention: Any,
    method: Any,
    only: Only,
    *,
    per_layer: bool = False,
    batch_size: int | None = None,
) -> tuple[Recipe, list[Array]]:
    """Decide how a kernel is made, after all checks; also the leaves of the network.

    **Raises:** `InputError` as [`lossatlas.geometry.ntk`][] does.
    """
    if convention not in CONVENTIONS:
        raise unknown_name("convention", convention, CONVENTIONS)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1, got {batch_size}."
        raise InputError(msg)
    if per_layer and method == "products":
        msg = 'Products do not tell layers apart; use method="structured" or "contraction", or only="layers[0].*".'
        raise InputError(msg)
    if second is not None and _shapes(first) != _shapes(second):
        msg = f"The two sets of examples have shapes {_shapes(first)} and {_shapes(second)}; they need the same."
        raise InputError(msg)
    source, leaves = source_of(network, first, only)
    n, m = first.size, first.size if second is None else second.size
    return _recipe(source, convention, method, n, m, second is None, per_layer, batch_size), leaves


@ft.lru_cache(maxsize=64)
def _recipe(
    source: Source,
    convention: Convention,
    method: Method,
    n: int,
    m: int,
    symmetric: bool,  # noqa: FBT001
    per_layer: bool,  # noqa: FBT001
    batch_size: int | None,
) -> Recipe:
    rows = Rows(convention, source.plan.num_outputs)
    costs = method_costs(source.plan, source.selected, rows, n, m, symmetric=symmetric)
    if method == "auto":
        allowed: list[Method] = ["structured", "contraction", *([] if per_layer else ["products"])]
        method = min(allowed, key=lambda name: costs[name])
    features_of: Callable[[list[Array], Any], Any] = ft.partial(_features, source, rows, method)
    block_of: Callable[[list[Array], Any, Any], dict[str, Array]]
    if method == "products":
        block_of = lambda leaves, one, two: {ALL: _product_block(source, rows, leaves, one, two)}  # noqa: E731
    elif per_layer:
        block_of = lambda _, one, two: block(one, two)  # noqa: E731
    else:
        block_of = lambda _, one, two: {ALL: summed_block(one, two)}  # noqa: E731
    features = () if method == "products" else _feature_shapes(source, rows, method)
    formed = {"structured": direct_paths(source.plan), "contraction": source.selected, "products": ()}[method]
    return Recipe(
        source=source,
        features_of=features_of,
        block_of=block_of,
        method=method,
        tile=tile_rows(features, rows, batch_size, max(n, m)),
        bytes_each=example_bytes(features),
        rows=rows,
        formed=formed,
        costs=costs,
        dtype=np.dtype(float_type(source.leaves)),
    )


def kernel_tiles(
    recipe: Recipe,
    leaves: list[Array],
    first: Landscape,
    second: Landscape | None,
    is_done: Callable[[int, int], bool] = lambda row, column: False,  # noqa: ARG005
) -> Iterator[Tile]:
    """The blocks of a kernel.

    **Raises:** `InputError` at the first one that is not finite.
    """
    rows = Batches(examples_of(first), first.size, recipe.tile)
    columns = None if second is None else Batches(examples_of(second), second.size, recipe.tile)
    features_of, block_of = ft.partial(recipe.features_of, leaves), ft.partial(recipe.block_of, leaves)
    for tile in tiles(features_of, block_of, rows, columns, recipe.bytes_each, is_done):
        if not all(np.isfinite(values).all() for values in tile.values.values()):
            msg = (
                "The kernel is not finite: predictions or their gradients are NaN or infinite at this network. Check "
                "the parameters (named_parameters(network)) and the data for NaN and overflow."
            )
            raise InputError(msg)
        yield tile


def put(matrix: np.ndarray, rows: int, tile: Tile, values: np.ndarray, *, symmetric: bool) -> None:
    """Write a block, and its mirror image, where it belongs in a matrix of shape (n, k, m, k)."""
    (a, b), (n, m) = (tile.row * rows, tile.column * rows), (values.shape[0], values.shape[2])
    matrix[a : a + n, :, b : b + m] = values
    if symmetric and tile.row != tile.column:
        matrix[b : b + m, :, a : a + n] = values.transpose(2, 3, 0, 1)


def sum_of(matrices: list[np.ndarray]) -> np.ndarray:
    """The sum of some matrices, in the order given."""
    total = matrices[0].copy()
    for matrix in matrices[1:]:
        total += matrix
    return total


def covered(tile: Tile, *, symmetric: bool) -> int:
    """How many pairs of examples a block covers, with its mirror image."""
    values = next(iter(tile.values.values()))
    return values.shape[0] * values.shape[2] * (2 if symmetric and tile.row != tile.column else 1)


def _shapes(landscape: Landscape) -> list[tuple[int, ...]]:
    """Of what predictions are made from, one example."""
    return [leaf.shape[1:] for leaf in jax.tree.leaves(examples_of(landscape))]


def _feature_shapes(source: Source, rows: Rows, method: str) -> Any:
    """The shapes of the features of one example."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), source.example)
    return jax.eval_shape(ft.partial(_features, source, rows, method), source.leaves, one)


def _features(source: Source, rows: Rows, method: str, leaves: list[Array], examples: Any) -> Any:
    """What blocks are made from: features, or the examples themselves."""
    if method == "products":
        return examples
    if method == "structured":
        return structured(source.plan, rows, leaves, examples)
    return contracted(source.fn, source.paths, source.selected, rows, leaves, examples)


@ft.partial(jax.jit, static_argnums=(0, 1))
def _product_block(source: Source, rows: Rows, leaves: list[Array], first: Any, second: Any) -> Float[Array, "n k m k"]:
    """The block between two batches by $J (J^T v)$, one column of one gradient after the other."""
    places = [source.paths.index(path) for path in source.selected]
    moved = [leaves[place] for place in places]

    def predict(values, example):
        replaced = list(leaves)
        for place, leaf in zip(places, values, strict=True):
            replaced[place] = leaf
        return source.fn(replaced, example).reshape(-1)

    directions = rows.directions(float_type(moved))

    def column(example):
        _, pull = jax.vjp(lambda values: predict(values, example), moved)

        def of_direction(direction):
            (gradient,) = pull(direction)
            push = lambda x: jax.jvp(lambda values: predict(values, x), (moved,), (gradient,))[1]  # noqa: E731
            return jax.vmap(push)(first) @ directions.T  # (n, num)

        pushed = jax.lax.map(of_direction, directions)  # (num columns, n, num rows)
        if rows.k == 1:
            return jnp.einsum("cnc->n", pushed)[:, None, None]
        return pushed.transpose(1, 2, 0)

    return jnp.moveaxis(jax.lax.map(column, second), 0, 2)  # (m, n, k, k) to (n, k, m, k)
