"""Examples spread over devices, in a process that has two."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

from lossatlas._errors import InputError
from lossatlas.landscape import Landscape


PROGRAM = """
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense

network = Dense(jax.random.key(0), [3, 6, 2])
x = jax.random.normal(jax.random.key(1), (40, 3))
landscape = Landscape(x, jnp.sin(x[:, :2]))
spread = landscape.sharded()
assert len(spread.inputs.sharding.device_set) == 2
slopes = eqx.filter_jit(lambda place, point: place.residuals(point))(spread, network)
assert len(slopes.sharding.device_set) == 2, slopes.sharding
np.testing.assert_allclose(spread.gradient(network), landscape.gradient(network), rtol=1e-12)
vector = np.random.default_rng(0).standard_normal(38)
products = [CurvatureProducts(network, place)(vector) for place in (spread, landscape)]
np.testing.assert_allclose(*products, atol=1e-13)
"""


def test_measurements_on_two_devices_are_those_on_one():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_examples_that_cannot_be_shared_out_are_refused():
    landscape = Landscape(jnp.ones((5, 1)), jnp.ones((5, 1)))
    with pytest.raises(InputError, match=r"5 examples cannot be shared out equally among 2 .*slice\(2 \* 2\)"):
        landscape.sharded([jax.devices()[0]] * 2)
