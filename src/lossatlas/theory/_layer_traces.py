"""The curvature that every layer of a fully connected network has on average when it is drawn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError


def expected_layer_traces(
    widths: Sequence[int],
    variances: Sequence[float],
    *,
    input_square: float,
    loss_trace: float,
    slope_square: float = 0.5,
    keep_rate: float = 1.0,
    inverted: bool = True,
) -> Float[np.ndarray, " layers"]:
    r"""Expected traces of the blocks of a fully connected network with independent weights and no biases.

    $\operatorname{E} \operatorname{tr} H_k \approx \operatorname{E}|x|^2 \, \operatorname{E} \operatorname{tr} \ell''
    \prod_{j<k} v_j n_j c \; \prod_{j>k} v_j n_{j-1} c$ for the layers 1 to L, $n_0, \dots, n_L$ the widths. Forward
    factors hold numbers of outputs, backward factors numbers of inputs, so $\operatorname{tr} H_k \, v_k$ is the same
    for all layers: curvature is equal exactly where variances are. Corrections are of the order of depth over width.

    **Arguments:**
    - `widths`: inputs, hidden layers, outputs. `variances`: of the weights of each layer.
    - `input_square`: the mean of $|x|^2$. `loss_trace`: the mean of $\operatorname{tr} \ell''$ in predictions: the
      number of outputs for half the squared error, at most 1 - 1/C for softmax with cross-entropy.
    - `slope_square`: c, the mean square of the slopes: 1/2 for ReLU, $\phi'(0)^2$ for smooth activations near 0.
    - `keep_rate`: p of dropout behind every hidden layer; it multiplies c by 1/p, or with `inverted=False`, where what
      is kept is not divided by p, by p.

    **Returns:** one a layer.

    **Raises:** `InputError` for numbers that do not fit the widths or are not positive.

    !!! cite
        After Skorski, Temperoni and Theobald 2021, arXiv 2004.09506, Section 4; with both fans kept apart.
    """
    n, v = np.asarray(widths, float), np.asarray(variances, float)
    if len(n) < 2 or len(v) != len(n) - 1:
        msg = f"A network of {len(n)} widths has {max(len(n) - 1, 0)} layers, got {len(v)} variances."
        raise InputError(msg)
    numbers = [input_square, loss_trace, slope_square, keep_rate]
    if not (np.all(n > 0) and np.all(v > 0) and all(a > 0 for a in numbers) and keep_rate <= 1):
        msg = "Widths, variances, input_square, loss_trace and slope_square must be positive, keep_rate in (0, 1]."
        raise InputError(msg)
    c = slope_square / keep_rate if inverted else slope_square * keep_rate
    forward, backward = v * n[1:] * c, v * n[:-1] * c
    traces = [np.prod(forward[:k]) * np.prod(backward[k + 1 :]) for k in range(len(v))]
    return input_square * loss_trace * np.array(traces)
