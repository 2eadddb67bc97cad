"""Shrink a model without changing what it says."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas.workbench._data import read_inputs
from lossatlas.workbench._model import Model


if TYPE_CHECKING:
    from lossatlas.embedding import Reduction


COVERAGE, CONFIDENCE = 0.95, 0.95
_HELD_BACK = 0.3
_LEAST_COVERING = 59  # rows from which on the largest change covers 95 % with 95 % confidence


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A model made smaller.

    - `model`: the small one. `reduction`: how it was made, with the certificate on the rows that it saw.
    - `tolerance`: what was allowed, `change`: the largest change of an output on the rows seen; in output units, which
      are those of the target for numbers.
    - `rows_seen`, `rows_fresh`: how many rows the reduction saw, and how many were held back from it.
    - `fresh_change`: with a confidence of 95 %, at least 95 % of new rows like these change by no more (by the order
      statistics of the rows held back, whatever their distribution); None where there are too few, below 59.
    """

    model: Model
    reduction: "Reduction"
    tolerance: float
    change: float
    rows_seen: int
    rows_fresh: int
    fresh_change: float | None


def shrink(model: Model, table: Any, *, tolerance: float, seed: int = 0, target: str | None = None) -> Shrunk:
    """Find the smallest network that says the same as a model, up to a tolerance.

    Seven tenths of the rows (of 118 to 196, all but 59) serve to reduce it, the others to measure the change on rows
    that the reduction has not seen. Float64 whatever the global setting.

    **Arguments:**
    - `model`: of a survey or a file, [`lossatlas.load`][].
    - `table`: raw rows like those that it will see: a data set's name, a file, a DataFrame, or an array of its columns;
      see [`lossatlas.workbench.read_examples`][].
    - `tolerance`: the largest allowed change of any output on the rows seen, in output units (of the target for
      numbers; scores or logits for classes).
    - `seed`: of the choice of rows.
    - `target`: the column of the targets, which the model does not read; default the one that it was trained on.

    **Returns:** A [`lossatlas.workbench.Shrunk`][]; its model may be as large as before, where nothing can go.

    **Raises:** `InputError` for rows that the model cannot read, fewer than ten, and a tolerance that is not positive.
    """
    from lossatlas.embedding import reduce

    inputs = read_inputs(model, table, target=target)
    if len(inputs) < 10:
        msg = f"Shrinking needs at least 10 rows, got {len(inputs)}."
        raise InputError(msg)
    if not 0 < tolerance < np.inf:
        msg = f"tolerance (--tolerance) must be a positive number in output units, got {tolerance}."
        raise InputError(msg)
    unit = model.output_unit
    order = np.random.default_rng(seed).permutation(len(inputs))
    count = int(_HELD_BACK * len(inputs))
    if len(inputs) >= 2 * _LEAST_COVERING:
        count = max(count, _LEAST_COVERING)
    fresh, seen = np.split(order, [count])
    with jax.enable_x64(True):
        network, reduction = reduce(model.network, jnp.asarray(inputs[seen]), tolerance=tolerance / unit)
        before, after = (np.asarray(jax.vmap(net)(jnp.asarray(inputs[fresh]))) for net in (model.network, network))
    changes = unit * np.abs(after - before).max(axis=1, initial=0.0)
    small = dataclasses.replace(model, network=network)
    words = f"shrunk: {model.shape} -> {small.shape}, outputs changed by at most {tolerance:g}"
    return Shrunk(
        model=dataclasses.replace(small, summary=f"{model.summary}; {words}"),
        reduction=reduction,
        tolerance=tolerance,
        change=unit * reduction.certificate.output_change,
        rows_seen=len(seen),
        rows_fresh=len(fresh),
        fresh_change=covering(changes),
    )


def covering(values: Float[np.ndarray, " n"]) -> float | None:
    """The smallest of some values that covers 95 % of new ones like them with a confidence of 95 %; None for too few.

    The k-th smallest of n covers a share q of the distribution with probability P(Bin(n, q) < k), whatever the
    distribution (Wilks 1941).
    """
    from scipy.stats import binom

    ranks = np.arange(1, len(values) + 1)
    enough = ranks[binom.cdf(ranks - 1, len(values), COVERAGE) >= CONFIDENCE]
    return float(np.sort(values)[enough[0] - 1]) if len(enough) else None
