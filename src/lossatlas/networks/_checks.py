"""Checks that the constructors of architectures share."""

from lossatlas._errors import InputError


def check_positive(**sizes: int) -> None:
    """See that sizes are at least 1.

    **Raises:** `InputError` naming the first that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            msg = f"{name} must be at least 1, got {size}."
            raise InputError(msg)
