"""Data made by formulas and by teacher networks."""

from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.data._arrays import from_arrays
from lossatlas.data._dataset import DataSet
from lossatlas.data._preprocessing import Scaling


def hierarchy_1d(*, num: int = 50, input_scale: float = 5.0) -> DataSet:
    r"""The one-dimensional problem whose small networks form a hierarchy of critical points.

    $y = 1.2\tanh(0.8(x+7)) - 1.5\tanh(0.6x) + \tanh(0.9(x-6))$ on `num` equidistant points of [-15, 15]: three tanh
    neurons fit it exactly. Targets are not scaled; inputs are divided by `input_scale` (the default makes training
    faster and leaves the critical values as they are).

    **Raises:** `InputError` for fewer than 2 points or a scale that is not positive.

    !!! cite
        The problem in the style of Zhang, Zhang, Luo and Xu, "Embedding principle of loss landscape of deep
        neural networks", NeurIPS 2021, arXiv 2105.14573, figs. 1 and 4.
    """
    _check_num(num)
    x = np.linspace(-15.0, 15.0, num)
    y = 1.2 * np.tanh(0.8 * (x + 7)) - 1.5 * np.tanh(0.6 * x) + np.tanh(0.9 * (x - 6))
    return _made(x[:, None], y[:, None], "hierarchy-1d", ["x"], scaling=float(input_scale))


_GRID_WEIGHTS = np.array([(0.6, 0.5), (-0.5, 0.5), (-0.2, -0.6), (0.1, -0.6)])


def sigmoid_grid(*, num: int = 41) -> DataSet:
    r"""A teacher of four sigmoid neurons in two dimensions, on a grid.

    $y = \sum_{j=1}^4 \operatorname{sigmoid}(w_j \cdot x)$, w = (0.6, 0.5), (-0.5, 0.5), (-0.2, -0.6), (0.1, -0.6), no
    biases, on the `num` x `num` grid of $[-5, 5]^2$; nothing is scaled.

    **Raises:** `InputError` for fewer than 2 points a side.

    !!! cite
        Simsek et al., "Geometry of the loss landscape in overparameterized neural networks" ICML 2021; the default
        teacher of their code.
    """
    _check_num(num)
    line = np.linspace(-5.0, 5.0, num)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    y = np.sum(1 / (1 + np.exp(-x @ _GRID_WEIGHTS.T)), axis=1, keepdims=True)
    return _made(x, y, "sigmoid-grid", ["x0", "x1"])


def teacher(
    key: PRNGKeyArray,
    network: Any = None,
    *,
    num: int = 200,
    num_inputs: int | None = None,
    inputs: Any = None,
    noise: float = 0.0,
) -> DataSet:
    """What a teacher network says about Gaussian inputs (or given ones), as a regression; nothing is scaled.

    **Arguments:**
    - `key`: of the inputs, of the noise, and of the default network.
    - `network`: any callable on one example, shape (d,) to (o,) or (); default two inputs, three tanh neurons
      with standard Gaussian weights, one output.
    - `num`, `num_inputs`: how many standard Gaussian inputs of which size; the size is known for
      [`lossatlas.networks.Dense`][].
    - `inputs`: shape (n, d), instead of Gaussian ones.
    - `noise`: standard deviation of Gaussian noise on the targets.

    **Raises:** `InputError` for inputs that the network does not take, and for negative noise.
    """
    import jax
    import jax.numpy as jnp

    from lossatlas.networks import Dense

    network_key, input_key, noise_key = jax.random.split(key, 3)
    if network is None:
        network = Dense(network_key, [2, 3, 1], init=0.0)
    if not noise >= 0:
        msg = f"noise must be a standard deviation of at least 0, got {noise}."
        raise InputError(msg)
    if inputs is None:
        _check_num(num)
        size = network.widths[0] if isinstance(network, Dense) else num_inputs
        if size is None:
            msg = f"Give num_inputs= or inputs=: the input size of {type(network).__name__} is not known."
            raise InputError(msg)
        inputs = jax.random.normal(input_key, (num, size))
    arrays = [leaf for leaf in jax.tree.leaves(network) if isinstance(leaf, jax.Array)]
    x = jnp.asarray(inputs, next((a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)), None))
    try:
        y = jax.vmap(network)(x)
    except (TypeError, ValueError) as error:
        msg = f"The teacher {type(network).__name__} does not take inputs of shape {x.shape[1:]}: {error}"
        raise InputError(msg) from error
    y = y.reshape(len(x), -1)
    y = y + jnp.asarray(noise, y.dtype) * jax.random.normal(noise_key, y.shape, y.dtype)
    columns = [f"x{i}" for i in range(x.shape[1])]
    return _made(np.asarray(x, np.float64), np.asarray(y, np.float64), "teacher", columns)


def _made(x: np.ndarray, y: np.ndarray, name: str, columns: list[str], scaling: Scaling = "none") -> DataSet:
    return from_arrays(
        x, y, columns=columns, name=name, source="generator", kind="regression", scaling=scaling, target_scaling="none"
    )


def _check_num(num: int) -> None:
    if num < 2:
        msg = f"num must be at least 2 points, got {num}."
        raise InputError(msg)
