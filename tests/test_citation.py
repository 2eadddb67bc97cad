"""`lossatlas.citation`: every entry is whole, and what was run leads to its papers."""

import importlib
import re

import pytest

import lossatlas
from lossatlas._citation import _SOURCES, _papers
from lossatlas._errors import InputError


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(.+),$", text, re.MULTILINE)


def test_without_arguments_it_is_lossatlas_with_its_version():
    text = lossatlas.citation()
    assert keys(text) == ["lossatlas"]
    assert f"{{{lossatlas.__version__}}}" in text
    assert repr(text) == str(text)


def test_a_paper_is_cited_once_and_in_the_order_asked():
    text = lossatlas.citation("theory.linear_levels", "embedding.widen", "widen", "lossatlas.embedding.widen")
    assert keys(text) == ["lossatlas", "baldi1989linear", "zhang2021embedding", "zhang2022hierarchical"]


def test_a_function_a_result_and_a_name_lead_to_the_same_papers():
    import jax
    import numpy as np

    inputs = np.linspace(-1.0, 1.0, 5)[:, None]
    levels = lossatlas.theory.linear_levels(inputs, inputs**2)
    expected = ["lossatlas", "baldi1989linear"]
    for item in (levels, type(levels), lossatlas.theory.linear_levels, "linear_levels"):
        assert keys(lossatlas.citation(item)) == expected
    network = lossatlas.networks.Dense(jax.random.key(0), [1, 2, 1])
    assert keys(lossatlas.citation(network)) == ["lossatlas"]  # ours, but no paper behind it


def test_the_survey_is_cited_the_same_wherever_its_name_comes_from():
    names = ("survey", lossatlas.survey, "atlas.survey", lossatlas.workbench.SurveyRun)
    assert len({str(lossatlas.citation(name)) for name in names}) == 1
    assert len(keys(lossatlas.citation("survey"))) > 5


def test_every_source_is_an_entry_and_every_entry_a_source():
    used = {key for sources in _SOURCES.values() for key in sources}
    assert used == set(_papers()) - {"lossatlas"}


def test_every_method_exists():
    for name in _SOURCES:
        package, _, method = name.partition(".")
        assert hasattr(importlib.import_module(f"lossatlas.{package}"), method), name


@pytest.mark.parametrize("key", sorted(_papers()))
def test_every_entry_has_its_fields_and_balanced_braces(key):
    entry = _papers()[key]
    fields = re.findall(r"^  (\w+) += \{.+\},$", entry, re.MULTILINE)
    assert {"author", "title", "year"} <= set(fields)
    assert len(fields) == len(entry.splitlines()) - 2
    assert entry.count("{") == entry.count("}")


def test_unknown_names_and_foreign_objects_are_refused():
    with pytest.raises(InputError, match=r"Unknown method 'embedding.splt'.*'embedding.split'"):
        lossatlas.citation("embedding.splt")
    with pytest.raises(InputError, match="got dict of builtins"):
        lossatlas.citation({})
