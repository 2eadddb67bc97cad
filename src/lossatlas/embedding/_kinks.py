"""Units whose data lies on a kink of the activation: what automatic differentiation does not see there."""

import jax
import numpy as np

from lossatlas._types import Network
from lossatlas.embedding._constants import layer_of
from lossatlas.embedding._record import Data
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_ON_KINK = 1e-10  # distance of a pre-activation from a kink, relative to the sizes that enter it


def kink_caution(network: Network, space: str, unit: int, data: Data) -> str | None:
    """Why copies of a unit with shares that are not positive may not be stationary; None where no data is on a kink.

    For units of a `Dense` with the data given; elsewhere nothing is known, and nothing said.

    !!! cite
        Wu, Simsek, Ged 2024, arXiv 2402.05626: unit replication of ReLU-like networks (positive shares alone are safe).
    """
    if not isinstance(network, Dense) or data is None or not network.activation.kinks or not space.startswith("hidden"):
        return None
    _, i = layer_of(space)
    inputs = data.inputs if isinstance(data, Landscape) else data
    features = np.asarray(jax.vmap(lambda x: network.features(x)[i])(inputs), float)
    layer = network.layers[i]
    weight = np.asarray(layer.weight[unit], float)
    bias = 0.0 if layer.bias is None else float(layer.bias[unit])
    received = features @ weight + bias
    size = np.abs(features) @ np.abs(weight) + abs(bias)
    distance = np.min([np.abs(received - kink) for kink in network.activation.kinks], axis=0)
    count = int(np.sum(distance <= _ON_KINK * size))
    if count == 0:
        return None
    return (
        f"{count} examples lie on a kink of unit {unit}: there gradients are one-sided, and a copy with a share that "
        "is not positive may open a descent that they do not show."
    )
