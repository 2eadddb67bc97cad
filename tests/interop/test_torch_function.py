"""Any PyTorch module as a pure function of its parameters, and back with other sizes."""

import importlib.util
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters, replace_parameters
from lossatlas.embedding import discover_units, split
from lossatlas.interop import TorchNetwork, export_torch, from_torch, to_torch, torch_function
from lossatlas.networks import Axis, put_units, take_units


torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if importlib.util.find_spec("torchax") is None:  # its import needs our help, so it is not tried here
    pytest.skip("torchax is not installed", allow_module_level=True)
nn = torch.nn


class Skip(nn.Module):
    """A perceptron with skip connections, functional activations, and a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(8, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, x):
        hidden = torch.relu(self.a(x * self.scale))
        hidden = hidden + torch.tanh(self.b(hidden))
        return self.c(torch.cat([hidden, x], dim=1))


class Basic(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, num_in, num_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.down = None
        if stride != 1 or num_in != num_out:
            self.down = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.down is None else self.down(x)))


def resnet():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Basic(3, 3, 1), Basic(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


class Last(nn.Module):
    """A recurrent layer whose last output is read."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(layer.hidden_size, 2)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


class Words(nn.Module):
    """A transformer on tokens; the embedding is tied to the output."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(self.layer(self.words(x)).mean(1))


MODULES = {
    "skip": (Skip, (3,)),
    "resnet": (resnet, (2, 8, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu"), (5, 4)),
    "lstm": (lambda: Last(nn.LSTM(3, 4, batch_first=True)), (4, 3)),
    "gru": (lambda: Last(nn.GRU(3, 4, num_layers=2, batch_first=True)), (4, 3)),
    "words": (Words, None),
}


def made(name, dtype=torch.float64, size=3):
    """A module in eval mode with running statistics of its own, and a batch."""
    build, shape = MODULES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build().to(dtype).eval()
        with torch.no_grad():
            for key, buffer in module.named_buffers():
                if "running" in key:
                    buffer.copy_(torch.rand(buffer.shape) + 0.5)
        x = torch.randint(0, 7, (size, 5)) if shape is None else torch.randn(size, *shape, dtype=dtype)
    return module, x


@eqx.filter_jit
def _outputs(network, x):
    return jax.vmap(network)(x)


def gradient(network, x):
    return jax.jit(jax.grad(lambda n: jnp.mean(jax.vmap(n)(x) ** 2), allow_int=True))(network)


CASES = [
    ("skip", torch.float64, 1e-12),
    ("skip", torch.float32, 1e-6),
    ("resnet", torch.float64, 1e-12),
    ("transformer", torch.float64, 1e-12),
    ("lstm", torch.float64, 1e-12),
    pytest.param("transformer", torch.float32, 1e-5, marks=pytest.mark.slow),
    pytest.param("gru", torch.float64, 1e-12, marks=pytest.mark.slow),
    pytest.param("words", torch.float64, 1e-12, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "dtype", "atol"), CASES)
def test_outputs_and_gradients_are_those_of_pytorch(name, dtype, atol):
    module, x = made(name, dtype)
    network = from_torch(module, x[0])
    assert isinstance(network, TorchNetwork)
    assert {f"params['{key}']" for key, _ in module.named_parameters()} == set(named_parameters(network))
    out = module(x)
    found = _outputs(network, jnp.asarray(x.numpy()))
    assert found.dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=0, atol=atol)
    out.square().mean().backward()
    ours = gradient(network, jnp.asarray(x.numpy())).params
    assert max(float(jnp.abs(g).max()) for g in ours.values()) > 1e-3
    for key, parameter in module.named_parameters():
        np.testing.assert_allclose(ours[key], parameter.grad.numpy(), rtol=0, atol=atol, err_msg=key)


def test_a_landscape_takes_the_network():
    module, x = made("skip", size=6)
    network = torch_function(module, x[0])
    y = torch.ones(6, 2, dtype=torch.float64)
    landscape = Landscape(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()), batch_size=4)
    loss = 0.5 * (module(x) - y).square().sum(1).mean()
    np.testing.assert_allclose(landscape(network), loss.detach().numpy(), rtol=1e-12)
    loss.backward()
    grads = [dict(module.named_parameters())[key].grad.numpy().ravel() for key in sorted(network.params)]
    np.testing.assert_allclose(landscape.gradient(network), np.concatenate(grads), atol=1e-12)

    def of_bias(bias):
        return 0.5 * (torch.func.functional_call(module, {"c.bias": bias}, (x,)) - y).square().sum(1).mean()

    hessian = torch.autograd.functional.hessian(of_bias, module.c.bias.detach())
    np.testing.assert_allclose(landscape.hessian(network, only="*c.bias*"), hessian.numpy(), atol=1e-12)


def test_running_statistics_are_those_of_a_batch_in_training():
    module, x = made("resnet", size=5)
    network = torch_function(module, x[0])
    assert network.has_statistics
    assert not torch_function(*[part[0] if i else part for i, part in enumerate(made("transformer"))]).has_statistics
    renewed = jax.jit(lambda network, x: network.with_statistics(x))(network, jnp.asarray(x.numpy()))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # so that the statistics are those of the only batch
    out = module.train()(x).detach().numpy()
    np.testing.assert_allclose(_outputs(renewed, jnp.asarray(x.numpy())), out, rtol=1e-11, atol=1e-12)
    values = {name: np.asarray(buffer.value) for name, buffer in renewed.buffers.items()}
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            np.testing.assert_allclose(values[name], buffer.numpy(), rtol=1e-11, atol=1e-13)
    assert max(np.abs(network.buffers[name].value - value).max() for name, value in values.items()) > 0.1
    assert all(not layer._forward_pre_hooks for layer in network.origin.module.modules())


def test_the_network_keeps_its_weights_and_goes_back_bit_for_bit():
    module, x = made("resnet")
    network = torch_function(module, x[0])
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    back: Any = to_torch(network)
    assert type(back[4]) is Basic
    assert not back.training
    assert list(back.state_dict()) == list(before)
    for key, tensor in back.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_a_network_in_another_precision_goes_back_in_that():
    module, x = made("resnet", torch.float32)
    network = torch_function(module, x[0])
    wide = jax.tree.map(lambda a: a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a, network)
    back: Any = to_torch(wide)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float64}
    np.testing.assert_allclose(back(x.double()).detach(), module(x).detach(), atol=1e-6)


def test_shared_weights_stay_shared():
    module, x = made("words")
    network = torch_function(module, x[0])
    assert "out.weight" not in network.params
    back: Any = to_torch(network)
    assert back.out.weight is back.words.weight


def copied(network, writers, readers, size, unit=0):
    """A unit of a space doubled, the readers halved: written out here, independent of the maps of the library."""
    arrays = dict(named_arrays(network))
    for axes, share in ((writers, 1.0), (readers, 0.5)):
        for axis in axes:
            block = np.moveaxis(np.asarray(take_units(arrays[axis.path], axis, size)), -2, 0)
            block = np.concatenate([block, block[unit : unit + 1]]).copy()
            block[[unit, -1]] *= share
            arrays[axis.path] = put_units(arrays[axis.path], axis, size, jnp.asarray(np.moveaxis(block, 0, -2)))
    return replace_parameters(network, arrays)


def axes(*places):
    return [
        Axis(f"params['{key}']" if "running" not in key else f"buffers['{key}'].value", *rest) for key, *rest in places
    ]


class Layers(nn.Module):
    """Layers of PyTorch that keep their sizes."""

    def __init__(self):
        super().__init__()
        self.expand, self.filter = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.shrink = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.shrink(torch.relu(self.norm(self.filter(self.expand(x))))).mean((2, 3))


MODULES["filters"] = (Layers, (2, 5, 5))
NORM = [("norm.weight", 0), ("norm.bias", 0), ("norm.running_mean", 0), ("norm.running_var", 0)]
RESIZED = {
    "skip": ([("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.bias", 0)], [("b.weight", 1), ("c.weight", 1)], 5),
    "resnet": (
        [("5.conv1.weight", 0)] + [(f"5.bn1.{key}", 0) for key in ("weight", "bias", "running_mean", "running_var")],
        [("5.conv2.weight", 1)],
        4,
    ),
    "filters": (
        [("expand.weight", 0), ("expand.bias", 0), ("filter.weight", 0), ("filter.bias", 0), *NORM],
        [("shrink.weight", 1)],
        4,
    ),
    "lstm": (  # four gates for each unit
        [(f"layer.{key}_l0", 0, 4) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
        [("layer.weight_hh_l0", 1), ("out.weight", 1)],
        4,
    ),
    "transformer": ([("linear1.weight", 0), ("linear1.bias", 0)], [("linear2.weight", 1)], 6),
}
SIZES = {
    "skip": lambda m: (m.a.out_features, m.b.in_features, m.b.out_features, m.c.in_features),
    "resnet": lambda m: (m[5].conv1.out_channels, m[5].bn1.num_features, m[5].conv2.in_channels),
    "filters": lambda m: (m.expand.out_channels, m.filter.groups, m.filter.in_channels, m.norm.num_features),
    "lstm": lambda m: (m.layer.hidden_size, m.out.in_features),
    "transformer": lambda m: (m.linear1.out_features, m.linear2.in_features),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("skip", "transformer"))) for name in RESIZED]
)
def test_a_widened_network_comes_back_as_a_module_of_that_size(name):
    module, x = made(name)
    network = torch_function(module, x[0])
    writers, readers, size = RESIZED[name]
    wide = copied(network, axes(*writers), axes(*readers), size)
    np.testing.assert_allclose(_outputs(wide, jnp.asarray(x.numpy())), module(x).detach(), atol=1e-12)
    back = to_torch(wide)
    torch.testing.assert_close(back(x), module(x), rtol=0, atol=1e-12)
    assert SIZES[name](back) == tuple(n + 1 for n in SIZES[name](module))


def test_hidden_neurons_of_an_encoder_layer_are_found_and_split():
    module, x = made("transformer")
    network = discover_units(lambda net, x: net(x), torch_function(module, x[0]), jnp.asarray(x[0].numpy())).network
    spaces = network.unit_spaces()
    opened = [name for name, space in spaces.items() if space.closed is None]
    (name,) = opened
    assert (spaces[name].size, spaces[name].kind) == (6, "neuron")
    heads = next(space for space in spaces.values() if space.kind == "head")
    assert {(axis.outer, axis.inner) for axis in heads.writers} == {(3, 2)}  # queries, keys, values
    assert heads.closed == "width fixed in code"  # PyTorch's attention has heads times size = width of the stream
    wide, _ = split(network, name, 4, 0.3)
    back: Any = to_torch(wide)
    assert (back.linear1.out_features, back.linear2.in_features) == (7, 7)
    torch.testing.assert_close(back(x), module(x), rtol=0, atol=1e-12)


class Fixed(nn.Module):
    """A width written into the code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).reshape(-1, 4))


def test_a_width_that_the_code_fixes_is_refused():
    module = Fixed().double()
    network = torch_function(module, np.ones(3))
    wide = copied(network, axes(("a.weight", 0), ("a.bias", 0)), axes(("b.weight", 1)), 4)
    with pytest.raises(InputError, match="With these sizes"):
        to_torch(wide)


class Sorting(nn.Module):
    """An operation that torchax does not know."""

    def forward(self, x):
        return torch.special.airy_ai(x)


def test_what_does_not_work_on_arrays_of_jax_is_said(monkeypatch, tmp_path):
    module, x = made("skip")
    with pytest.raises(InputError, match="Sorting does not work on arrays of JAX"):
        torch_function(Sorting(), x[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export_torch(torch_function(module, x[0]), tmp_path / "file" / "folder")
    for name, package in (("torchax.decompositions", "torchax"), ("torch", "torch")):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            with pytest.raises(InputError, match=r"pip install 'lossatlas\[torch\]'"):
                torch_function(module, x[0])


# In a process of its own, since an import happens once.
SETTINGS = """
import os, sys
import jax
import lossatlas.interop
assert not any(name.partition(".")[0] in ("torch", "torchax") for name in sys.modules)
import torch

def settings():
    options = {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")}
    return (
        options, dict(os.environ), torch.get_default_dtype(), str(torch.get_default_device()), torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist(), torch.ones(2).device.type,
        len(torch.overrides._get_current_function_mode_stack()), torch.accelerator.is_available(),
        torch.ops.aten.prod.__dict__.keys() & {"dim_Dimname"},
    )

before = settings()
layer = torch.nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).eval()
torch.manual_seed(0)
before = settings()
network = lossatlas.interop.torch_function(layer, torch.ones(3, 4))
with torch.random.fork_rng():
    assert jax.eval_shape(network, jax.numpy.ones((3, 4))).dtype == "float32"
for old, new in zip(before, settings(), strict=True):
    assert old == new, (old, new)
"""


def test_global_settings_stay_as_they_are():
    subprocess.run([sys.executable, "-W", "error", "-c", SETTINGS], check=True)
