"""A network in place of its Taylor expansion around a point: linearised, or to second order."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer, select
from lossatlas._types import Network


class Expansion(eqx.Module):
    r"""The expansion of a network in its parameters around those that it has now.

    With $c$ the centre and $\theta$ the parameters, of order 1 and 2

    $$f_c(x) + J_c(x) (\theta - c) \quad\text{and}\quad
    f_c(x) + J_c(x) (\theta - c) + \tfrac12 (\theta - c)^\top \nabla^2 f_c(x) (\theta - c),$$

    exactly, by forward derivatives (of order 2: a derivative of a derivative); no Jacobian is formed. It is a
    network like any other, a point of the same landscape with the same parameters (`network.*`; the centre holds
    buffers): training it is training the linearised or the quadratic model. At the centre its loss and gradient are
    those of the network; its Hessian is the Gauss-Newton matrix (order 1) or that of the network (order 2). The
    error is of order $|\theta - c|^2$ and $|\theta - c|^3$ where the network is smooth; at the kinks of ReLUs the
    pieces go on.

    Cost of a prediction: about two (order 1) and four (order 2) of the network.

    **Arguments:**
    - `network`: any module; its parameters are the centre and the starting point.
    - `order`: 1 or 2.

    **Raises:** `InputError` for another order.

    !!! example
        >>> line = Expansion(Dense(jax.random.key(0), [2, 3, 1]))
        >>> line(jnp.ones(2)).shape
        (1,)
    """

    network: Network
    centre: tuple[Buffer, ...]
    order: int = eqx.field(static=True)

    def __init__(self, network: Network, order: int = 1):
        if order not in (1, 2):
            msg = f"The order of an expansion is 1 (linearised) or 2 (quadratic), got {order}."
            raise InputError(msg)
        self.network = network
        self.centre = tuple(Buffer(leaf) for leaf in jax.tree.leaves(eqx.filter(network, select(network))))
        self.order = order

    def apply(self, fn: Callable[[Network], Any]) -> Any:
        """The expansion of any function of the network, such as the predictions on a batch.

        **Arguments:**
        - `fn`: from the network to arrays.

        **Returns:** what `fn` returns, expanded.
        """
        params, rest = eqx.partition(self.network, select(self.network))
        centre = jax.tree.unflatten(jax.tree.structure(params), [buffer.value for buffer in self.centre])
        offset = jax.tree.map(jnp.subtract, params, centre)
        at = lambda values: fn(eqx.combine(values, rest))  # noqa: E731
        if self.order == 1:
            value, first = jax.jvp(at, (centre,), (offset,))
            return jax.tree.map(jnp.add, value, first)
        slope = lambda values: jax.jvp(at, (values,), (offset,))  # noqa: E731
        (value, first), (_, second) = jax.jvp(slope, (centre,), (offset,))
        return jax.tree.map(lambda a, b, c: a + b + 0.5 * c, value, first, second)

    def __call__(self, x: Array) -> Array:
        return self.apply(lambda network: network(x))

    @property
    def batch_statistics(self) -> bool:
        """Whether the network normalises by statistics of the whole data."""
        return bool(getattr(self.network, "batch_statistics", False))

    def call_batch(self, inputs: Array) -> Array:
        """The expansion of the predictions on a whole batch, for such a network."""
        return self.apply(lambda network: network.call_batch(inputs))
