"""Where compiled programs are kept between runs, and how the command line switches that on.

The library itself never sets global flags; only programs that own their process (the command line, workers) call
[`lossatlas._cache.use_compilation_cache`][].
"""

import functools as ft
import hashlib
import os
import pathlib
import platform
import sys


# Programs that compile faster than this are not worth a file.
_MIN_COMPILE_SECONDS = 0.2
# The oldest programs go when the folder grows beyond this.
_MAX_BYTES = 2 * 1024**3


def cache_directory() -> pathlib.Path | None:
    """The folder of everything that LossAtlas may delete and make again, or None when caching is off.

    It is `LOSSATLAS_CACHE` where that is set (`off` switches caching off), else `lossatlas` in the user's cache folder
    of the operating system.
    """
    given = os.environ.get("LOSSATLAS_CACHE")
    if given:
        return None if given.lower() == "off" else pathlib.Path(given).expanduser()
    return _user_cache() / "lossatlas"


def compilation_cache_directory() -> pathlib.Path | None:
    """The folder of compiled programs of this kind of processor, or None when caching is off.

    A home folder may be shared by machines of different processors, and a program compiled for one can crash on
    another; so each kind has its own folder.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given:
        return pathlib.Path(given)
    directory = cache_directory()
    return None if directory is None else directory / f"xla-{_processor()}"


def use_compilation_cache() -> pathlib.Path | None:
    """Let jax keep compiled programs between runs; the folder used, or None.

    A folder that cannot be written only costs time, so it is no error: caching stays off.
    """
    import jax

    directory = compilation_cache_directory()
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(directory, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    return directory


def cache_size(directory: pathlib.Path | None) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    if directory is None or not directory.is_dir():
        return 0
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _user_cache() -> pathlib.Path:
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home() / "AppData" / "Local"))
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")


@ft.cache
def _processor() -> str:
    described = [platform.machine(), platform.processor()]
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        described += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:8]
