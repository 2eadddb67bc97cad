"""What a product costs: time and memory, measured before a long run; and batches that fit."""

import time

import equinox as eqx
import jax
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters, ravel, select
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape


_SAMPLE = 64  # examples of the program whose memory is looked up
_DEFAULT_BYTES = 2 << 30


@shown
class ProductCost(eqx.Module):
    """What one Hessian product costs at a network.

    - `seconds`: of one product on all the data, once compiled. `gradient_seconds`: of one gradient.
    - `memory_bytes`: the working memory of a product, as the compiler states it, with the batches of the landscape.
    - `num_parameters`, `num_examples`: of the problem that was measured.
    """

    seconds: float
    gradient_seconds: float
    memory_bytes: int
    num_parameters: int
    num_examples: int

    def words(self, num_products: int) -> str:
        """The cost of so many products in words."""
        total = num_products * self.seconds
        return (
            f"{num_products:,} products of {1e3 * self.seconds:.3g} ms, about {duration(total)}, "
            f"working memory {_bytes(self.memory_bytes)}"
        )


def product_cost(network: Network, landscape: Landscape, *, only: Only = None) -> ProductCost:
    """Measure what a Hessian product and a gradient cost, by one of each after compiling (the programs are kept).

    Several programs may be needed for a measurement, so compiling, a second or so each, comes on top.

    **Arguments:**
    - `network`, `landscape`: the point and the data, with its batches.
    - `only`: a parameter filter.

    **Returns:**
    A [`lossatlas.geometry.ProductCost`][].
    """
    only = select(network, only)
    vector, _ = ravel(network, only)
    memory = _memory(network, landscape, only)
    return ProductCost(
        seconds=_seconds(lambda: _product(network, landscape, only, vector)),
        gradient_seconds=_seconds(lambda: _gradient(network, landscape, only)),
        memory_bytes=memory,
        num_parameters=num_parameters(network, only),
        num_examples=landscape.size,
    )


def fitting_batch_size(
    network: Network, landscape: Landscape, *, max_bytes: int = _DEFAULT_BYTES, only: Only = None
) -> int | None:
    """The largest batch whose Hessian product needs no more working memory than allowed; None where all data fit.

    The memory is what the compiler states for 64 examples and for half of them, continued in proportion; nothing runs.

    **Arguments:**
    - `max_bytes`: allowed working memory of a product; default 2 GB. The parameters and the data are not counted.

    **Raises:** `InputError` where not even one example fits.
    """
    if max_bytes < 1:
        msg = f"max_bytes must be positive, got {max_bytes}."
        raise InputError(msg)
    if landscape.size < 2 or getattr(network, "batch_statistics", False):
        return None
    only = select(network, only)
    few = min(_SAMPLE, landscape.size)
    half = max(1, few // 2)
    large, small = (_memory(network, landscape.subset(slice(num)), only) for num in (few, half))
    per_example = max((large - small) / (few - half), large / few / 8, 1.0)
    fixed = max(large - few * per_example, 0.0)
    fits = int((max_bytes - fixed) / per_example)
    if fits < 1:
        needed, allowed = _bytes(fixed + per_example), _bytes(max_bytes)
        msg = f"One example needs {needed} for a Hessian product; only {allowed} are allowed."
        raise InputError(msg)
    return None if fits >= landscape.size else fits


def _memory(network: Network, landscape: Landscape, only: Only) -> int:
    """Working memory of one product in bytes; 0 where the compiler does not say."""
    vector, _ = ravel(network, only)
    compiled = _product.lower(network, landscape, only, vector).compile()  # pyright: ignore[reportFunctionMemberAccess]
    analysis = compiled.compiled.memory_analysis()
    return int(getattr(analysis, "temp_size_in_bytes", 0))


def _seconds(fn) -> float:
    jax.block_until_ready(fn())
    begin = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - begin


@eqx.filter_jit
def _product(network: Network, landscape: Landscape, only: Only, vector: Array) -> Array:
    return landscape.hessian_operator(network, only).mv(vector)


@eqx.filter_jit
def _gradient(network: Network, landscape: Landscape, only: Only) -> Float[Array, " p"]:
    return landscape.gradient(network, only)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: int | float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
