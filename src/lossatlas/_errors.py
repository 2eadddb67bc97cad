"""Errors that a user can cause, and the helpers that word them."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The input cannot be used; the message says what was given, what is allowed and how to mend it.

    The command line prints it as one line and exits with code 2.
    """


class NotCertifiedError(RuntimeError):
    """A solver or a certificate failed; raised only where `throw=True` was asked for."""


def is_interruption(error: BaseException) -> bool:
    """Whether an error is `KeyboardInterrupt`, or came of one.

    Python and libraries wrap it where it happens to come in the body of a class or in a callback.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, KeyboardInterrupt):
            return True
        found = found.__cause__ or found.__context__
    return False


def unknown_name(kind: str, given: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a table, with the nearest known one."""
    names = sorted(known)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InputError(f"Unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")
