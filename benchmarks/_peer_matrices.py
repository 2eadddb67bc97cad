"""What curvlinops, hessian-eigenthings and PyHessian say of a matrix of curvature; runs in an environment of theirs."""

import sys

import numpy as np
import torch

import _peer_loop
import _peer_torch


class Curvlinops:
    packages = ("curvlinops-for-pytorch", "torch", "scipy")

    def __init__(self, model, loss, inputs, targets, kind):
        import curvlinops

        make = {
            "hessian": curvlinops.HessianLinearOperator,
            "gauss_newton": curvlinops.GGNLinearOperator,
            "empirical_fisher": curvlinops.EFLinearOperator,
        }[kind]
        parameters = list(model.parameters())
        self.operator = make(model, loss, parameters, [(inputs, targets)], check_deterministic=False)
        self.size = sum(p.numel() for p in parameters)

    def product(self, vector):
        return self.operator @ vector

    def top(self, num, **options):
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(self.operator.to_scipy(), k=num, which="LA", **options)
        return values[::-1], vectors.T[::-1]

    def trace(self, **options):
        import curvlinops

        return float(curvlinops.xtrace(self.operator, **options)), options["num_matvecs"]


class Eigenthings:
    packages = ("hessian-eigenthings", "torch")

    def __init__(self, model, loss, inputs, targets, kind):
        import hessian_eigenthings as he
        from hessian_eigenthings import loss_fns

        data = [(inputs, targets)]
        if kind == "hessian":
            self.operator = he.HessianOperator(model, data, loss_fns.supervised_loss(loss))
        elif kind == "gauss_newton":
            of_output = loss_fns.supervised_loss_of_output(loss)
            self.operator = he.GGNOperator(model, data, loss_fns.supervised_forward, of_output)
        else:
            per_sample = loss_fns.supervised_per_sample_loss(loss)
            self.operator = he.EmpiricalFisherOperator(model, data, per_sample)
        self.size = self.operator.size

    def product(self, vector):
        return self.operator.matvec(vector)

    def top(self, num, *, algorithm="lanczos", **options):
        import hessian_eigenthings as he

        if algorithm == "lanczos":
            found = he.lanczos(self.operator, k=num, which="LA", **options)
        else:
            found = he.deflated_power_iteration(self.operator, k=num, **options)
        return found.eigenvalues.numpy(), found.eigenvectors.numpy()

    def trace(self, **options):
        import hessian_eigenthings as he

        found = he.hutch_plus_plus(self.operator, **options)
        return float(found.estimate), options["num_matvecs"]

    def density(self, steps, probes):
        import hessian_eigenthings as he

        found = he.spectral_density(self.operator, lanczos_steps=steps, num_runs=probes, seed=0)
        return found.raw_eigenvalues.numpy(), found.raw_weights.numpy()


class PyHessian:
    packages = ("torch",)

    def __init__(self, model, loss, inputs, targets, kind):
        from pyhessian import hessian

        assert kind == "hessian"
        self.operator = hessian(model, loss, data=(inputs, targets), cuda=False)
        self.size = sum(p.numel() for p in model.parameters())

    def product(self, vector):
        from pyhessian.utils import hessian_vector_product

        params = self.operator.params
        parts = vector.split([p.numel() for p in params])
        shaped = [part.reshape(p.shape) for part, p in zip(parts, params, strict=True)]
        found = hessian_vector_product(self.operator.gradsH, params, shaped)
        return torch.cat([part.reshape(-1) for part in found])

    def top(self, num, **options):
        values, vectors = self.operator.eigenvalues(top_n=num, **options)
        return np.array(values), np.stack([torch.cat([p.reshape(-1) for p in v]).numpy() for v in vectors])

    def trace(self, **options):
        samples = self.operator.trace(**options)
        return float(np.mean(samples)), len(samples)

    def density(self, steps, probes):
        nodes, weights = self.operator.density(iter=steps, n_v=probes)
        return np.array(nodes), np.array(weights).real


def main() -> None:
    kinds = {"curvlinops": Curvlinops, "hessian-eigenthings": Eigenthings, "pyhessian": PyHessian}
    of = kinds[sys.argv[1]]

    def of_file(path, kind="hessian"):
        return of(*_peer_torch.load(path), kind)

    def matrix(path, out, kind):
        found = of_file(path, kind)
        np.save(out, torch.stack([found.product(row) for row in torch.eye(found.size)]).detach().numpy())
        return {}

    def top(path, out, num, seed=0, **options):
        peer = of_file(path)
        torch.manual_seed(seed)
        values, vectors = peer.top(num, **options)
        np.savez(out, values=values, vectors=vectors)
        return {}

    def trace(path, seed=0, **options):
        peer = of_file(path)
        torch.manual_seed(seed)
        value, products = peer.trace(**options)
        return {"value": value, "products": products}

    def density(path, out, steps, probes):
        peer = of_file(path)
        torch.manual_seed(0)
        nodes, weights = peer.density(steps, probes)
        np.savez(out, nodes=nodes, weights=weights)
        return {}

    _peer_loop.serve({"matrix": matrix, "top": top, "trace": trace, "density": density}, of.packages)


if __name__ == "__main__":
    main()
