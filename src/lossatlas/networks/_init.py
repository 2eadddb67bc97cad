"""Initialisations by name."""

import math
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name


Std = Callable[[int, int, bool], float]
"""`std(fan_in, fan_out, is_output)` of a weight matrix."""

_STDS: dict[str, Std] = {
    "glorot": lambda fan_in, fan_out, _: math.sqrt(2 / (fan_in + fan_out)),
    "he": lambda fan_in, _out, _: math.sqrt(2 / fan_in),
    "lecun": lambda fan_in, _out, _: math.sqrt(1 / fan_in),
    "ntk": lambda fan_in, _out, _: math.sqrt(1 / fan_in),
    "mean-field": lambda fan_in, _out, is_output: 1 / fan_in if is_output else math.sqrt(1 / fan_in),
}
_NTK_BIAS_STD = 0.1


def initialisation_names() -> list[str]:
    """The names that `init=` of [`lossatlas.networks.Dense`][] knows, besides a power p."""
    return sorted(_STDS)


def weight_std(init: "str | float | Std", fan_in: int, fan_out: int, *, is_output: bool) -> float:
    r"""The standard deviation of one weight matrix.

    `glorot` $\sqrt{2/(\text{in}+\text{out})}$, `he` $\sqrt{2/\text{in}}$, `lecun` and `ntk` $\sqrt{1/\text{in}}$,
    `mean-field` as `lecun` with $1/\text{in}$ at the output; a number p gives $\max(\text{in},\text{out})^{-p}$,
    the small initialisation of the embedding-principle papers. All are standard parametrisations with Gaussian
    weights: what a name promises is the function at initialisation.

    **Arguments:**
    - `init`: such a name, a number p, or a function of (fan_in, fan_out, is_output).
    - `fan_in`, `fan_out`: numbers of columns and rows.
    - `is_output`: whether it is the weight of the output layer.

    **Raises:** `InputError` for an unknown name and for a p that is not finite.
    """
    if callable(init):
        return init(fan_in, fan_out, is_output)
    if isinstance(init, str):
        if init not in _STDS:
            raise unknown_name("initialisation", init, _STDS)
        return _STDS[init](fan_in, fan_out, is_output)
    if not math.isfinite(init):
        msg = f"The initialisation power p in std = max(fan_in, fan_out)**-p must be finite, got {init}."
        raise InputError(msg)
    return max(fan_in, fan_out) ** -float(init)


def bias_std(init: "str | float | Std") -> float:
    """The standard deviation of biases: 0.1 for `ntk` (Jacot et al. 2018), 0 otherwise."""
    return _NTK_BIAS_STD if init == "ntk" else 0.0


def draw(key: PRNGKeyArray, shape: tuple[int, ...], std: float, dtype) -> Float[Array, "..."]:
    """Gaussian entries of a standard deviation."""
    return std * jax.random.normal(key, shape, dtype)
