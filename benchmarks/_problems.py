"""The three trained networks that the instruments are measured on, and their handing over to peers as files.

- `mlp`: 64-100-100-10, 17,610 parameters; `cnn`: two convolutions of 16 and 32 filters 3 x 3 and a layer of ten
  outputs, 9,930 parameters; both on the 1,797 digits of scikit-learn, divided by 16, mean cross-entropy.
- `small`: 1-50-1 with tanh, 151 parameters, on 100 points of a curve, mean of 1/2 |f - y|^2.

Each is trained a little by Adam, so that its Hessian has outliers, as those of users have. Import after
`_common.single_thread()`.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossatlas import geometry
from lossatlas._parameters import named_parameters, ravel
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense
from lossatlas.training import train


NAMES = ("mlp", "cnn", "small")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A trained network and its data."""

    name: str
    activation: str
    network: Dense | Conv
    landscape: Landscape

    @property
    def num_parameters(self) -> int:
        return sum(array.size for array in named_parameters(self.network).values())

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Weights in the order of PyTorch's modules, and the data, as one NPZ file; see `_peer_torch.py`."""
        path = folder / f"{self.name}-{self.activation}.npz"
        weights: dict[str, Any] = {
            f"weight{i}": np.asarray(a) for i, a in enumerate(named_parameters(self.network).values())
        }
        np.savez(
            path,
            kind=self.name,
            activation=self.activation,
            inputs=np.asarray(self.landscape.inputs),
            targets=np.asarray(self.landscape.targets),
            **weights,
        )
        return path


def problem(name: str, activation: str | None = None, *, dtype=np.float32) -> Problem:
    """A problem by name; `activation` is relu for the digits and tanh for the curve unless you say."""
    key = jax.random.key(0)
    if name == "small":
        activation = activation or "tanh"
        x = np.linspace(-1, 1, 100, dtype=dtype)[:, None]
        landscape = Landscape(jnp.asarray(x), jnp.asarray(np.sin(4 * x) + 0.5, dtype))
        network, steps, rate = Dense(key, [1, 50, 1], activation=activation, dtype=dtype), 2000, 1e-3
    else:
        activation = activation or "relu"
        images, labels = _digits(dtype)
        if name == "cnn":
            images = images.reshape(-1, 1, 8, 8)
            network = Conv(key, (1, 8, 8), (16, 32), [10], padding="VALID", activation=activation, dtype=dtype)
        else:
            network = Dense(key, [64, 100, 100, 10], activation=activation, dtype=dtype)
        landscape, steps, rate = Landscape(images, labels, loss="cross_entropy"), 60, 1e-3
    run = train(key, network, landscape, optimizer="adam", learning_rate=rate, num_steps=steps)
    return Problem(name, activation, run.network, landscape)


def plane_of(network: Dense | Conv) -> geometry.Directions:
    """Two directions, scaled as landscaper scales them."""
    rng = np.random.default_rng(0)
    vector = np.asarray(ravel(network)[0])
    rows = []
    for _ in range(2):
        parts = [rng.standard_normal(array.size) for array in named_parameters(network).values()]
        row = np.concatenate([np.sqrt(part.size) * part / np.linalg.norm(part) for part in parts])
        rows.append((np.linalg.norm(vector) * row / np.linalg.norm(row)).astype(vector.dtype))
    return geometry.as_directions(network, rows)


def _digits(dtype):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images / 16, dtype), jnp.asarray(labels, jnp.int32)
