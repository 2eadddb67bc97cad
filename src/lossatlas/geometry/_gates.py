"""Which ReLUs are open on which examples."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.geometry._ntk_source import Points, as_landscape, examples_of, predictor
from lossatlas.numerics import ClosedJaxpr, Var, evaluate, flat_jaxpr, literal_value


_UNROLL = 64
_ROWS = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Gates:
    """Where the ReLUs of networks of one shape are: the values that are cut at zero."""

    closed: ClosedJaxpr
    variables: tuple[Var, ...]

    def patterns(self, network: Network, landscape: Points) -> Bool[np.ndarray, "n units"]:
        """Whether each unit is open (its pre-activation positive), example by example."""
        leaves = jax.tree.leaves(eqx.filter(network, eqx.is_array))
        batch, n = examples_of(as_landscape(landscape)), as_landscape(landscape).size
        rows = min(_ROWS, n)
        found = []
        for start in range(0, n, rows):
            # The last batch is filled up, so that one program serves all.
            index = np.minimum(np.arange(start, start + rows), n - 1)
            open_ = np.asarray(_read(self, leaves, jax.tree.map(lambda a: a[index], batch)))  # noqa: B023
            found.append(open_[: n - start])
        return np.concatenate(found)


def find_gates(network: Network, landscape: Points) -> Gates:
    """Find the ReLUs of any network, as comparisons with zero (`max(., 0)`) in its jaxpr.

    **Raises:** `InputError` as [`lossatlas.geometry.ntk`][] for networks whose outputs on an example depend on others.
    """
    data = as_landscape(landscape)
    arrays, static = eqx.partition(network, eqx.is_array)
    example = jax.tree.map(lambda a: a[0], examples_of(data))
    predict = predictor(network, data)
    closed = flat_jaxpr(lambda arrays, x: predict(eqx.combine(arrays, static), x), arrays, example, unroll=_UNROLL)
    found = []
    for eqn in closed.jaxpr.eqns:
        if eqn.primitive.name == "max":
            for atom, other in (eqn.invars, eqn.invars[::-1]):
                value = literal_value(other)
                if value is not None and np.all(np.asarray(value) == 0) and isinstance(atom, Var):
                    found.append(atom)
    return Gates(closed, tuple(dict.fromkeys(found)))


def relu_patterns(network: Network, landscape: Points) -> Bool[np.ndarray, "n units"]:
    """Which ReLUs are open on which examples, whatever the architecture.

    All units of all hidden layers, channels place by place, in the order of the forward pass. The share of entries in
    which two patterns differ is their Hamming distance (Fort et al. 2020); positive rescaling of units leaves it.

    **Arguments:**
    - `landscape`: n examples, a landscape or inputs.

    **Returns:** true where the pre-activation is positive, shape (n, units).

    **Raises:** `InputError` for a network without ReLUs.
    """
    gates = find_gates(network, landscape)
    if not gates.variables:
        msg = "This network has no ReLU, so it has no activation patterns."
        raise InputError(msg)
    return gates.patterns(network, landscape)


@eqx.filter_jit
def _read(gates: Gates, leaves: list[Array], examples) -> Bool[Array, "n units"]:
    def of_example(example):
        _, values = evaluate(gates.closed, [*leaves, *jax.tree.leaves(example)], gates.variables)
        return jnp.concatenate([(value > 0).reshape(-1) for value in values])

    return jax.vmap(of_example)(examples)
