"""Ten hidden layers on MNIST: which of them act linearly, and what remains when these are removed.

    LOSSATLAS_DATA=FOLDER python examples/prune_depth_mnist.py [--quick] [--std 0.14] [--decays 1.0 0.3 0] [--json FILE]

Tanh networks 784-50x10-10 are trained on 7,000 images (Adam 1e-3, batches of 100) with each weight decay. Hidden layers
whose minimal Pearson correlation (MPC) exceeds 0.99 on the training images are removed, each neuron replaced by its
line. On 1,000 validation images the decay is chosen: the fewest hidden layers left among those whose pruned network is
within one standard error of the best. The chosen network then meets the 2,000 other images; beside the
removal of layers stands `embedding.reduce`, which is asked for a largest change of a logit on the training images that
it looks at, and gives none on others.

It is weight decay that makes the layers linear: it keeps pre-activations where tanh is a line. Without it no layer was
linear in a network of good accuracy here. Bai et al. 2022 (arXiv 2205.13283, Figure 7), on 60,000 images and with
another optimiser, report 10 -> 5 hidden layers, an agreement of 98.54 % and an accuracy of 95.4 -> 95.27 %.
LOSSATLAS_DATA is a folder with the MNIST files; without it they are fetched from OpenML.
"""

import argparse
import itertools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from lossatlas import data
from lossatlas.embedding import prune_by_linearization, reduce
from lossatlas.geometry import linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train


_VALIDATION = 1000


class Line(NamedTuple):
    """What one way of pruning left."""

    what: str
    hidden: str
    parameters: int
    agreement: float
    accuracy: float
    largest_change: float


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prune the linear layers of a deep tanh network on MNIST.")
    parser.add_argument("--std", type=float, default=0.14, help="standard deviation of the initial weights")
    parser.add_argument("--decays", type=float, nargs="+", default=[1.0, 0.3, 0.0], help="weight decays of AdamW")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=7000, help="training images that reduce looks at")
    parser.add_argument("--tolerances", type=float, nargs="*", default=[0.5, 2.0], help="of reduce, in logits")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps, one decay, one tolerance")
    parser.add_argument("--json", type=pathlib.Path, help="write the table to this file as well")
    given = parser.parse_args()
    if given.quick:
        given.steps, given.decays, given.tolerances, given.rows = given.steps // 5, given.decays[:1], [2.0], 1000
    return given


def trained(given: argparse.Namespace, decay: float, landscape: Landscape) -> Dense:
    """The network after training."""
    key, order = jax.random.split(jax.random.key(given.seed))
    start = Dense(key, [784, *[50] * 10, 10], init=lambda *_: given.std, dtype=jnp.float32)
    run = train(
        order,
        start,
        landscape,
        optimizer=optax.adamw,
        learning_rate=1e-3,
        hyperparameters={"weight_decay": decay},
        num_steps=given.steps,
        batch_size=100,
        snapshots=[0, given.steps],
        progress="rich",
    )
    return run.network


def measured(what: str, network: Dense, pruned: Dense, fresh: Landscape) -> Line:
    """A network beside the one that it was pruned from, on fresh images."""
    before, after = (np.asarray(fresh.predictions(n), float) for n in (network, pruned))
    layers = [f"{k}+{r}" if r else str(k) for k, r in zip(pruned.widths[1:-1], pruned.num_linear, strict=True)]
    runs = [(size, len(list(group))) for size, group in itertools.groupby(layers)]
    widths = ", ".join(size if count == 1 else f"{count} x {size}" for size, count in runs)
    size = sum(leaf.size for leaf in jax.tree.leaves(pruned) if hasattr(leaf, "size"))
    return Line(
        what,
        widths,
        size,
        float(np.mean(before.argmax(1) == after.argmax(1))),
        float(np.mean(after.argmax(1) == np.asarray(fresh.targets))),
        float(np.abs(after - before).max()),
    )


def _table(title: str, lines: list[Line]) -> Table:
    table = Table("", "hidden layers", "parameters", "agreement", "accuracy", "largest change", title=title)
    for line in lines:
        agreement, accuracy = f"{100 * line.agreement:.2f} %", f"{100 * line.accuracy:.2f} %"
        table.add_row(line.what, line.hidden, f"{line.parameters:,}", agreement, accuracy, f"{line.largest_change:.3g}")
    return table


def chosen(lines: list[Line], num_layers: list[int], num_images: int) -> int:
    """Which network: the fewest hidden layers within one standard error of the best accuracy."""
    best = max(line.accuracy for line in lines)
    margin = float(np.sqrt(best * (1 - best) / num_images))
    near = [i for i, line in enumerate(lines) if line.accuracy >= best - margin]
    return min(near, key=lambda i: (num_layers[i], -lines[i].accuracy))


def main() -> None:
    """Train, choose, prune, and print what is left."""
    given, console = options(), Console()
    digits = data.load("mnist", test_fraction=0.2)
    all_seen = digits.landscape("cross_entropy", dtype="float32")
    assert digits.held_out is not None
    fresh = digits.held_out.landscape("cross_entropy", dtype="float32")
    parts = (slice(None, -_VALIDATION), slice(-_VALIDATION, None))
    seen, validation = (Landscape(all_seen.inputs[p], all_seen.targets[p], loss="cross_entropy") for p in parts)
    networks = [trained(given, decay, seen) for decay in given.decays]
    pruned = [prune_by_linearization(network, seen, 0.99, keep=1.0)[0] for network in networks]
    trials = [
        measured(f"decay {decay:g}", *both, validation)
        for decay, *both in zip(given.decays, networks, pruned, strict=True)
    ]
    best = chosen(trials, [len(p.layers) - 1 for p in pruned], _VALIDATION)
    console.print(_table("MPC > 0.99, 1,000 validation images", trials))
    console.print(f"Chosen: weight decay {given.decays[best]:g}")
    network = networks[best]
    found = linearization(network, seen, keep=1.0)
    console.print("MPC of the layers:", " ".join(f"{v:.3f}" for v in np.asarray(found.mpc)))
    lines = [measured("trained", network, network, fresh)]
    for threshold in (0.99, 0.98, 0.95):
        small, _ = prune_by_linearization(network, seen, threshold, keep=1.0)
        lines.append(measured(f"MPC > {threshold}", network, small, fresh))
    some = Landscape(seen.inputs[: given.rows], seen.targets[: given.rows], loss="cross_entropy")
    for tolerance in given.tolerances:
        with console.status(f"reducing to {tolerance:g} logits"):
            small, _ = reduce(network, some, tolerance=tolerance)
        lines.append(measured(f"reduce to {tolerance:g} logits", network, small, fresh))
    console.print(_table(f"{len(fresh.inputs):,} images that nothing has seen", lines))
    if given.json is not None:
        content = {
            "mpc": [float(v) for v in np.asarray(found.mpc)],
            "decay": given.decays[best],
            "trials": [line._asdict() for line in trials],
            "lines": [line._asdict() for line in lines],
        }
        given.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
