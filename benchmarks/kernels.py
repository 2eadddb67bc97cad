"""Empirical tangent kernels beside neural-tangents and PyTorch's recipe, one thread each, single precision.

    python benchmarks/kernels.py [--json FILE] [--repeats N] [--problem NAME] [--quick]

neural-tangents 0.6.5 does not import beside a current JAX, so it runs in an environment of its own with the JAX of its
time, by the method that a row names. Kernels are compared entry by entry. The last row is ours alone: 10,000 inputs of
the size of digits, written to a file block by block.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence


sys.path.insert(0, str(pathlib.Path(__file__).parent))

from _common import Row, Times, parser, report, single_thread, versions


THREADS = single_thread()

import numpy as np

from _peers import NotRun, Peer, cache_folder, summary
from _problems import NAMES, problem
from lossatlas import geometry


TANGENTS = Peer("neural-tangents", "_peer_tangents.py")
TORCH_FUNC = Peer("torch-kernel", "_peer_torch_kernel.py")
JOBS = [
    # problem, activation, convention, examples, peer, options, aim
    ("mlp", "relu", "trace", 500, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("mlp", "gelu", "trace", 500, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("mlp", "tanh", "trace", 500, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("mlp", "relu", "full", 200, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("mlp", "gelu", "full", 200, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("mlp", "relu", "trace", 200, TANGENTS, "JACOBIAN_CONTRACTION", 1.0),
    ("mlp", "relu", "trace", 200, TANGENTS, "NTK_VECTOR_PRODUCTS", 1.0),
    ("cnn", "relu", "trace", 200, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("cnn", "gelu", "trace", 200, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("cnn", "relu", "full", 100, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
    ("cnn", "relu", "trace", 200, TANGENTS, "JACOBIAN_CONTRACTION", 1.0),
    ("mlp", "relu", "trace", 300, TORCH_FUNC, None, 1.0),
    ("mlp", "relu", "full", 300, TORCH_FUNC, None, 1.0),
    ("cnn", "relu", "trace", 300, TORCH_FUNC, None, 1.0),
    ("small", "tanh", "trace", 100, TANGENTS, "STRUCTURED_DERIVATIVES", 1.0),
]


def rows(names: Sequence[str], repeats: int, *, quick: bool):
    """Every job, each side in turn."""
    folder = cache_folder()
    problems, started = {}, {}
    for name, activation, convention, num, peer, implementation, aim in JOBS:
        if name not in names:
            continue
        num = num // 4 if quick else num
        by = "" if implementation is None else f" ({implementation.lower().replace('_', ' ')})"
        job = f"{name} {activation}, {convention}, {num} examples, {peer.name}{by}"
        if (name, activation) not in problems:
            problems[name, activation] = problem(name, activation)
        point = problems[name, activation]
        try:
            if peer.name not in started:
                started[peer.name] = peer.start()
                print(summary(started[peer.name]), flush=True)
            yield _row(job, point, str(point.write(folder)), num, convention, peer, implementation, aim, repeats)
        except NotRun as reason:
            yield Row(job, not_run=str(reason), threads=THREADS)
    for peer in (TANGENTS, TORCH_FUNC):
        peer.stop()


def _row(job, point, path, num, convention, peer, implementation, aim, repeats) -> Row:
    inputs = point.landscape.inputs[:num]
    options = {"path": path, "num": num, "convention": convention}
    if implementation is not None:
        options["implementation"] = implementation

    def ours():
        return geometry.ntk(point.network, inputs, convention=convention)

    begin = time.perf_counter()
    found = ours()
    compile_seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as place:
        out = str(pathlib.Path(place) / "kernel.npy")
        peer.ask("kernel", **options, out=out)
        theirs = np.load(out)
    matrix = found.matrix
    if convention == "full":  # theirs: (n, n, o, o)
        theirs = theirs.transpose(0, 2, 1, 3).reshape(matrix.shape)
    scale = float((theirs * matrix).sum() / (matrix * matrix).sum())  # the mean or the sum over the outputs
    error = float(np.abs(theirs / scale - matrix).max() / np.abs(matrix).max())
    first, second, first_cpu, second_cpu = [], [], [], []
    for _ in range(repeats):
        begin, cpu = time.perf_counter(), time.process_time()
        ours()
        first.append(time.perf_counter() - begin)
        first_cpu.append(time.process_time() - cpu)
        answer = peer.ask("kernel", **options)
        second.append(answer["seconds"])
        second_cpu.append(answer["processor"])
    pairs = [b / a for a, b in zip(first, second, strict=True)]
    one, two = Times.of(first), Times.of(second)
    return Row(
        job=job,
        ours=one,
        peer_name=peer.name,
        peer=two,
        ratio=two.median / one.median,
        ratio_range=(min(pairs), max(pairs)),
        processor_ratio=min(second_cpu) / min(first_cpu),
        compile_seconds=compile_seconds,
        accuracy=f"differs by {error:.0e}, {found.method}, scale {scale:.3g}",
        target=aim,
        threads=THREADS,
    )


def out_of_core(num: int) -> None:
    """The kernel of many inputs into a file, aim: 60 seconds for 10,000."""
    point = problem("mlp")
    rng = np.random.default_rng(0)
    chosen = np.asarray(point.landscape.inputs)[rng.integers(0, point.landscape.size, num)]
    inputs = (chosen + 0.05 * rng.standard_normal(chosen.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        stored = geometry.store_ntk(point.network, inputs, pathlib.Path(place) / "kernel.npy")
        matrix = stored.open()
        some = rng.integers(0, num, 50)
        wanted = geometry.ntk(point.network, inputs[some], method="contraction").matrix
        error = np.abs(matrix[np.ix_(some, some)] - wanted).max() / np.abs(wanted).max()
        size = stored.path.stat().st_size / 1e6
    seconds = stored.stats["seconds"]
    said = f"{seconds:.1f} s (aim 60 s), {size:.0f} MB, differs by {error:.0e}"
    print(f"mlp relu, trace, {num:,} inputs out of core: {said}")


if __name__ == "__main__":
    options = parser("Empirical tangent kernels beside neural-tangents and PyTorch.", repeats=5)
    options.add_argument("--problem", action="append", choices=NAMES, help="these alone")
    options.add_argument("--quick", action="store_true", help="a quarter of the examples")
    asked = options.parse_args()
    report(
        rows(asked.problem or NAMES, asked.repeats, quick=asked.quick),
        versions("lossatlas", "jax", "numpy"),
        asked.json,
    )
    out_of_core(2_500 if asked.quick else 10_000)
