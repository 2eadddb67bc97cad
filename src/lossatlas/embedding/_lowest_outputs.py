"""Outputs of the lowest loss, towards which the loss falls along the straight line from any others."""

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas.landscape import Landscape


def lowest_outputs(landscape: Landscape, outputs: Float[np.ndarray, "n o"], gap: float) -> Float[np.ndarray, "n o"]:
    r"""Outputs whose loss is the least possible, or within `gap` of it where no finite outputs reach it.

    Each loss is convex in its outputs, so it falls along the line from $\hat y$ to $z$ where its slope at $z$ is not
    positive, $\langle \nabla\ell(z), z - \hat y \rangle \le 0$:

    - squared error: $z = y$, slope 0;
    - logistic: $z = \log(y / (1 - y))$, slope 0; for y = 1 at least $\log(1/gap)$ and no less than $\hat y$, for y = 0
      likewise downwards;
    - cross-entropy with probabilities p: on their support $z = \log p + c$ with $c$ so large that the mean of
      $z - \hat y$ under p is not negative; elsewhere $\log(o/gap)$ below c, and no more than $\hat y$.

    **Arguments:**
    - `outputs`: $\hat y$, where the line begins.

    **Raises:** `InputError` for other losses: of a callable neither convexity nor a minimum is known.
    """
    if not (np.isfinite(gap) and 0 < gap < 1):
        msg = f"gap must lie between 0 and 1, got {gap}."
        raise InputError(msg)
    name = None if landscape.loss is None else landscape.loss.name
    targets = np.asarray(landscape.targets)
    if name == "mse":
        return targets.astype(float).reshape(outputs.shape)
    if name == "logistic":
        y = targets.astype(float).reshape(outputs.shape)
        inner = np.clip(y, 1e-300, 1 - 1e-16)
        free = np.log(inner) - np.log1p(-inner)
        far = np.log(outputs.shape[1] / gap)
        return np.where(y == 1, np.maximum(outputs, far), np.where(y == 0, np.minimum(outputs, -far), free))
    if name == "cross_entropy":
        count = outputs.shape[1]
        p = np.eye(count)[targets.reshape(-1)] if np.issubdtype(targets.dtype, np.integer) else targets.astype(float)
        logs = np.log(np.where(p > 0, p, 1.0))
        level = np.sum(p * (outputs - logs), axis=1, keepdims=True)
        return np.where(p > 0, logs + level, np.minimum(outputs, level - np.log(count / gap)))
    msg = (
        f"descending_path needs loss='mse', 'cross_entropy' or 'logistic', got {name!r}: of other losses neither "
        "convexity in the outputs nor the outputs of least loss are known. sublevel_path connects two networks under "
        "any loss that is convex."
    )
    raise InputError(msg)
