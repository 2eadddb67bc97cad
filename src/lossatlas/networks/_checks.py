"""Checks that the constructors of architectures share."""

from jaxtyping import Array

from lossatlas._errors import InputError


def check_positive(**sizes: int) -> None:
    """See that sizes are at least 1.

    **Raises:** `InputError` naming the first that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            msg = f"{name} must be at least 1, got {size}."
            raise InputError(msg)


def check_input(x: Array, *shape: int | None) -> None:
    """See that one example has the shape that a network reads; None stands for any size.

    **Raises:** `InputError` otherwise; under `jit` while tracing, at no cost later.
    """
    fits = len(x.shape) == len(shape) and all(w is None or w == n for n, w in zip(x.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        msg = (
            f"The network reads one example of shape ({wanted}), got {tuple(x.shape)}; for many of them use "
            "jax.vmap(network)(examples)."
        )
        raise InputError(msg)
