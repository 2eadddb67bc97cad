"""How a process of ours sets up jax: the command line, and those that measure the cells of a sweep."""

import os


# One XLA thread: small programs run faster so, and give the same bytes on every machine size.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def prepare_jax() -> None:
    """One XLA thread unless the user set `XLA_FLAGS`, float64, and compiled programs kept between runs.

    Programs call this before they import anything that imports jax: the flags are read once, at its start.
    """
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    import jax

    from lossatlas._cache import use_compilation_cache

    jax.config.update("jax_enable_x64", True)
    use_compilation_cache()
