"""Kernels of infinitely wide networks by neural-tangents; runs in its environment."""

import jax
import neural_tangents as nt
import numpy as np
from neural_tangents import stax

import _peer_loop


def infinite(path, out, kind, activation, weight_variance, bias_variance):
    """Two hidden layers, or two convolutions and a flattened head."""
    jax.config.update("jax_enable_x64", True)
    with np.load(path) as data:
        inputs, other = data["inputs"], data["other"]
    bend = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}[activation]
    scales = {"W_std": weight_variance**0.5, "b_std": bias_variance**0.5}
    if kind == "dense":
        layers = [stax.Dense(1, **scales), bend(), stax.Dense(1, **scales), bend()]
    else:
        layers = [stax.Conv(1, (3, 3), padding="SAME", **scales), bend()] * 2 + [stax.Flatten()]
    *_, kernel_fn = stax.serial(*layers, stax.Dense(1, **scales))
    found = nt.batch(kernel_fn, batch_size=0)(inputs, other, ("nngp", "ntk"))
    np.savez(out, nngp=found.nngp, ntk=found.ntk)
    return {}


if __name__ == "__main__":
    _peer_loop.serve({"infinite": infinite}, ("neural-tangents", "jax"))
