"""Modules of other libraries made smaller and larger from the shell."""

import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lossatlas import interop, load


NETS = """
import jax, equinox as eqx
def mlp():
    return eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
"""
TORCH = """
import torch
from torch import nn
class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(h + torch.tanh(self.b(h)))
def skip():
    torch.manual_seed(0)
    return Skip().eval(), torch.zeros(3)
def alone():
    return Skip().eval()
"""
RUN = """
import sys
sys.modules.update({name: None for name in ("lossatlas", "jax", "torch_nets_here")})
import numpy, torch
rows = torch.tensor(numpy.load("rows.npz")["inputs"]).float()
numpy.save("theirs.npy", torch.export.load("exported/model.pt2").module()(rows).detach().numpy())
"""


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """The current folder with modules and data; they are imported anew for every test."""
    for name in ("jax_nets_here", "torch_nets_here"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    pathlib.Path("jax_nets_here.py").write_text(NETS)
    pathlib.Path("torch_nets_here.py").write_text(TORCH)
    rng = np.random.default_rng(0)
    np.savez("rows.npz", inputs=rng.normal(size=(70, 3)), targets=rng.normal(size=(70, 2)))


def _answers(command, *words):
    code, out, err = command("predict", *words, "--data", "rows.npz")
    assert code == 0, err
    pathlib.Path("answers.csv").write_text(out)
    return pd.read_csv("answers.csv").to_numpy()


@pytest.mark.parametrize(
    ("words", "size"),
    [("shrink --parameters 14", 2), pytest.param("grow --widths layers[0]=6", 6, marks=pytest.mark.slow)],
)
def test_an_equinox_module_is_written_at_other_sizes_and_read_by_its_factory(lossatlas, words, size):
    name, *options = words.split()
    before = _answers(lossatlas, "jax_nets_here:mlp")
    code, out, err = lossatlas(name, "jax_nets_here:mlp", "--data", "rows.npz", *options, "--out", "new.safetensors")
    assert code == 0, err
    assert 'load: lossatlas.load("jax_nets_here:mlp", checkpoint="new.safetensors").network' in out
    network = load("jax_nets_here:mlp", checkpoint="new.safetensors").network
    assert (network.layers[0].out_features, network.layers[1].in_features) == (size, size)
    after = _answers(lossatlas, "jax_nets_here:mlp", "--checkpoint", "new.safetensors")
    change = np.abs(after - before).max()
    assert change < 1e-12 if name == "grow" else 1e-3 < change < 1.0
    code, _, err = lossatlas("predict", "new.safetensors", "--data", "rows.npz")
    assert code == 2
    assert "give that (package.module:factory)" in err


def test_weights_of_another_module_are_refused(lossatlas):
    lossatlas("grow", "jax_nets_here:mlp", "--data", "rows.npz", "--widths", "layers[0]=5", "--out", "new.safetensors")
    pathlib.Path("jax_nets_here.py").write_text(NETS.replace("2, 4, 1", "2, 4, 2"))
    del sys.modules["jax_nets_here"]
    code, _, err = lossatlas("predict", "jax_nets_here:mlp", "--checkpoint", "new.safetensors", "--data", "rows.npz")
    assert code == 2
    assert "layers.2.weight" in err


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torchax"), reason="torchax is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_small_pytorch_module_runs_where_nothing_else_is_installed(lossatlas):
    words = ["torch_nets_here:skip", "--data", "rows.npz", "--parameters", "40", "--out", "small.safetensors"]
    code, out, err = lossatlas("shrink", *words)
    assert code == 0, err
    assert "lossatlas export torch_nets_here:skip --checkpoint small.safetensors --to torch --out FOLDER" in out
    checkpoint = ["torch_nets_here:skip", "--checkpoint", "small.safetensors"]
    module: Any = interop.to_torch(load(checkpoint[0], checkpoint=checkpoint[2]).network)
    assert module.a.out_features == module.b.in_features == module.b.out_features == module.c.in_features < 6
    code, out, err = lossatlas("export", *checkpoint, "--to", "torch", "--out", "exported")
    assert code == 0, err
    subprocess.run([sys.executable, "-c", RUN], check=True)
    np.testing.assert_allclose(np.load("theirs.npy"), _answers(lossatlas, *checkpoint), atol=1e-6)


def test_a_pytorch_module_without_an_example_is_refused_with_the_remedy(lossatlas):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    code, _, err = lossatlas("predict", "torch_nets_here:alone", "--data", "rows.npz")
    assert code == 2
    assert "must return the module and an example" in err
