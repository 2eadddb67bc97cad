"""`lossatlas info`."""

import json

import jax


def test_info_tells_versions_devices_and_precision(lossatlas):
    code, out, _ = lossatlas("info", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["versions"]["jax"] == jax.__version__
    assert len(facts["devices"]) == len(jax.devices())
    assert facts["precision"]["default float"] == "float64"


def test_info_for_people_has_a_line_per_fact(lossatlas, monkeypatch):
    monkeypatch.setenv("LOSSATLAS_STORE", "/somewhere/else")
    code, out, _ = lossatlas("info")
    assert code == 0
    assert any(line.split() == ["runs", "/somewhere/else"] for line in out.splitlines())


def test_the_process_gets_float64_one_thread_and_a_cache(python, tmp_path):
    code = """
import json, os
os.environ.pop("XLA_FLAGS", None)
from lossatlas._process import prepare_jax
prepare_jax()
import jax, jax.numpy as jnp
print(json.dumps([str(jnp.zeros(()).dtype), os.environ["XLA_FLAGS"], jax.config.jax_compilation_cache_dir]))
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    dtype, flags, cache = json.loads(done.stdout)
    assert dtype == "float64"
    assert "--xla_cpu_multi_thread_eigen=false" in flags
    assert cache.startswith(str(tmp_path / "cache" / "xla-"))


def test_flags_of_the_user_are_kept(python):
    code = """
import os
from lossatlas._process import prepare_jax
prepare_jax()
print(os.environ["XLA_FLAGS"])
"""
    done = python("-c", code, XLA_FLAGS="--xla_cpu_multi_thread_eigen=true")
    assert done.stdout.strip() == "--xla_cpu_multi_thread_eigen=true"
