"""Maps between architectures: against `numpy.copy` of the same bytes, and against the plain search for copies.

    python benchmarks/embedding.py [--json FILE] [--repeats N] [--quick]

The stack has five layers of 5,000 units and 100 million parameters in float32 (`--quick`: of 1,000). Splitting one
unit, and merging its copies again, must write every changed weight once, so a copy of the whole stack is the measure:
a ratio of 1 is the speed of memory. Matching assigns the units of each layer to those of a permuted copy, which no
copy can do; its ratio says how many copies that costs. Reduction looks for the planted copies, constants and linear
neurons of a layer of 2,000; beside it stands the search for copies alone, each pair compared. Discovery finds and
tests the unit spaces of a graph of the size of ResNet-18 (PyTorch, 64 x 64 pixels); beside it stands one compilation of
its gradient, of which discovery needs several.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import _common


THREADS = _common.single_thread()

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, num_parameters, replace_parameters
from lossatlas.embedding import discover_units, match, reduce, split
from lossatlas.interop import torch_function
from lossatlas.networks import Dense, DenseLayer, put_units, take_units


def stack(width: int) -> Dense:
    """Four weight matrices between five layers of one width."""
    return Dense(jax.random.key(0), [width] * 5, init="lecun", dtype=jnp.float32)


def permuted(network: Dense) -> Dense:
    """The same network with the units of each layer in another order."""
    generator = np.random.default_rng(1)
    arrays = named_arrays(network)
    for space in network.unit_spaces().values():
        order = generator.permutation(space.size)
        for axis in (*space.writers, *space.readers):
            block = take_units(arrays[axis.path], axis, space.size)
            arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, block[..., order, :])
    return replace_parameters(network, arrays)


def against_copy(job: str, network: Dense, ours: Callable[[], object], repeats: int, accuracy: str) -> _common.Row:
    """One map beside a copy of all parameters; ratio: copy / ours."""
    arrays = [np.asarray(array) for array in named_arrays(network).values()]
    clock = time.perf_counter()
    jax.block_until_ready(ours())
    compile_seconds = time.perf_counter() - clock

    def copied() -> list[np.ndarray]:
        return [np.copy(array) for array in arrays]

    copied()  # the first one asks the machine for its memory
    times = _common.alternate(lambda: jax.block_until_ready(ours()), copied, repeats)
    return _common.Row(
        job,
        **times,
        peer_name="numpy.copy",
        compile_seconds=compile_seconds,
        accuracy=accuracy,
        target=1.0,
        threads=THREADS,
    )


def maps(width: int, repeats: int) -> Iterator[_common.Row]:
    """Split, merge and match of the stack."""
    network = stack(width)
    name = f"5 layers of {width:,}, {num_parameters(network) / 1e6:.0f} million parameters"
    wide, record = split(network, "hidden[1]", 3, 0.3)
    back = record.inverse(wide)
    change = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(named_arrays(network).values(), named_arrays(back).values(), strict=True)
    )
    del back
    yield against_copy(
        f"split one unit, {name}", network, lambda: split(network, "hidden[1]", 3, 0.3)[0], repeats, "exact"
    )
    yield against_copy(
        f"merge it again, {name}", network, lambda: record.inverse(wide), repeats, f"weights back to {change:.0e}"
    )
    del wide
    other, found = permuted(network), []

    def matched() -> Dense:
        moved, result = match(other, network)
        found.append(result)
        return moved

    row = against_copy(f"match, {name}", network, matched, 1, "")
    yield dataclasses.replace(row, accuracy=str(found[-1]))


def planted(width: int, num_inputs: int = 64, num_outputs: int = 10) -> tuple[Dense, np.ndarray]:
    """A layer of tanh neurons: half of them signed copies, a tenth constant, a tenth linear on the inputs."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(1000, num_inputs))
    weight = generator.normal(size=(width, num_inputs)) / np.sqrt(num_inputs)
    bias = generator.normal(size=width)
    half, tenth = width // 2, width // 10
    signs = generator.choice([-1.0, 1.0], half)
    weight[:tenth] = 0.0
    weight[tenth : 2 * tenth] *= 1e-9
    bias[tenth : 2 * tenth] = 0.0
    weight[half:], bias[half:] = signs[:, None] * weight[:half], signs * bias[:half]
    readers = generator.normal(size=(num_outputs, width)) / np.sqrt(width)
    order = generator.permutation(width)
    layers = [
        DenseLayer(jnp.asarray(weight[order]), jnp.asarray(bias[order])),
        DenseLayer(jnp.asarray(readers[:, order]), jnp.zeros(num_outputs)),
    ]
    return Dense.from_layers(layers, "tanh"), inputs


def plain_copies(vectors: np.ndarray, tolerance: float = 1e-10) -> int:
    """How many groups there are when each unit is compared with each group, both signs: the loop people write."""
    heads: list[np.ndarray] = []
    for vector in vectors:
        if not any(min(np.abs(vector - h).max(), np.abs(vector + h).max()) <= tolerance for h in heads):
            heads.append(vector)
    return len(heads)


def reduction(width: int, repeats: int) -> _common.Row:
    """The exact reduction of one layer."""
    with jax.enable_x64(True):
        network, inputs = planted(width)
        vectors = np.concatenate([network.layers[0].weight, np.asarray(network.layers[0].bias)[:, None]], axis=1)
        clock = time.perf_counter()
        small, result = reduce(network, inputs)
        compile_seconds = time.perf_counter() - clock
        times = _common.alternate(lambda: reduce(network, inputs), lambda: plain_copies(vectors), repeats)
    left = f"{small.widths[1]} neurons and {small.num_linear[0]} linear units left, outputs changed by"
    return _common.Row(
        f"reduce a layer of {width:,}",
        **times,
        peer_name="each pair of neurons compared, nothing else",
        compile_seconds=compile_seconds,
        accuracy=f"{left} {result.certificate.output_change:.0e}",
        threads=THREADS,
    )


def resnet18(channels: int):
    """ResNet-18 in PyTorch, in inference mode: 64 channels in the original."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, entering: int, leaving: int, stride: int):
            super().__init__()
            self.first = nn.Sequential(
                nn.Conv2d(entering, leaving, 3, stride, 1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU()
            )
            self.second = nn.Sequential(nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False), nn.BatchNorm2d(leaving))
            self.skip = nn.Identity()
            if stride > 1:
                self.skip = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))

        def forward(self, x):
            return nn.functional.relu(self.second(self.first(x)) + self.skip(x))

    stem = [nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks, entering = [], channels
    for leaving, stride in ((channels, 1), (2 * channels, 2), (4 * channels, 2), (8 * channels, 2)):
        blocks += [Block(entering, leaving, stride), Block(leaving, leaving, 1)]
        entering = leaving
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(entering, 1000)).eval()


def discovery(channels: int) -> _common.Row:
    """The unit spaces of a graph of the size of ResNet-18, found and tested, beside compiling its gradient once."""
    job = f"discover the units of ResNet-18, {channels} channels"
    try:
        import torch

        network = torch_function(resnet18(channels), np.zeros((3, 64, 64), np.float32))
    except (ImportError, InputError) as error:
        return _common.Row(job, not_run=str(error))
    torch.set_num_threads(1)
    params, rest = eqx.partition(network, eqx.is_inexact_array)
    example, found = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 64)), jnp.float32), []

    def compiled() -> None:
        def total(params, x):
            return jnp.sum(eqx.combine(params, rest)(x))

        jax.jit(jax.value_and_grad(total)).lower(params, example).compile()

    def ours() -> None:
        found.append(discover_units(lambda net, x: net(x), network, example))

    times = _common.alternate(ours, compiled, 1)
    spaces = found[-1].spaces
    closed = sum(space.closed is not None for space in spaces.values())
    return _common.Row(
        job,
        **times,
        peer_name="compiling the gradient once",
        accuracy=f"{len(spaces)} unit spaces, {closed} closed",
        threads=THREADS,
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Maps between architectures against copies and plain loops.")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows to this file as well")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each side (default 5)")
    parser.add_argument("--quick", action="store_true", help="smaller networks")
    options = parser.parse_args()

    def rows() -> Iterator[_common.Row]:
        yield from maps(1000 if options.quick else 5000, options.repeats)
        yield reduction(500 if options.quick else 2000, min(options.repeats, 2))
        yield discovery(8 if options.quick else 64)

    _common.report(rows(), _common.versions("lossatlas", "jax", "jaxlib", "equinox", "numpy", "scipy"), options.json)


if __name__ == "__main__":
    main()
