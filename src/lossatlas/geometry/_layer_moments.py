r"""Traces and Frobenius norms of the Gauss-Newton blocks of all layers, exact from the tangent kernel, or by probes.

With $K_{ij}$ the block of the kernel of one layer between two examples (outputs by outputs) and $H_i = \ell''(f_i)$,
the block of that layer has the trace $\frac1n \sum_i \operatorname{tr} H_i K_{ii}$ and the squared Frobenius norm
$\frac1{n^2} \sum_{ij} \operatorname{tr} H_i K_{ij} H_j K_{ji}$, so it is never formed.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._parameters import named_parameters, replace_parameters, select
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk import Recipe, kernel_tiles, make_recipe
from lossatlas.geometry._ntk_plan import layer_of
from lossatlas.geometry._ntk_source import source_of
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.numerics import flat_jaxpr, literal_value


_TILE = 8  # examples of a tile where only those on the diagonal count
_ENTRY = 10  # multiplications that an entry of a kernel takes beside those that make it


class Moments(NamedTuple):
    """Traces and Frobenius norms of blocks, with standard errors (0: exact), in the order of the layers."""

    traces: Float[np.ndarray, " layers"]
    trace_errors: Float[np.ndarray, " layers"]
    norms: Float[np.ndarray, " layers"]
    norm_errors: Float[np.ndarray, " layers"]


def layer_places(network: Network, only: Only = None) -> dict[str, np.ndarray]:
    """By layer, where its parameters stand in the flat vector of the selected ones."""
    places: dict[str, list[np.ndarray]] = {}
    start = 0
    for path, leaf in named_parameters(eqx.filter(network, select(network, only))).items():
        if leaf.size:
            places.setdefault(layer_of(path), []).append(np.arange(start, start + leaf.size))
        start += leaf.size
    return {name: np.concatenate(parts) for name, parts in places.items()}


def paths_by_use(network: Network, landscape: Landscape) -> list[str]:
    """The paths of all parameters in the order in which predictions first use them, those never used last.

    Modules whose parameters are a dictionary hold them in alphabetical order, which says nothing of the network.
    """
    arrays = named_parameters(network)
    few = landscape.subset(slice(1)).with_batch_size(None)

    def predict(values: list[Array]) -> Array:
        made = replace_parameters(network, dict(zip(arrays, values, strict=True)))
        return few.predictions(made)

    jaxpr = flat_jaxpr(predict, list(arrays.values())).jaxpr
    first: dict[Any, int] = {}
    for place, equation in enumerate(jaxpr.eqns):
        for atom in equation.invars:
            if literal_value(atom) is None:
                first.setdefault(atom, place)
    used = {path: first.get(var, len(jaxpr.eqns)) for path, var in zip(arrays, jaxpr.invars, strict=True)}
    return sorted(arrays, key=used.__getitem__)


def in_order_of_use(places: dict[str, np.ndarray], network: Network, landscape: Landscape) -> dict[str, np.ndarray]:
    """Layers in the order in which predictions first use a parameter of them."""
    names = dict.fromkeys(layer_of(path) for path in paths_by_use(network, landscape))
    return {name: places[name] for name in names if name in places}


def flat_parameters(network: Network, only: Only = None) -> np.ndarray:
    """The flat vector of the selected parameters, on the host."""
    leaves = named_parameters(eqx.filter(network, select(network, only))).values()
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def fan_ins(network: Network, landscape: Landscape, only: Only = None) -> dict[str, int]:
    """By layer with a weight that only contractions consume, how many numbers a unit of it reads."""
    source, _ = source_of(network, landscape, only)
    sizes: dict[str, int] = {}
    for found in source.plan.factored:
        if source.plan.size(found.path):
            name = layer_of(found.path)
            sizes[name] = max(sizes.get(name, 0), found.shape[0])
    return sizes


def moments_recipe(
    network: Network, landscape: Landscape, only: Only = None, *, diagonal_alone: bool = False
) -> tuple[Recipe, list[Array]]:
    """How the kernel is made that traces, and norms unless they are left out, come from; and the network's leaves."""
    tile = min(_TILE, landscape.size) if diagonal_alone else None
    return make_recipe(network, landscape, None, "full", "auto", only, per_layer=True, batch_size=tile)


def moments_cost(recipe: Recipe, num_examples: int, num_layers: int) -> float:
    """Multiplications of the exact moments."""
    entries = 0.5 * num_layers * (num_examples * recipe.rows.num_outputs) ** 2
    return recipe.costs[recipe.method] + _ENTRY * entries


def exact_moments(
    recipe: Recipe,
    leaves: list[Array],
    landscape: Landscape,
    curvatures: Float[np.ndarray, "n c c"],
    layers: list[str],
    *,
    diagonal_alone: bool = False,
) -> Moments:
    """The moments from the tiles of the kernel; without norms (NaN) from those on the diagonal alone."""
    n, step = landscape.size, recipe.tile
    traces, squares = np.zeros(len(layers)), np.zeros(len(layers))
    skipped = (lambda row, column: row != column) if diagonal_alone else (lambda row, column: False)  # noqa: ARG005
    for tile in kernel_tiles(recipe, leaves, landscape, None, skipped):
        rows = curvatures[tile.row * step : (tile.row + 1) * step]
        columns = curvatures[tile.column * step : (tile.column + 1) * step]
        for k, name in enumerate(layers):
            block = tile.values[name].astype(float)
            i, c, j, _ = block.shape
            left = (rows @ block.reshape(i, c, j * c)).reshape(block.shape)  # H_i K_ij
            if tile.row == tile.column:
                traces[k] += np.einsum("icic->", left)
            if not diagonal_alone:
                by_column = lambda a: a.transpose(2, 0, 1, 3).reshape(j, i * c, c)  # noqa: E731, B023
                share = np.sum((by_column(left) @ columns) * by_column(block))
                squares[k] += share if tile.row == tile.column else 2 * share
    norms = np.full(len(layers), np.nan) if diagonal_alone else np.sqrt(np.maximum(squares, 0.0)) / n
    zeros = np.zeros(len(layers))
    return Moments(traces / n, zeros, norms, zeros)


def probed_moments(
    products: CurvatureProducts, places: dict[str, np.ndarray], num_probes: int, rng: np.random.Generator
) -> Moments:
    r"""The moments by random signs z in one layer after the other: means of $z^\top B z$ and $|Bz|^2$."""
    rows = []
    for index in places.values():
        block, samples = within(products, index), []
        for _ in range(num_probes):
            probe = rng.choice(np.array([-1.0, 1.0], products.dtype), len(index))
            image = block(probe).astype(float)
            samples.append((probe @ image, image @ image))
        (trace, square), errors = np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1) / math.sqrt(num_probes)
        norm = math.sqrt(square)
        rows.append((trace, errors[0], norm, errors[1] / (2 * norm) if norm else 0.0))
    return Moments(*np.array(rows).T)


def within(products: CurvatureProducts, index: np.ndarray):
    """The products of the block of some parameters: one compiled program serves every layer."""

    def product(vector: np.ndarray) -> np.ndarray:
        whole = np.zeros(products.size, products.dtype)
        whole[index] = vector
        return products(whole)[index]

    return product


@eqx.filter_jit
def output_curvatures(network: Network, landscape: Landscape) -> Float[Array, "n c c"]:
    r"""$\ell''(f_i)$ of every example, predictions flattened."""
    loss, predictions = landscape._require_loss(), landscape.predictions(network)
    size = predictions[0].size
    second = jax.vmap(jax.hessian(loss.fn))(predictions, landscape.targets)
    return jnp.reshape(second, (landscape.size, size, size))


def mean_trace(curvatures: Float[np.ndarray, "n c c"]) -> float:
    """The mean of their traces."""
    return float(np.einsum("icc->i", curvatures).mean())


@eqx.filter_jit
def loss_trace(network: Network, landscape: Landscape) -> Float[Array, ""]:
    r"""The mean of $\operatorname{tr} \ell''(f_i)$ over the examples, without the matrices of all."""
    loss, predictions = landscape._require_loss(), landscape.predictions(network)
    size = predictions[0].size
    trace = lambda pair: jnp.trace(jax.hessian(loss.fn)(*pair).reshape(size, size))  # noqa: E731
    return jnp.sum(jax.lax.map(trace, (predictions, landscape.targets), batch_size=64)) / landscape.size
