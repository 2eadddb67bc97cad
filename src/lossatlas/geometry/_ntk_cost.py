"""What the methods of a kernel cost, in multiplications: the model by which `method="auto"` decides."""

import functools as ft
import math

from lossatlas.geometry._ntk_features import Rows, direct_paths, layers_of
from lossatlas.geometry._ntk_plan import Plan
from lossatlas.numerics import ClosedJaxpr, shape_of


def method_costs(
    plan: Plan, selected: tuple[str, ...], rows: Rows, n: int, m: int, *, symmetric: bool
) -> dict[str, float]:
    r"""Multiplications of each method for a kernel of n by m examples.

    With F those of one forward pass, D gradients of predictions an example (`Rows.num`) and q inner products of them a
    pair (`Rows.per_pair`), half of the pairs for a symmetric kernel:

    - `structured`: $2 F D$ an example; a pair costs, for a layer of $a$ inputs, $b$ outputs and s positions, the
      smaller of $s^2 (a + q b)$ and $q a b$, and q p for p parameters without structure.
    - `contraction`: $3 F D$ an example, $q P$ a pair. `products`: $3 F D$ a pair, whatever the parameters.
    """
    forward, pairs = _forward(plan.closed), n * m * (0.5 if symmetric else 1.0)
    examples = n if symmetric else n + m
    formed = sum(plan.size(path) for path in direct_paths(plan))
    layers = sum(layer.cost(rows) for layer in layers_of(plan))
    whole = sum(plan.size(path) for path in selected)
    return {
        "structured": 2 * forward * rows.num * examples + pairs * (layers + rows.per_pair * formed),
        "contraction": 3 * forward * rows.num * examples + pairs * rows.per_pair * whole,
        "products": 3.0 * forward * rows.num * n * m,
    }


@ft.lru_cache(maxsize=64)
def _forward(closed: ClosedJaxpr) -> float:
    """Multiplications of one forward pass, about."""
    total = 0.0
    for eqn in closed.jaxpr.eqns:
        size = sum(math.prod(shape_of(var).shape) for var in eqn.outvars)
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            size *= math.prod(shape_of(eqn.invars[0]).shape[axis] for axis in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = shape_of(eqn.invars[1]).shape
            size *= math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        total += size
    return total
