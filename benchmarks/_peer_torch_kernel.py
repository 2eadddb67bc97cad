"""PyTorch's recipe for tangent kernels (torch.func: jacrev under vmap, then einsum). For an environment of its own."""

import time

import numpy as np
import torch

from _peer_loop import serve
from _peer_torch import load


_kept: dict = {}


def kernel(path: str, num: int, convention: str, out: str | None = None) -> dict:
    """The seconds of one kernel, Jacobian contraction; the first call warms up and is not counted."""
    if path not in _kept:
        model, _, inputs, _ = load(path)
        _kept[path] = (model, {name: p.detach() for name, p in model.named_parameters()}, inputs)
        kernel(path, min(num, 20), convention)
    model, params, inputs = _kept[path]

    def predict(params, x):
        return torch.func.functional_call(model, params, (x[None],))[0]

    wall, processor = time.perf_counter(), time.process_time()
    jacobians = torch.func.vmap(torch.func.jacrev(predict), (None, 0))(params, inputs[:num]).values()
    expression = "Naf,Mbf->NMab" if convention == "full" else "Naf,Maf->NM"
    found = sum(torch.einsum(expression, j.flatten(2), j.flatten(2)) for j in jacobians)
    seconds = {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}
    if out is not None:
        np.save(out, found.numpy())
    return seconds


if __name__ == "__main__":
    serve({"kernel": kernel}, ("torch", "numpy"))
