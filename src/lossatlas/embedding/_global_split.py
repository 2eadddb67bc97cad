"""The three-fold global splitting: the wide network that shows what the residuals bend."""

import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._compatible import CompatibleStep, index_maps
from lossatlas.embedding._constants import require_dense
from lossatlas.embedding._record import Data, Record, make_record
from lossatlas.networks import Dense


def global_split(network: Network, *, landscape: Data = None) -> tuple[Dense, Record]:
    r"""Split every hidden unit into three copies with shares 1, 1 and -1, layer by layer apart: $T_{global}$.

    The wide network holds three copies of the network up to the last hidden layer, read as $[W, W, -W]$. At a critical
    point without negative curvature, where the residuals bend the loss below the readout at all
    ([`lossatlas.geometry.residual_curvature`][]), the wide point is a strict saddle: with $H_2 v = \lambda v$ on what
    lies below the readout the wide Hessian is $-\lambda/2$ along (v/2, v/2, v), and $2 \lambda$ along (v, -v, 0).

    **Arguments:**
    - `network`: fully connected with biases, without linear units, at least one hidden layer.
    - `landscape`: as for [`lossatlas.embedding.split`][].

    **Returns:** the wide network, copy c of unit i at i + c m, and its record. Cost: nine times the hidden weights.

    **Raises:** `InputError` for other networks.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Theorem 6.3 (three-fold global splitting).
    """
    dense = require_dense(network, "global_split")
    if len(dense.layers) < 2:
        msg = "global_split needs a network with at least one hidden layer."
        raise InputError(msg)
    widths = dense.widths
    copies = {f"hidden[{i}]": list(range(m)) * 3 for i, m in enumerate(widths[1:-1])}
    maps = index_maps(dense, copies)
    signs = np.array([1.0, 1.0, -1.0])
    shares = [np.ones(widths[0]), *(np.repeat(signs, m) for m in widths[1:-1]), np.ones(widths[-1])]
    factors = [np.ones((3 * widths[1], widths[0]))]
    factors += [np.kron(np.eye(3), np.ones((q, m))) for m, q in zip(widths[1:-2], widths[2:-1], strict=True)]
    factors.append(np.tile(shares[-2], (widths[-1], 1)))
    zeros = [np.zeros(len(units)) for units in maps]
    step = CompatibleStep(
        maps,
        tuple(jnp.asarray(a) for a in factors),
        tuple(jnp.zeros(a.shape) for a in factors),
        tuple(jnp.asarray(a) for a in zeros[1:]),
        tuple(jnp.asarray(a) for a in shares),
        tuple(jnp.asarray(a) for a in zeros),
        note="three copies of every hidden unit with shares 1, 1, -1",
    )
    return make_record(dense, (step,), landscape, None)
