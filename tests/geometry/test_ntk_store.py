import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import _ntk_store, ntk, ntk_operator, store_ntk
from lossatlas.networks import Dense


NETWORK = Dense(jax.random.key(1), [3, 4, 2])
INPUTS = np.random.default_rng(0).normal(size=(9, 3))


def test_stored_kernel_is_the_kernel(tmp_path):
    convention = "full"
    stored = store_ntk(NETWORK, INPUTS, tmp_path / "a" / "k.npy", convention=convention, batch_size=4)
    wanted = ntk(NETWORK, INPUTS, convention=convention).matrix
    np.testing.assert_allclose(stored.open(), wanted, rtol=1e-12)
    assert stored.shape == wanted.shape
    cross = store_ntk(NETWORK, INPUTS, tmp_path / "c.npy", INPUTS[:2], convention=convention, batch_size=4)
    np.testing.assert_allclose(cross.open(), wanted[:, : len(wanted) * 2 // 9], rtol=1e-12)


def test_interrupted_kernel_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path = tmp_path / "k.npy"
    made, real = [], _ntk_store.kernel_tiles

    def stops_after(num):
        def tiles(*args):
            for i, tile in enumerate(real(*args)):
                if i == num:
                    raise KeyboardInterrupt
                made.append((tile.row, tile.column))
                yield tile

        monkeypatch.setattr(_ntk_store, "kernel_tiles", tiles)

    monkeypatch.setattr(_ntk_store, "_SECONDS", -1.0)
    stops_after(2)
    with pytest.raises(KeyboardInterrupt):
        store_ntk(NETWORK, INPUTS, path, batch_size=3)
    stops_after(None)
    stored = store_ntk(NETWORK, INPUTS, path, batch_size=3)
    assert sorted(made) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    np.testing.assert_allclose(stored.open(), ntk(NETWORK, INPUTS).matrix, rtol=1e-12)
    before = path.stat().st_mtime_ns
    store_ntk(NETWORK, INPUTS, path, batch_size=3)
    assert len(made) == 6
    assert np.asarray(json.loads((tmp_path / "k.npy.json").read_text())["done"]).all()
    assert before <= path.stat().st_mtime_ns


def test_files_of_something_else_are_left_alone(tmp_path):
    path = tmp_path / "k.npy"
    store_ntk(NETWORK, INPUTS, path)
    before = path.read_bytes()
    for other in (Dense(jax.random.key(2), [3, 4, 2]), Dense(jax.random.key(1), [3, 4, 2], activation="sin")):
        with pytest.raises(InputError, match="something else"):
            store_ntk(other, INPUTS, path)
    with pytest.raises(InputError, match="something else"):
        store_ntk(NETWORK, INPUTS + 1, path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="ending in .npy"):
        store_ntk(NETWORK, INPUTS, tmp_path / "k.zarr")


@pytest.mark.parametrize("convention", ["full", "trace"])
def test_operator_applies_the_kernel_in_batches(convention):
    wanted = ntk(NETWORK, INPUTS, convention=convention).matrix
    for batch_size in (None, 4):
        operator = ntk_operator(NETWORK, INPUTS, convention=convention, batch_size=batch_size)
        found = jax.jit(jax.vmap(operator.mv))(jnp.eye(operator.in_size()))
        np.testing.assert_allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())
