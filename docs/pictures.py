"""Draw the pictures of the pages: `python docs/pictures.py [NAMES]` writes docs/pictures/*.svg.

Every picture is made by the library from a computation that stands here. `FAST` ones take seconds and are made anew by
the tests; the others come from a survey, a diagnosis, a shrinking and a study (some minutes). Needs the extra `paper`
and an installed Chromium.
"""

import dataclasses
import importlib
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

import lossatlas
from lossatlas import atlas, data, embedding, figures, geometry, networks, theory, training, workbench
from lossatlas.figures._theme import PALETTE, PAPER, new_figure
from lossatlas.landscape import Landscape


FOLDER = pathlib.Path(__file__).parent / "pictures"
WIDTH = 720
_KEY = 3


def problem() -> Landscape:
    """The problem of most pictures: 200 rows of two numbers, answered by three tanh neurons."""
    return data.load("teacher").landscape()


def best_of(width: int, landscape: Landscape, starts: int = 6) -> geometry.CriticalPoint:
    """The lowest minimum of a width that a few starts find."""
    keys = jax.random.split(jax.random.key(_KEY), starts)
    found = geometry.find_critical_points(
        [networks.Dense(key, [2, width, 1]) for key in keys], landscape, method="trust_region"
    )
    return min((point for point in found if str(point.status) == "converged"), key=lambda point: float(point.loss))


def landscape_picture() -> go.Figure:
    """A plane through the landscape of two neurons, with the best neuron embedded in it."""
    landscape = problem()
    one, two = best_of(1, landscape), best_of(2, landscape)
    first, second = (embedding.split(one.network, "hidden[0]", 0, share)[0] for share in (0.0, 1.0))
    target = embedding.match(two.network, first, landscape=landscape)[0]
    origin, right, up = (_vector(net) for net in (first, second, target))
    right, up = right - origin, up - origin
    side = np.linalg.norm(right)
    right /= side
    up -= right * (up @ right)
    height = np.linalg.norm(up)
    up /= height
    x = np.linspace(-0.6 * side, 1.6 * side, 121)
    y = np.linspace(-0.5 * height, 1.4 * height, 101)
    points = origin + x[None, :, None] * right + y[:, None, None] * up
    losses = np.array([[float(v) for v in row] for row in _losses(landscape, first, points)])
    figure = new_figure(height=460, margin={"l": 64, "r": 16, "t": 44, "b": 52}, compact=False)
    figure.add_contour(
        x=x,
        y=y,
        z=np.log10(losses),
        ncontours=24,
        colorscale="Cividis",
        line={"width": 0.5},
        colorbar={"title": {"text": "loss, log10", "side": "right"}, "thickness": 12},
    )
    figure.add_scatter(
        x=[x[0], x[-1]],
        y=[0, 0],
        mode="lines",
        line={"color": PALETTE[4], "width": 4},
        name=f"one neuron, split in all ways: {float(one.loss):.4f}",
    )
    place = (_vector(target) - origin) @ np.stack([right, up], axis=1)
    figure.add_scatter(
        x=[place[0]],
        y=[place[1]],
        mode="markers",
        marker={"symbol": "star", "size": 16, "color": PALETTE[1], "line": {"color": PAPER, "width": 1}},
        name=f"two neurons, the best: {float(two.loss):.4f}",
    )
    figure.update_xaxes(title="along the split", range=[x[0], x[-1]])
    figure.update_yaxes(title="towards the best two neurons", range=[y[0], y[-1]])
    return figure


def _vector(network: networks.Dense) -> np.ndarray:
    return np.concatenate([np.ravel(v) for v in networks.named_parameters(network).values()])


def _losses(landscape: Landscape, like: networks.Dense, points: np.ndarray) -> np.ndarray:
    shapes = {name: leaf.shape for name, leaf in networks.named_parameters(like).items()}

    @jax.jit
    def loss(landscape, vector):
        values, start = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            values[name] = vector[start : start + size].reshape(shape)
            start += size
        return landscape(networks.replace_parameters(like, values))

    return np.asarray(jax.lax.map(lambda row: jax.vmap(lambda v: loss(landscape, v))(row), jnp.asarray(points)))


def move_picture() -> go.Figure:
    """Eight seeds from small weights, across the levels of the small networks."""
    landscape = problem()
    keys = jax.random.split(jax.random.key(0), 8)
    runs = training.train_ensemble(
        keys, lambda key: networks.Dense(key, [2, 20, 1], init=1.5), landscape, learning_rate=0.05, num_steps=30_000
    )
    curves = {f"seed {i}": (runs.member(i).steps, runs.member(i).loss) for i in range(len(keys))}
    linear = theory.linear_levels(np.asarray(landscape.inputs), np.asarray(landscape.targets))
    levels = {"a constant": linear.loss(0), "linear": linear.loss(1)}
    levels |= {f"{n} neuron{'s' * (n > 1)}": float(best_of(n, landscape).loss) for n in (1, 2)}
    figure = figures.curves_figure(
        curves, x="step of gradient descent", y="loss", x_scale="log", y_scale="log", levels=levels
    )
    return figure.update_layout(showlegend=False)


def look_picture() -> go.Figure:
    """The critical points of two neurons that many starts find: loss against number of negative eigenvalues."""
    landscape = problem()
    keys = jax.random.split(jax.random.key(1), 60)
    starts = [networks.Dense(key, [2, 2, 1]) for key in keys]
    groups: dict[str, tuple[list[float], list[float], list[str]]] = {}
    for point in geometry.find_critical_points(starts, landscape):
        if str(point.status) != "converged":
            continue
        counted = geometry.inertia(point.network, landscape)
        name = {"yes": "saddle", "no": "minimum"}.get(str(counted.is_strict_saddle), "not certified")
        xs, ys, texts = groups.setdefault(name, ([], [], []))
        xs.append(counted.negative)
        ys.append(float(point.loss))
        texts.append(f"{float(point.loss):.5g}: {counted.counts}")
    return figures.points_figure(
        {name: (np.array(x), np.array(y), t) for name, (x, y, t) in sorted(groups.items())},
        x="negative eigenvalues of the Hessian",
        y="loss of the critical point",
    )


def map_picture() -> go.Figure:
    """A neuron trained to its end, split, its copies moved apart, trained on; and so again."""
    landscape = problem()
    curves, network, before = {}, networks.Dense(jax.random.key(_KEY), [2, 1, 1]), 0
    for width in (1, 2, 3):
        if width > 1:
            wide, record = embedding.widen(network, [width])
            network, _ = embedding.part_copies(jax.random.key(width), wide, record, noise=0.2)
        run = training.train(jax.random.key(0), network, landscape, learning_rate=0.2, num_steps=20_000, snapshots=400)
        curves[f"{width} neuron{'s' * (width > 1)}"] = (before + run.steps, run.loss)
        network, before = run.network, before + 20_000
    return figures.curves_figure(curves, x="step of gradient descent", y="loss", y_scale="log")


def predict_picture() -> go.Figure:
    """A linear network trained from small weights, and the levels that theory gives from the data alone."""
    iris = data.load("iris").landscape()
    inputs, targets = np.asarray(iris.inputs), np.asarray(iris.targets)
    levels = theory.linear_levels(inputs, targets)
    network = networks.Dense(jax.random.key(0), [4, 8, 3], activation="identity", init=3.0)
    run = training.train(jax.random.key(0), network, iris, learning_rate=0.05, num_steps=20_000, snapshots=200)
    return figures.curves_figure(
        {"linear network, measured": (run.steps, run.loss)},
        x="step of gradient descent",
        y="loss",
        x_scale="log",
        levels={f"rank {r}, predicted": levels.loss(r) for r in range(levels.rank + 1)},
    )


def classifier(seed: int, num_steps: int = 150) -> training.Training:
    """A ReLU network on iris, trained by Adam: 35 snapshots of the way."""
    network = networks.Dense(jax.random.key(seed), [4, 16, 16, 3], activation="relu", init="he")
    options: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.01, "num_steps": num_steps}
    snapshots = np.unique(np.linspace(0, num_steps, 35).astype(int))
    return training.train(jax.random.key(0), network, flowers(), snapshots=snapshots, **options)


def flowers() -> Landscape:
    """Iris with cross-entropy."""
    return data.load("iris").landscape("cross_entropy")


def curvature_picture() -> go.Figure:
    """The spectrum of the Hessian of a classifier that has just been trained."""
    network, landscape = classifier(0).network, flowers()
    ends = geometry.spectrum(network, landscape, num_top=12, num_bottom=12)
    found = geometry.spectral_density(jax.random.key(1), network, landscape, num_probes=20)
    density = {name: np.asarray(getattr(found, name)) for name in ("grid", "density", "standard_error")}
    return figures.spectrum_figure(np.asarray(ends.values), density, size=networks.num_parameters(network))


def plane_picture() -> go.Figure:
    """The way of training on the plane of its two principal components."""
    run, landscape = classifier(0), flowers()
    directions = geometry.trajectory_directions(run.network, run.parameters)
    plane = geometry.refined_slice(jax.random.key(1), run.network, landscape, directions)
    trajectory = geometry.project_trajectory(run.network, directions, run)
    return figures.plane_figure(plane.on_grid(121).to_xarray(), trajectory=trajectory.to_xarray())


def path_picture() -> go.Figure:
    """From one seed to another: straight, with matched units, and along a trained curve."""
    (one, two), landscape = (classifier(seed).network for seed in range(2)), flowers()
    _, made = embedding.rebasin(two, one, landscape)
    curve, _ = geometry.find_curve(jax.random.key(2), one, two, landscape, num_steps=1000)
    paths = {"straight line": geometry.Path((one, two)), "after matching": made.path, "curve": curve}
    return figures.path_figure({name: geometry.barrier(path, landscape) for name, path in paths.items()})


def kernel_picture() -> go.Figure:
    """The kernel of 250 digits after training."""
    digits = data.load("digits").landscape("cross_entropy")
    inputs, labels = np.asarray(digits.inputs), np.asarray(digits.targets)
    landscape = Landscape(inputs[:1000], labels[:1000], loss="cross_entropy")
    network = networks.Dense(jax.random.key(0), [inputs.shape[1], 64, 10], activation="relu", init="he")
    options: dict[str, Any] = {"optimizer": "adam", "learning_rate": 1e-3, "num_steps": 300}
    run = training.train(jax.random.key(0), network, landscape, **options)
    kernel = geometry.ntk(run.network, Landscape(inputs[1000:1250], labels[1000:1250], loss="cross_entropy"))
    return figures.kernel_matrix_figure(np.asarray(kernel.matrix, float), labels[1000:1250])


def flatness_picture() -> go.Figure:
    """What measures of flatness become when the same function is written with other weights."""
    measures = ["hessian", "local_energy", "sharpness", "pac_bayes"]
    report = geometry.flatness_report(jax.random.key(2), classifier(0).network, flowers(), measures=measures)
    assert report.audit is not None
    return figures.audit_figure([dataclasses.asdict(row) for row in report.audit.rows])


FAST: dict[str, Callable[[], go.Figure]] = {
    "curvature": curvature_picture,
    "plane": plane_picture,
    "path": path_picture,
    "kernel": kernel_picture,
    "flatness": flatness_picture,
    "landscape": landscape_picture,
    "move": move_picture,
    "look": look_picture,
    "map": map_picture,
    "predict": predict_picture,
}


def stalled() -> tuple[networks.Dense, tuple[np.ndarray, np.ndarray]]:
    """A network that training does not move, two trained neurons in ten equal copies each, and its losses."""
    landscape, key = problem(), jax.random.key(_KEY)
    start = networks.Dense(key, [2, 2, 1])
    narrow = training.train(key, start, landscape, learning_rate=0.2, num_steps=30_000)
    wide, _ = embedding.replicate(narrow.network, "hidden[0]", 10)
    run = training.train(key, wide, landscape, learning_rate=0.05, num_steps=30_000)
    curve = (np.concatenate([narrow.steps, 30_000 + run.steps]), np.concatenate([narrow.loss, run.loss]))
    return run.network, curve


def diagnosis_pictures() -> dict[str, go.Figure]:
    """The figures of a diagnosis, and of a monitor."""
    network, curve = stalled()
    tables = atlas.diagnosis_tables(atlas.diagnose(network, problem()))
    return {
        "diagnosis-stall": figures.stall_figure(curve, tables),
        "diagnosis-widths": figures.widths_figure(tables),
        "diagnosis-groups": figures.groups_figure(tables),
        "diagnosis-eigenvalues": figures.eigenvalues_figure(tables),
        "diagnosis-ways": figures.ways_figure(tables),
        "monitor": figures.monitor_figure(watched()),
    }


def watched():
    """What a monitor saw of a training from small weights."""
    landscape = problem()
    network = networks.Dense(jax.random.key(0), [2, 20, 1], init=2.0)
    monitor = atlas.Monitor(landscape, every=1)
    training.train(
        jax.random.key(0),
        network,
        landscape,
        learning_rate=0.05,
        num_steps=8000,
        snapshots=60,
        observe=lambda step, seen: monitor(step, seen),
    )
    return monitor.history


def survey_pictures() -> dict[str, go.Figure]:
    """The figures of a survey of iris, and of a shrinking of its big network."""
    with tempfile.TemporaryDirectory() as folder:
        run = workbench.survey("iris", out=folder)
        shrunk = workbench.shrink(run.model("big"), "iris", tolerance=0.05)
        return {
            "survey-atlas": figures.atlas_figure(run.tables, run.arrays),
            "survey-distance": figures.distance_figure(run.tables, run.arrays),
            "survey-tree": figures.tree_figure(run.tables),
            "survey-reduction": figures.reduction_figure(run.tables),
            "survey-selection": figures.selection_figure(run.tables),
            "shrinking": figures.shrinking_figure(shrinking_tables(shrunk)),
        }


def study_pictures() -> dict[str, go.Figure]:
    """The figures of a study."""
    with tempfile.TemporaryDirectory() as folder:
        run = workbench.run_study("embedding-width", out=folder, digits_steps=0, iris_starts=0)
        drawn = run.study.figures(run.results)
        return {f"study-{name}": drawn[name].draw(False) for name in ("levels", "splits", "training")}


def sweep_pictures() -> dict[str, go.Figure]:
    """The figures of a sweep of the study that docs/add-study.md shows."""
    sys.path.insert(0, str(FOLDER.parents[1] / "examples"))
    importlib.import_module("linear_levels_study")
    grid = {"init_power": (0.5, 1.0, 1.5, 2.0, 3.0), "learning_rate": (0.02, 0.05, 0.1, 0.2, 0.5)}
    with tempfile.TemporaryDirectory() as folder:
        run = lossatlas.run_sweep("linear-levels", grid=grid, preset="smoke", seeds=2, out=folder, workers=0)
        results = run.results.ds
    return {
        "sweep-measured": figures.sweep_figure(results["plateau-rank-1"].astype(float)),
        "sweep-status": figures.sweep_status_figure(results["status"]),
    }


def shrinking_tables(shrunk: workbench.Shrunk) -> dict[str, Any]:
    """What the figure of a shrinking reads."""
    return {
        "curve": [dataclasses.asdict(size) for size in shrunk.curve],
        "before": dataclasses.asdict(shrunk.before),
        "chosen": dataclasses.asdict(shrunk.chosen),
        "tolerance": shrunk.tolerance,
    }


def as_svg(figure: go.Figure) -> str:
    """The SVG of a figure; a tenth of a pixel is enough for what is drawn."""
    text = figure.to_image(format="svg", width=WIDTH).decode()
    return re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\d+\.\d)\d+", r"\1", path[0]), text) + "\n"


def main(names: list[str]) -> None:
    """Write the pictures whose names begin with one of these, or all."""
    jax.config.update("jax_enable_x64", True)
    makers = {name: lambda make=make, name=name: {name: make()} for name, make in FAST.items()}
    makers |= {
        "diagnosis": diagnosis_pictures,
        "survey": survey_pictures,
        "study": study_pictures,
        "sweep": sweep_pictures,
    }
    FOLDER.mkdir(exist_ok=True)
    for group, make in makers.items():
        if not names or group in names:
            for name, figure in make().items():
                (FOLDER / f"{name}.svg").write_text(as_svg(figure), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
