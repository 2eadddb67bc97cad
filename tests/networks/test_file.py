import json
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lossatlas import networks
from lossatlas._errors import InputError
from lossatlas.embedding import add_null_block, lift_convolution, split
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer, load, save


KEY = jax.random.key(0)


def _same(a, b) -> bool:
    pairs = zip(networks.named_parameters(a).items(), networks.named_parameters(b).items(), strict=True)
    return all(
        n == m and x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for (n, x), (m, y) in pairs
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda key: Dense(key, [4, 5, 3]),
        lambda key: Dense(key, [4, 5, 6, 3], activation="relu", num_linear=[2, 0], dtype=jnp.float32),
        lambda key: Dense(key, [4, 0, 3], num_linear=1, use_output_bias=False),
        lambda key: Dense(key, [4, 5, 3], use_bias=False, activation=jnp.tanh),
        lambda key: Dense(key, [4, 3]),
    ],
)
def test_save_and_load_are_bit_exact(key, tmp_path, make):
    network = make(key)
    networks.save(tmp_path / "net.safetensors", network)
    loaded = networks.load(tmp_path / "net.safetensors").network
    assert _same(network, loaded)
    assert loaded.activation == network.activation
    assert jax.tree.structure(loaded) == jax.tree.structure(network)
    x = jnp.arange(4.0).astype(network.layers[0].weight.dtype)
    assert bool(eqx.tree_equal(network(x), loaded(x)))


def test_special_values_survive(key, tmp_path):
    network = Dense(key, [2, 2, 1])
    values = jnp.array([[np.nextafter(1, 2), -0.0], [5e-324, np.inf]])
    network = networks.replace_parameters(network, {"layers[0].weight": values})
    networks.save(tmp_path / "net.safetensors", network)
    assert _same(network, networks.load(tmp_path / "net.safetensors").network)


def test_file_is_readable_by_other_tools(key, tmp_path):
    network = Dense(key, [2, 3, 1], num_linear=1)
    path = networks.save(tmp_path / "net.safetensors", network)
    tensors = load_file(path)
    assert set(tensors) == {"layers.0.weight", "layers.0.bias", "layers.0.linear", "layers.1.weight", "layers.1.bias"}
    np.testing.assert_array_equal(tensors["layers.0.weight"], network.layers[0].weight)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lossatlas.network"])
    assert header["class"] == "Dense"
    assert header["arguments"]["widths"] == [2, 3, 1]


def test_preprocessing_and_extra_survive(key, tmp_path):
    preprocessing = {"means": [0.1, 1 / 3], "columns": ["größe", "b"]}
    path = networks.save(
        tmp_path / "net.safetensors", Dense(key, [2, 1]), preprocessing=preprocessing, extra={"loss": "mse"}
    )
    saved = networks.load(path)
    assert saved.preprocessing == preprocessing
    assert saved.extra == {"loss": "mse"}


def test_saving_replaces_the_file_and_leaves_nothing_else(key, tmp_path):
    path = tmp_path / "net.safetensors"
    networks.save(path, Dense(key, [2, 1]))
    other = Dense(jax.random.key(1), [3, 2])
    networks.save(path, other)
    assert _same(networks.load(path).network, other)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_failing_save_keeps_the_old_file(key, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    network = Dense(key, [2, 1])
    networks.save(path, network)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        networks.save(path, Dense(key, [3, 1]))
    assert _same(networks.load(path).network, network)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_save_refuses_what_cannot_be_rebuilt(key, tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="callable of your own"):
        networks.save(path, Dense(key, [2, 3, 1], activation=lambda x: x**3))
    with pytest.raises(InputError, match="of lossatlas.networks can be saved, got Linear"):
        networks.save(path, eqx.nn.Linear(2, 1, key=key))
    with pytest.raises(InputError, match="JSON knows"):
        networks.save(path, Dense(key, [2, 1]), extra={"x": float("nan")})
    with pytest.raises(InputError, match="float16, float32, float64"):
        networks.save(path, Dense(key, [2, 1], dtype=jnp.bfloat16))
    with pytest.raises(InputError, match="No such file or directory"):
        networks.save(tmp_path / "nowhere" / "net.safetensors", Dense(key, [2, 1]))
    assert list(tmp_path.iterdir()) == []


def test_activation_that_borrows_a_name_is_refused(key, tmp_path):
    mine = networks.Activation("tanh", jnp.sin)
    with pytest.raises(InputError, match="callable of your own"):
        networks.save(tmp_path / "net.safetensors", Dense(key, [2, 3, 1], activation=mine))


def test_load_refuses_foreign_and_damaged_files(key, tmp_path):
    path = networks.save(tmp_path / "net.safetensors", Dense(key, [2, 3, 1]))
    with pytest.raises(InputError, match="no model file"):
        networks.load(tmp_path / "absent.safetensors")

    content = path.read_bytes()
    for damaged in (b"", content[:40], content[:-1], b"not a file at all", pickle.dumps({"a": 1})):
        (tmp_path / "bad.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match="no readable safetensors file"):
            networks.load(tmp_path / "bad.safetensors")

    save_file({"w": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not written by lossatlas"):
        networks.load(tmp_path / "foreign.safetensors")


def _with_header(path, tensors, change):
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lossatlas.network"])
    change(header)
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata={"lossatlas.network": json.dumps(header)})
    return target


def test_load_refuses_a_header_that_does_not_fit(key, tmp_path):
    path = networks.save(tmp_path / "net.safetensors", Dense(key, [2, 3, 1]))
    tensors = load_file(path)
    cases = [
        (lambda h: h.update(version=99), "has format 99"),
        (lambda h: h.update({"class": "Densee"}), "Did you mean 'Dense'"),
        (lambda h: h.pop("arguments"), "damaged"),
        (lambda h: h["arguments"].update(activation="__import__"), "damaged"),
        (lambda h: h["arguments"].update(widths=[2, 4, 1]), "do not fit together"),
        (lambda h: h["arguments"].update(num_linear=[1]), "do not fit together"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message):
            networks.load(_with_header(path, tensors, change))
    with pytest.raises(InputError, match=r"do not fit together. .layers\[7\].weight"):
        networks.load(_with_header(path, tensors | {"layers.7.weight": np.zeros(1)}, lambda h: None))  # noqa: ARG005


def test_float64_file_is_refused_without_float64(key, tmp_path):
    path = networks.save(tmp_path / "net.safetensors", Dense(key, [2, 1]))
    with jax.enable_x64(False), pytest.raises(InputError, match="enable_x64"):
        networks.load(path)


OTHERS = {
    "conv": (Conv(KEY, (2, 6, 6), [3, 4], [5, 2], pool="max", activation="relu"), (2, 6, 6)),
    "conv, batch norm": (Conv(KEY, (2, 6, 6), [3, 4], [2], norm="batch", separable=True, head="average"), (2, 6, 6)),
    "residual": (Residual(KEY, 3, 4, 2, num_hidden=5, norm="rms"), (3,)),
    "residual, plain": (Residual(KEY, 3, 4, 2), (3,)),
    "recurrent": (Recurrent(KEY, 3, 4, 2), (5, 3)),
    "transformer": (
        Transformer(KEY, 3, 4, 2, num_stream=5, num_heads=2, gated=True, is_causal=True, head_size=3), (4, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_comes_back_to_the_bit(tmp_path, name):
    network, shape = OTHERS[name]
    space = next(reversed(network.unit_spaces().values()))
    wide, _ = split(network, space.name, 0, 0.3)  # sizes that no constructor gives
    for saved in (network, wide):
        save(tmp_path / "m.safetensors", saved)
        found = load(tmp_path / "m.safetensors").network
        assert jax.tree.structure(found) == jax.tree.structure(saved)
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
            np.testing.assert_array_equal(one, two)
        x = jax.random.normal(KEY, shape)
        np.testing.assert_array_equal(found(x), saved(x))


def test_tensors_that_do_not_fit_are_damage(tmp_path):
    network, _ = OTHERS["conv"]
    save(tmp_path / "m.safetensors", network)
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for change in (
        lambda t: t.pop("convs.1.conv.weight"),
        lambda t: t.update({"more": np.zeros(3)}),
        lambda t: t.update({"layers.0.weight": np.zeros((5, 7))}),
    ):
        spoilt = dict(tensors)
        change(spoilt)
        save_file(spoilt, tmp_path / "bad.safetensors", metadata=header)
        with pytest.raises(InputError, match="do not fit together"):
            load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "network",
    [
        lift_convolution(
            Conv(KEY, (1, 4, 4), [2], [2], activation="relu", pool="max"), jnp.ones((1, 1, 4, 4)), key=KEY
        )[0],
        add_null_block(Residual(KEY, 3, 4, 2), 1)[0],
    ],
    ids=["a convolution without pooling", "a block without output bias among plain ones"],
)
def test_deeper_networks_are_saved_as_they_are(network, tmp_path):
    loaded = load(save(tmp_path / "net.safetensors", network)).network
    assert jax.tree.structure(loaded) == jax.tree.structure(network)
    assert _same(network, loaded)
