"""What the site is made of beside the written pages."""

import ast
import inspect

import pytest
from site_pages import pages

import commands
import pictures
import tutorials
from markdown_blocks import blocks


def test_cells_of_a_tutorial_become_text_and_blocks():
    source = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n# %% slow\nprint(x)\n\n# %%\n"
    expected = "# Title\n\nText.\n\n```python\nx = 1\n```\n\n<!-- test: slow -->\n```python\nprint(x)\n```\n"
    assert tutorials.as_markdown(source) == expected


def test_every_tutorial_is_python_and_a_page_with_a_title():
    assert len(tutorials.pages()) >= 3
    for path in tutorials.FOLDER.glob("*.py"):
        ast.parse(path.read_text("utf-8"))
    for text in tutorials.pages().values():
        assert text.startswith("# ")
        assert blocks(text, "python")


def test_options_of_a_command_come_from_the_command_line():
    from lossatlas.cli._app import app

    text = commands.with_options(f"# lossatlas store\n\n{commands.OPTIONS}\n", "commands/store.md")
    for name in app["store"]:
        if not name.startswith("-"):
            assert f"## lossatlas store {name}\n\n```console\nlossatlas store {name} " in text
    survey = commands.with_options(commands.OPTIONS, "commands/survey.md")
    parameters = inspect.signature(app["survey"].default_command).parameters
    for name in parameters:
        assert f"--{name.replace('_', '-')}" in survey or name.upper() in survey
    assert commands.with_options(commands.OPTIONS, "index.md") == commands.OPTIONS


def test_the_overview_names_every_command():
    text = commands.with_options(commands.OPTIONS, "commands/index.md")
    for name in commands.names():
        assert f"[`lossatlas {name}`]({name}.md)" in text


def test_a_picture_has_a_dark_twin():
    text = pictures.in_both_colours("![Words.](../pictures/x.svg)\n")
    assert "../pictures/x.svg#only-light" in text
    assert "../pictures/x-dark.svg#only-dark" in text
    svg = '<rect style="fill: rgb(255, 255, 255)"/><path style="stroke: rgb(1, 2, 3)"/>'
    assert pictures.darkened(svg) == '<rect style="fill: rgb(18, 22, 28)"/><path style="stroke: rgb(1, 2, 3)"/>'


def test_lists_in_docstrings_stand_apart():
    pytest.importorskip("griffe")
    from docstrings import with_empty_lines

    text = "One line.\n\n**Arguments:**\n- `a`: one\n  more.\n- `b`: two.\n**Returns:** a thing:\n- x"
    assert with_empty_lines(text) == (
        "One line.\n\n**Arguments:**\n\n- `a`: one\n  more.\n- `b`: two.\n\n**Returns:**\n\na thing:\n\n- x"
    )
    assert with_empty_lines("```\na\n- b\n```") == "```\na\n- b\n```"


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    from formulas import drawn

    page = drawn(r'<p><span class="arithmatex">\(a &lt; b\)</span> <div class="arithmatex">\[x^2\]</div></p>')
    assert page.count("<math") == 2
    assert "arithmatex" not in page
    assert 'display="block"' in page


def test_every_public_name_is_in_the_reference():
    import lossatlas
    import reference

    made = reference.pages()
    for name in lossatlas.__all__:
        if callable(getattr(lossatlas, name)):
            assert f"#lossatlas.{name} " in made["reference/lossatlas.md"]
    for name in ("embedding.split", "geometry.Inertia", "workbench.Store", "studies.register"):
        assert f"::: lossatlas.{name}\n" in made[f"reference/{name.partition('.')[0]}.md"]


def test_no_page_asks_another_machine_for_anything():
    for name, text in pages().items():
        assert "](http" not in text, name
        assert "<script" not in text, name
