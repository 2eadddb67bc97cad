"""How far the function moved between two networks, and how much of that their linearisation says."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel, replace_parameters
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._along import predictions
from lossatlas.geometry._function_states import choices
from lossatlas.geometry._kernel_bootstrap import resample_counts
from lossatlas.landscape import Landscape
from lossatlas.networks import Expansion


_SAME = 1e-6  # of the largest output
_ROUNDING = 100  # units of rounding: outputs that moved by less did not move


@shown
class FunctionChange(eqx.Module):
    r"""How a function $f'$, with parameters $\theta'$, stands to $f$ with $\theta$; norms over examples and outputs.

    - `outputs`: $\|f' - f\| / \|f\|$, of outputs before any softmax. NaN where f is zero.
    - `disagreement`: the share of examples whose largest output (the sign of a single one) differs.
    - `parameters`: $\|\theta' - \theta\| / \|\theta\|$; None where the two are no networks of one code and shape.
    - `linear_error`: $\|f' - f - J (\theta' - \theta)\| / \|f' - f\|$ with J the derivative at $\theta$: 0 where f' is
      what the linearised first network says, as in the lazy regime; 1 is as wrong as saying that nothing moved. NaN
      where the outputs moved by no more than rounding; None as `parameters`.
    - `errors`: standard errors of `outputs`, `disagreement` and `linear_error` by name, from resamples of the
      examples.
    """

    outputs: float
    disagreement: float
    parameters: float | None
    linear_error: float | None
    errors: dict[str, float]


def function_change(
    first: Network,
    second: Network,
    landscape: Landscape,
    *,
    num_resamples: int = 200,
    key: PRNGKeyArray | None = None,
) -> FunctionChange:
    r"""How far the function moved between two networks, and whether the linearisation at the first one says so.

    A network is lazy between two points where its outputs move, but its derivatives hardly do: the second one is then
    the linearisation of the first, and what training did is regression with the tangent kernel of the first (Chizat,
    Oyallon and Bach 2019). The kernel sees the derivatives alone ([`lossatlas.geometry.compare_kernels`][]); this asks
    the function. Cost: about four predictions of the data; no Jacobian is formed.

    **Arguments:**
    - `first`, `second`: networks with the same outputs. For the linearisation also of the same code and shape; it is
      one in the parameters, with running statistics as the second has them.
    - `landscape`: the examples; targets and loss are not used.
    - `num_resamples`: of the examples, for the standard errors. `key`: decides them; None for the same in every call.

    **Returns:**
    A [`lossatlas.geometry.FunctionChange`][].

    **Raises:** `InputError` for networks with other outputs, and fewer than two resamples.
    """
    if num_resamples < 2:
        msg = f"num_resamples must be at least 2, got {num_resamples}."
        raise InputError(msg)
    eps = float(np.finfo(ravel(first)[0].dtype).eps)
    before, after = (_outputs(landscape, network) for network in (first, second))
    if before.shape != after.shape:
        msg = f"The networks have {before.shape[1]} and {after.shape[1]} outputs; a change needs the same."
        raise InputError(msg)
    step, parameters, missed = after - before, None, None
    if np.linalg.norm(step) <= _ROUNDING * eps * np.linalg.norm(before):
        step = np.zeros_like(step)
    made = _in_code_of(first, second)
    if made is not None and _agree(_outputs(landscape, made), after):
        theta, moved = (np.asarray(ravel(network)[0], float) for network in (first, made))
        parameters = float(np.linalg.norm(moved - theta) / np.linalg.norm(theta))
        line = eqx.tree_at(lambda expansion: expansion.network, Expansion(first), made)
        missed = after - np.asarray(_linear(landscape, line), float).reshape(before.shape)
    counts = resample_counts(jax.random.key(0) if key is None else key, landscape.size, num_resamples)
    once = np.ones((1, landscape.size))
    differ = (choices(before) != choices(after)).astype(float)
    ratios = {"outputs": (step, before)} | ({} if missed is None else {"linear_error": (missed, step)})
    errors = {name: float(_ratios(counts, *pair).std(ddof=1)) for name, pair in ratios.items()}
    errors["disagreement"] = float((counts @ differ / landscape.size).std(ddof=1))
    values = {name: float(_ratios(once, *pair)[0]) for name, pair in ratios.items()}
    return FunctionChange(
        outputs=values["outputs"],
        disagreement=float(differ.mean()),
        parameters=parameters,
        linear_error=values.get("linear_error"),
        errors=errors,
    )


def _outputs(landscape: Landscape, network: Network) -> np.ndarray:
    return np.asarray(predictions(landscape, network), float).reshape(landscape.size, -1)


def _in_code_of(first: Network, second: Network) -> Network | None:
    """The first network with the arrays of the second; None where they have other names or shapes."""
    arrays, others = named_arrays(first), named_arrays(second)
    if {name: a.shape for name, a in arrays.items()} != {name: a.shape for name, a in others.items()}:
        return None
    return replace_parameters(first, others)


def _agree(made: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether the code of the first network computes what the second one does: not where activations differ."""
    return bool(np.abs(made - wanted).max() <= _SAME * np.abs(wanted).max())


@eqx.filter_jit
def _linear(landscape: Landscape, line: Expansion) -> Array:
    return line.apply(landscape.predictions)


def _ratios(counts: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Any:
    """Norms over norms in every resample; NaN over nothing."""
    squares = [counts @ np.square(values).sum(axis=1) for values in (top, bottom)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(squares[0] / np.where(squares[1] > 0, squares[1], np.nan))
