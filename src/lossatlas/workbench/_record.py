"""The record of a run, `run.json`: what was asked, how it ended, with what it was made, and checksums of its files."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

from lossatlas._errors import InputError


RUN_FILE = "run.json"
SCHEMA_VERSION = 1
# What makes a record of one format into one of the next, by the format that it reads. A change of SCHEMA_VERSION adds
# an entry here, and a stored run of the former format to the tests.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_PACKAGES = ("lossatlas", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "scikit-learn", "xarray", "zarr")


class NewerFormatError(InputError):
    """A run that a newer version of lossatlas wrote."""


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces.

    **Raises:** `TypeError` or `ValueError` for what strict JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def write_record(directory: pathlib.Path, record: dict[str, Any]) -> None:
    """Write `run.json` in one step, with its own checksum."""
    content = {name: value for name, value in record.items() if name != "checksum"}
    content["checksum"] = _sha256(canonical(content).encode())
    new = directory / f"{RUN_FILE}.new"
    new.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(directory / RUN_FILE)


def read_record(directory: pathlib.Path) -> dict[str, Any]:
    """The record of a run, in the format of this version whatever format it was written in.

    **Raises:** `InputError` where there is none, or one that this version cannot read.
    """
    record = _stored_record(directory)
    version = record["schema_version"]
    if version > SCHEMA_VERSION:
        path = directory / RUN_FILE
        msg = f"{str(path)!r} has format {version}, this version reads up to {SCHEMA_VERSION}; update lossatlas."
        raise NewerFormatError(msg)
    for former in range(version, SCHEMA_VERSION):
        record = {**_UPGRADES[former](record), "schema_version": former + 1}
    return record


def _stored_record(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"]
    except FileNotFoundError:
        msg = f"{str(directory)!r} is no run: it has no {RUN_FILE}. Give the folder that `lossatlas survey` printed."
        raise InputError(msg) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{str(path)!r} is damaged ({error}); run again with --force."
        raise InputError(msg) from None
    if type(version) is not int or version < 1:
        msg = f"{str(path)!r} is damaged (its format is {version!r}); run again with --force."
        raise InputError(msg)
    return record


def is_finished(directory: pathlib.Path) -> bool:
    """Whether a folder holds a run that ended well and that this version can read."""
    try:
        return read_record(directory)["status"] == "finished"
    except (InputError, KeyError):
        return False


def checksums(directory: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of a run but its record, by path inside the folder."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    named = {path.relative_to(directory).as_posix(): path for path in files}
    return {name: checksum(path) for name, path in named.items() if name != RUN_FILE}


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    return _sha256(path.read_bytes())


def damaged(directory: pathlib.Path) -> tuple[str, ...]:
    """The files of a run that are missing, were added, or differ from when it was written; empty for an intact run."""
    read_record(directory)  # of a format that we know
    record = _stored_record(directory)
    stated = dict(record.get("checksums", {}))
    found = checksums(directory)
    wrong = {name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name)}
    content = {name: value for name, value in record.items() if name != "checksum"}
    if record.get("checksum") != _sha256(canonical(content).encode()):
        wrong.add(RUN_FILE)
    return tuple(sorted(wrong))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def platform_facts() -> dict[str, Any]:
    """The machine: operating system, processors, devices and the XLA flags."""
    import jax

    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "devices": [f"{device.platform}:{device.id}" for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
