"""A small convolutional network and a small transformer on digits, shrunk and grown, ours and PyTorch's.

    python examples/shrink_and_grow_digits.py [--architecture cnn|transformer|torch-cnn|torch-transformer|all]
        [--quick] [--seed N] [--json FILE]

The 1,797 digits of scikit-learn, 8 x 8 grey values: 1,200 to train on, 597 held out from everything. A network with
BatchNorm reads them as an image, a transformer of two blocks as 8 tokens of 8 numbers.

Shrunk: `workbench.shrink` sees the training images without their labels and leaves a share of the parameters. Beside it
stands the control: networks of the same sizes that keep the units of largest weights, with nothing put in place of the
others. Grown: a narrow network is trained, `workbench.grow` doubles its units, and both train on for as long. Copies of
a unit get the same gradients for ever, so the grown one is trained on twice: as it is, and after a little noise.

With `torch-` PyTorch trains, and the shrunk network goes back to it as a module that runs without LossAtlas.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from lossatlas import interop
from lossatlas.data import Arrays
from lossatlas.embedding import UnitMap
from lossatlas.networks import Conv, Transformer, named_parameters, replace_parameters, size_words, take_units
from lossatlas.workbench import Model, grow, shrink


_SHAPES = {"cnn": (1, 8, 8), "transformer": (8, 8)}
_NOISE = 0.02
_BATCH = 50
_ALONE = """
import sys
sys.modules["lossatlas"] = sys.modules["jax"] = None  # any import of them fails
import numpy, torch
from model import load
numpy.save("outputs.npy", load()(torch.from_numpy(numpy.load("inputs.npy"))).detach().numpy())
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How large, and how long.

    - `sizes`: of the network that is shrunk; `narrow`: of the one that is grown: two channels and hidden neurons, or
      stream, heads and hidden neurons of a transformer.
    """

    architecture: str
    sizes: tuple[int, int, int]
    narrow: tuple[int, int, int]
    epochs: int
    share: float = 0.3
    rate: float = 3e-3
    rows: int = 1200

    @property
    def kind(self) -> str:
        """`cnn` or `transformer`."""
        return self.architecture.removeprefix("torch-")


def settings(architecture: str, *, quick: bool) -> Settings:
    """The settings of the documentation, or a few seconds of training."""
    if architecture.endswith("cnn"):
        return Settings(architecture, (12, 24, 32), (3, 4, 8), 4 if quick else 20)
    # The stream, queries and keys of a transformer stay, so less of it can go.
    return Settings(architecture, (32, 4, 32), (8, 2, 8), 4 if quick else 60, share=0.7)


def digits(given: Settings, seed: int) -> tuple[Arrays, Arrays]:
    """Training images and those held out, grey values from 0 to 1 in float32."""
    loaded = load_digits()
    order = np.random.default_rng(seed).permutation(len(loaded.target))
    images = (loaded.data[order] / 16).astype(np.float32).reshape(-1, *_SHAPES[given.kind])
    labels = loaded.target[order].astype(np.int32)
    seen, fresh = slice(0, given.rows), slice(1200, None)
    return Arrays(images[seen], labels[seen]), Arrays(images[fresh], labels[fresh])


# -- training: ours by optax, one compiled step called from Python (convolutions inside compiled loops are slow)


def new_network(given: Settings, sizes: tuple[int, int, int], seed: int) -> Any:
    """A network of ours with random weights."""
    first, second, hidden = sizes
    key = jax.random.key(seed)
    if given.kind == "cnn":
        options = {"pool": "max", "norm": "batch", "activation": "relu", "dtype": jnp.float32}
        return Conv(key, _SHAPES["cnn"], (first, second), (hidden, 10), **options)
    return Transformer(key, 8, 8, 10, num_stream=first, num_heads=second, num_hidden=hidden, dtype=jnp.float32)


def batches(size: int, epochs: int, seed: int):
    """The rows of each batch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(size)
        yield from np.split(order, range(_BATCH, size, _BATCH))


def fit(network: Any, rows: Arrays, epochs: int, rate: float, seed: int) -> Any:
    """Adam on minibatches; BatchNorm uses the statistics of the batch, and those of all rows in the end."""
    params, rest = eqx.partition(network, eqx.is_inexact_array)
    steps = list(batches(len(rows.inputs), epochs, seed))
    optimizer = optax.adam(optax.linear_schedule(rate, 0.0, len(steps)))

    @jax.jit
    def step(params: Any, state: Any, images: Any, labels: Any):
        def loss(params: Any):
            network = eqx.combine(params, rest)
            logits = network.call_batch(images) if isinstance(network, Conv) else jax.vmap(network)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    assert rows.targets is not None
    state = optimizer.init(params)
    for index in steps:
        params, state = step(params, state, jnp.asarray(rows.inputs[index]), jnp.asarray(rows.targets[index]))
    network = eqx.combine(params, rest)
    return network.with_statistics(jnp.asarray(rows.inputs)) if isinstance(network, Conv) else network


# -- training: PyTorch's


def new_module(given: Settings, sizes: tuple[int, int, int], seed: int) -> Any:
    """A plain PyTorch module with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    first, second, hidden = sizes
    if given.kind == "cnn":
        maps = (
            [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
            for fan_in, fan_out in ((1, first), (first, second))
        )
        return nn.Sequential(
            *sum(maps, []), nn.Flatten(), nn.Linear(4 * second, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )
    return _torch_transformer(first, second, hidden)


def fit_module(module: Any, rows: Arrays, epochs: int, rate: float, seed: int) -> Any:
    """The same training in PyTorch."""
    import torch

    images, labels = torch.from_numpy(rows.inputs), torch.from_numpy(rows.targets).long()
    steps = list(batches(len(images), epochs, seed))
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(steps))
    module.train()
    for index in steps:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images[index]), labels[index]).backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def _torch_transformer(stream: int, heads: int, hidden: int) -> Any:
    """Two pre-norm blocks, written as people write them."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            size = heads * -(-stream // heads)
            self.heads = heads
            self.attention_norm, self.hidden_norm = nn.LayerNorm(stream), nn.LayerNorm(stream)
            self.query, self.key, self.value = (nn.Linear(stream, size) for _ in range(3))
            self.out = nn.Linear(size, stream)
            self.up, self.down = nn.Linear(stream, hidden), nn.Linear(hidden, stream)

        def forward(self, x):
            seen = self.attention_norm(x)
            parts = (part(seen).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
            query, key, value = (part.transpose(1, 2) for part in parts)
            weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.hidden_norm(x))))

    class Digits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs, self.positions = nn.Linear(8, stream), nn.Parameter(0.1 * torch.randn(8, stream))
            self.blocks = nn.Sequential(Block(), Block())
            self.norm, self.output = nn.LayerNorm(stream), nn.Linear(stream, 10)

        def forward(self, x):
            return self.output(self.norm(self.blocks(self.inputs(x) + self.positions)).mean(1))

    return Digits()


# -- shrinking and growing


@eqx.filter_jit
def _logits(network: Any, images: Any):
    return jax.vmap(network)(images)


def logits(network: Any, images: np.ndarray) -> np.ndarray:
    """Outputs of a network on many images."""
    return np.asarray(_logits(network, jnp.asarray(images)), float)


def accuracy(network: Any, rows: Arrays) -> float:
    """The share of rows whose class is right."""
    return float(np.mean(logits(network, rows.inputs).argmax(1) == rows.targets))


def loss(network: Any, rows: Arrays) -> float:
    """Mean cross-entropy."""
    outputs = logits(network, rows.inputs)
    return float(
        optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(outputs), jnp.asarray(rows.targets)).mean()
    )


def by_magnitude(network: Any, small: Any) -> Any:
    """The control: the units of largest weights (2-norm of what makes them, times that of what reads them)."""
    wanted = {name: space.size for name, space in small.unit_spaces().items()}
    for name, space in network.unit_spaces().items():
        if wanted[name] == space.size:
            continue
        arrays = named_parameters(network)
        norms = np.ones(space.size)
        for axes in (space.writers, space.readers):
            blocks = [take_units(arrays[a.path], a, space.size) for a in axes if a.path in arrays]
            squares = (np.square(np.moveaxis(np.asarray(b), -2, 0)).reshape(space.size, -1).sum(1) for b in blocks)
            norms = norms * np.sqrt(sum(squares))
        kept = np.sort(np.argsort(-norms)[: wanted[name]])
        selection = np.eye(space.size)[kept]
        network = UnitMap(name, selection, selection).apply(network)
    return network


def count(network: Any) -> int:
    """How many parameters a network has."""
    return sum(array.size for array in named_parameters(network).values())


def shrunk(given: Settings, network: Any, seen: Arrays, fresh: Arrays) -> tuple[Any, list[dict[str, Any]]]:
    """The network with a share of its parameters, and what it costs, beside the control."""
    model = Model(network, None, "cross_entropy", given.architecture)
    found = shrink(model, Arrays(seen.inputs, None), parameters=int(given.share * count(network)))
    small = found.model.network
    control = by_magnitude(network, small)
    lines = []
    for what, other in (("trained", network), ("shrunk", small), ("by magnitude", control)):
        change, new = (np.abs(logits(other, x) - logits(network, x)).max(1) for x in (seen.inputs, fresh.inputs))
        line = {"what": what, "parameters": count(other), "change": float(change.max()), "new": float(new.max())}
        bound = found.fresh_change if other is small else None
        covered = None if bound is None else float(np.mean(new <= bound))
        lines.append(line | {"bound": bound, "covered": covered, "accuracy": accuracy(other, fresh)})
    return small, lines


def noisy(network: Any, seed: int) -> Any:
    """The network with noise of 2 % of the size of each parameter array, so that copies of a unit go apart."""
    arrays = named_parameters(network)
    rng = np.random.default_rng(seed)

    def moved(array: Any):
        size = _NOISE * float(jnp.sqrt(jnp.mean(array**2)))
        return array + jnp.asarray(size * rng.normal(size=array.shape), array.dtype)

    return replace_parameters(network, {name: moved(array) for name, array in arrays.items()})


def grown(
    given: Settings, narrow: Any, seen: Arrays, fresh: Arrays, go_on: Callable[[Any], Any]
) -> tuple[Any, dict[str, Any]]:
    """The network with twice the units, its certificate, and where training goes from there."""
    spaces = narrow.unit_spaces()
    wanted = {name: 2 * space.size for name, space in spaces.items() if space.closed is None}
    result = grow(Model(narrow, None, "cross_entropy", given.architecture), wanted, data=seen)
    wide = result.model.network
    others = {"narrow": go_on(narrow), "wide": go_on(wide), "wide_noisy": go_on(noisy(wide, 0))}
    defects = [record.certificate.intertwiner_defect or 0.0 for record in result.records]
    line = {
        "parameters": (count(narrow), count(wide)),
        "change": result.change,
        "gradient": (result.gradient_before, result.gradient_after),
        "defect": max(defects),
        "loss": loss(narrow, seen),
        "losses": {name: loss(network, seen) for name, network in others.items()},
        "accuracy": {name: accuracy(network, fresh) for name, network in others.items()},
    }
    return others["wide_noisy"], line


def difference_alone(network: Any, images: np.ndarray) -> float:
    """The largest difference of the exported PyTorch module, in a process that can import neither us nor JAX."""
    with tempfile.TemporaryDirectory() as folder:
        interop.export_torch(network, folder)
        np.save(pathlib.Path(folder, "inputs.npy"), images)
        subprocess.run([sys.executable, "-c", _ALONE], cwd=folder, check=True)
        outputs = np.load(pathlib.Path(folder, "outputs.npy"))
    return float(np.abs(outputs - logits(network, images)).max())


# -- one architecture


def run(given: Settings, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train, shrink, grow; what was measured."""
    seen, fresh = digits(given, seed)
    is_torch = given.architecture.startswith("torch-")

    def trained(sizes: tuple[int, int, int]) -> Any:
        if not is_torch:
            return fit(new_network(given, sizes, seed), seen, given.epochs, given.rate, seed)
        module = fit_module(new_module(given, sizes, seed), seen, given.epochs, given.rate, seed)
        return with_units(interop.from_torch(module, seen.inputs[0]), seen.inputs[0])

    def go_on(network: Any) -> Any:
        if not is_torch:
            return fit(network, seen, given.epochs, given.rate, seed + 1)
        module = fit_module(interop.to_torch(network), seen, given.epochs, given.rate, seed + 1)
        return interop.from_torch(module, seen.inputs[0])

    tell("training")
    network = trained(given.sizes)
    tell("shrinking")
    small, lines = shrunk(given, network, seen, fresh)
    alone = None
    if is_torch and isinstance(small, Conv):
        alone = difference_alone(small, fresh.inputs)
    tell("growing")
    _, growth = grown(given, trained(given.narrow), seen, fresh, go_on)
    return {"shrunk": lines, "alone": alone, "grown": growth, "shape": size_words(small)}


def with_units(network: Any, example: np.ndarray) -> Any:
    """A network that states its unit spaces; discovered where it does not."""
    if hasattr(network, "unit_spaces"):
        return network
    from lossatlas.embedding import discover_units

    return discover_units(_call, network, example).network


def _call(network: Any, example: Any) -> Any:
    return network(example)


def show(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """The tables."""
    table = Table("", "", "parameters", "largest change", "95 % of new rows", "covered", "largest, new", "accuracy")
    for name, result in results.items():
        for line in result["shrunk"]:
            cells = [name, line["what"], f"{line['parameters']:,}", f"{line['change']:.3g}"]
            cells += ["" if line["bound"] is None else f"{line['bound']:.3g}"]
            cells += ["" if line["covered"] is None else f"{100 * line['covered']:.1f} %"]
            table.add_row(*cells, f"{line['new']:.3g}", f"{100 * line['accuracy']:.2f} %")
    console.print("Shrunk (changes in logits; coverage, largest change and accuracy on the digits held out)")
    console.print(table)
    table = Table("", "parameters", "change", "gradient", "defect", "loss", "narrow", "wide", "with noise", "accuracy")
    for name, result in results.items():
        line = result["grown"]
        cells = ["{:,} -> {:,}".format(*line["parameters"]), f"{line['change']:.1e}"]
        cells += ["{:.3g} -> {:.3g}".format(*line["gradient"]), f"{line['defect']:.1e}", f"{line['loss']:.3g}"]
        cells += [f"{value:.3g}" for value in line["losses"].values()]
        accuracies = line["accuracy"]
        table.add_row(name, *cells, f"{100 * accuracies['narrow']:.2f} -> {100 * accuracies['wide_noisy']:.2f} %")
    console.print("Grown (loss on the training rows: when grown; then after as much training again)")
    console.print(table)
    for name, result in results.items():
        if result["alone"] is not None:
            console.print(f"{name}: the PyTorch module alone differs by {result['alone']:.1e} at most")


def main() -> None:
    """Run and print."""
    names = ("cnn", "transformer", "torch-cnn", "torch-transformer")
    parser = argparse.ArgumentParser(description="Shrink and grow small networks on digits.")
    parser.add_argument("--architecture", choices=(*names, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="a few epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="write all numbers to this file as well")
    asked = parser.parse_args()
    results, log = {}, Console(stderr=True).log
    for name in names if asked.architecture == "all" else (asked.architecture,):
        results[name] = run(
            settings(name, quick=asked.quick), asked.seed, lambda what, name=name: log(f"{name}: {what}")
        )
    show(Console(), results)
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
