"""Two-layer networks as features and readers: f = Phi V + 1 b."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._parameters import replace_parameters
from lossatlas._precision import require_float64
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_RANK = 1e-12  # of the largest pivot


class Features(NamedTuple):
    """The hidden outputs on the data (n, m), with a column of ones in front where the output has a bias."""

    columns: Float[np.ndarray, "n m"]
    has_bias: bool

    def support(self) -> np.ndarray:
        """Units whose columns, with the ones, are a basis of all columns: QR with column pivoting, the ones first."""
        from scipy.linalg import qr

        columns = self.columns
        if self.has_bias:
            columns = columns - columns.mean(0)
        factored: Any = qr(columns, mode="r", pivoting=True)
        triangle, pivots = factored
        diagonal = np.abs(np.diag(triangle))
        scale = max(float(np.linalg.norm(self.columns, axis=0).max(initial=0.0)), 1e-300)
        return np.sort(pivots[: int(np.sum(diagonal > _RANK * scale))])

    @property
    def full_rank(self) -> int:
        """How many units it takes, with the ones, to reach any outputs on the data."""
        return len(self.columns) - self.has_bias

    def solve(self, units: np.ndarray, wanted: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "rows o"]:
        """Readers of these units, zero elsewhere, and the bias (the last row), of the least squares to `wanted`."""
        ones = np.ones((len(wanted), int(self.has_bias)))
        design = np.concatenate([self.columns[:, units], ones], axis=1)
        solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
        solution += np.linalg.lstsq(design, wanted - design @ solution, rcond=None)[0]  # one step of refinement
        readers = np.zeros((self.columns.shape[1] + 1, wanted.shape[1]))
        readers[units], readers[-1] = solution[: len(units)], solution[len(units) :].sum(0)
        return readers


def require_two_layers(network: Network, what: str) -> Dense:
    """The network as a `Dense` of one hidden layer of neurons.

    **Raises:** `InputError` for any other, and below float64.
    """
    if not isinstance(network, Dense) or len(network.layers) != 2 or network.layers[0].linear is not None:
        msg = f"{what} needs a Dense network of one hidden layer without linear units, got {_words(network)}."
        raise InputError(msg)
    require_float64(network, what)
    return network


def _words(network: Network) -> str:
    if not isinstance(network, Dense):
        return type(network).__name__
    return f"widths {list(network.widths)} with {list(network.num_linear)} linear units"


def features_of(network: Dense, landscape: Landscape) -> Features:
    """The hidden outputs on the data."""
    hidden = jax.vmap(lambda x: network.features(x)[1])(landscape.inputs)
    return Features(np.asarray(hidden, float), network.layers[1].bias is not None)


def readers_of(network: Dense) -> Float[np.ndarray, "rows o"]:
    """The weights that read every unit, as rows, and the bias as the last one (zero without)."""
    last = network.layers[1]
    bias = np.zeros(last.weight.shape[0]) if last.bias is None else np.asarray(last.bias)
    return np.concatenate([np.asarray(last.weight).T, bias[None]])


def with_readers(network: Dense, readers: Float[np.ndarray, "rows o"]) -> Dense:
    """The network with other readers and another output bias."""
    values = {"layers[1].weight": jnp.asarray(readers[:-1].T)}
    if network.layers[1].bias is not None:
        values["layers[1].bias"] = jnp.asarray(readers[-1])
    return replace_parameters(network, values)


def with_units(network: Dense, places: np.ndarray, source: Dense, units: np.ndarray) -> Dense:
    """The network with the incoming weights of some units replaced by those of units of another."""
    values = {"layers[0].weight": network.layers[0].weight.at[places].set(source.layers[0].weight[units])}
    if network.layers[0].bias is not None:
        assert source.layers[0].bias is not None
        values["layers[0].bias"] = network.layers[0].bias.at[places].set(source.layers[0].bias[units])
    return replace_parameters(network, values)
