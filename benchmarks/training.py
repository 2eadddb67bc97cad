"""Full-batch Adam: LossAtlas against a plain PyTorch loop, the same run on both sides, one thread each.

    python benchmarks/training.py [--json FILE] [--repeats N]

Both sides start from the same parameters, take 2,000 steps on the mean of 1/2 |f - y|^2 with the same rate, and end
with parameters and loss on the host. Times are seconds per training run, warmed up, in turn; compiling is its own
column. `plain` is the loop people write (`torch.optim.Adam` as it comes), `fused` PyTorch's own fastest Adam.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import _common


THREADS = _common.single_thread()

import time

import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._parameters import named_parameters
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train, train_ensemble


NUM_STEPS = 2000
RATE = 1e-3
PEERS = {"plain": {}, "fused": {"fused": True}}


def problem(widths: list[int], num_examples: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets: a curve on [-1, 1], or three smooth functions of four features.

    The curve has a constant part: an odd one leaves bias gradients that are rounding, which Adam makes into steps.
    """
    generator = np.random.default_rng(0)
    if widths[0] == 1:
        x = np.linspace(-1, 1, num_examples)[:, None]
        return x.astype(dtype), (np.sin(4 * x) + 0.5).astype(dtype)
    x = generator.normal(size=(num_examples, widths[0]))
    return x.astype(dtype), np.tanh(x @ generator.normal(size=(widths[0], widths[-1]))).astype(dtype)


def torch_run(network: Dense, x: np.ndarray, y: np.ndarray, **options):
    """A function that trains a copy of the network in PyTorch and returns its final loss."""
    import torch

    torch.set_num_threads(1)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    start = [torch.from_numpy(np.array(leaf)) for leaf in named_parameters(network).values()]

    def run(num_steps: int = NUM_STEPS) -> float:
        parts: list[torch.nn.Module] = []
        for layer in network.layers:
            linear = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=inputs.dtype)
            parts += [linear, torch.nn.Tanh()]
        model = torch.nn.Sequential(*parts[:-1])
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, **options)
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = 0.5 * ((model(inputs) - targets) ** 2).sum(1).mean()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(0.5 * ((model(inputs) - targets) ** 2).sum(1).mean())

    return run


def compare(
    name: str, widths: list[int], size: int, seeds: int, dtype, peer: str, target: float | None, repeats: int, snapshots
) -> _common.Row:
    """One row."""
    job = f"{name}, {np.dtype(dtype).name}, {seeds} seed{'s' * (seeds > 1)}, torch {peer}"
    if np.ndim(snapshots) == 0:
        job += f", {snapshots} snapshots"
    try:
        import torch  # noqa: F401
    except ImportError:
        return _common.Row(job, not_run="torch is not installed (pip install 'lossatlas[peers]')")
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        x, y = problem(widths, size, dtype)
        landscape = Landscape(jnp.asarray(x), jnp.asarray(y))
        keys = jax.random.split(jax.random.key(0), seeds)
        networks = [Dense(key, widths) for key in keys]
        options = {"optimizer": "adam", "learning_rate": RATE, "num_steps": NUM_STEPS, "snapshots": snapshots}

        def ours():
            if seeds == 1:
                return train(keys[0], networks[0], landscape, **options).loss[None]
            return train_ensemble(keys, networks, landscape, **options).loss

        clock = time.perf_counter()
        ours()
        compile_seconds = time.perf_counter() - clock
        ours()
        peers = [torch_run(network, x, y, **PEERS[peer]) for network in networks]
        peers[0](50)
        # PyTorch trains seeds one after the other; a few of them give the time of one.
        some = peers[: min(seeds, 4)]
        times = _common.alternate(ours, lambda: [run() for run in some], repeats, seeds, len(some))
        final = ours()[: len(some), -1].astype(float)
        theirs = np.array([run() for run in some])
    difference = np.abs(final / theirs - 1).max()
    return _common.Row(
        job=job,
        **times,
        peer_name=f"torch {peer}",
        compile_seconds=compile_seconds,
        accuracy=f"final losses {final[0]:.6g} and {theirs[0]:.6g}, largest relative difference {difference:.1e}",
        target=target,
        threads=THREADS,
    )


def main() -> None:
    """Measure and report."""
    options = _common.arguments("Full-batch Adam against a plain PyTorch loop.", repeats=5)
    ends, rows = [0, NUM_STEPS], []
    small, iris = ("1-50-1, 80 points", [1, 50, 1], 80), ("4-50-50-3, 150 points", [4, 50, 50, 3], 150)
    for dtype, aims in ((np.float32, (50.0, 40.0, 6.0)), (np.float64, (None, None, None))):
        rows.append(compare(*small, 1, dtype, "plain", aims[0], options.repeats, ends))
        rows.append(compare(*small, 16, dtype, "plain", aims[1], options.repeats, ends))
        rows.append(compare(*iris, 1, dtype, "plain", aims[2], options.repeats, ends))
    rows.append(compare(*small, 1, np.float32, "plain", None, options.repeats, 160))
    rows.append(compare(*small, 1, np.float32, "fused", None, options.repeats, ends))
    rows.append(compare(*iris, 1, np.float32, "fused", None, options.repeats, ends))
    found = _common.versions("lossatlas", "jax", "jaxlib", "equinox", "optax", "torch", "numpy")
    _common.report(rows, found, options.json)


if __name__ == "__main__":
    main()
