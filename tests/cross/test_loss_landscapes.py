"""The same plane computed by loss-landscapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import geometry, interop
from lossatlas.landscape import Landscape


loss_landscapes = pytest.importorskip("loss_landscapes", reason="loss-landscapes is not installed")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def test_a_plane_through_three_networks_agrees_with_loss_landscapes():
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)) for _ in range(3)]
    inputs, labels = torch.randn(20, 3), torch.arange(20) % 2
    networks = [interop.from_torch(model) for model in models]
    landscape = Landscape(jnp.asarray(inputs.numpy()), jnp.asarray(labels.numpy()), loss="cross_entropy")
    steps = 4
    with jax.numpy_dtype_promotion("standard"):
        plane = geometry.directions_to(*networks)
        found = geometry.loss_slice(networks[0], landscape, plane, num=steps + 1, extents=[(0, 1), (0, 1)])
    metric = loss_landscapes.metrics.Loss(torch.nn.CrossEntropyLoss(), inputs, labels)
    theirs = loss_landscapes.planar_interpolation(*models, metric, steps=steps, deepcopy_model=True)
    # It walks to and fro: even rows stand at 1, 2, ... steps, odd rows one step short of that.
    ours = found.values["loss"]
    wanted = [ours[i, 1:] if i % 2 == 0 else ours[i, :-1] for i in range(steps)]
    np.testing.assert_allclose(theirs, wanted, rtol=1e-4)
