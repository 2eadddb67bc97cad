"""loss-landscapes: planes, for `planes.py`."""

import copy

import numpy as np
import torch

from _peer_loop import serve
from _peer_torch import load


def plane(path: str, directions: str, steps: int) -> dict:
    """The loss on the plane of two directions, from -1 to 1 along both, by `planar_interpolation`."""
    import time

    import loss_landscapes
    from loss_landscapes.metrics import Loss

    model, loss, inputs, targets = load(path)
    one, two = (torch.from_numpy(row) for row in np.load(directions))
    corner = moved(model, -one - two)
    ends = moved(model, one - two), moved(model, two - one)
    metric = Loss(loss, inputs, targets)
    begin, processor = time.perf_counter(), time.process_time()
    values = loss_landscapes.planar_interpolation(corner, *ends, metric, steps=steps)
    return {
        "seconds": time.perf_counter() - begin,
        "processor": time.process_time() - processor,
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
