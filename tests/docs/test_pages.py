"""The pages are true: their Python runs and prints what they say, their commands parse, their pictures are there."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest
from site_pages import DOCS, ROOT, pages

from markdown_blocks import blocks, commands


PAGES = pages()
RUNNER = pathlib.Path(__file__).with_name("run_pages.py")
SLOW = [name for name, text in PAGES.items() if any(block.slow for block in blocks(text, "python"))]
COMMANDS = sorted({line for text in PAGES.values() for line in commands(text)})


def runnable(name: str, *, slow: bool) -> dict:
    """The blocks of a page that run."""
    found = [block for block in blocks(PAGES[name], "python") if slow or not block.slow]
    return {"name": name, "blocks": [(block.line, block.code, block.printed) for block in found]}


def run(jobs: list[dict], folder: pathlib.Path) -> str:
    """What went wrong."""
    environment = {
        "LOSSATLAS_STORE": str(folder / "store"),
        "JAX_COMPILATION_CACHE_DIR": str(getattr(jax.config, "jax_compilation_cache_dir", "")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=900,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )
    sys.stdout.write(done.stderr)
    return done.stdout or ("" if done.returncode == 0 else done.stderr)


def test_python_of_the_pages_runs_and_prints_what_they_say(tmp_path):
    jobs = [job for name in PAGES if (job := runnable(name, slow=False))["blocks"]]
    assert len(jobs) >= 7
    assert run(jobs, tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_python_of_the_pages_runs_and_prints_what_they_say(name, tmp_path):
    assert run([runnable(name, slow=True)], tmp_path) == ""


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    from lossatlas.cli._app import app

    words = shlex.split(line, comments=True)[1:]
    if words == ["--install-completion"]:
        return
    command, _, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    assert callable(command)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {
        target
        for text in PAGES.values()
        for b in blocks(text, "sh")
        for target in re.findall(r"^make ([a-z-]+)", b.code, re.M)
    }
    assert "survey" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_picture_is_there_and_used():
    named = {
        pathlib.PurePosixPath(path).name for text in PAGES.values() for path in re.findall(r"\]\(([^)]+\.svg)\)", text)
    }
    assert named == {path.name for path in (DOCS / "pictures").glob("*.svg")}


def test_every_command_has_a_page_with_a_place_for_its_options():
    import command_pages

    for name in command_pages.names():
        text = PAGES.get(command_pages.path_of(name), command_pages.OPTIONS)
        assert command_pages.OPTIONS in text, name
