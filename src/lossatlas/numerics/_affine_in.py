"""Whether a function is affine in some of its arguments, proved from its operations."""

from collections.abc import Callable, Sequence
from typing import Any

from lossatlas.numerics._jaxpr import flat_jaxpr, literal_value


# Linear in an operand as long as no other operand depends on what moves.
_MOVING = (
    "add sub neg add_any reshape transpose broadcast_in_dim squeeze expand_dims slice dynamic_slice concatenate rev "
    "pad reduce_sum cumsum convert_element_type copy gather div"
)
_MOVES = frozenset(_MOVING.split())
_ALL_MAY_DEPEND = frozenset(["add", "sub", "add_any", "concatenate"])
_PRODUCTS = frozenset(["mul", "dot_general", "conv_general_dilated"])


def is_affine_in(fn: Callable[..., Any], leaves: Sequence[Any], moving: Sequence[int]) -> bool:
    """Whether every output of `fn(*leaves)` is affine in the leaves of the given positions, taken together.

    Yes is a proof: sums, products and moves of entries are followed through the jaxpr. No means that an operation
    stands in the way, not that the function bends.

    **Arguments:**
    - `fn`: a function of arrays. `leaves`: arrays, or their shapes and types.
    - `moving`: positions among the leaves.
    """
    closed = flat_jaxpr(fn, *leaves)
    affine = {closed.jaxpr.invars[i] for i in moving}
    for eqn in closed.jaxpr.eqns:
        depends = [i for i, v in enumerate(eqn.invars) if literal_value(v) is None and v in affine]
        if not depends:
            continue
        name = eqn.primitive.name
        is_linear = (
            name in _ALL_MAY_DEPEND or (name in _PRODUCTS and len(depends) == 1) or (name in _MOVES and depends == [0])
        )
        if not is_linear:
            return False
        affine.update(eqn.outvars)
    return True
