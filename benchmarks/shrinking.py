"""Smaller networks without retraining, at equal parameters: LossAtlas, Torch-Pruning and truncated SVD.

    pip install --no-deps torch-pruning    (beside torch and scikit-learn)
    python benchmarks/shrinking.py [--json FILE] [--nets mlp tanh cnn]

Three networks are trained on digits (1,297 images, 500 held out), handed to every method as the same PyTorch module,
and made smaller to 80 ... 5 % of their parameters. Every result is a PyTorch module in the end, and one function
measures them all on the images held out: the root mean square over images of the 2-norm of the change of the logits,
the largest change of a logit, and the accuracy. All start from the same weights, nothing is trained afterwards, and a
result has at most the parameters of its column.

What each method saw: ours the 1,297 images without labels; Torch-Pruning's magnitude the weights alone, its Taylor
and Hessian criteria the images and their labels (gradients of the cross-entropy, anew before every step); SVD the
weights alone; SVD of what layers put out the images.

Ours is one call without options. The peers get the best of several settings, chosen for each column by the change
on the images held out, which is more than a user would have: Torch-Pruning global and by layer, two reductions over a
group, three normalisations, L1, L2, batch-norm scales and LAMP, one unit at a time or nearly so; SVD two allocations
of the ranks.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import _common


THREADS = _common.single_thread()

import argparse
import copy
import dataclasses
import itertools
import json
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from lossatlas.embedding import pruning_path, reduce
from lossatlas.interop import from_torch, to_torch
from lossatlas.networks import Dense


PERCENTS = (80, 60, 40, 25, 15, 10, 5)
_TOLERANCES = (0.02, 0.1, 0.3, 1.0, 3.0, 8.0, 20.0)
_PEER_STEPS = 100
_ROUNDING = 1e-12
_MOST_REFITTED = 100  # neurons of a layer up to which `reduce` is run: its refits of wider ones take many minutes


@dataclasses.dataclass(frozen=True)
class Images:
    """Digits, those seen and those held out."""

    seen: torch.Tensor
    labels: torch.Tensor
    fresh: torch.Tensor
    fresh_labels: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Result:
    """One network made smaller, on the images held out."""

    net: str
    method: str
    percent: int
    setting: str
    parameters: int
    rms: float
    largest: float
    accuracy: float


Found = dict[int, list[tuple[str, nn.Module]]]  # by percentage: settings and what they made


def digits(*, as_images: bool) -> Images:
    """The 8 x 8 digits of scikit-learn, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    x = x.reshape(-1, 1, 8, 8) if as_images else x
    seen, labels, fresh, fresh_labels = (torch.from_numpy(a) for a in (x[:1297], y[:1297], x[1297:], y[1297:]))
    return Images(seen, labels, fresh, fresh_labels)


def nets() -> dict[str, Callable[[], nn.Module]]:
    """The untrained networks."""

    def mlp(activation: type[nn.Module], width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)
        )

    def cnn() -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((1, 16), (16, 32)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    return {
        "mlp": lambda: mlp(nn.ReLU, 200),
        "tanh": lambda: mlp(nn.Tanh, 50),
        "cnn": cnn,
    }


def trained(make: Callable[[], nn.Module], images: Images, epochs: int = 40) -> nn.Module:
    """Adam on minibatches of 64."""
    torch.manual_seed(0)
    module = make().double()
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(images.seen)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images.seen[index]), images.labels[index]).backward()
            optimizer.step()
    return module.eval().requires_grad_(False)  # noqa: FBT003


def size(module: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def ours(module: nn.Module, images: Images, budgets: dict[int, int]) -> Found:
    """`pruning_path`, one network for each budget."""
    network = from_torch(module, images.seen[0])
    path = pruning_path(network, jnp.asarray(images.seen.numpy()))
    return {percent: [("", to_torch(path.with_parameters(most).network))] for percent, most in budgets.items()}


def ours_refitted(module: nn.Module, images: Images, budgets: dict[int, int]) -> Found:
    """`reduce` at several tolerances; for each budget the closest to the whole network on the images seen.

    For fully connected networks only; in others it is `pruning_path`.
    """
    network = from_torch(module, images.seen[0])
    if not isinstance(network, Dense) or max(network.widths[1:-1]) > _MOST_REFITTED:
        return {}
    made = []
    for tolerance in _TOLERANCES:
        small, record = reduce(network, jnp.asarray(images.seen.numpy()), tolerance=tolerance)
        made.append((record.certificate.mean_change, f"tolerance {tolerance:g}", to_torch(small)))
    found: Found = {}
    for percent, most in budgets.items():
        fitting = [each for each in made if size(each[2]) <= most]
        if fitting:
            _, setting, small = min(fitting, key=lambda each: each[0])
            found[percent] = [(setting, small)]
    return found


def truncated(module: nn.Module, images: Images | None, most: int, *, relative: bool) -> nn.Module:
    """Ranks by energy for what they cost, over all layers, such that at most so many parameters are left.

    A layer (m, n) of rank r costs r (m + n), or m n when that is less. With images the energy is that of what the
    layer puts out on them, $W C^{1/2}$, else that of the weights.
    """
    layers = [layer for layer in module if isinstance(layer, nn.Linear | nn.Conv2d)]
    parts, prices = [], []
    for at, layer in enumerate(layers):
        weight = layer.weight.flatten(1).numpy()
        root = np.eye(weight.shape[1]) if images is None else _root(module, layer, images)
        u, values, _ = np.linalg.svd(weight @ root, full_matrices=False)
        parts.append(u)
        energy = values**2 / (values**2).sum() if relative else values**2
        prices += [(e / sum(weight.shape), at) for e in energy]
    order = sorted(prices, reverse=True)
    other = size(module) - sum(layer.weight.numel() for layer in layers)
    ranks = np.zeros((len(order) + 1, len(layers)), int)
    for i, (_, at) in enumerate(order):
        ranks[i + 1] = ranks[i]
        ranks[i + 1, at] += 1
    ranks = np.maximum(ranks, [isinstance(layer, nn.Conv2d) for layer in layers])  # PyTorch has none to no channels
    full = np.array([layer.weight.numel() for layer in layers])
    sides = np.array([sum(layer.weight.flatten(1).shape) for layer in layers])
    fits = np.flatnonzero(other + np.minimum(ranks * sides, full).sum(1) <= most)
    chosen = ranks[fits[-1]]
    made = copy.deepcopy(module)
    wide = iter(zip(layers, parts, chosen, strict=True))
    return nn.Sequential(*itertools.chain.from_iterable(_factored(layer, wide) for layer in made))


def _factored(layer: nn.Module, wide: Iterator) -> list[nn.Module]:
    """A layer as two, W = U (U^T W) with the first r columns of U; itself where that is no smaller."""
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return [layer]
    _, u, rank = next(wide)
    weight = layer.weight.flatten(1)
    if rank * sum(weight.shape) >= weight.numel():
        return [layer]
    left = torch.from_numpy(u[:, :rank])
    right = (left.T @ weight).reshape(rank, *layer.weight.shape[1:])
    if isinstance(layer, nn.Linear):
        first, second = nn.Linear(weight.shape[1], rank, bias=False), nn.Linear(rank, weight.shape[0])
    else:
        size_of, padding = layer.kernel_size, layer.padding
        first = nn.Conv2d(layer.in_channels, rank, size_of, padding=padding, bias=False)
        second = nn.Conv2d(rank, layer.out_channels, 1)
    first.weight, second.weight = nn.Parameter(right), nn.Parameter(left.reshape(second.weight.shape))
    second.bias = layer.bias
    return [first, second]


def _root(module: nn.Module, layer: nn.Module, images: Images) -> np.ndarray:
    """The square root of the second moments of what a layer reads, patches of a convolution."""
    x = images.seen
    for part in module:
        if part is layer:
            break
        x = part(x)
    if isinstance(layer, nn.Conv2d):
        x = nn.functional.unfold(x, layer.kernel_size, padding=layer.padding)
        x = x.movedim(1, 2).flatten(0, 1)
    values, vectors = np.linalg.eigh((x.T @ x).numpy() / len(x))
    return vectors * np.sqrt(np.maximum(values, 0.0))


def magnitude(module: nn.Module, images: Images, budgets: dict[int, int]) -> Found:
    """Torch-Pruning, criteria that need the weights alone."""
    from torch_pruning.pruner import importance

    settings: dict[str, Callable] = {}
    for p, reduction, normalizer in itertools.product((1, 2), ("mean", "first"), (None, "mean", "max")):
        name = f"L{p}, {reduction}, normalised by {normalizer}"
        settings[name] = lambda p=p, r=reduction, n=normalizer: importance.GroupMagnitudeImportance(
            p=p, group_reduction=r, normalizer=n
        )
    settings["LAMP"] = importance.LAMPImportance
    if any(isinstance(layer, nn.BatchNorm2d) for layer in module):
        settings["batch-norm scales"] = importance.BNScaleImportance
    return torch_pruned(module, images, budgets, settings)


def taylor(module: nn.Module, images: Images, budgets: dict[int, int]) -> Found:
    """Torch-Pruning, first-order Taylor."""
    from torch_pruning.pruner import importance

    settings: dict[str, Callable] = {}
    for several, reduction, normalizer in itertools.product((False, True), ("mean", "first"), (None, "mean")):
        name = f"{'sum' if several else 'each'}, {reduction}, normalised by {normalizer}"
        settings[name] = lambda m=several, r=reduction, n=normalizer: importance.GroupTaylorImportance(
            multivariable=m, group_reduction=r, normalizer=n
        )
    return torch_pruned(module, images, budgets, settings, with_labels=True)


def torch_pruned(
    module: nn.Module,
    images: Images,
    budgets: dict[int, int],
    settings: dict[str, Callable],
    *,
    with_labels: bool = False,
) -> Found:
    """All settings, globally and layer by layer, in small steps; the first network within each budget."""
    from torch_pruning.pruner.algorithms.base_pruner import BasePruner

    found: Found = {percent: [] for percent in budgets}
    for (name, make), is_global in itertools.product(settings.items(), (True, False)):
        model = copy.deepcopy(module).requires_grad_(True)  # noqa: FBT003
        head = [layer for layer in model if isinstance(layer, nn.Linear)][-1]
        pruner = BasePruner(
            model,
            images.seen[:1],
            importance=make(),
            global_pruning=is_global,
            pruning_ratio=1.0,
            max_pruning_ratio=0.98,
            iterative_steps=_PEER_STEPS,
            ignored_layers=[head],
        )
        left = dict(budgets)
        for _ in range(_PEER_STEPS):
            if with_labels:
                model.zero_grad()
                nn.functional.cross_entropy(model(images.seen), images.labels).backward()
            pruner.step()
            for percent in [p for p, most in left.items() if size(model) <= most]:
                del left[percent]
                label = f"{name}, {'global' if is_global else 'by layer'}"
                found[percent].append((label, copy.deepcopy(model)))
            if not left:
                break
    return found


def measured(net: str, method: str, found: Found, module: nn.Module, images: Images) -> list[Result]:
    """The best setting for each size, by the change on the images held out."""
    before, results = module(images.fresh), []
    for percent, made in found.items():
        candidates = []
        for setting, small in made:
            with torch.no_grad():
                after = small(images.fresh)
            change = (after - before).numpy()
            rms = math.sqrt(float((change**2).sum(1).mean()))
            accuracy = float((after.argmax(1) == images.fresh_labels).double().mean())
            largest = float(np.abs(change).max())
            candidates.append(Result(net, method, percent, setting, size(small), rms, largest, accuracy))
        if candidates:
            results.append(min(candidates, key=lambda result: result.rms))
    return results


METHODS: dict[str, Callable[[nn.Module, Images, dict[int, int]], Found]] = {
    "ours, pruning_path": ours,
    "ours, reduce": ours_refitted,
    "Torch-Pruning, magnitude": magnitude,
    "Torch-Pruning, Taylor": taylor,
    "SVD of the weights": lambda module, _, budgets: by_svd(module, None, budgets),
    "SVD of what layers put out": lambda module, images, budgets: by_svd(module, images, budgets),
}


def by_svd(module: nn.Module, images: Images | None, budgets: dict[int, int]) -> Found:
    """Truncated SVD, ranks by plain and by relative energy."""
    found: Found = {percent: [] for percent in budgets}
    for (percent, most), relative in itertools.product(budgets.items(), (False, True)):
        name = "relative energy" if relative else "energy"
        found[percent].append((name, truncated(module, images, most, relative=relative)))
    return found


def show(net: str, module: nn.Module, images: Images, results: list[Result], seconds: dict[str, float]) -> None:
    """One table: rms, largest change, accuracy for each size."""
    with torch.no_grad():
        before = module(images.fresh)
    accuracy = float((before.argmax(1) == images.fresh_labels).double().mean())
    spread = float((before - before.mean(0)).norm(dim=1).square().mean().sqrt())
    print(f"\n{net}: {size(module):,} parameters, accuracy {accuracy:.3f}")
    print(f"rms of the logits about their mean on the images held out: {spread:.3g}")
    print("rms change / largest change / accuracy on the images held out")
    print(f"{'':<28}" + "".join(f"{f'{percent} %':>21}" for percent in PERCENTS))
    for method in METHODS:
        mine = {result.percent: result for result in results if result.method == method}
        if not mine:
            continue
        cells = [mine.get(percent) for percent in PERCENTS]
        line = "".join(f"{f'{c.rms:.2g}/{c.largest:.2g}/{c.accuracy:.3f}' if c else '-':>21}" for c in cells)
        print(f"{method:<28}{line}  {seconds[method]:.1f} s")
    for percent in PERCENTS:
        peers = [r for r in results if r.percent == percent and not r.method.startswith("ours")]
        mine = [r for r in results if r.percent == percent and r.method.startswith("ours")]
        best, peer = min(mine, key=lambda r: r.rms), min(peers, key=lambda r: r.rms)
        most = max(peers, key=lambda r: r.accuracy)
        times = peer.rms / max(best.rms, 1e-300)
        is_rounding = max(best.rms, peer.rms) < _ROUNDING * spread
        word = "even" if is_rounding else "ahead" if best.rms < peer.rms else "BEHIND"
        also = "ahead" if best.accuracy > most.accuracy else "even" if best.accuracy == most.accuracy else "BEHIND"
        print(
            f"{percent:>3} %: {word} on the change (best peer: {peer.method}, {peer.setting}; its rms is "
            f"{times:.2g} times ours), {also} on accuracy ({best.accuracy:.3f}, {most.accuracy:.3f} of "
            f"{most.method})"
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Smaller networks at equal parameters, without retraining.")
    parser.add_argument("--json", type=pathlib.Path, help="write the results to this file as well")
    parser.add_argument("--nets", nargs="*", default=list(nets()), choices=list(nets()))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Initializing zero-element")
    warnings.filterwarnings("ignore", module="torch_pruning")
    found = _common.versions("lossatlas", "jax", "torch", "torch-pruning", "numpy", "scikit-learn")
    print("  ".join(f"{name} {version}" for name, version in found.items()), f" threads {THREADS}")
    results = []
    for net in options.nets:
        images = digits(as_images=net == "cnn")
        module = trained(nets()[net], images)
        budgets = {percent: size(module) * percent // 100 for percent in PERCENTS}
        seconds = {}
        for method, make in METHODS.items():
            clock = time.perf_counter()
            try:
                made = make(module, images, budgets)
            except ImportError:
                print(f"{method}: not run, torch-pruning is not installed (pip install --no-deps torch-pruning)")
                continue
            seconds[method] = time.perf_counter() - clock
            results += measured(net, method, made, module, images)
        show(net, module, images, [result for result in results if result.net == net], seconds)
        sys.stdout.flush()
    if options.json is not None:
        content = {"versions": found, "results": [dataclasses.asdict(result) for result in results]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
