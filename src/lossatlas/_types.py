"""Type aliases shared by all layers."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PyTree


Network = PyTree
"""Any callable Equinox module, pure on one example."""

Vector = Float[Array, " p"]
"""Parameters flattened in `ravel_pytree` order."""

Only = str | Callable[[str], bool] | PyTree[bool] | None
"""A parameter filter: a `keystr` pattern with `*`, a predicate on the path, a boolean pytree, or all."""

LossFn = Callable[[Any, Any], Any]
"""`loss(prediction, target)` of one example, a scalar."""
