"""landscaper: planes, for `planes.py`. It scales the directions itself, to the norm of the model."""

import os
import time


os.environ["TQDM_DISABLE"] = "1"  # its bars are for people

import numpy as np
import torch

from _peer_loop import serve
from _peer_torch import load


def plane(path: str, directions: str, steps: int, out: str | None = None) -> dict:
    """The loss on the plane of two directions, from -1 to 1 along both.

    It says so itself, but steps by 2 / steps from the middle, so an odd number of steps reaches 1 - 1 / steps.
    """
    from landscaper.compute import compute_loss_landscape

    model, loss, inputs, targets = load(path)
    shapes = [parameter.shape for parameter in model.parameters()]
    sizes = [shape.numel() for shape in shapes]
    spanned = [
        [part.reshape(shape).clone() for part, shape in zip(torch.from_numpy(row).split(sizes), shapes, strict=True)]
        for row in np.load(directions)
    ]

    def scalar(model, data):
        with torch.no_grad():
            return loss(model(data[0]), data[1]).item()

    begin, processor = time.perf_counter(), time.process_time()
    values, _ = compute_loss_landscape(
        model, (inputs, targets), spanned, scalar, steps=steps, distance=1.0, dim=2, device="cpu"
    )
    times = {"seconds": time.perf_counter() - begin, "processor": time.process_time() - processor}
    if out is not None:
        np.save(out, values)
    return {
        **times,
        "lowest": float(np.min(values)),
        "highest": float(np.max(values)),
    }


if __name__ == "__main__":
    serve({"plane": plane}, ["landscaper", "torch", "numpy"])
