"""What the command line refuses before anything heavy is imported or written."""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from lossatlas._errors import InputError


def parse_widths(type_: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    """The widths of `--hidden 50,50`.

    **Arguments:**
    - `type_`: the type to convert to (always the same here).
    - `tokens`: the words of the option, with a `value` each.

    **Raises:** `InputError` unless every width is a whole number above zero.
    """
    del type_
    text = ",".join(token.value for token in tokens)
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        msg = f"the widths of the hidden layers are whole numbers above zero, like 50 or 50,50; got {text!r}."
        raise InputError(msg)
    return widths


def check_activation(name: str) -> None:
    """Look an activation up.

    **Raises:** `InputError` for an unknown one, with the nearest known name.
    """
    from lossatlas import networks

    networks.activation(name)


def check_folder(folder: pathlib.Path) -> None:
    """See that a folder is there or can be made, and that files can be written into it; it is not made yet.

    **Raises:** `InputError` when it cannot.
    """
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        # Permission bits do not tell of read-only file systems and mean nothing to root: only trying does.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = f"{existing} is not a folder" if not existing.is_dir() else f"{existing}: {error.strerror}"
        msg = f"Cannot write into the folder {str(folder)!r} ({reason}). Choose another with --out."
        raise InputError(msg) from error
