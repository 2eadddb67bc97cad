"""Where runs are kept, and whether files can be written there."""

import os
import pathlib
import tempfile

from lossatlas._errors import InputError


def store_root(out: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The folder of runs: `out`, else the environment variable LOSSATLAS_STORE, else `lossatlas` here."""
    return pathlib.Path(out or os.environ.get("LOSSATLAS_STORE") or "lossatlas").expanduser()


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
        msg = f"Cannot write into the folder {str(folder)!r} ({reason}). Choose another with --out (Python: out=)."
        raise InputError(msg) from error
