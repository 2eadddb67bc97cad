"""loss-landscapes: planes, for `planes.py`."""

import copy

import numpy as np
import torch

from _peer_loop import serve
from _peer_torch import load


def plane(path: str, directions: str, steps: int, out: str | None = None) -> dict:
    """The loss on the plane of two directions, from -1 to 1 along both, by `planar_interpolation`.

    It starts a step away from the corner, and moves the model that it is given unless it is told to copy it; `moved`
    says how far the corner has gone.
    """
    import time

    import loss_landscapes
    from loss_landscapes.metrics import Loss

    model, loss, inputs, targets = load(path)
    one, two = (torch.from_numpy(row) for row in np.load(directions))
    corner = moved(model, -one - two)
    ends = moved(model, one - two), moved(model, two - one)
    metric = Loss(loss, inputs, targets)
    before = torch.nn.utils.parameters_to_vector(corner.parameters()).detach().clone()
    begin, processor = time.perf_counter(), time.process_time()
    values = loss_landscapes.planar_interpolation(corner, *ends, metric, steps=steps)
    times = {"seconds": time.perf_counter() - begin, "processor": time.process_time() - processor}
    if out is not None:
        np.save(out, values)
    after = torch.nn.utils.parameters_to_vector(corner.parameters()).detach()
    return {
        **times,
        "moved": float((after - before).norm()),
        "lowest": float(values.min()),
        "highest": float(values.max()),
    }


def moved(model: torch.nn.Module, step: torch.Tensor) -> torch.nn.Module:
    """A copy of a model a step away."""
    there = copy.deepcopy(model)
    vector = torch.nn.utils.parameters_to_vector(there.parameters())
    torch.nn.utils.vector_to_parameters((vector + step).detach(), there.parameters())
    return there


if __name__ == "__main__":
    serve({"plane": plane}, ["loss-landscapes", "torch", "numpy"])
