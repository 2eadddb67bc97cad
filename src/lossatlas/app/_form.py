"""A form made from a dataclass: one field each, with its documentation as help, and what was typed as settings."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lossatlas.studies import read_setting
from lossatlas.workbench.sweeps import parse_axis


class Field(NamedTuple):
    """A field of a form.

    - `name`: of the setting. `label`: for people. `help`: its documentation. `wanted`: its type. `default`: its value.
    - `choices`: what it may be, where there is a list of that.
    """

    name: str
    label: str
    help: str
    wanted: Any
    default: Any
    choices: tuple[Any, ...] = ()

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.wanted is bool

    @property
    def is_number(self) -> bool:
        """Whether a phone should show digits to type it with."""
        return self.wanted in (int, float, int | None, float | None)


def form_fields(config: type, *, without: Sequence[str] = ()) -> list[Field]:
    """The fields of a settings dataclass, in its order.

    **Arguments:**
    - `config`: the class; its docstring says of each field what it is, in the form of `help_texts`.
    - `without`: names that the form has elsewhere.
    """
    hints, helps = typing.get_type_hints(config), help_texts(inspect.getdoc(config) or "")
    fields = []
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        wanted = hints[field.name]
        choices = typing.get_args(wanted) if typing.get_origin(wanted) is typing.Literal else ()
        label = field.name.removeprefix("num_").replace("_", " ")
        label = f"Number of {label}" if field.name.startswith("num_") else label.capitalize()
        fields.append(Field(field.name, label, helps.get(field.name, ""), wanted, field.default, choices))
    return fields


_NAMES = re.compile(r"((?:`\w+`, )*`\w+`): ")


def help_texts(documentation: str) -> dict[str, str]:
    """What a docstring says of each field: a list whose points read like `` `a`: one thing. `b`, `c`: another. ``."""
    texts = {}
    for point in re.split(r"^- ", documentation, flags=re.MULTILINE)[1:]:
        joined = " ".join(point.partition("\n\n")[0].split())
        # Names, text, names, text, ...
        parts = _NAMES.split(joined)[1:]
        for names, text in zip(parts[::2], parts[1::2], strict=True):
            for name in re.findall(r"\w+", names):
                texts[name] = _sentence(text.replace("`", "").strip())
    return texts


def _sentence(text: str) -> str:
    """Begun with a capital letter, unless the first word is a symbol, and ended with a period."""
    text = f"{text.rstrip(';')}." if text.endswith(";") else text
    return text if text[1:2] == " " else text[:1].upper() + text[1:]


def as_typed(value: Any) -> Any:
    """A value as one would type it into the form."""
    if isinstance(value, bool):
        return value
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def read_fields(fields: Sequence[Field], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, as settings.

    **Raises:** `InputError` for what is no value of its field.
    """
    return {field.name: read_setting(field.label, typed[field.name], field.wanted) for field in fields}


def split_grid(fields: Sequence[Field], typed: Mapping[str, str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What was typed, as the axes of a grid where there are several values, and as settings.

    Several values are `10,20,40` or `0.5:2:0.25`, and `1,2;3,4` for a setting that is a list itself.

    **Raises:** `InputError` for what is no value, or no list of values, of its field.
    """
    grid, settings = {}, {}
    for field in fields:
        text = typed[field.name].strip()
        is_list = typing.get_origin(field.wanted) is tuple
        if ";" in text if is_list else ("," in text or text.count(":") == 2):
            grid[field.name] = list(parse_axis(f"{field.name}={text}").values)
        else:
            settings[field.name] = read_setting(field.label, text, field.wanted)
    return grid, settings
