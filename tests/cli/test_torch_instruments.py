"""The instruments on a PyTorch module, and on the same function as a network of ours."""

import importlib
import importlib.util
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from lossatlas import geometry, interop
from lossatlas.landscape import Landscape
from lossatlas.workbench._arrays import read_arrays


torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if importlib.util.find_spec("torchax") is None:  # its import needs our help, so it is not tried here
    pytest.skip("torchax is not installed", allow_module_level=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# A convolution, batch normalisation with statistics of its own, and a buffer; as a stack, it becomes a network of ours.
NETS = """
import torch
from torch import nn

def stack(step=0.0):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    made((3 + step) * torch.randn(50, 1, 3, 3, dtype=torch.float64) + 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((0.3 + step) * torch.randn_like(parameter))
    return made.eval(), torch.zeros(1, 3, 3, dtype=torch.float64)

class Net(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.conv, self.norm, _, _, self.head = made
        self.register_buffer("share", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x):
        maps = torch.tanh(self.norm(self.conv(x)))
        return self.head((self.share * maps + self.share * maps).flatten(1))

def net(step=0.0):
    made, example = stack(step)
    return Net(made).eval(), example

def other():
    return net(1.0)

class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 2), nn.Linear(8, 2)

    def forward(self, x):
        return self.head((torch.tanh(self.conv(x)) + 0.0).flatten(1))

def single():
    torch.manual_seed(0)
    return Single().eval(), torch.zeros(1, 3, 3)
"""


@pytest.fixture
def same(monkeypatch):
    """A network of ours that is the module of the file beside it, and its data."""
    monkeypatch.delitem(sys.modules, "torch_instruments_here", raising=False)
    monkeypatch.syspath_prepend(str(pathlib.Path.cwd()))
    pathlib.Path("torch_instruments_here.py").write_text(NETS)
    nets = importlib.import_module("torch_instruments_here")
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(12, 1, 3, 3)), rng.integers(0, 2, 12)
    np.savez("data.npz", inputs=inputs, targets=targets)
    networks = [interop.from_torch(*nets.stack(step)) for step in (0.0, 1.0)]
    return networks, Landscape(inputs, targets, loss="cross_entropy")


@pytest.fixture
def ask(lossatlas):
    """The facts of a command on the module."""

    def asked(command, *words, model="torch_instruments_here:net"):
        words = (command, *model.split(), "--data", "data.npz", "--loss", "cross_entropy", *words, "--json")
        code, out, err = lossatlas(*words)
        assert code == 0, err
        return json.loads(out)

    return asked


@pytest.mark.slow
def test_its_spectrum_is_that_of_the_same_network_of_ours(same, ask):
    (network, _), landscape = same
    facts = ask("spectrum", "--top", "2", "--bottom", "1", "--no-density")
    exact = np.linalg.eigvalsh(np.asarray(landscape.hessian(network)))[::-1]
    assert facts["num_parameters"] == len(exact) == 32  # neither statistics nor buffers
    found = [row["eigenvalue"] for row in facts["eigenvalues"]]
    np.testing.assert_allclose(found, exact[[0, 1, -1]], rtol=1e-9)
    np.testing.assert_allclose(facts["trace"], exact.sum(), rtol=1e-10)


def test_its_kernel_is_that_of_the_same_network_of_ours(same, ask):
    networks, landscape = same
    facts = ask("kernel", "--store", "kernel.npy", "--to", "torch_instruments_here:other")
    wanted, other = (geometry.ntk(network, landscape).matrix for network in networks)
    np.testing.assert_allclose(np.load("kernel.npy"), wanted, rtol=1e-11)
    cosine = np.sum(wanted * other) / (np.linalg.norm(wanted) * np.linalg.norm(other))
    assert facts["moved"]["kernels"][0]["distance"] == pytest.approx(1 - cosine, rel=1e-9)
    change = geometry.function_change(networks[0], networks[1], landscape)
    assert facts["moved"]["linear_error"] == pytest.approx(change.linear_error, rel=1e-9)
    assert facts["moved"]["layers"]
    np.testing.assert_allclose(facts["eigenvalues"], np.linalg.eigvalsh(wanted)[::-1][:10], rtol=1e-8)
    assert sum(row["share"] for row in facts["layers"]) == pytest.approx(1)


@pytest.mark.slow
def test_its_plane_is_that_of_the_same_network_of_ours(same, ask):
    networks, landscape = same
    facts = ask("plane", "--line", "--grid", "5", "--to", "torch_instruments_here:other")
    line = geometry.loss_slice(
        networks[0], landscape, geometry.directions_to(*networks), num=5, extents=[(-0.25, 1.25)]
    ).to_xarray()
    found = read_arrays(pathlib.Path(facts["files"]["arrays"]))["picture"]
    np.testing.assert_allclose(found["direction_1"], line["direction_1"])
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(found[name], line[name], rtol=1e-12)


@pytest.mark.slow
def test_its_path_is_that_of_the_same_network_of_ours(same, ask):
    networks, landscape = same
    model = "torch_instruments_here:net torch_instruments_here:other"
    words = ("--match", "none", "--points", "9", "--curve", "bezier", "--steps", "20")
    straight, curve = ask("path", *words, model=model)["paths"]
    refresh = geometry.BatchStatistics(landscape.inputs)  # each of the two has its own
    wanted = geometry.barrier(geometry.Path(tuple(networks), refresh=refresh), landscape, num_points=9)
    np.testing.assert_allclose(straight["barrier"], wanted.barrier, rtol=1e-9)
    path, _ = geometry.find_curve(jax.random.key(0), networks[0], networks[1], landscape, num_steps=20)
    wanted = geometry.barrier(path, landscape, num_points=9)
    np.testing.assert_allclose(curve["largest loss"], np.max(wanted.loss), rtol=1e-6)


@pytest.mark.slow
def test_its_units_are_matched_beside_statistics_that_are_computed_anew(same, ask):
    model = "torch_instruments_here:net torch_instruments_here:other"
    rows = ask("path", "--match", "weights", "--repair", "--points", "9", model=model)
    assert any("computed anew along all paths" in caution for caution in rows["cautions"])
    assert [row["path"] for row in rows["paths"]] == ["straight line", "after matching"]
    arrays = read_arrays(pathlib.Path(rows["files"]["arrays"]))
    networks, landscape = same
    ends = [float(landscape(network.with_statistics(landscape.inputs))) for network in networks]
    for path in arrays.leaves:
        np.testing.assert_allclose(np.asarray(path["loss"])[[0, -1]], ends, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("same")
def test_a_module_in_single_precision_is_matched_in_double(ask):
    rows = ask("path", "--match", "weights", "--points", "5", "--repair", model="torch_instruments_here:single " * 2)
    assert [row["barrier"] for row in rows["paths"]] == [0, 0, 0]
    tensors = importlib.import_module("safetensors.torch").load_file(rows["matched"])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.slow
def test_its_flatness_is_that_of_the_same_network_of_ours(same, ask):
    (network, _), landscape = same
    facts = ask("flatness", "--measures", "sharpness,hessian", "--no-audit")
    report = geometry.flatness_report(jax.random.key(0), network, landscape, measures=["sharpness", "hessian"])
    values = {row["measure"]: row["value"] for row in facts["rows"]}
    assert values == pytest.approx({name: measure.value for name, measure in report.measures.items()}, rel=1e-6)
