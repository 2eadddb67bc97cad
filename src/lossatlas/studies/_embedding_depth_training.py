"""The training runs of the study of the embedding principle in depth: stalls, normalisation, more data, pruning."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from sklearn.datasets import load_digits

from lossatlas import data
from lossatlas._progress import ProgressMeter
from lossatlas.embedding import prune_by_linearization
from lossatlas.geometry import linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense
from lossatlas.studies._points import outputs, table
from lossatlas.training import Training, train


_SNAPSHOTS = 120
_MEASURED = 24  # snapshots at which the linearity of the layers is measured
_TRAINED = 1e-3  # mean square error below which training has succeeded


def curve(x: np.ndarray) -> np.ndarray:
    """The one-dimensional target."""
    return 0.6 * np.sin(2.2 * x) + 0.4 * np.tanh(3 * x)


def line_landscape(num: int = 60) -> Landscape:
    """The target at equidistant points of [-3, 3]."""
    x = 3 * np.linspace(-1, 1, num)[:, None]
    return Landscape(jnp.asarray(x), jnp.asarray(curve(x)))


def mean_square(loss: Any) -> np.ndarray:
    """The papers' squared error, without the half of ours."""
    return 2 * np.asarray(loss)


def stalled(steps: np.ndarray, loss: np.ndarray) -> int:
    """Where the loss is flattest on logarithmic axes, after 20 steps and before half of the run."""
    slope = np.abs(np.gradient(np.log(loss[1:]), np.log(steps[1:])))  # step 0 has no logarithm
    inside = np.flatnonzero((steps[1:] >= 20) & (steps[1:] < steps[-1] / 2))
    return 1 + int(inside[np.argmin(slope[inside])])


def _log_steps(num_steps: int, count: int = _SNAPSHOTS) -> np.ndarray:
    return np.unique(np.append(0, np.geomspace(1, num_steps, count).astype(int)))


def _mpc(network: Dense, landscape: Landscape) -> np.ndarray:
    return np.asarray(linearization(network, landscape, keep=1.0).mpc)


def stalls(
    key: jax.Array, depths: Sequence[int], width: int, std: float, rate: float, num_steps: int, progress: ProgressMeter
) -> tuple[xr.Dataset, xr.Dataset]:
    """Tanh networks of several depths on the one-dimensional data: losses, stalls, and how linear each layer is."""
    landscape = line_landscape()
    runs, rows = [], []
    most, steps = max(depths), _log_steps(num_steps)
    measured = np.unique(np.linspace(0, len(steps) - 1, _MEASURED).astype(int))
    mpc = np.full((len(depths), len(measured), most), np.nan)
    for i, depth in enumerate(depths):
        run = _trained(key, (1, *[width] * depth, 1), "tanh", std, landscape, rate, num_steps, progress)
        runs.append(mean_square(run.loss))
        for j, at in enumerate(measured):
            mpc[i, j, :depth] = _mpc(run.network_at(int(at)), landscape)
        at = stalled(run.steps, run.loss)
        done = np.flatnonzero(mean_square(run.loss) < _TRAINED)
        end = int(done[0]) if len(done) else run.num_snapshots - 1
        rows.append(
            {
                "depth": depth,
                "stall_step": int(run.steps[at]),
                "stall": float(mean_square(run.loss[at])),
                "stall_mpc": float(_mpc(run.network_at(at), landscape).min()),
                "stall_linear": _num_linear(run.network_at(at), landscape),
                "end_loss": float(mean_square(run.loss[end])),
                "end_linear": _num_linear(run.network_at(end), landscape),
                "trained": bool(len(done)),
            }
        )
    x = np.column_stack([landscape.inputs, np.ones(landscape.size)])
    y = np.asarray(landscape.targets)
    straight = float(np.mean((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2))
    curves = xr.Dataset(
        {
            "loss": (("depth", "step"), np.array(runs)),
            "mpc": (("depth", "measured", "layer"), mpc),
            "straight": straight,
        },
        {"depth": list(depths), "step": steps, "measured": steps[measured], "layer": np.arange(1, most + 1)},
    )
    return curves, table(rows, "network")


def _num_linear(network: Dense, landscape: Landscape) -> int:
    return int((_mpc(network, landscape) > 0.99).sum())


def _trained(
    key: jax.Array,
    widths: Sequence[int],
    activation: str,
    std: float,
    landscape: Landscape,
    rate: float,
    num_steps: int,
    progress: ProgressMeter,
) -> Training:
    """Gradient descent with the rate of the papers' squared error, which is twice ours."""
    network = Dense(key, widths, activation=activation, init=lambda *_: std)
    return train(
        key,
        network,
        landscape,
        learning_rate=2 * rate,
        num_steps=num_steps,
        snapshots=_log_steps(num_steps),
        progress=progress,
    )


def iris(
    key: jax.Array, depths: Sequence[int], std: float, num_steps: int, progress: ProgressMeter
) -> tuple[xr.Dataset, xr.Dataset]:
    """ReLU networks of 50 neurons a layer on iris: losses and stalls."""
    landscape = data.load("iris").landscape("mse")
    labels = np.asarray(landscape.targets).argmax(1)
    losses, rows = [], []
    for depth in depths:
        run = _trained(key, (4, *[50] * depth, 3), "relu", std, landscape, 0.01, num_steps, progress)
        at = stalled(run.steps, run.loss)
        losses.append(mean_square(run.loss))
        said = np.asarray(outputs(run.network_at(at), landscape.inputs))
        rows.append(
            {
                "depth": depth,
                "stall_step": int(run.steps[at]),
                "stall": float(mean_square(run.loss[at])),
                "accuracy": float(np.mean(said.argmax(1) == labels)),
                "end_loss": float(mean_square(run.loss[-1])),
            }
        )
    constant = float(np.mean(np.sum((np.asarray(landscape.targets) - np.mean(landscape.targets, axis=0)) ** 2, 1)))
    curves = xr.Dataset(
        {"loss": (("depth", "step"), np.array(losses)), "constant": constant},
        {"depth": list(depths), "step": _log_steps(num_steps)},
    )
    return curves, table(rows, "network")


# BatchNorm (Figure 5)


def normalised(key: jax.Array, scales: Sequence[float], num_steps: int, progress: ProgressMeter) -> xr.Dataset:
    """Two tanh layers with BatchNorm before the activation, by its initial scale (0: without it): losses and MPC."""
    line = line_landscape()
    landscape = Landscape(line.inputs[:, :, None, None], line.targets)  # as images of one pixel
    losses, linear = [], []
    middle = num_steps // 2
    steps = np.unique(np.append(_log_steps(num_steps), middle))
    for scale in scales:
        # On one pixel a convolution is a fully connected layer.
        network = Conv(
            key,
            (1, 1, 1),
            [50, 50],
            [1],
            kernel=1,
            norm="batch" if scale else None,
            batch_statistics=bool(scale),
            init=lambda *_: 0.1,
        )
        if scale:
            network = eqx.tree_at(lambda n: [c.norm.scale for c in n.convs], network, [jnp.full(50, scale)] * 2)
        run = train(
            key, network, landscape, learning_rate=0.02, num_steps=num_steps, snapshots=steps, progress=progress
        )
        losses.append(mean_square(run.loss))
        at = run.network_at(int(np.searchsorted(run.steps, middle)))
        linear.append(_correlation(at, landscape.inputs))
    return xr.Dataset(
        {"loss": (("scale", "step"), np.array(losses)), "mpc": ("scale", np.array(linear)), "middle": middle},
        {"scale": list(scales), "step": steps},
    )


def _correlation(network: Conv, inputs: jax.Array) -> float:
    """The least |correlation| of a neuron before and after its activation, over both layers, with batch statistics."""
    features, least = np.asarray(inputs)[:, :, 0, 0], 1.0
    for layer in network.convs:
        before = features @ np.asarray(layer.conv.weight)[:, :, 0, 0].T + np.asarray(layer.conv.bias)
        if layer.norm is not None:
            scaled = (before - before.mean(0)) / np.sqrt(before.var(0) + layer.norm.eps)
            before = scaled * np.asarray(layer.norm.scale) + np.asarray(layer.norm.shift)
        features = np.tanh(before)
        each = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(before.T, features.T, strict=True)]
        least = min(least, *each)
    return float(least)


# More data (Figure 6)


def more_data(
    key: jax.Array, sizes: Sequence[int], num_orders: int, stall_steps: int, num_steps: int, progress: ProgressMeter
) -> xr.Dataset:
    """Three hidden layers trained on 70 of 100 points, drawn at random, to a stall, then on more of them."""
    points = 3 * np.linspace(-1, 1, 100)[:, None]
    steps = np.unique(np.append(0, np.linspace(1, num_steps, 80).astype(int)))
    shape = (num_orders, len(sizes))
    losses, bent = np.zeros((*shape, len(steps))), np.full(shape, np.nan)
    for i in range(num_orders):
        ours = jax.random.fold_in(key, i)
        x = points[np.asarray(jax.random.permutation(ours, 100))]
        parts = [Landscape(jnp.asarray(x[:n]), jnp.asarray(curve(x[:n]))) for n in (70, *sizes)]
        first = _trained(ours, (1, 50, 50, 50, 1), "tanh", 0.1, parts[0], 0.01, stall_steps, progress)
        for j, part in enumerate(parts[1:]):
            run = train(
                ours,
                first.network,
                part,
                learning_rate=0.02,
                num_steps=num_steps,
                snapshots=steps,
                progress=progress,
            )
            losses[i, j] = mean_square(run.loss)
            found = (step for k, step in enumerate(run.steps) if _mpc(run.network_at(k), part).min() < 0.99)
            bent[i, j] = next(found, np.nan)
    return xr.Dataset(
        {
            "loss": (("order", "examples", "step"), losses),
            "halved": (("order", "examples"), _first(steps, losses < 0.5 * losses[..., :1])),
            "bent": (("order", "examples"), bent),
        },
        {"examples": list(sizes), "step": steps},
    )


def _first(steps: np.ndarray, is_so: np.ndarray) -> np.ndarray:
    """The first step at which it is so, along the last axis; NaN where it never is."""
    return np.where(is_so.any(-1), steps[is_so.argmax(-1)], np.nan)


# Pruning (Figure 7)


def pruned(key: jax.Array, num_steps: int, std: float, progress: ProgressMeter) -> tuple[xr.Dataset, xr.Dataset]:
    """Ten hidden layers on 1,000 digits: how linear each is, and what is left without the linear ones."""
    images, labels = load_digits(return_X_y=True)
    order_key, ours = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, len(images)))
    x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order], jnp.int32)
    seen, fresh = (Landscape(x[part], y[part], loss="cross_entropy") for part in (slice(1000), slice(1000, None)))
    network = Dense(ours, [64, *[50] * 10, 10], init=lambda *_: std, dtype=jnp.float32)
    network = train(
        ours,
        network,
        seen,
        optimizer="adam",
        learning_rate=1e-3,
        num_steps=num_steps,
        batch_size=100,
        snapshots=[0, num_steps],
        progress=progress,
    ).network
    says = np.asarray(fresh.predictions(network)).argmax(1)
    rows = []
    for threshold in (0.99, 0.98, 0.95):
        small, _ = prune_by_linearization(network, seen, threshold, keep=1.0)
        answers = np.asarray(fresh.predictions(small)).argmax(1)
        rows.append(
            {
                "threshold": threshold,
                "hidden_layers": len(small.layers) - 1,
                "agreement": float(np.mean(answers == says)),
                "accuracy": float(np.mean(answers == np.asarray(fresh.targets))),
            }
        )
    layers = xr.Dataset(
        {
            "mpc": ("layer", _mpc(network, seen)),
            "accuracy": float(np.mean(says == np.asarray(fresh.targets))),
        },
        {"layer": np.arange(1, 11)},
    )
    return layers, table(rows, "pruning")
