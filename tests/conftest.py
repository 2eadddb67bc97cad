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
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def key():
    """A typed PRNG key, the same for every test."""
    return jax.random.key(0)
