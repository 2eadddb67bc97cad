"""Tangent kernels of modules of others: convolutions, normalisation and attention, in Equinox and PyTorch."""

import importlib.util
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._parameters import named_parameters
from lossatlas.geometry import ntk
from lossatlas.landscape import Landscape


class Seen(eqx.Module):
    """Patches by a convolution, running statistics in a state of Equinox, attention over the patches."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    state: eqx.nn.State
    layer_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __call__(self, x):
        maps, _ = self.norm(self.conv(x), self.state)
        stream = jnp.tanh(maps).reshape(4, -1).T
        seen = jax.vmap(self.layer_norm)(stream)
        return self.head(jnp.mean(stream + self.attention(seen, seen, seen), axis=0))


def seen():
    keys = jax.random.split(jax.random.key(0), 3)
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="ema")
    state = jax.tree.map(lambda a: a + jnp.asarray(1.3, a.dtype) if eqx.is_inexact_array(a) else a, state)
    network = Seen(
        eqx.nn.Conv2d(1, 4, 2, 2, key=keys[0]),
        norm,
        state,
        eqx.nn.LayerNorm(4),
        eqx.nn.MultiheadAttention(2, 4, key=keys[1], use_query_bias=True),
        eqx.nn.Linear(4, 2, key=keys[2]),
    )
    return eqx.nn.inference_mode(network)


def agree(found, wanted):
    assert np.abs(found.matrix - wanted).max() <= 1e-13 * np.abs(wanted).max()


def test_an_equinox_module_with_a_state_has_the_kernel_of_its_jacobian():
    network, x = seen(), np.random.default_rng(0).normal(size=(4, 1, 6, 6))
    assert not any("state" in name for name in named_parameters(network))
    jacobian = np.asarray(Landscape(x, np.zeros((4, 2))).jacobian(network)).reshape(8, -1)
    found = ntk(network, x, convention="full", method="structured")
    agree(found, jacobian @ jacobian.T)
    assert "attention.key_proj.weight" not in found.settings["formed"]


def residual(nn, torch):
    class Residual(nn.Module):
        """Strided and grouped convolutions, batch normalisation, a shortcut and a buffer."""

        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.conv, self.norm2 = nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6)
            self.down, self.head = nn.Conv2d(4, 6, 1, 2, bias=False), nn.Linear(6, 3)
            self.register_buffer("scale", torch.tensor([1.0, 0.5, 2.0]))

        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(self.norm2(self.conv(x)) + self.down(x))
            return self.head(x.mean((2, 3))) * self.scale

    return Residual(), (1, 6, 6)


def patches(nn, torch):
    class Patches(nn.Module):
        """A vision transformer of one block, with a table of places."""

        def __init__(self):
            super().__init__()
            self.conv, self.places = nn.Conv2d(1, 8, 2, 2), nn.Parameter(torch.randn(1, 9, 8))
            self.block = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.block(self.conv(x).flatten(2).transpose(1, 2) + self.places).mean(1))

    return Patches(), (1, 6, 6)


def recurrent(nn, torch):
    del torch

    class Recurrent(nn.Module):
        """An LSTM that reads a sequence."""

        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    return Recurrent(), (5, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [residual, patches, recurrent])
def test_pytorch_modules_have_the_kernels_that_pytorch_computes(make):
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")
    if importlib.util.find_spec("torchax") is None:  # its import needs our help, so it is not tried here
        pytest.skip("torchax is not installed")
    from lossatlas.interop import torch_function

    torch.manual_seed(0)
    module, shape = make(torch.nn, torch)
    module.double()
    with torch.no_grad():  # statistics and scales that are not those of the start
        module(torch.randn(16, *shape, dtype=torch.float64))
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.eval()
    x = np.random.default_rng(0).normal(size=(3, *shape))
    parameters = list(module.parameters())
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(output, parameters, retain_graph=True)]).numpy()
        for example in torch.from_numpy(x)
        for output in module(example[None])[0]
    ]
    wanted = np.stack(rows) @ np.stack(rows).T
    network = torch_function(module, torch.from_numpy(x[0]))
    for method in ("structured", "contraction", "products"):
        agree(ntk(network, x, convention="full", method=method), wanted)
