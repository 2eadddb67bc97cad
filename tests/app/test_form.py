"""Forms made from dataclasses."""

import dataclasses
import inspect
from typing import Literal

import pytest

from lossatlas._errors import InputError
from lossatlas.app._form import as_typed, form_fields, help_texts, read_fields, split_grid
from lossatlas.atlas import SurveyConfig
from lossatlas.studies import study_kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for.

    - `count`: how many of these, over
      two lines. `kind`, `speed`: which, and `so` fast.
    - `std`: p of a power; `sizes`: lists.

    !!! note
        Nothing of `this`: belongs there.
    """

    count: int = 3
    kind: Literal["one", "two"] = "one"
    speed: float = 1e-6
    std: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    on: bool = False
    name: str = ""


def test_a_form_has_a_field_for_each_setting_with_its_documentation():
    fields = {field.name: field for field in form_fields(Asked)}
    assert list(fields) == ["count", "kind", "speed", "std", "sizes", "on", "name"]
    assert fields["count"].help == "How many of these, over two lines."
    assert fields["kind"].help == fields["speed"].help == "Which, and so fast."
    assert fields["std"].help == "p of a power."
    assert fields["sizes"].help == "Lists."
    assert fields["on"].help == ""
    assert fields["kind"].choices == ("one", "two")
    assert fields["on"].is_switch
    assert [name for name, field in fields.items() if field.is_number] == ["count", "speed", "std"]
    assert "count" not in [field.name for field in form_fields(Asked, without=["count"])]


def test_what_the_form_shows_is_read_back_as_it_was():
    for config in (Asked(), Asked(count=0, std=0.5, sizes=(7,), on=True, name="a b", kind="two")):
        fields = form_fields(Asked)
        typed = {field.name: as_typed(getattr(config, field.name)) for field in fields}
        assert Asked(**read_fields(fields, typed)) == config


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_every_setting_of_every_study_can_be_typed_and_is_explained(preset):
    for kind in study_kinds().values():
        fields = form_fields(kind.config)
        config = kind.config(**kind.config.presets[preset])
        typed = {field.name: as_typed(getattr(config, field.name)) for field in fields}
        assert kind.config(**read_fields(fields, typed)) == config
        if kind.config.__module__.startswith("lossatlas."):
            assert [field.name for field in fields if not field.help] == []


def test_every_setting_of_a_survey_can_be_typed_and_is_explained():
    fields = form_fields(SurveyConfig)
    typed = {field.name: as_typed(field.default) for field in fields}
    assert SurveyConfig(**read_fields(fields, typed)) == SurveyConfig()
    assert set(help_texts(inspect.getdoc(SurveyConfig) or "")) == {field.name for field in fields}


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("count", "many", "Count must be a whole number, got 'many'"),
        ("count", "", "Count must be a whole number, got ''"),
        ("std", "x", "Std must be a number"),
        ("sizes", "1,x", "Sizes must be a list like 1,2,3"),
        ("kind", "thre", "Unknown Kind 'thre'"),
    ],
)
def test_what_is_no_value_is_one_line_with_the_name_of_the_field(name, typed, message):
    fields = form_fields(Asked)
    given = {field.name: as_typed(field.default) for field in fields} | {name: typed}
    with pytest.raises(InputError, match=message):
        read_fields(fields, given)


def test_several_values_put_a_setting_on_the_grid():
    fields = form_fields(Asked)
    typed = {field.name: str(as_typed(field.default)) for field in fields}
    assert split_grid(fields, typed) == ({}, dataclasses.asdict(Asked()))
    grid, settings = split_grid(
        fields, typed | {"count": "1, 2", "speed": "0.5:1:0.25", "sizes": "1,2;3,4", "kind": "one,two"}
    )
    assert grid == {"count": ["1", "2"], "kind": ["one", "two"], "speed": [0.5, 0.75, 1.0], "sizes": ["1,2", "3,4"]}
    assert list(settings) == ["std", "on", "name"]
    with pytest.raises(InputError, match="some steps lead from start to stop"):
        split_grid(fields, typed | {"speed": "1:2:0"})
    with pytest.raises(InputError, match="Count must be a whole number"):
        split_grid(fields, typed | {"count": "x"})
