"""Paths between models that are not ours: PyTorch modules of one code, with weights of their own."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from lossatlas import interop, workbench
from lossatlas._errors import InputError
from lossatlas.workbench import Model


torch = pytest.importorskip("torch")
if importlib.util.find_spec("torchax") is None:  # its import needs our help, so it is not tried here
    pytest.skip("torchax is not installed", allow_module_level=True)
pytestmark = pytest.mark.slow


class Block(torch.nn.Module):
    """No plain stack: a residual block between two layers."""

    def __init__(self, size: int = 6, act=torch.relu):
        super().__init__()
        self.first, self.inner = torch.nn.Linear(3, 5), torch.nn.Linear(5, size)
        self.outer, self.last = torch.nn.Linear(size, 5), torch.nn.Linear(5, 2)
        self.act = act

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.outer(self.act(self.inner(x))))


def made(seed: int, **options) -> Model:
    torch.manual_seed(seed)
    module = Block(**options).double().eval()
    with jax.enable_x64(True):
        network = interop.torch_function(module, torch.zeros(3, dtype=torch.float64))
    return Model(network, None, "cross_entropy", f"block {seed}")


def test_two_pytorch_modules_are_matched_and_the_path_is_written(tmp_path):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(30, 3)), rng.integers(0, 2, 30)
    rows = tmp_path / "rows.npz"
    np.savez(rows, inputs=inputs, targets=targets)
    first, second = made(0), made(1)
    found = workbench.path(first, second, rows, match="best", points=5, out=tmp_path / "made")
    facts = json.loads(found.json.read_text())
    rises = {row["path"]: row["barrier"] for row in facts["paths"]}
    assert set(rises) == {"straight line", "after matching"}
    matched = found.result.matched
    np.testing.assert_allclose(matched.predict(inputs), second.predict(inputs), atol=1e-9)
    assert max(row["outputs changed by"] for row in facts["matchings"]) < 1e-9
    with pytest.raises(InputError, match="one architecture, shape and activation"):
        workbench.path(first, made(1, act=torch.tanh), rows, out=tmp_path / "other")
