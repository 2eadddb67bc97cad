"""The settings of a study from a preset, a TOML file and single options, whatever kind of text they come as."""

import ast
import dataclasses
import pathlib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from lossatlas._errors import InputError, unknown_name
from lossatlas.studies._registry import StudyKind
from lossatlas.studies._study import Study


def configure(
    kind: StudyKind,
    *,
    preset: str = "quick",
    toml: str | pathlib.Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Study:
    """The settings that were asked for: the preset's, then the file's, then single ones.

    **Arguments:**
    - `preset`: `"smoke"`, `"quick"` or `"paper"`.
    - `toml`: a file with the fields in a table named after the study, or at the top.
    - `options`: by field, as values or as text (`"3"`, `"1,2,3"`, `"true"`).

    **Raises:** `InputError` for unknown names, with the nearest known one, values of another type, settings that
    the study refuses, and a file that cannot be read.
    """
    presets = kind.config.presets
    if preset not in presets:
        raise unknown_name("preset", preset, presets)
    hints = typing.get_type_hints(kind.config)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind.config)}
    values = dict(presets[preset])
    for given, where in ((_read(toml, kind.name), f" in {toml}"), (dict(options or {}), "")):
        for name, value in given.items():
            name = name.replace("-", "_")
            if name not in fields:
                what = f"setting of {kind.name}{where}"
                raise unknown_name(what, name, fields)
            values[name] = _convert(name, value, fields[name])
    try:
        return kind.config(**values)
    except ValueError as error:
        msg = f"{kind.name} refuses these settings: {error}"
        raise InputError(msg) from None


def convert_setting(kind: StudyKind, name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Values of one setting as its field wants them; text is read as `configure` reads it.

    **Raises:** `InputError` for values of another type.
    """
    wanted = typing.get_type_hints(kind.config)[name]
    return tuple(_convert(name, value, wanted) for value in values)


def _read(toml: str | pathlib.Path | None, name: str) -> dict[str, Any]:
    if toml is None:
        return {}
    path = pathlib.Path(toml).expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"Cannot read {str(path)!r}: {error.strerror or error}."
        raise InputError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{str(path)!r} is no TOML: {error}"
        raise InputError(msg) from None
    own = content.get(name)
    if isinstance(own, dict):
        return own
    tables = [key for key, value in content.items() if isinstance(value, dict)]
    if tables:
        msg = f"{str(path)!r} has tables for {', '.join(tables)}, none for {name!r}: write [{name}]."
        raise InputError(msg)
    return content


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """A value as the field wants it; text is read as a literal, and lists may come without brackets."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        if value not in arguments:
            raise unknown_name(name, str(value), map(str, arguments))
        return value
    if isinstance(value, str) and wanted is not str:
        value = _literal(name, value, wanted, is_list=origin is tuple)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else (value,)
        return tuple(_convert(name, item, arguments[0]) for item in items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        msg = f"{name} must be {_words(wanted)}, got {value!r}."
        raise InputError(msg)
    return value


def _literal(name: str, text: str, wanted: Any, *, is_list: bool) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if is_list and typing.get_args(wanted)[0] is str:
            return tuple(part.strip() for part in text.split(","))
        msg = f"{name} must be {_words(wanted)}, got {text!r}."
        raise InputError(msg) from None
    return value


def _words(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return f"a list like 1,2,3 ({_words(typing.get_args(wanted)[0])} each)"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(wanted, str(wanted))
