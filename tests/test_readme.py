"""The README is true: its Python runs, its commands parse, its targets and links exist."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from markdown_blocks import blocks, commands


ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


PYTHON = [
    pytest.param(block.code, id=f"block-{i}", marks=[pytest.mark.slow] if block.slow else [])
    for i, block in enumerate(blocks(README, "python"))
]
COMMANDS = commands(README)
TARGETS = sorted(set(re.findall(r"\bmake ([a-z]+)", README)))


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run_as_a_user_would_run_them(code, tmp_path):
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "block.py"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env={**os.environ, "LOSSATLAS_STORE": str(tmp_path / "store")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_there_are_blocks_to_test():
    assert len(PYTHON) >= 3
    assert len(COMMANDS) >= 5
    assert "](ARCHITECTURE.md)" in README
    assert {"survey", "test", "distclean"} <= set(TARGETS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    from lossatlas.cli._app import app

    words = shlex.split(line, comments=True)[1:]
    command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    assert callable(command)
    assert bound.args or bound.kwargs or words in (["survey"], ["app"], ["info"])


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(name):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_versions_of_package_citation_and_changelog_agree():
    import lossatlas

    assert f"\nversion: {lossatlas.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {lossatlas.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_are_names_and_versions_for_all_that_is_asked_for():
    import tomllib

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    assert {re.split(r"[<>=\[; ]", item)[0].lower() for item in asked} <= pinned
