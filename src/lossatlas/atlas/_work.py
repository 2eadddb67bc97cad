"""How much work one evaluation of the loss is, so that dear networks get fewer steps, on every machine as many."""

import equinox as eqx
import jax

from lossatlas._parameters import num_parameters
from lossatlas._types import Network
from lossatlas.landscape import Landscape


def loss_work(network: Network, landscape: Landscape) -> float:
    """Floating-point operations of one evaluation of the loss over all the data, as XLA counts them.

    Nothing is compiled. Loops count as one turn of them; where XLA does not say, twice the parameters for each row.
    """
    arrays, static = eqx.partition((network, landscape), eqx.is_array)

    def loss(arrays):
        network, landscape = eqx.combine(arrays, static)
        return landscape(network)

    found = jax.jit(loss).lower(arrays).cost_analysis() or {}
    least = 2.0 * landscape.size * num_parameters(network)
    return max(float(found.get("flops", 0.0)), least)


def affordable(most: int, budget: float, each: float) -> int:
    """How many steps of a cost a budget allows, at most `most`."""
    return min(most, int(budget // max(each, 1.0)))
