"""Importing the package costs nothing, and its names are there when they are asked for."""

import subprocess
import sys

import pytest

import lossatlas


def fresh(code: str) -> str:
    """What a Python process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = """
import sys
before = set(sys.modules)
import lossatlas
added = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"jax", "numpy", "scipy", "sklearn", "pandas", "plotly", "xarray", "torch", "equinox", "rich", "sqlalchemy"}
print(*sorted(added & heavy))
"""
    assert fresh(code).split() == []


@pytest.mark.parametrize(
    "package", ["lossatlas.networks", "lossatlas.landscape", "lossatlas.training", "lossatlas.data"]
)
def test_sub_packages_leave_heavy_libraries_for_later(package):
    code = f"""
import sys
import jax  # its own imports, scipy and numpy among them, do not count
before = set(sys.modules)
import {package}
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(added & {{"sklearn", "pandas", "plotly", "xarray", "zarr", "torch", "matplotlib", "diffrax"}}))
"""
    assert fresh(code).split() == []


def test_importing_never_sets_global_flags():
    code = """
import jax
before = dict(jax.config.values)
import lossatlas
for name in lossatlas.__all__:
    getattr(lossatlas, name)
print({name: value for name, value in jax.config.values.items() if before.get(name) != value})
"""
    assert fresh(code).strip() == "{}"


def test_every_announced_name_is_there():
    for name in lossatlas.__all__:
        assert getattr(lossatlas, name) is not None
    assert set(lossatlas.__all__) <= set(dir(lossatlas))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="surveys"):
        _ = lossatlas.surveys
