"""The command line, run in this process or in one of its own."""

import pathlib
import subprocess
import sys

import pytest

from lossatlas.cli._app import app
from lossatlas.cli._run import run


@pytest.fixture(autouse=True)
def keep_settings(monkeypatch, tmp_path):
    """The tests' own jax settings stay as they are, and nothing is written outside the test's folder."""
    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    monkeypatch.delenv("LOSSATLAS_STORE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lossatlas(capsys):
    """`lossatlas(*words)` -> exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = run(app, words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def python(tmp_path: pathlib.Path):
    """Run Python code or options in a process of its own."""

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        import os

        return subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "LOSSATLAS_CACHE": str(tmp_path / "cache"), **environment},
            check=False,
        )

    return call
