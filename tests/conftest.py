"""Settings of every test: float64, strict promotion, one persistent compilation cache, no network."""

import os
import pathlib
import tempfile


os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import pytest


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
_CACHE = pathlib.Path(os.environ.get("LOSSATLAS_CACHE", tempfile.gettempdir())) / "lossatlas-test-xla"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
# Small programs too: there are thousands of them, and reading one is ten times faster than compiling it.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _forgotten_programs():
    """Let compiled programs go before the process has as many memory maps as Linux allows: XLA crashes then."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def key():
    """A typed PRNG key, the same for every test."""
    return jax.random.key(0)
