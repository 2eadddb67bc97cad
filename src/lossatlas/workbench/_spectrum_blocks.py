"""Parts of a spectrum: its trace, and the blocks of single parameter arrays."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._parameters import named_parameters, num_parameters
from lossatlas._types import Network
from lossatlas.geometry import Curvature, Spectrum
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.geometry._spectrum import MAX_EXACT
from lossatlas.landscape import Landscape


TRACE_PROBES = 60
_DENSE = 100  # parameters of a block whose matrix is formed though the whole one is not
_END_PRODUCTS = 30  # that the two ends of another block take


class Trace(NamedTuple):
    """A trace, its standard error (0: exact) and the products that it took."""

    value: float
    standard_error: float
    num_products: int


def trace_of(key: PRNGKeyArray, network: Network, landscape: Landscape, found: Spectrum, **measured: Any) -> Trace:
    """The sum of the eigenvalues where all are known, else structured or an estimate."""
    from lossatlas import geometry

    if found.all_values is not None:
        return Trace(float(np.sum(found.all_values)), 0.0, 0)
    trace = geometry.trace(key, network, landscape, num_probes=TRACE_PROBES, **measured)
    return Trace(float(trace.value), float(trace.standard_error), trace.num_products)


def block_products(network: Network, names: list[str]) -> int:
    """How many products the blocks of these arrays take, about."""
    if not names:
        return 0
    if num_parameters(network) <= MAX_EXACT:
        return num_parameters(network)
    sizes = [num_parameters(network, name) for name in names]
    return sum(size if size <= _DENSE else _END_PRODUCTS + TRACE_PROBES for size in sizes)


def array_blocks(
    key: PRNGKeyArray, network: Network, landscape: Landscape, names: list[str], curvature: Curvature, rtol: float
) -> tuple[list[dict[str, Any]], int]:
    """The ends and the trace of the block of each parameter array, and the products that all took.

    Small networks: cut out of the dense matrix, with which nothing is compiled for a single block.

    **Arguments:**
    - `key`: of the matrix, as in the spectrum of the whole, and of probes. `rtol`: of the ends by Lanczos.
    """
    if num_parameters(network) > MAX_EXACT:
        found = [_block(key, network, landscape, name, curvature, rtol) for name in names]
        return [row for row, _ in found], sum(used for _, used in found)
    products = CurvatureProducts(network, landscape, curvature=curvature, key=key)
    matrix, start, places = products.dense(), 0, {}
    for name, array in named_parameters(network).items():
        places[name] = slice(start, start + array.size)
        start += array.size
    rows = []
    for name in names:
        block = matrix[places[name], places[name]]
        values = np.linalg.eigvalsh(block)
        rows.append(_row(name, len(block), values[-1], values[0], np.trace(block), 0.0))
    return rows, products.count


def _block(
    key: PRNGKeyArray, network: Network, landscape: Landscape, name: str, curvature: Curvature, rtol: float
) -> tuple[dict[str, Any], int]:
    """The ends and the trace of the block of one parameter array, and the products that they took."""
    from lossatlas import geometry

    size = num_parameters(network, name)
    ends = geometry.spectrum(
        network,
        landscape,
        num_top=1,
        num_bottom=1 if size > 1 else 0,
        only=name,
        key=key,
        curvature=curvature,
        method="exact" if size <= _DENSE else "lanczos",
        rtol=rtol,
    )
    trace = trace_of(key, network, landscape, ends, only=name, curvature=curvature)
    row = _row(name, size, ends.values[0], ends.values[-1], trace.value, trace.standard_error)
    return row, ends.stats["products"] + trace.num_products


def _row(name: str, size: int, largest: Any, smallest: Any, trace: Any, error: float) -> dict[str, Any]:
    return {
        "parameters": name,
        "size": size,
        "largest": float(largest),
        "smallest": float(smallest),
        "trace": float(trace),
        "its error": error,
    }
