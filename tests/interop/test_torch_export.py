"""Networks of ours as PyTorch modules, in memory and as files that run where LossAtlas is not installed."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.interop import export_torch, to_torch
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer, named_parameters, replace_parameters


torch = pytest.importorskip("torch", reason="PyTorch is not installed")

KEY = jax.random.key(0)


def filled(network, std=0.5):
    """Every parameter normal, so that none can be lost unseen."""
    values = named_parameters(network)
    keys = jax.random.split(jax.random.key(1), len(values))
    new = {n: std * jax.random.normal(k, a.shape, a.dtype) for k, (n, a) in zip(keys, values.items(), strict=True)}
    return replace_parameters(network, new)


IMAGES = jax.random.normal(jax.random.key(2), (3, 2, 6, 5))
ROWS = jax.random.normal(jax.random.key(3), (3, 4))
TOKENS = jax.random.normal(jax.random.key(4), (3, 5, 4))
CONV = Conv(KEY, (2, 6, 5), [3, 4], [3, 2], norm="batch", pool="max", separable=True).with_statistics(IMAGES)
NETWORKS = {
    "dense": (Dense(KEY, [4, 5, 2], activation="sin"), ROWS),
    "linear": (Dense(KEY, [4, 3, 0, 2], num_linear=[2, 1], use_bias=False, use_output_bias=False), ROWS),
    "conv": (CONV, IMAGES),
    "plain": (Residual(KEY, 4, 3, 2, activation="erf"), ROWS),
    "residual": (Residual(KEY, 4, 3, 2, num_hidden=5, norm="rms"), ROWS),
    "layer": (Residual(KEY, 4, 3, 2, num_hidden=5, norm="layer", num_blocks=1, dtype="float32"), ROWS),
    "transformer": (Transformer(KEY, 4, 6, 2, num_stream=5, num_heads=2, num_hidden=4), TOKENS),
    "causal": (
        Transformer(KEY, 4, 6, 2, num_stream=5, head_size=4, num_blocks=1, gated=True, is_causal=True, norm="rms"),
        TOKENS,
    ),
    "words": (Transformer(KEY, 4, 6, 2, num_stream=4, num_heads=1, norm=None), jnp.array([[0, 3, 1], [2, 2, 0]])),
    "recurrent": (Recurrent(KEY, 4, 3, 2), TOKENS),
}
NETWORKS = {name: (filled(network), inputs) for name, (network, inputs) in NETWORKS.items()}


def expected(network, inputs):
    dtype = jax.tree.leaves(network)[0].dtype
    inputs = inputs.astype(dtype) if jnp.issubdtype(inputs.dtype, jnp.inexact) else inputs
    return np.asarray(inputs), np.asarray(jax.jit(jax.vmap(network))(inputs))


def tolerance(outputs):
    return 100 * np.finfo(outputs.dtype).eps


# Runs in a process of its own, which has neither LossAtlas nor JAX.
READER = """
import importlib.util, pathlib, sys, warnings
sys.modules["lossatlas"] = sys.modules["jax"] = None
warnings.simplefilter("error")
import numpy as np
import torch
from safetensors.torch import load_file
for folder in pathlib.Path(sys.argv[1]).iterdir():
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    network = model.load()
    assert not network.training
    tensors = load_file(folder / "model.safetensors")
    other = model.make().to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
    other.load_state_dict(tensors)
    inputs = torch.from_numpy(np.load(folder / "inputs.npy"))
    with torch.no_grad():
        outputs = network(inputs)
        assert torch.equal(other.eval()(inputs), outputs), folder
    np.save(folder / "outputs.npy", outputs.numpy())
"""


def test_exported_files_compute_the_same_without_lossatlas(tmp_path):
    wanted = {}
    for name, (network, inputs) in NETWORKS.items():
        folder = export_torch(network, tmp_path / name)
        values, wanted[name] = expected(network, inputs)
        np.save(folder / "inputs.npy", values)
        source = (folder / "model.py").read_text()
        assert "import lossatlas" not in source
        assert max(map(len, source.splitlines())) <= 120
    subprocess.run([sys.executable, "-c", READER, tmp_path], check=True)
    for name, outputs in wanted.items():
        found = np.load(tmp_path / name / "outputs.npy")
        assert found.dtype == outputs.dtype
        np.testing.assert_allclose(found, outputs, rtol=0, atol=tolerance(outputs), err_msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_module_computes_the_same_with_the_same_gradients(name):
    network, inputs = NETWORKS[name]
    values, outputs = expected(network, inputs)
    module = to_torch(network)
    found = module(torch.from_numpy(values.copy()))
    np.testing.assert_allclose(found.detach().numpy(), outputs, rtol=0, atol=tolerance(outputs))
    (found**2).sum().backward()
    ours = jax.jit(jax.grad(lambda n: jnp.sum(jax.vmap(n)(jnp.asarray(values)) ** 2)))(network)
    theirs = sum(float(torch.sum(p.grad.square())) for p in module.parameters() if p.grad is not None)
    squares = sum(float(jnp.sum(g**2)) for g in named_parameters(ours).values())
    np.testing.assert_allclose(theirs, squares, rtol=1e4 * np.finfo(outputs.dtype).eps)
    assert sum(p.numel() for p in module.parameters()) == sum(a.size for a in named_parameters(network).values())


def test_only_the_classes_that_are_needed_are_written(tmp_path):
    source = (export_torch(NETWORKS["recurrent"][0], tmp_path / "a" / "b") / "model.py").read_text()
    assert "class Recurrent(" in source
    assert source.count("class ") == 1
    assert "recurrent=nn.Linear(in_features=3, out_features=3, bias=False)" in source
    assert "class " not in (export_torch(CONV, tmp_path / "c") / "model.py").read_text()


def test_what_has_no_counterpart_in_pytorch_is_refused(tmp_path):
    with pytest.raises(InputError, match="callable of your own"):
        to_torch(Dense(KEY, [3, 4, 2], activation=lambda x: x**3))
    with pytest.raises(InputError, match="Only Dense, Conv, Residual, Transformer, Recurrent .* got a str"):
        export_torch("network", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export_torch(NETWORKS["dense"][0], tmp_path / "file")
