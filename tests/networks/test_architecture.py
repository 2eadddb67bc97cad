"""Safetensors files of other programs, with their architecture in a file."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas.networks import Conv, Dense, Transformer, load_foreign, read_architecture


RANDOM = np.random.default_rng(0)
LAYERS = {
    "fc1.weight": RANDOM.normal(size=(5, 4)).astype(np.float32),
    "fc1.bias": RANDOM.normal(size=5).astype(np.float32),
    "fc2.weight": RANDOM.normal(size=(3, 5)).astype(np.float32),
    "fc2.bias": RANDOM.normal(size=3).astype(np.float32),
}
TOML = """
class = "Dense"
arguments = { widths = [4, 5, 3], activation = "relu" }
[tensors]
"fc1.weight" = "layers.0.weight"
"fc1.bias" = "layers.0.bias"
"fc2.weight" = "layers.1.weight"
"fc2.bias" = "layers.1.bias"
"""


def read(folder, tensors, architecture):
    save_file(tensors, folder / "net.safetensors")
    name = "net.json" if isinstance(architecture, dict) else "net.toml"
    (folder / name).write_text(json.dumps(architecture) if isinstance(architecture, dict) else architecture)
    return load_foreign(folder / "net.safetensors", read_architecture(folder / name))


@pytest.mark.parametrize("layout", ["out,in", "in,out"])
def test_a_stack_of_another_program_computes_the_same(tmp_path, layout):
    stored = {k: np.ascontiguousarray(v.T) if layout == "in,out" else v for k, v in LAYERS.items()}
    network = read(tmp_path, stored, f'layout = "{layout}"\n{TOML}')
    x = np.array([0.3, -1.2, 0.7, 2.0])
    hidden = np.maximum(LAYERS["fc1.weight"].astype(float) @ x + LAYERS["fc1.bias"], 0)
    expected = LAYERS["fc2.weight"].astype(float) @ hidden + LAYERS["fc2.bias"]
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, rtol=1e-14)
    assert network.layers[0].weight.dtype == jnp.float64


def test_one_matrix_may_lie_the_other_way_round(tmp_path):
    stored = {**LAYERS, "fc2.weight": np.ascontiguousarray(LAYERS["fc2.weight"].T)}
    network = read(tmp_path, stored, f'{TOML}\n[layout]\n"fc2.weight" = "in,out"\n')
    np.testing.assert_array_equal(network.layers[1].weight, LAYERS["fc2.weight"])


def test_kernels_of_images_with_channels_last(tmp_path):
    network = Conv(jax.random.key(0), (2, 4, 4), [3], [2], norm="batch")
    tensors = {name.replace("[", ".").replace("]", ""): np.asarray(a) for name, a in named_arrays(network).items()}
    tensors["convs.0.conv.weight"] = np.ascontiguousarray(tensors["convs.0.conv.weight"].transpose(2, 3, 1, 0))
    tensors["steps"] = np.zeros(1)
    arguments = {"image": [2, 4, 4], "channels": [3], "widths": [2], "norm": "batch"}
    layout = {"convs.0.conv.weight": "h,w,in,out"}
    facts = {"class": "Conv", "arguments": arguments, "layout": layout, "ignore": ["steps"]}
    image = jnp.asarray(RANDOM.normal(size=(2, 4, 4)))
    np.testing.assert_array_equal(read(tmp_path, tensors, facts)(image), network(image))


def test_a_transformer_by_the_arguments_of_its_constructor(tmp_path):
    sizes: dict[str, Any] = {
        "num_inputs": 3,
        "num_tokens": 4,
        "num_outputs": 2,
        "num_stream": 4,
        "num_heads": 2,
        "num_hidden": 5,
    }
    network = Transformer(jax.random.key(0), **sizes, num_blocks=1)
    tensors = {name.replace("[", ".").replace("]", ""): np.asarray(a) for name, a in named_arrays(network).items()}
    again = read(tmp_path, tensors, {"class": "Transformer", "arguments": {**sizes, "num_blocks": 1}})
    x = jnp.asarray(RANDOM.normal(size=(4, 3)))
    np.testing.assert_array_equal(again(x), network(x))


def test_the_arguments_of_a_header_of_ours_are_understood(tmp_path):
    network = Dense(jax.random.key(0), [2, 3, 1], num_linear=1, use_output_bias=False)
    tensors = {name.replace("[", ".").replace("]", ""): np.asarray(a) for name, a in named_arrays(network).items()}
    arguments = {"activation": "tanh", "widths": [2, 3, 1], "num_linear": [1], "has_bias": [True, False]}
    again = read(tmp_path, tensors, {"class": "Dense", "arguments": arguments})
    np.testing.assert_array_equal(again(jnp.ones(2)), network(jnp.ones(2)))
    with pytest.raises(InputError, match=r"has layers.0.bias \(3,\), .* do not fit the arguments of a Dense"):
        read(tmp_path, tensors, {"class": "Dense", "arguments": {**arguments, "has_bias": [True, True]}})
    tensors.pop("layers.1.weight")
    with pytest.raises(InputError, match=r"do not fit the arguments of a Dense: 'layers\[1\].weight'"):
        read(tmp_path, tensors, {"class": "Dense", "arguments": arguments})


def test_half_precision_is_taken_over_without_change(tmp_path):
    import ml_dtypes

    kinds = {"layers.0.weight": np.array([[1.5, -3.0]], ml_dtypes.bfloat16), "layers.0.bias": np.ones(1, np.float16)}
    network = read(tmp_path, kinds, {"class": "Dense", "arguments": {"widths": [2, 1]}})
    assert {array.dtype.name for array in named_arrays(network).values()} == {"float64"}
    np.testing.assert_array_equal(network(jnp.array([2.0, 1.0])), [1.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOML.replace("4, 5, 3", "4, 6, 3"), r"safetensors' has layers.0.bias \(5,\).* needs layers.0.bias \(6,\)"),
        (TOML.replace('"fc2.bias" = "layers.1.bias"', ""), r"has fc2.bias \(3,\); .* needs layers.1.bias \(3,\)"),
        (f'layout = "in,out"\n{TOML}', r'stored the other way round: layout = "in,out"'),
        (TOML.replace("fc2.bias", "fc3.bias"), "tensor of 'net.safetensors': 'fc3.bias'. Did you mean 'fc2.bias'"),
        (TOML.replace("Dense", "Dens"), "Unknown network class 'Dens'. Did you mean 'Dense'"),
        (TOML.replace("widths", "width"), "argument of Dense: 'width'. Did you mean 'widths'"),
        (TOML.replace("widths = [4, 5, 3],", ""), "missing a required argument: 'widths'"),
        (TOML.replace("relu", "rleu"), "Unknown activation 'rleu'. Did you mean 'relu'"),
        (f'layouts = "in,out"\n{TOML}', "entry of 'net.toml': 'layouts'. Did you mean 'layout'"),
        (f'layout = "io"\n{TOML}', "Unknown layout 'io'"),
        (f'{TOML}\n[layout]\n"fc2.bias" = "in,out"\n', r"has 2 axes, but fc2.bias has shape \(3,\)"),
        ("class = ", "cannot be read"),
        ('class = "Dense"', "needs the entries class and arguments"),
        ('class = "Dense"\narguments = 3', "arguments and tensors are tables"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_both_sides(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, LAYERS, text)


def test_an_architecture_file_that_is_missing_or_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_architecture(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"ends in \.json or \.toml"):
        read_architecture(tmp_path / "net.yaml")
