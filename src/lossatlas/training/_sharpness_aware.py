"""Optimisers that take the gradient at the worst point nearby: SAM and ASAM."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from lossatlas._errors import InputError


def sam(optimizer: optax.GradientTransformation, *, rho: float = 0.05) -> optax.GradientTransformationExtraArgs:
    r"""Sharpness-aware minimisation: the step of an optimiser with the gradient at $\theta + \rho\, g / |g|$.

    With minibatches both gradients are those of the minibatch, so its size is the m of m-sharpness. Buffers, such as
    running statistics, are the same in both passes. At `rho=0` it is the optimiser itself. Cost: two gradients a step.

    `train` and `train_ensemble` take it as an optimiser. In a loop of your own, give the gradient as a function:
    `update(gradient, state, params, grad_fn=lambda params, _: gradient_at(params))`, as for `optax.contrib.sam`.

    **Arguments:**
    - `optimizer`: any optax transformation, such as `optax.sgd(0.1)`.
    - `rho`: the radius, in the Euclidean norm of all parameters together.

    **Returns:** An optax transformation; its state is that of `optimizer`.

    **Raises:** `InputError` for a radius that is negative or not finite, and, at the first step, without `grad_fn`.

    !!! example
        >>> run = train(key, network, landscape, optimizer=sam(optax.sgd(0.1), rho=0.1), num_steps=100)

    !!! cite
        Foret et al. 2021, arXiv 2010.01412, Algorithm 1 with p = 2.
    """
    _check_radius(rho)
    return _ascending(optimizer, rho, None)


def asam(
    optimizer: optax.GradientTransformation, *, rho: float = 0.5, eta: float = 0.01
) -> optax.GradientTransformationExtraArgs:
    r"""Adaptive SAM: the gradient at $\theta + \rho\, T^2 g / |T g|$ with $T = |\theta| + \eta$, elementwise.

    The radius is measured in units of each parameter, so with `eta=0` a change of the scale of homogeneous units leaves
    the worst loss as it is. All parameters are treated alike, biases and scales of norms too. Otherwise as
    [`lossatlas.training.sam`][].

    **Arguments:**
    - `optimizer`: any optax transformation.
    - `rho`: the radius, in the norm of $T^{-1}\delta$. `eta`: what keeps parameters near zero moving.

    **Returns:** An optax transformation; its state is that of `optimizer`.

    **Raises:** `InputError` for numbers that are negative or not finite, and, at the first step, without `grad_fn`.

    !!! cite
        Kwon et al. 2021, arXiv 2102.11600, the elementwise operator.
    """
    _check_radius(rho)
    check_eta(eta)
    return _ascending(optimizer, rho, eta)


def ascent(gradient: PyTree, params: PyTree, rho: Any, eta: Any | None) -> PyTree:
    r"""The step of length `rho` that raises the linear model of the loss most; zero where the gradient is.

    $\rho\, g / |g|$ without `eta`, else $\rho\, T^2 g / |T g|$ with $T = |\theta| + \eta$.
    """
    if eta is None:
        scaled, direction = gradient, gradient
    else:
        scaled = jax.tree.map(lambda g, w: g * (jnp.abs(w) + eta), gradient, params)
        direction = jax.tree.map(lambda g, w: g * (jnp.abs(w) + eta), scaled, params)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(scaled)))
    factor = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1.0), 0.0)
    return jax.tree.map(lambda d: d * factor.astype(d.dtype), direction)


def _ascending(
    optimizer: optax.GradientTransformation, rho: float, eta: float | None
) -> optax.GradientTransformationExtraArgs:
    base = optax.with_extra_args_support(optimizer)
    if rho == 0:
        return base  # to the last bit: a second gradient in the same program may round differently

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        if params is None or grad_fn is None:
            msg = (
                "sam and asam need the parameters and the gradient as a function: update(gradient, state, params, "
                "grad_fn=lambda params, _: gradient_at(params))."
            )
            raise InputError(msg)
        worst = jax.tree.map(jnp.add, params, ascent(updates, params, rho, eta))
        return base.update(grad_fn(worst, 0), state, params, grad_fn=grad_fn, **extra)

    return optax.GradientTransformationExtraArgs(base.init, update)


def _check_radius(rho: float) -> None:
    if not (rho >= 0 and math.isfinite(rho)):
        msg = f"rho must be finite and not negative, got {rho}."
        raise InputError(msg)


def check_eta(eta: float) -> None:
    """Refuse what cannot be added to absolute values.

    **Raises:** `InputError`.
    """
    if not (eta >= 0 and math.isfinite(eta)):
        msg = f"eta must be finite and not negative, got {eta}."
        raise InputError(msg)
