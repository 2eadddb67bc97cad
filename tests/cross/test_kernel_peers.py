"""Tangent kernels, finite and infinite, against neural-tangents and PyTorch's recipe."""

from typing import Any

import jax
import numpy as np
import pytest

import _problems
from lossatlas.geometry import ntk
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense
from lossatlas.theory import infinite_conv, infinite_dense


pytestmark = pytest.mark.slow  # a process of the peer, with its own PyTorch or JAX


SCRIPTS = {"neural-tangents": "_peer_tangents.py", "torch-kernel": "_peer_torch_kernel.py"}
IMPLEMENTATIONS = {"neural-tangents": {"implementation": "STRUCTURED_DERIVATIVES"}, "torch-kernel": {}}


def network_of(kind, activation):
    """A network and some inputs."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    if kind == "mlp":
        return Dense(key, [6, 7, 5, 3], activation=activation), rng.normal(size=(8, 6))
    network = Conv(key, (1, 8, 8), (16, 32), [10], padding="VALID", activation=activation)
    return network, rng.normal(size=(4, 1, 8, 8))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("kind", "activation"), [("mlp", "relu"), ("mlp", "gelu"), ("cnn", "tanh")])
def test_kernels_agree_entry_by_entry(peer, tmp_path, name, kind, activation):
    running = peer(name, SCRIPTS[name])
    network, x = network_of(kind, activation)
    landscape = Landscape(x, np.zeros(len(x), int), loss="cross_entropy")
    path, out = _problems.Problem(kind, activation, network, landscape).write(tmp_path), tmp_path / "kernel.npy"
    for convention in ("full", "trace"):
        options = {"path": str(path), "num": len(x), "convention": convention} | IMPLEMENTATIONS[name]
        running.ask("kernel", **options, out=str(out))
        theirs, ours = np.load(out), ntk(network, x, convention=convention)
        if convention == "full":  # theirs: (n, n, o, o)
            theirs = theirs.transpose(0, 2, 1, 3).reshape(ours.matrix.shape)
        elif name == "torch-kernel":  # its recipe sums over the outputs
            theirs = theirs / ours.num_outputs
        assert ours.method == "structured"
        np.testing.assert_allclose(ours.matrix, theirs, rtol=0, atol=1e-14 * np.abs(theirs).max())


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu"])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_infinite_kernels_agree_with_neural_tangents(peer, tmp_path, kind, activation):
    running = peer("neural-tangents", "_peer_infinite.py")
    rng = np.random.default_rng(0)
    shape = (5,) if kind == "dense" else (2, 4, 4)
    x, other = rng.normal(size=(4, *shape)), rng.normal(size=(3, *shape))
    last = lambda a: a if kind == "dense" else np.moveaxis(a, 1, -1)  # noqa: E731  (its channels come last)
    path, out = tmp_path / "data.npz", tmp_path / "kernels.npz"
    np.savez(path, inputs=last(x), other=last(other))
    variances: Any = {"weight_variance": 1.7, "bias_variance": 0.3}
    running.ask("infinite", path=str(path), out=str(out), kind=kind, activation=activation, **variances)
    if kind == "dense":
        ours = infinite_dense(x, other, num_hidden=2, activation=activation, **variances)
    else:
        ours = infinite_conv(x, other, num_convs=2, activation=activation, **variances)
    with np.load(out) as theirs:
        for name in ("nngp", "ntk"):
            tol = 1e-12 if activation != "gelu" else 1e-6  # by quadrature
            np.testing.assert_allclose(getattr(ours, name), theirs[name], rtol=tol)
