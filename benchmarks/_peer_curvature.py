"""Eigenpairs and traces of Hessians by curvlinops, hessian-eigenthings or PyHessian, in an environment of theirs.

A task comes with an effort, a step of the ladder of this peer; the answer says what the step means, so that the other
side can look for the least effort that is accurate enough.
"""

import sys
import time

import numpy as np
import torch

import _peer_loop
import _peer_torch


PROBES = (20, 30, 40, 60, 80, 120, 160, 240, 400, 800, 1600, 3200)


class Curvlinops:
    packages = ("curvlinops-for-pytorch", "torch", "scipy")
    tolerances = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

    def setup(self, model, loss, inputs, targets):
        from curvlinops import HessianLinearOperator

        parameters = [p for p in model.parameters() if p.requires_grad]
        self.operator = HessianLinearOperator(model, loss, parameters, [(inputs, targets)], check_deterministic=False)

    def pairs(self, effort, seed):
        from scipy.sparse.linalg import eigsh

        operator = self.operator.to_scipy()
        start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(np.float32)
        values, vectors = eigsh(operator, k=10, which="LA", tol=self.tolerances[effort], v0=start)
        return values, vectors.T, f"ARPACK, tol {self.tolerances[effort]:g}"

    def trace(self, effort, seed):
        from curvlinops import xtrace

        torch.manual_seed(seed)
        return float(xtrace(self.operator, PROBES[effort])), f"XTrace, {PROBES[effort]} products"


class Eigenthings:
    packages = ("hessian-eigenthings", "torch")
    tolerances = (16, 20, 24, 28, 32, 40, 50, 70, 100, 150)

    def setup(self, model, loss, inputs, targets):
        import hessian_eigenthings as he

        self.operator = he.HessianOperator(model, [(inputs, targets)], he.supervised_loss(loss))

    def pairs(self, effort, seed):
        import hessian_eigenthings as he

        steps = min(self.tolerances[effort], self.operator.size)
        found = he.lanczos(self.operator, k=10, which="LA", max_iter=steps, reorthogonalize=True, seed=seed)
        return found.eigenvalues.numpy(), found.eigenvectors.numpy(), f"Lanczos, {steps} steps"

    def trace(self, effort, seed):
        import hessian_eigenthings as he

        found = he.hutch_plus_plus(self.operator, num_matvecs=PROBES[effort], seed=seed)
        return float(found.estimate), f"Hutch++, {PROBES[effort]} products"


class PyHessian:
    packages = ("torch",)
    tolerances = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)

    def setup(self, model, loss, inputs, targets):
        from pyhessian import hessian

        self.operator = hessian(model, loss, data=(inputs, targets), cuda=False)

    def pairs(self, effort, seed):
        torch.manual_seed(seed)
        tolerance = self.tolerances[effort]
        values, vectors = self.operator.eigenvalues(maxIter=1000, tol=tolerance, top_n=10)
        rows = [torch.cat([part.reshape(-1) for part in vector]).numpy() for vector in vectors]
        return np.array(values), np.stack(rows), f"power iteration, tol {tolerance:g}"

    def trace(self, effort, seed):
        torch.manual_seed(seed)
        # With tol=0 it never stops by luck.
        samples = self.operator.trace(maxIter=PROBES[effort], tol=0.0)
        return float(np.mean(samples)), f"Hutchinson, {PROBES[effort]} products"


def main() -> None:
    peer = {"curvlinops": Curvlinops, "eigenthings": Eigenthings, "pyhessian": PyHessian}[sys.argv[1]]()

    def setup(path):
        model, loss, inputs, targets = _peer_torch.load(path)
        peer.setup(model, loss, inputs, targets)
        peer.trace(0, 0)
        return {"pairs": len(peer.tolerances), "trace": len(PROBES)}

    def timed(fn, *arguments):
        wall, processor = time.perf_counter(), time.process_time()
        found = fn(*arguments)
        return found, {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}

    def pairs(effort, seed, out):
        (values, vectors, words), times = timed(peer.pairs, effort, seed)
        np.savez(out, values=values, vectors=vectors)
        return {"words": words, **times}

    def trace(effort, seed):
        (value, words), times = timed(peer.trace, effort, seed)
        return {"value": value, "words": words, **times}

    _peer_loop.serve({"setup": setup, "pairs": pairs, "trace": trace}, peer.packages)


main()
