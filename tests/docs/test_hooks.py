"""What the site is made of beside the written pages."""

import ast
import inspect

import pytest
from site_pages import pages

import command_pages
import dark_pictures
import study_table
import tutorial_pages
from markdown_blocks import blocks


def test_cells_of_a_tutorial_become_text_and_blocks():
    source = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n# %% slow\nprint(x)\n\n# %%\n"
    expected = "# Title\n\nText.\n\n```python\nx = 1\n```\n\n<!-- test: slow -->\n```python\nprint(x)\n```\n"
    assert tutorial_pages.as_markdown(source) == expected


def test_every_tutorial_is_python_and_a_page_with_a_title():
    assert len(tutorial_pages.pages()) >= 3
    for path in tutorial_pages.FOLDER.glob("*.py"):
        ast.parse(path.read_text("utf-8"))
    for text in tutorial_pages.pages().values():
        assert text.startswith("# ")
        assert blocks(text, "python")


def test_options_of_a_command_come_from_the_command_line():
    from lossatlas.cli._app import app

    text = command_pages.with_options(f"# lossatlas store\n\n{command_pages.OPTIONS}\n", "commands/store.md")
    for name in app["store"]:
        if not name.startswith("-"):
            assert f"## lossatlas store {name}\n\n```console\nlossatlas store {name} " in text
    survey = command_pages.with_options(command_pages.OPTIONS, "commands/survey.md")
    survey_command = app["survey"].default_command
    assert survey_command is not None
    for name in inspect.signature(survey_command).parameters:
        assert f"--{name.replace('_', '-')}" in survey or name.upper() in survey
    assert command_pages.with_options(command_pages.OPTIONS, "index.md") == command_pages.OPTIONS


def test_the_overview_names_every_command():
    text = command_pages.with_options(command_pages.OPTIONS, "commands/index.md")
    for name in command_pages.names():
        assert f"[`lossatlas {name}`]({name}.md)" in text


def test_the_table_of_studies_has_every_study_and_its_paper():
    from lossatlas.studies import study_kinds

    text = study_table.with_studies(f"Text.\n\n{study_table.PLACE}\n")
    for name in study_kinds():
        assert f"| `{name}` | " in text
    assert "and does training visit them? | arXiv 2105.14573 |" in text
    assert study_table.with_studies("Text.") == "Text."


def test_a_picture_has_a_dark_twin():
    text = dark_pictures.in_both_colours("![Words.](../pictures/x.svg)\n")
    assert "../pictures/x.svg#only-light" in text
    assert "../pictures/x-dark.svg#only-dark" in text
    svg = '<rect style="fill: rgb(255, 255, 255)"/><path style="stroke: rgb(1, 2, 3)"/>'
    assert dark_pictures.darkened(svg) == '<rect style="fill: rgb(18, 22, 28)"/><path style="stroke: rgb(1, 2, 3)"/>'


def test_lists_in_docstrings_stand_apart():
    pytest.importorskip("griffe")
    from docstrings import with_empty_lines

    text = "One line.\n\n**Arguments:**\n- `a`: one\n  more.\n- `b`: two.\n**Returns:** a thing:\n- x"
    assert with_empty_lines(text) == (
        "One line.\n\n**Arguments:**\n\n- `a`: one\n  more.\n- `b`: two.\n\n**Returns:**\n\na thing:\n\n- x"
    )
    assert with_empty_lines("```\na\n- b\n```") == "```\na\n- b\n```"


def test_sessions_in_docstrings_are_blocks_of_code():
    pytest.importorskip("griffe")
    from docstrings import with_sessions

    text = "!!! example\n    >>> x = 1  # doctest: +SKIP\n    >>> x\n    1\n\nMore."
    assert with_sessions(text) == "!!! example\n    ```pycon\n    >>> x = 1\n    >>> x\n    1\n    ```\n\nMore."


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    from formulas import drawn

    page = drawn(r'<p><span class="arithmatex">\(a &lt; b\)</span> <div class="arithmatex">\[x^2\]</div></p>')
    assert page.count("<math") == 2
    assert "arithmatex" not in page
    assert '<div class="formula"><math' in page


def test_every_public_name_is_in_the_reference():
    import lossatlas
    import reference_pages

    made = reference_pages.pages()
    for name in lossatlas.__all__:
        if callable(getattr(lossatlas, name)):
            assert f"#lossatlas.{name} " in made["reference/lossatlas.md"]
    for name in ("embedding.split", "geometry.Inertia", "workbench.Store", "studies.register"):
        assert f"::: lossatlas.{name}\n" in made[f"reference/{name.partition('.')[0]}.md"]


def test_no_page_asks_another_machine_for_anything():
    for name, text in pages().items():
        assert "](http" not in text, name
        assert "<script" not in text, name
