"""neural-tangents: the tangent kernel of a problem. For an environment of its own, with the JAX of its time."""

import os


os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import time

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np

from _peer_loop import serve


_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


def _load(path: str):
    """The function of parameters and inputs, the parameters and the inputs."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    jax.config.update("jax_enable_x64", arrays["inputs"].dtype == np.float64)  # the file says in which precision
    bend = _ACTIVATIONS[str(arrays["activation"])]
    weights = [jnp.asarray(arrays[f"weight{i}"]) for i in range(sum(name.startswith("weight") for name in arrays))]

    def dense(params, x):
        for i in range(0, len(params), 2):
            x = x @ params[i].T + params[i + 1]
            x = bend(x) if i + 2 < len(params) else x
        return x

    def convolutional(params, x):
        for i in (0, 2):
            x = jax.lax.conv_general_dilated(x, params[i], (1, 1), "VALID") + params[i + 1][None, :, None, None]
            x = bend(x)
        return x.reshape(len(x), -1) @ params[4].T + params[5]

    fn = convolutional if str(arrays["kind"]) == "cnn" else dense
    return fn, weights, jnp.asarray(arrays["inputs"])


_kept: dict = {}


def kernel(path: str, num: int, convention: str, implementation: str, out: str | None = None) -> dict:
    """The seconds of one kernel; the first call of its kind compiles and is not counted."""
    key = (path, num, convention, implementation)
    if key not in _kept:
        fn, params, x = _load(path)
        of = nt.empirical_ntk_fn(
            fn,
            trace_axes=() if convention == "full" else (-1,),
            vmap_axes=0,
            implementation=nt.NtkImplementation[implementation],
        )
        run = jax.jit(lambda x, params: of(x, None, params))
        jax.block_until_ready(run(x[:num], params))
        _kept[key] = (run, x[:num], params)
    run, x, params = _kept[key]
    wall, processor = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(run(x, params))
    seconds = {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}
    if out is not None:
        np.save(out, np.asarray(found))
    return seconds


if __name__ == "__main__":
    serve({"kernel": kernel}, ("neural-tangents", "jax", "numpy"))
