"""PyTorch modules from a factory, and their checkpoints. The conversion itself is tested with `lossatlas.interop`."""

import sys
import types
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

import lossatlas
from lossatlas import interop
from lossatlas._errors import InputError
from lossatlas.networks import Dense, DenseLayer
from lossatlas.workbench._checkpoint import load_state_dict


torch = pytest.importorskip("torch")


def linear(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(OrderedDict(only=torch.nn.Linear(3, 2)))


class Custom:
    pass


@pytest.mark.parametrize("kind", ["pt", "ckpt", "safetensors"])
def test_a_state_dict_is_read_into_the_module(tmp_path, kind):
    trained, module, path = linear(1), linear(), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(trained.state_dict(), path)
    else:
        torch.save({"state_dict": trained.state_dict()} if kind == "ckpt" else trained.state_dict(), path)
    load_state_dict(module, path)
    assert torch.equal(module.only.weight, trained.only.weight)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: torch.nn.Linear(3, 2).state_dict(), r"has bias \(2,\), weight \(2, 3\); the module needs only.bias"),
        (lambda: {"only.weight": torch.zeros(2, 4), "only.bias": torch.zeros(2)}, r"\(2, 4\); .* needs .* \(2, 3\)"),
        (lambda: {"only": Custom()}, "more than tensors, or is damaged, and nothing is unpickled"),
        (lambda: [torch.zeros(2)], "holds no dictionary of tensors"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, content, said):
    torch.save(content(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=said):
        load_state_dict(linear(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(InputError, match="is damaged"):
        load_state_dict(linear(), tmp_path / "text.pt")


@pytest.fixture
def factory(monkeypatch):
    """`factory(make)` is the name of a factory that returns what `make` does."""

    def name(make):
        module = types.ModuleType("torch_nets_of_mine")
        module.make = lambda: make()  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:make"

    def from_torch(module, example=None):
        del example
        weight, bias = (jnp.asarray(p.detach().double().numpy()) for p in module.parameters())
        return Dense.from_layers([DenseLayer(weight, bias)])

    monkeypatch.setattr(interop, "from_torch", from_torch, raising=False)
    return name


def test_a_module_from_a_factory_with_a_checkpoint(factory, tmp_path):
    trained = linear(1)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    model = lossatlas.load(factory(linear), checkpoint=tmp_path / "weights.pt")
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with torch.no_grad():
        expected = trained.double()(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(model.predict(rows), expected, atol=1e-13)


@pytest.mark.parametrize(("layer", "num"), [("Dropout", 0.5), ("BatchNorm1d", 2)])
def test_a_module_in_training_mode_is_refused_with_the_remedy(factory, layer, num):
    active = torch.nn.Sequential(torch.nn.Linear(3, 2), getattr(torch.nn, layer)(num))
    with pytest.raises(InputError, match=rf"in training mode \({layer}\); call module\.eval\(\)"):
        lossatlas.load(factory(lambda: active))
    lossatlas.load(factory(lambda: active[:1].train()))
