"""Which studies there are: ours, one file each, and those that installed packages bring by an entry point."""

import dataclasses
import functools as ft
import importlib
import importlib.metadata
import pkgutil
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from lossatlas._errors import InputError, unknown_name
from lossatlas.studies._study import Study


PRESETS = ("smoke", "quick", "paper")
ENTRY_POINTS = "lossatlas.studies"

_registered: dict[str, "StudyKind"] = {}


class StudyKind(NamedTuple):
    """A registered study.

    - `name`: as in `lossatlas study run NAME`. `title`: a line. `papers`: keys of `lossatlas.citation`.
    - `version`: raised when the same settings would give another result. `config`: the class of its settings.
    """

    name: str
    title: str
    papers: tuple[str, ...]
    version: int
    config: type[Study]


def register(name: str, *, title: str, papers: tuple[str, ...], version: int = 1) -> Callable[[type], type]:
    """Register the class of a study under a name.

    !!! example
        ```python
        @studies.register("my-study", title="What happens when", papers=("zhang2021embedding",))
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class MyStudy:
            width: int = 10
            presets = {"smoke": {"width": 3}, "quick": {}, "paper": {"width": 500}}
            def run(self, seed, progress): ...
            def claims(self, results): ...
            def figures(self, results): ...
        ```

    A package of yours lists the module in its entry points, group `lossatlas.studies`.

    **Arguments:**
    - `name`: lower-case words joined by hyphens. `title`: a line. `papers`: what to cite.
    - `version`: raise it when the same settings would give another result; stored runs are then made anew.

    **Raises:** `InputError` for a name in use or malformed, and a class that is no study: no frozen keyword-only
    dataclass, a preset missing or with unknown fields, unknown fields that are traced.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        msg = f"The name of a study is lower-case words joined by hyphens, got {name!r}."
        raise InputError(msg)

    def decorate(config: type) -> type:
        _check(name, config)
        known = _registered.get(name)
        if known is not None and known.config.__qualname__ != config.__qualname__:
            msg = f"Two studies are called {name!r}: {known.config.__qualname__} and {config.__qualname__}."
            raise InputError(msg)
        _registered[name] = StudyKind(name, title, tuple(papers), version, config)
        return config

    return decorate


def _check(name: str, config: Any) -> None:
    parameters = getattr(config, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or not all(f.kw_only for f in dataclasses.fields(config)):
        msg = f"The study {name!r} must be a dataclass(frozen=True, kw_only=True), got {config!r}."
        raise InputError(msg)
    missing = [method for method in ("run", "claims", "figures") if not callable(getattr(config, method, None))]
    if missing:
        msg = f"The study {name!r} has no {', '.join(missing)}."
        raise InputError(msg)
    fields = {field.name for field in dataclasses.fields(config)}
    strange = sorted(set(getattr(config, "traced", ())) - fields)
    if strange:
        msg = f"The study {name!r} has no fields {', '.join(strange)} to trace; it has {', '.join(sorted(fields))}."
        raise InputError(msg)
    presets = getattr(config, "presets", {})
    for preset in PRESETS:
        unknown = set(presets.get(preset, {"": None})) - fields
        if unknown:
            msg = f"The study {name!r} needs a preset {preset!r} of its own fields ({', '.join(sorted(fields))})."
            raise InputError(msg)


def study_kinds() -> dict[str, StudyKind]:
    """Every study by name: ours first, then those of installed packages."""
    _import_all()
    return dict(_registered)


def find_study(name: str) -> StudyKind:
    """The study of a name.

    **Raises:** `InputError` for an unknown one, with the nearest known name.
    """
    known = study_kinds()
    if name not in known:
        raise unknown_name("study", name, known)
    return known[name]


@ft.cache
def _import_all() -> None:
    package = importlib.import_module("lossatlas.studies")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"lossatlas.studies.{module.name}")
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            msg = f"The studies of {point.value!r} cannot be imported: {type(error).__name__}: {error}"
            raise InputError(msg) from error
