from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, ravel_tangent
from lossatlas._types import Vector


Factory = Callable[..., optax.GradientTransformation]
OptimizerLike = Literal["gd", "adam"] | str | optax.GradientTransformation | Factory

_FACTORIES: dict[str, Factory] = {"gd": optax.sgd, "adam": optax.adam}
_LEARNING_RATES = {"gd": 0.1, "adam": 1e-3}


class Optimizer(eqx.Module):
    """An optimiser whose numbers are arrays, so that one compiled program serves all their values.

    The named optimisers act elementwise and are applied to the flat parameter vector; a factory or transformation
    of the user sees the pytree of parameters (None elsewhere), so that masks and matrix-wise rules work.
    """

    hyperparameters: dict[str, Any]
    make: Any = eqx.field(static=True)
    is_factory: bool = eqx.field(static=True)
    on_vector: bool = eqx.field(static=True)

    def _transformation(self) -> optax.GradientTransformation:
        return self.make(**self.hyperparameters) if self.is_factory else self.make

    def init(self, vector: Vector, unravel: Unravel) -> PyTree:
        """The state of the optimiser at the first point."""
        with jax.numpy_dtype_promotion("standard"):
            return self._transformation().init(vector if self.on_vector else unravel.tangent(vector))

    def update(
        self,
        gradient: Vector,
        state: PyTree,
        vector: Vector,
        unravel: Unravel,
        gradient_at: Callable[[Vector], Vector],
    ) -> tuple[Vector, PyTree]:
        """The next point and state; `gradient_at` serves optimisers that look at other points, such as `sam`."""
        # optax mixes counts with decay rates, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            transformation = self._transformation()
            if self.on_vector:
                change, state = transformation.update(gradient, state, vector)
            else:
                params, slope = unravel.tangent(vector), unravel.tangent(gradient)
                extra = {}
                if isinstance(transformation, optax.GradientTransformationExtraArgs):
                    extra["grad_fn"] = lambda at, _: unravel.tangent(gradient_at(ravel_tangent(at)))
                change, state = transformation.update(slope, state, params, **extra)
                change = ravel_tangent(change)
        return vector + jnp.asarray(change, vector.dtype), state


def as_optimizer(
    optimizer: OptimizerLike, learning_rate: Any, hyperparameters: Mapping[str, Any] | None, dtype: Any
) -> Optimizer:
    """The optimiser of a name, a factory or an optax transformation.

    **Raises:** `InputError` for an unknown name, and for a learning rate or hyperparameters beside a finished
    transformation, which holds its own.
    """
    given = dict(hyperparameters or {})
    if learning_rate is not None:
        if "learning_rate" in given:
            raise InputError("The learning rate is given twice: as learning_rate and in hyperparameters; drop one.")
        given["learning_rate"] = learning_rate
    if isinstance(optimizer, optax.GradientTransformation):
        if given:
            msg = (
                f"An optax transformation holds its own {', '.join(sorted(given))}; give the factory instead, for "
                "instance optimizer=optax.adam rather than optax.adam(1e-3)."
            )
            raise InputError(msg)
        return Optimizer({}, optimizer, is_factory=False, on_vector=False)
    if isinstance(optimizer, str):
        if optimizer not in _FACTORIES:
            raise unknown_name("optimizer", optimizer, _FACTORIES)
        given.setdefault("learning_rate", _LEARNING_RATES[optimizer])
        factory = _FACTORIES[optimizer]
    elif callable(optimizer):
        factory = optimizer
    else:
        msg = (
            f"optimizer must be one of {', '.join(sorted(_FACTORIES))}, an optax transformation or a factory of "
            f"one such as optax.adamw, got {type(optimizer).__name__}."
        )
        raise InputError(msg)
    values = {name: _as_value(name, value, dtype) for name, value in given.items()}
    try:
        factory(**{name: _sample(value) for name, value in values.items()})
    except TypeError as error:
        msg = f"The optimizer does not take these hyperparameters: {error}."
        raise InputError(msg) from error
    return Optimizer(values, factory, is_factory=True, on_vector=isinstance(optimizer, str))


def _as_value(name: str, value: Any, dtype: Any) -> Any:
    """Floating numbers as arrays of the parameters' type; schedules, flags and counts stay as they are."""
    if isinstance(value, float | np.floating | np.ndarray | Array) or (name == "learning_rate" and value == 0):
        array = np.asarray(value)
    elif name == "learning_rate" and isinstance(value, int):
        array = np.asarray(float(value))
    else:
        return value
    if not np.isfinite(array).all() or (name == "learning_rate" and (array <= 0).any()):
        msg = f"{name} must be finite{' and positive' if name == 'learning_rate' else ''}, got {value}."
        raise InputError(msg)
    return jnp.asarray(array, dtype)


def _sample(value: Any) -> Any:
    """One plain number of a hyperparameter, to try the factory with."""
    return float(np.ravel(np.asarray(value))[0]) if isinstance(value, Array) else value


def optimizer_name(optimizer: OptimizerLike) -> str:
    """How results name the optimiser."""
    if isinstance(optimizer, str):
        return optimizer
    return getattr(optimizer, "__name__", "optax transformation")
