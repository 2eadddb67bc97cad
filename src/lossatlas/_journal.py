"""What a long computation has finished, kept in a folder, so that it goes on where it stopped."""

import contextlib
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np


class Journal:
    """The finished steps of a long computation, each a few arrays by name; without a folder nothing is kept.

    `journal("training", compute)` returns what `compute()` returns, or what it returned before the computation was
    interrupted. Whoever uses it sees to it that a step of one name always means the same computation.

    **Arguments:**
    - `folder`: made with the first step.
    """

    def __init__(self, folder: pathlib.Path | None = None):
        self.folder = folder

    def finished(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of every step that is finished, by the names of the steps."""
        for path in sorted(self.folder.glob("*.npz") if self.folder else ()):
            with _unreadable(), path.open("rb") as file, np.load(file) as stored:
                yield dict(stored)

    def __call__(self, step: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of a step: read where it is finished, else computed and written in one piece."""
        if self.folder is None:
            return dict(compute())
        path = self.folder / f"{step}.npz"
        with _unreadable(), path.open("rb") as file, np.load(file) as stored:
            return dict(stored)
        arrays = dict(compute())
        self.folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".part")
        with new.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        new.replace(path)
        return arrays


def _unreadable() -> contextlib.AbstractContextManager[None]:
    """A file that cannot be read costs the time of its step, no more."""
    return contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile)
