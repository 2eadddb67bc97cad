"""Eigenpairs and traces of Hessians: LossAtlas against PyTorch's tools, to the same accuracy, one thread each.

    python benchmarks/curvature.py [--json FILE] [--repeats N] [--problem NAME] [--peer NAME]

Every peer runs in an environment of its own that this script makes. For each the least effort is looked for that gives

- the ten largest eigenvalues, none missed, each with a residual of at most 1e-3 of the largest, in two runs;
- the trace with a root mean square error of at most 1 % over ten runs (with ours, too; a user, who has no reference,
  asks for `rtol=0.01` instead, and pays for the error bar).

Residuals and errors are measured here, in double precision, for both sides. Ours is timed twice for eigenpairs: as the
peers do it, and with the search for hidden pairs that none of them makes.
"""

# ruff: noqa: E402  (threads are set before anything else is imported)
import _common


THREADS = _common.single_thread()

import pathlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import _peers
import _problems
from lossatlas import geometry
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape


RESIDUAL, TRACE_ERROR = 1e-3, 0.01
TRACE_RUNS, TRACE_SECONDS = 10, 60
AIMS = {"pairs": 4.0, "trace": 5.0}


class Reference:
    """What is true of a problem, in double precision."""

    def __init__(self, problem: _problems.Problem):
        with jax.enable_x64(True):
            wide = lambda tree: jax.tree.map(  # noqa: E731
                lambda a: a.astype(float) if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating) else a,
                tree,
            )
            network, landscape = wide(problem.network), wide(problem.landscape)
            self.products = CurvatureProducts(network, landscape)
            found = geometry.spectrum(network, landscape, num_top=10, num_bottom=0, rtol=1e-7)
            self.values = np.asarray(found.values)
            self.trace = self._trace(problem, network, landscape)

    def _trace(self, problem, network, landscape) -> float:
        if problem.name != "cnn":
            return float(geometry.trace(jax.random.key(0), network, landscape, method="structured").value)
        # ReLU alone: the trace is that of Gauss-Newton, the sum of J^T l'' J over the examples.
        total = 0.0
        jacobian = jax.jit(lambda x, y: Landscape(x, y, loss="cross_entropy").jacobian(network))
        for start in range(0, landscape.size, 128):
            part = landscape.subset(slice(start, start + 128))
            p = jax.nn.softmax(part.predictions(network))
            inner = jnp.einsum("nop,nqp->noq", *[jacobian(part.inputs, part.targets)] * 2)
            total += float(jnp.sum(jnp.einsum("no,noo->n", p, inner) - jnp.einsum("no,nq,noq->n", p, p, inner)))
        return total / landscape.size

    def pairs_are_right(self, values: np.ndarray, vectors: np.ndarray) -> float:
        """The largest relative residual; infinite where a value is missed."""
        order = np.argsort(values)[::-1]
        values, vectors = np.asarray(values, float)[order], np.asarray(vectors, float)[order]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        with jax.enable_x64(True):
            images = np.stack([self.products(vector) for vector in vectors])
        rayleigh = np.sum(images * vectors, axis=1)
        residuals = np.linalg.norm(images - rayleigh[:, None] * vectors, axis=1) / self.values[0]
        missed = np.abs(rayleigh - self.values) > RESIDUAL * self.values[0]
        return float("inf") if missed.any() else float(residuals.max())


PEERS = {"curvlinops": "curvlinops", "hessian-eigenthings": "eigenthings", "pyhessian": "pyhessian"}


def pairs_rows(problem, reference, peer, steps: int, repeats: int, folder: pathlib.Path) -> Iterator[_common.Row]:
    network, landscape = problem.network, problem.landscape
    out = folder / "pairs.npz"
    for effort in range(steps):
        worst = 0.0
        for seed in range(2):
            answer = peer.ask("pairs", effort=effort, seed=seed, out=str(out))
            with np.load(out) as found:
                worst = max(worst, reference.pairs_are_right(found["values"], found["vectors"]))
        if worst <= RESIDUAL:
            break
    else:
        yield _common.Row(f"{problem.name}: ten eigenpairs, {peer.name}", not_run=f"reached {worst:.1e} at best")
        return
    for verify in (False, True):
        ours = lambda verify=verify: geometry.spectrum(  # noqa: E731
            network, landscape, num_top=10, num_bottom=0, rtol=RESIDUAL, verify=verify
        )
        clock = time.perf_counter()
        found = ours()
        compile_seconds = time.perf_counter() - clock
        residual = reference.pairs_are_right(np.asarray(found.values), np.asarray(found.vectors))
        if residual > RESIDUAL:
            yield _common.Row(f"{problem.name}: ten eigenpairs, {peer.name}", not_run=f"ours reached {residual:.1e}")
            continue
        times = _peers.alternate(
            ours, lambda effort=effort: peer.ask("pairs", effort=effort, seed=0, out=str(out)), repeats
        )
        accuracy = f"residual {residual:.1e} with {found.stats['products']} products; {answer['words']}: {worst:.1e}"
        job = f"{problem.name}: ten eigenpairs{', none hidden' if verify else ''}, {peer.name}"
        yield _common.Row(
            job,
            **times,
            peer_name=peer.name,
            compile_seconds=compile_seconds,
            accuracy=accuracy,
            target=AIMS["pairs"],
            threads=THREADS,
        )


def trace_rows(problem, reference, peer, steps: int, repeats: int) -> Iterator[_common.Row]:
    network, landscape = problem.network, problem.landscape
    job = f"{problem.name}: trace to 1 %, {peer.name}"
    for effort in range(steps):
        begin = time.perf_counter()
        try:
            answers = [peer.ask("trace", effort=effort, seed=seed) for seed in range(TRACE_RUNS)]
        except _peers.NotRun as error:
            yield _common.Row(job, not_run=str(error))
            return
        error = np.sqrt(np.mean([(answer["value"] / reference.trace - 1) ** 2 for answer in answers]))
        if error <= TRACE_ERROR:
            break
        if 2 * (time.perf_counter() - begin) > TRACE_SECONDS:
            words = f"root mean square error {error:.1e} after {answers[0]['words']}; the next step takes over a minute"
            yield _common.Row(job, not_run=words)
            return
    else:
        yield _common.Row(job, not_run=f"root mean square error {error:.1e} at best")
        return
    for method in ("xtrace",) if problem.name == "cnn" else ("structured", "xtrace"):
        run = lambda seed, num, method=method: geometry.trace(  # noqa: E731
            jax.random.key(seed), network, landscape, method=method, num_probes=num
        )
        clock = time.perf_counter()
        run(0, 20)
        compile_seconds = time.perf_counter() - clock
        for num in range(20, 401, 10):  # the least effort, as for the peer
            found = [run(seed, num) for seed in range(TRACE_RUNS)]
            own = np.sqrt(np.mean([(float(f.value) / reference.trace - 1) ** 2 for f in found]))
            if own <= TRACE_ERROR:
                break
        else:
            yield _common.Row(f"{job}, ours {method}", not_run=f"ours reached {own:.1e}")
            continue
        times = _peers.alternate(
            lambda run=run, num=num: run(0, num), lambda: peer.ask("trace", effort=effort, seed=0), repeats
        )
        yield _common.Row(
            f"{job}, ours {method}",
            **times,
            peer_name=peer.name,
            compile_seconds=compile_seconds,
            accuracy=f"{own:.1e}, {found[0].num_products} products; {answers[0]['words']}: {error:.1e}",
            target=AIMS["trace"],
            threads=THREADS,
        )


def rows(names, chosen, repeats: int) -> Iterator[_common.Row]:
    folder = _peers.cache_folder()
    for name in names:
        problem = _problems.problem(name)
        reference, path = Reference(problem), problem.write(folder)
        for peer in chosen:
            try:
                found = peer.start()
                print(f"{peer.name}: {_peers.summary({n: v for n, v in found.items() if isinstance(v, str)})}")
                steps = peer.ask("setup", path=str(path))
                yield from pairs_rows(problem, reference, peer, steps["pairs"], repeats, folder)
                yield from trace_rows(problem, reference, peer, steps["trace"], repeats)
            except _peers.NotRun as error:
                yield _common.Row(f"{name}: {peer.name}", not_run=str(error))
            finally:
                peer.stop()


def main() -> None:
    parser = _common.parser("Eigenpairs and traces of Hessians.", repeats=5)
    parser.add_argument("--problem", action="append", choices=_problems.NAMES, help="these alone")
    parser.add_argument("--peer", action="append", choices=PEERS, help="these alone")
    asked = parser.parse_args()
    chosen = [_peers.Peer(name, "_peer_curvature.py", (PEERS[name],)) for name in asked.peer or PEERS]
    found = _common.versions("lossatlas", "jax", "equinox", "numpy")
    _common.report(rows(asked.problem or _problems.NAMES, chosen, asked.repeats), found, asked.json)


if __name__ == "__main__":
    main()
