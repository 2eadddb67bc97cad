"""Choosing data or a model on a page: what there is, and what is given to the application as a file."""

import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import events, ui

from lossatlas.workbench import UPLOADS, Jobs


TABLES = (".csv", ".tsv", ".npz", ".parquet")
_MOST_BYTES = 2 * 1024**3


def choice(jobs: Jobs, label: str, known: Mapping[str, str], suffixes: Sequence[str], *, optional: bool = False) -> Any:
    """A list of what is known and of the files that were given before, and a place to give another.

    **Arguments:**
    - `jobs`: of the folder of runs, where files are kept. `label`: what is chosen.
    - `known`: what is shown, by what it means. `suffixes`: of the files that fit. `optional`: none is a choice.

    **Returns:** the element whose `value` is what was chosen: a key of `known`, the path of a file, or `""`.
    """
    folder = jobs.root / UPLOADS
    given = sorted((path for path in folder.glob("*/*") if path.suffix in suffixes), key=lambda path: path.name)
    options = ({"": "none"} if optional else {}) | dict(known) | {str(path.absolute()): path.name for path in given}
    with ui.element("div").classes("field"):
        chosen = ui.select(options, label=label, value=next(iter(options), None)).props("outlined dense")

        async def keep(event: events.UploadEventArguments) -> None:
            path = await _keep(folder, event)
            options[str(path)] = path.name
            chosen.set_options(options, value=str(path))
            upload.reset()
            ui.notify(f"{path.name} is there now.", type="positive")

        def refuse() -> None:
            ui.notify(f"Give a file that ends with {', '.join(suffixes)}, of at most 2 GB.", type="negative")

        upload = ui.upload(
            label=f"Give a file ({', '.join(suffixes)})",
            auto_upload=True,
            max_file_size=_MOST_BYTES,
            on_upload=keep,
            on_rejected=refuse,
        )
        upload.props(f'accept="{",".join(suffixes)}" flat bordered aria-label="{label}: give a file"').classes("upload")
    return chosen


async def _keep(folder: pathlib.Path, event: events.UploadEventArguments) -> pathlib.Path:
    """Keep a file under its name, in a folder that its content names: the same file is kept once."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", pathlib.PurePath(event.file.name).name).strip(".-")
    new = folder / f".{event.sender.id}-{event.client.id}.new"
    await event.file.save(new)
    with new.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    path = folder / digest / name
    path.parent.mkdir(exist_ok=True)
    new.replace(path)
    return path.absolute()
