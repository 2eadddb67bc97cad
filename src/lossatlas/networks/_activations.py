"""Activations, known with what the theory needs of them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError, unknown_name


@dataclasses.dataclass(frozen=True)
class Segment:
    """An open interval on which the activation is affine: `slope * t + offset` for `lower < t < upper`."""

    lower: float
    upper: float
    slope: float
    offset: float


@dataclasses.dataclass(frozen=True)
class Activation:
    """A scalar nonlinearity and its properties.

    - `parity`: `"odd"`, `"even"` or `"none"`.
    - `reflection`: the constant c with sigma(-t) = c - sigma(t): 0 for odd, 1 for the sigmoid, None otherwise.
    - `degree`: p with sigma(c t) = c^p sigma(t) for c > 0, None when not homogeneous.
    - `segments`: the affine pieces (empty for smooth nonlinear functions).
    - `kinks`: the points where the derivative jumps; smooth when empty.
    - `lipschitz`: a bound of |sigma'|, infinite where there is none.
    """

    name: str
    fn: Callable[[Array], Array]
    parity: Literal["odd", "even", "none"] = "none"
    reflection: float | None = None
    degree: float | None = None
    segments: tuple[Segment, ...] = ()
    kinks: tuple[float, ...] = ()
    lipschitz: float = math.inf

    def __call__(self, x: Array) -> Array:
        return self.fn(x)

    @property
    def is_smooth(self) -> bool:
        """Whether the derivative has no jumps."""
        return not self.kinks


_INF = math.inf
_LEAK = 0.01

_ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("tanh", jnp.tanh, "odd", 0.0, lipschitz=1.0),
        Activation("erf", jax.lax.erf, "odd", 0.0, lipschitz=2 / math.sqrt(math.pi)),
        Activation("sin", jnp.sin, "odd", 0.0, lipschitz=1.0),
        Activation("sigmoid", jax.nn.sigmoid, reflection=1.0, lipschitz=0.25),
        Activation("softplus", jax.nn.softplus, lipschitz=1.0),
        Activation("gelu", lambda x: jax.nn.gelu(x, approximate=False), lipschitz=1.13),
        Activation("gelu_tanh", lambda x: jax.nn.gelu(x, approximate=True), lipschitz=1.13),
        Activation("silu", jax.nn.silu, lipschitz=1.1),
        Activation(
            "relu",
            jax.nn.relu,
            degree=1.0,
            segments=(Segment(-_INF, 0.0, 0.0, 0.0), Segment(0.0, _INF, 1.0, 0.0)),
            kinks=(0.0,),
            lipschitz=1.0,
        ),
        Activation(
            "leaky_relu",
            lambda x: jax.nn.leaky_relu(x, _LEAK),
            degree=1.0,
            segments=(Segment(-_INF, 0.0, _LEAK, 0.0), Segment(0.0, _INF, 1.0, 0.0)),
            kinks=(0.0,),
            lipschitz=1.0,
        ),
        # The first derivative of ELU (alpha = 1) is continuous, its second is not; the data may cross 0.
        Activation("elu", jax.nn.elu, segments=(Segment(0.0, _INF, 1.0, 0.0),), lipschitz=1.0),
        Activation(
            "hard_tanh",
            jax.nn.hard_tanh,
            "odd",
            0.0,
            segments=(
                Segment(-_INF, -1.0, 0.0, -1.0),
                Segment(-1.0, 1.0, 1.0, 0.0),
                Segment(1.0, _INF, 0.0, 1.0),
            ),
            kinks=(-1.0, 1.0),
            lipschitz=1.0,
        ),
        Activation("square", jnp.square, "even", degree=2.0),
        Activation("xtanh", lambda x: x * jnp.tanh(x), "even", lipschitz=1.2),
        Activation("x2tanh", lambda x: x * x * jnp.tanh(x), "odd", 0.0),
        Activation("exp", jnp.exp),
        Activation(
            "identity",
            lambda x: x,
            "odd",
            0.0,
            degree=1.0,
            segments=(Segment(-_INF, _INF, 1.0, 0.0),),
            lipschitz=1.0,
        ),
    )
}


def activation_names() -> list[str]:
    """The names that [`lossatlas.networks.activation`][] knows."""
    return sorted(_ACTIVATIONS)


def activation(name_or_fn: "str | Callable[[Array], Array] | Activation") -> Activation:
    """An activation by name, or a callable with its parity found numerically.

    **Arguments:**
    - `name_or_fn`: one of [`lossatlas.networks.activation_names`][], an elementwise callable, or an `Activation`.

    **Returns:**
    An [`lossatlas.networks.Activation`][]. A callable of ours (`jnp.tanh`) is recognised; of any other, parity and
    reflection are tested on [-3, 3], homogeneity and segments are unknown.

    **Raises:** `InputError` for an unknown name, and for a callable that is not elementwise.
    """
    if isinstance(name_or_fn, Activation):
        return name_or_fn
    if isinstance(name_or_fn, str):
        if name_or_fn not in _ACTIVATIONS:
            raise unknown_name("activation", name_or_fn, _ACTIVATIONS)
        return _ACTIVATIONS[name_or_fn]
    for known in _ACTIVATIONS.values():
        if known.fn is name_or_fn:
            return known
    return _from_callable(name_or_fn)


def _from_callable(fn: Callable[[Array], Array]) -> Activation:
    t = jnp.linspace(-3.0, 3.0, 25)
    plus = np.asarray(fn(t), dtype=float)
    minus = np.asarray(fn(-t), dtype=float)
    name = getattr(fn, "__name__", type(fn).__name__)
    if plus.shape != t.shape:
        msg = f"The activation {name!r} must act elementwise: it maps shape {t.shape} to {plus.shape}."
        raise InputError(msg)
    tol = 50 * float(jnp.finfo(t.dtype).eps) * (1 + np.abs(plus).max())
    total = plus + minus
    constant = float(total.mean())
    if np.abs(total).max() <= tol:
        return Activation(name, fn, "odd", 0.0)
    if np.abs(plus - minus).max() <= tol:
        return Activation(name, fn, "even")
    if np.abs(total - constant).max() <= tol:
        return Activation(name, fn, reflection=constant)
    return Activation(name, fn)
