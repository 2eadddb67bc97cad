"""A problem of `_problems.py` as PyTorch has it, from the file that was handed over. For environments of peers.

The file says in which precision the peer works: some make their own vectors in PyTorch's default type.
"""

import numpy as np
import torch


torch.set_num_threads(1)

_ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}


def load(path: str):
    """The module, the loss function (mean over the examples), inputs and targets."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    inputs, targets = torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"])
    torch.set_default_dtype(inputs.dtype)
    kind, bend = str(arrays["kind"]), _ACTIVATIONS[str(arrays["activation"])]
    weights = [torch.from_numpy(arrays[f"weight{i}"]) for i in range(sum(n.startswith("weight") for n in arrays))]
    if kind == "cnn":
        parts = [torch.nn.Conv2d(1, 16, 3), bend(), torch.nn.Conv2d(16, 32, 3), bend(), torch.nn.Flatten()]
        parts += [torch.nn.Linear(512, 10)]
    else:
        parts = []
        for weight in weights[::2]:
            parts += [torch.nn.Linear(weight.shape[1], weight.shape[0]), bend()]
        parts = parts[:-1]
    model = torch.nn.Sequential(*parts)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value.reshape(parameter.shape))
    if kind == "small":
        return model, HalfSquaredError(), inputs, targets
    return model, torch.nn.CrossEntropyLoss(), inputs, targets.long()


class HalfSquaredError(torch.nn.Module):
    """Half the squared distance, the mean over the examples; curvlinops asks a loss for its `reduction`."""

    reduction = "mean"

    def forward(self, predictions, targets):
        return 0.5 * ((predictions - targets) ** 2).sum(1).mean()
