"""Initialisations by name."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas.networks._activations import Activation
from lossatlas.networks._activations import activation as as_activation


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
_BESIDE_ZERO = 1e-6


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


def balanced_std(
    activation: str | Callable[[Array], Array] | Activation, *, keep_rate: float = 1.0, inverted: bool = True
) -> Std:
    r"""Standard deviations that keep the curvature of every layer of the size of that of the loss in predictions.

    By the expected traces of [`lossatlas.theory.expected_layer_traces`][] this asks for $v\, n_{out} c = 1$ on the way
    forward and $v\, n_{in} c = 1$ on the way back; the compromise is $v = \frac1c \frac{2}{n_{in} + n_{out}}$, where c
    is the mean of the squared slopes of the activation on both sides of 0: 1 for tanh, where it is `glorot`; 1/2 for
    ReLU, where it is `he` for equal widths. Smooth activations are taken as linear, which holds for small
    pre-activations.

    **Arguments:**
    - `activation`: of the network: a name or an elementwise callable.
    - `keep_rate`: p of dropout behind every hidden layer. Inverted dropout divides by p what it keeps, which
      multiplies squares by 1/p, so v is multiplied by p; with `inverted=False` nothing is divided, and v is divided
      by p.

    **Returns:** a function for the argument `init` of our architectures.

    **Raises:** `InputError` for an activation that is flat at 0, and a rate that is not above 0 and at most 1.

    !!! example
        >>> balanced_std("relu")(50, 50, False) == weight_std("he", 50, 50, is_output=False)
        True

    !!! cite
        Skorski, Temperoni and Theobald 2021, arXiv 2004.09506.
    """
    if not 0 < keep_rate <= 1:
        msg = f"keep_rate must lie above 0 and at most 1, got {keep_rate}."
        raise InputError(msg)
    known = as_activation(activation)
    slopes = jax.vmap(jax.grad(known.fn))(jnp.array([-_BESIDE_ZERO, _BESIDE_ZERO]))
    square = float(jnp.mean(slopes**2))
    if not square > 100 * _BESIDE_ZERO**2:
        msg = (
            f"The activation {known.name!r} is flat at 0, so no variance of the weights keeps the curvature of layers."
        )
        raise InputError(msg)
    factor = square / keep_rate if inverted else square * keep_rate
    return lambda fan_in, fan_out, _: math.sqrt(2 / (factor * (fan_in + fan_out)))


def bias_std(init: "str | float | Std") -> float:
    """The standard deviation of biases: 0.1 for `ntk` (Jacot et al. 2018), 0 otherwise."""
    return _NTK_BIAS_STD if init == "ntk" else 0.0


def draw(key: PRNGKeyArray, shape: tuple[int, ...], std: float, dtype) -> Float[Array, "..."]:
    """Gaussian entries of a standard deviation."""
    return std * jax.random.normal(key, shape, dtype)
