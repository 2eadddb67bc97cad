"""`lossatlas info`: what is installed, and where things are kept."""

import importlib.metadata
import os
import pathlib
import platform
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from lossatlas._process import prepare_jax


_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "diffrax", "optimistix", "lineax", "matfree", "numpy", "scipy")
_PACKAGES += ("scikit-learn", "xarray", "zarr", "plotly", "torch")


def info(*, json: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> None:
    """Print versions, devices, precision, caches and threads.

    Parameters
    ----------
    json
        Print JSON, for machines.
    """
    prepare_jax()
    from lossatlas.cli._output import print_json

    facts = collect_info()
    if json:
        print_json(facts)
    else:
        _print_facts(facts)


def collect_info() -> dict[str, Any]:
    """The facts that `lossatlas info` prints, in sections.

    **Returns:**
    A dictionary of sections `versions`, `devices`, `precision`, `folders` and `threads`.
    """
    import jax
    import jax.numpy as jnp

    from lossatlas._cache import cache_size, compilation_cache_directory
    from lossatlas._version import __version__

    versions = {"lossatlas": __version__, "python": platform.python_version(), "platform": platform.platform()}
    versions |= {name: _version_of(name) for name in _PACKAGES}
    compiled = getattr(jax.config, "jax_compilation_cache_dir", None)
    return {
        "versions": versions,
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "precision": {"default float": str(jnp.zeros(()).dtype), "certified in": "float64"},
        "folders": {
            "runs": os.environ.get("LOSSATLAS_STORE") or str(pathlib.Path("lossatlas").absolute()),
            "data": os.environ.get("LOSSATLAS_DATA") or None,
            "compiled programs": compiled,
            "compiled programs, MB": round(cache_size(compilation_cache_directory()) / 1e6, 1),
        },
        "threads": {"processors": os.cpu_count(), "XLA_FLAGS": os.environ.get("XLA_FLAGS")},
    }


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print_facts(facts: dict[str, Any]) -> None:
    lines = []
    for section, content in facts.items():
        lines.append(section)
        items = content.items() if isinstance(content, dict) else ((str(i), item) for i, item in enumerate(content))
        lines += [f"  {name:<22} {'-' if value is None else value}" for name, value in items]
    sys.stdout.write("\n".join(lines) + "\n")
