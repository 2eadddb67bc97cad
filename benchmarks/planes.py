"""Planes of the loss: LossAtlas against loss-landscapes and landscaper, to the same maximal interpolation error.

    python benchmarks/planes.py [--json FILE] [--repeats N] [--problem NAME]

All look at the same plane of the same network: two Gaussian directions, each parameter array of them as long as the
square root of its size and the whole as long as the network, from -1 to 1 along both (this is how landscaper scales
what it is given, so no other plane would serve all). The error is the largest at random points that nobody has seen.

Ours is `refined_slice` with a tolerance of 1 %, or 0.1 %, of the spread of the loss, and what it reaches is measured. A
peer computes a uniform grid, as fine as bilinear interpolation (what its pictures show) needs to reach the same error;
the size of that grid is worked out beforehand, on our own values, and costs it nothing. The accuracy column also says
what grid a bicubic spline would need: no peer has one, and with it a grid is nearly as frugal as we are, without a
stated error.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import _common


THREADS = _common.single_thread()

import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from scipy.interpolate import RectBivariateSpline, RegularGridInterpolator

from _common import Row
from _peers import NotRun, Peer, alternate, cache_folder, summary
from _problems import NAMES, Problem, plane_of, problem
from lossatlas import geometry
from lossatlas.geometry._slice_values import SliceValues


PEERS = (
    Peer("loss-landscapes", "_peer_loss_landscapes.py"),
    Peer("landscaper", "_peer_landscaper.py"),
)
# The aims: 3x on the networks of the digits, 20x on the small one.
JOBS = (("small", 20.0), ("mlp", 3.0), ("cnn", 3.0))
TOLERANCES = (1e-2, 1e-3)
CHECKED = {"mlp": 2000, "cnn": 500, "small": 5000}
_MOST_STEPS = 400


def rows(names: Sequence[str], repeats: int) -> Iterator[Row]:
    """All rows, each as soon as it is measured."""
    folder = cache_folder() / "planes"
    folder.mkdir(exist_ok=True)
    started: dict[str, str] = {}
    for name, aim in ((name, aim) for name, aim in JOBS if name in names):
        point = problem(name)
        directions = plane_of(point.network)
        path = point.write(folder)
        spanned = folder / f"{name}-directions.npy"
        np.save(spanned, directions.vectors)
        seen = np.random.default_rng(12345).uniform(-1, 1, (CHECKED[name], 2))
        truth = SliceValues(point.network, point.landscape, directions, accuracy=False)(seen)[:, 0]
        spread = float(np.ptp(truth))
        fine = geometry.refined_slice(
            jax.random.key(9), point.network, point.landscape, directions, max_error=1e-4, accuracy=False
        )
        for tolerance in TOLERANCES:
            ours = Ours(point, directions, tolerance)
            begin = time.perf_counter()
            picture = ours()
            compile_seconds = time.perf_counter() - begin
            error = float(np.abs(picture(seen)["loss"] - truth).max()) / spread
            linear, cubic = grid_size(fine, seen, truth, error * spread)
            for peer in PEERS:
                job = f"{name}, to {error:.1e} of the spread, {peer.name}"
                if linear is None:
                    yield Row(job, not_run=f"no grid of up to {_MOST_STEPS} points an axis reaches it", threads=THREADS)
                    continue
                try:
                    if peer.name not in started:
                        started[peer.name] = summary(peer.start())
                        print(started[peer.name], flush=True)
                    options = {"path": str(path), "directions": str(spanned), "steps": linear}
                    peer.ask("plane", **options | {"steps": 3})
                    ours()
                    times = alternate(ours, lambda peer=peer, asked=options: peer.ask("plane", **asked), repeats)
                except NotRun as reason:
                    yield Row(job, not_run=str(reason), threads=THREADS)
                    continue
                yield Row(
                    job=job,
                    **times,
                    peer_name=peer.name,
                    compile_seconds=compile_seconds,
                    accuracy=f"{picture.stats['points']} points against {linear} x {linear} (cubic: {cubic} x {cubic})",
                    target=aim,
                    threads=THREADS,
                )
    for peer in PEERS:
        peer.stop()


class Ours:
    """A refined slice, and the picture on a grid that comes of it."""

    def __init__(self, point: Problem, directions: geometry.Directions, tolerance: float):
        self.point, self.directions, self.tolerance = point, directions, tolerance

    def __call__(self) -> geometry.RefinedSlice:
        found = geometry.refined_slice(
            jax.random.key(0),
            self.point.network,
            self.point.landscape,
            self.directions,
            max_error=self.tolerance,
            accuracy=False,
        )
        found.on_grid(101)
        return found


def grid_size(
    fine: geometry.RefinedSlice, seen: np.ndarray, truth: np.ndarray, error: float
) -> tuple[int | None, int | None]:
    """The smallest uniform grids whose linear, and cubic, interpolation is within an error; None beyond 400 points."""
    sizes = {"linear": 0, "cubic": 0}
    for steps in range(4, _MOST_STEPS):
        axis = np.linspace(-1, 1, steps)
        points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        values = fine(points)["loss"].reshape(steps, steps)
        if not sizes["linear"]:
            linear = RegularGridInterpolator((axis, axis), values)(seen)
            sizes["linear"] = steps if np.abs(linear - truth).max() <= error else 0
        if not sizes["cubic"]:
            cubic = RectBivariateSpline(axis, axis, values)(seen[:, 0], seen[:, 1], grid=False)
            sizes["cubic"] = steps if np.abs(cubic - truth).max() <= error else 0
        if all(sizes.values()):
            break
    return sizes["linear"] or None, sizes["cubic"] or None


def main() -> None:
    """Measure and report."""
    parser = _common.parser("Planes of the loss, to the same interpolation error.", repeats=3)
    parser.add_argument("--problem", action="append", choices=NAMES, help="these alone")
    options = parser.parse_args()
    found = _common.versions("lossatlas", "jax", "jaxlib", "numpy")
    _common.report(rows(options.problem or NAMES, options.repeats), found, options.json)


if __name__ == "__main__":
    main()
