"""Where compiled programs are kept."""

import jax
import pytest

from lossatlas import _cache


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """What `use_compilation_cache` would set, instead of setting it; no environment of the user's."""
    for name in ("LOSSATLAS_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    values = {}
    monkeypatch.setattr(jax.config, "update", values.__setitem__)
    return values


def test_the_folder_is_that_of_the_environment_and_of_the_processor(monkeypatch, tmp_path, settings):
    monkeypatch.setenv("LOSSATLAS_CACHE", str(tmp_path / "kept"))
    directory = _cache.use_compilation_cache()
    assert directory is not None
    assert directory.is_dir()
    assert directory.parent == tmp_path / "kept"
    assert settings["jax_compilation_cache_dir"] == str(directory)
    monkeypatch.setattr(_cache, "_processor", lambda: "another")
    assert _cache.compilation_cache_directory() != directory


def test_off_switches_it_off(monkeypatch, settings):
    monkeypatch.setenv("LOSSATLAS_CACHE", "off")
    assert _cache.use_compilation_cache() is None
    assert settings == {}


def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch, tmp_path, settings):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSATLAS_CACHE", str(tmp_path / "file" / "cache"))
    assert _cache.use_compilation_cache() is None
    assert settings == {}


def test_the_folder_that_jax_was_given_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    assert _cache.use_compilation_cache() == tmp_path / "jax"


def test_the_default_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache.cache_directory() == tmp_path / "lossatlas"


def test_the_size_is_that_of_all_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"123")
    assert _cache.cache_size(tmp_path) == 8
    assert _cache.cache_size(tmp_path / "missing") == _cache.cache_size(None) == 0
