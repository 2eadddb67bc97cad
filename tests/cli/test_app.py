"""The application as a whole: versions, help, exit codes."""

import importlib.metadata
import sys

import pytest

from lossatlas._errors import InputError, NotCertifiedError


def test_version_is_the_package_version(python):
    done = python("-m", "lossatlas", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, importlib.metadata.version("lossatlas"))


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["survey", "--help"],
        ["predict", "--help"],
        ["grow", "--help"],
        ["export", "--help"],
        ["study", "run", "--help"],
        ["reproduce", "--help"],
        ["store", "export", "--help"],
        ["info", "--help"],
        ["--version"],
    ],
)
def test_help_never_imports_jax(python, words):
    code = f"""
import sys
from lossatlas.cli._app import app
from lossatlas.cli._run import run
code = run(app, {words!r})
heavy = [name for name in ("jax", "numpy", "pandas", "sklearn", "plotly", "sqlalchemy") if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_option(lossatlas):
    code, out, _ = lossatlas("--help")
    assert code == 0
    for word in ("survey", "predict", "shrink", "grow", "export", "store", "info", "--install-completion", "--version"):
        assert word in out
    code, out, _ = lossatlas("survey", "--help")
    options = (
        "target hold-out hidden activation loss init learning-rate num-steps seed seeds preset max-units out force"
    )
    for word in [*options.split(), "json", "progress"]:
        assert f"--{word}" in out


def test_no_command_shows_the_help(lossatlas):
    code, out, _ = lossatlas()
    assert code == 0
    assert "Usage: lossatlas COMMAND" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["surve"], 'Did you mean "survey"'),
        (["survey", "--sed", "3"], "Did you mean --seed"),
        (["survey", "--seed", "many"], "--seed"),
        (["survey", "--loss", "mes"], '"mse"'),
        (["survey", "--hidden"], "--hidden requires an argument"),
        (["predict"], "requires"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(lossatlas, words, said):
    code, out, err = lossatlas(*words)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def interrupted_in_a_library():
    """What Python 3.11 makes of Ctrl-C in the body of a class."""
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("column 'x'\n  is missing"), 2, "lossatlas: column 'x' is missing\n"),
        (NotCertifiedError("no spectral gap"), 1, "lossatlas: no spectral gap\n"),
        (KeyboardInterrupt(), 130, "lossatlas: interrupted.\n"),
        (interrupted_in_a_library(), 130, "lossatlas: interrupted.\n"),
    ],
)
def test_errors_become_exit_codes_and_one_line(lossatlas, monkeypatch, error, code, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lossatlas.cli._info.collect_info", fail)
    assert lossatlas("info") == (code, "", said)


def test_an_error_of_ours_is_shown_with_its_traceback(lossatlas, monkeypatch):
    monkeypatch.setattr("lossatlas.cli._info.collect_info", lambda: 1 // 0)
    code, out, err = lossatlas("info")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert err.endswith("lossatlas: failed with ZeroDivisionError: integer division or modulo by zero\n")


def test_a_closed_pipe_is_no_traceback(python):
    code = """
import subprocess, sys
writer = subprocess.Popen([sys.executable, "-m", "lossatlas", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
writer.stdout.close()
sys.stderr.write(writer.stderr.read().decode())
sys.exit(writer.wait())
"""
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="shell completion is written for bash, zsh and fish")
def test_completion_script_names_the_commands():
    from lossatlas.cli._app import app

    script = app.generate_completion(shell="bash")
    for word in ("survey", "predict", "info"):
        assert word in script
