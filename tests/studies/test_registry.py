"""Studies are found by name, and their settings come from presets, files and options."""

import dataclasses

import pytest

import toy_study
from lossatlas._errors import InputError
from lossatlas.studies import configure, find_study, register, study_kinds


def test_a_registered_study_is_found_beside_ours():
    assert find_study("toy-mean").config is toy_study.ToyMean
    assert "embedding-width" in study_kinds()
    with pytest.raises(InputError, match="embedding-width"):
        find_study("embedding-widht")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"count": 1000}),
        ({"count": "3"}, {"count": 3}),
        ({"sizes": "1,2,3"}, {"sizes": (1, 2, 3)}),
        ({"sizes": "4"}, {"sizes": (4,)}),
        ({"sizes": [5, 6]}, {"sizes": (5, 6)}),
        ({"scale": "2"}, {"scale": 2.0}),
        ({"kind": "broken"}, {"kind": "broken"}),
    ],
)
def test_options_are_read_as_their_fields_want_them(options, expected):
    study = configure(find_study("toy-mean"), options=options)
    assert dataclasses.asdict(study).items() >= expected.items()


def test_single_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[toy-mean]\ncount = 7\nscale = 3\n")
    study = configure(find_study("toy-mean"), preset="smoke", toml=path, options={"scale": 4.0})
    assert dataclasses.asdict(study).items() >= {"count": 7, "scale": 4.0}.items()
    path.write_text("count = 8\n")
    assert dataclasses.asdict(configure(find_study("toy-mean"), preset="smoke", toml=path))["count"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuont": 3}, "count"),
        ({"count": "many"}, "count must be a whole number"),
        ({"count": 2.5}, "count must be a whole number"),
        ({"count": True}, "count must be a whole number"),
        ({"sizes": "a,b"}, "sizes must be a list"),
        ({"kind": "unifrom"}, "uniform"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message):
    with pytest.raises(InputError, match=message):
        configure(find_study("toy-mean"), options=options)


def test_files_that_do_not_fit_are_named(tmp_path):
    kind, path = find_study("toy-mean"), tmp_path / "settings.toml"
    with pytest.raises(InputError, match="No such file"):
        configure(kind, toml=path)
    path.write_text("count = = 3")
    with pytest.raises(InputError, match="is no TOML"):
        configure(kind, toml=path)
    path.write_text("[other]\ncount = 3\n")
    with pytest.raises(InputError, match="tables for other"):
        configure(kind, toml=path)
    with pytest.raises(InputError, match="smoke"):
        configure(kind, preset="smok")


def test_what_is_no_study_is_refused():
    with pytest.raises(InputError, match="lower-case words"):
        register("Not A Name", title="", papers=())
    with pytest.raises(InputError, match="frozen=True, kw_only=True"):
        register("no-dataclass", title="", papers=())(object)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Lacking:
        number: int = 1
        presets = {"smoke": {}, "quick": {}}

        def run(self): ...

    with pytest.raises(InputError, match="no claims, figures"):
        register("lacking", title="", papers=())(Lacking)
    for method in ("claims", "figures"):
        setattr(Lacking, method, lambda *_: None)
    with pytest.raises(InputError, match="needs a preset 'paper'"):
        register("lacking", title="", papers=())(Lacking)
    with pytest.raises(InputError, match="Two studies are called"):
        register("toy-mean", title="", papers=())(
            dataclasses.make_dataclass(
                "Other",
                [],
                frozen=True,
                kw_only=True,
                namespace={name: lambda *_: None for name in ("run", "claims", "figures")}
                | {"presets": {"smoke": {}, "quick": {}, "paper": {}}},
            )
        )
