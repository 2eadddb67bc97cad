"""Any PyTorch module as a pure function of its parameters, through torchax."""

import copy
import functools
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Shaped

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer
from lossatlas.interop._torch_sizes import fit_sizes
from lossatlas.interop._torch_tensors import (
    agree,
    check_module,
    check_repeatable,
    evaluate,
    example_tensor,
    require_torch,
    to_array,
    to_tensor,
)
from lossatlas.interop._torchax import jax_tensors, require_torchax


if TYPE_CHECKING:
    import torch
    from torch import nn


class Origin:
    """What a module is besides its parameters and buffers: its code, and one example.

    - `module`: a copy whose parameters and buffers hold no numbers. `example`: without the batch axis.
    """

    def __init__(self, module: "nn.Module", example: np.ndarray):
        self.module, self.example = _replaced(module, {}, device="meta"), example
        self._resized: dict[tuple, nn.Module] = {}

    def module_for(self, arrays: dict[str, Any]) -> "nn.Module":
        """The module with the sizes of given arrays, without numbers."""
        shapes = tuple((name, array.shape) for name, array in arrays.items())
        if shapes not in self._resized:
            import torch

            tensors = _tensors(self.module)
            wanted = {
                name: torch.empty(shape, dtype=tensors[name].dtype, device="meta")
                for name, shape in shapes
                if shape != tuple(tensors[name].shape)
            }
            self._resized[shapes] = _replaced(self.module, wanted, device="meta")
        return self._resized[shapes]


def _tensors(module: "nn.Module") -> "dict[str, torch.Tensor]":
    """Parameters and buffers by name, each once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _replaced(module: "nn.Module", tensors: "dict[str, torch.Tensor]", device: str | None = None) -> "nn.Module":
    """A copy of a module with some tensors exchanged and its sizes fitted to them; the others go to a device."""
    from torch import nn

    memo: dict[int, Any] = {}
    for name, old in _tensors(module).items():
        new = tensors.get(name, old.detach())
        new = new if device is None else new.to(device)
        memo[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    fresh = copy.deepcopy(module, memo)
    if tensors:
        fit_sizes(module, fresh)
    return fresh


class TorchNetwork(eqx.Module):
    """A PyTorch module as a network: a pure function of its parameters, on one example.

    Sizes follow from the arrays alone, so a map may change their shapes where the code of the module allows it.

    - `params`: the parameters under PyTorch's names: `params["layers.0.weight"]`. Shared ones stand there once.
    - `buffers`: running statistics and whatever else is no parameter.
    - `origin`: the code of the module.
    """

    params: dict[str, Array]
    buffers: dict[str, Buffer]
    origin: Origin = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return self._outputs(self._module, x[None])[0]

    @property
    def has_statistics(self) -> bool:
        """Whether it normalises by running statistics, which `with_statistics` computes anew."""
        return bool(_batch_norms(self.origin.module))

    def with_statistics(self, inputs: Shaped[Array, "n ..."]) -> "TorchNetwork":
        """The same network with the running statistics of these inputs, as one batch in training mode has them.

        Every `BatchNorm` layer takes mean and variance (without Bessel's correction) of what enters it when those
        before it are normalised by the batch, too.
        """
        module, found = self._module, {}

        hooks = [
            layer.register_forward_pre_hook(functools.partial(_measure, found, name))
            for name, layer in _batch_norms(module).items()
        ]
        try:
            self._outputs(module, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        with jax_tensors() as environment:
            values = {name: Buffer(environment.t2j_iso(value)) for name, value in found.items()}
        return TorchNetwork(self.params, self.buffers | values, self.origin)

    @property
    def _arrays(self) -> dict[str, Array]:
        return self.params | {name: buffer.value for name, buffer in self.buffers.items()}

    @property
    def _module(self) -> "nn.Module":
        return self.origin.module_for(self._arrays)

    def _outputs(self, module: "nn.Module", inputs: Array) -> Array:
        with jax_tensors() as environment:
            # Imported with the environment, whose operators it then finds.
            from torch.func import functional_call

            out = functional_call(module, environment.j2t_iso(self._arrays), (environment.j2t_iso(inputs),))
        return environment.t2j_iso(out)


def _measure(found: dict[str, Any], name: str, layer: Any, arguments: tuple[Any]) -> None:
    """Give a layer the statistics of what enters it, and keep them by the names of its buffers."""
    (maps,) = arguments
    axes = [axis for axis in range(maps.ndim) if axis != 1]
    layer.running_mean, layer.running_var = maps.mean(axes), maps.var(axes, correction=0)
    found |= {f"{name}.running_mean": layer.running_mean, f"{name}.running_var": layer.running_var}


def _batch_norms(module: "nn.Module") -> "dict[str, nn.Module]":
    """The layers with running statistics of batches, by name."""
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = dict(module.named_modules())
    return {name: x for name, x in layers.items() if isinstance(x, _BatchNorm) and x.running_mean is not None}


def torch_function(module: "nn.Module", example: Any) -> TorchNetwork:
    """Any PyTorch module as a pure JAX function with its parameters, through torchax.

    Outputs and derivatives agree with PyTorch up to rounding. The module is read once and not kept: training it further
    does not change the network.

    !!! example
        ```python
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        network = interop.torch_function(layer, torch.zeros(5, 8))
        jax.vmap(network)(jnp.zeros((10, 5, 8))).shape  # (10, 5, 8)
        ```

    **Arguments:**
    - `module`: reads a batch along the first axis and puts out one tensor; in `eval()` mode.
    - `example`: one input without the batch axis, as an array or tensor.

    **Returns:** A [`lossatlas.interop.TorchNetwork`][] in the floating type of the module; calling it costs what the
    module costs, after compilation.

    **Raises:** `InputError` as [`lossatlas.interop.from_torch`][], for an operation that torchax does not know, and
    where torch or torchax is missing.
    """
    require_torch()
    check_module(module)
    require_torchax()
    batch = example_tensor(module, example)
    expected = check_repeatable(module, batch)
    params = {name: to_array(tensor, name) for name, tensor in module.named_parameters()}
    buffers = {name: Buffer(to_array(tensor, name)) for name, tensor in module.named_buffers()}
    network = TorchNetwork(params, buffers, Origin(module, np.asarray(to_array(batch[0], "The example"))))
    try:
        output = evaluate(network, batch)
    except Exception as error:
        msg = f"The forward pass of {type(module).__name__} does not work on arrays of JAX: {error}"
        raise InputError(msg) from error
    if not agree(output, expected):
        difference = np.abs(np.asarray(output, float) - expected.cpu().double().numpy()).max()
        msg = (
            f"Through torchax the outputs of {type(module).__name__} differ from PyTorch's by {difference:.1e}, more "
            "than rounding, so the network is not handed out."
        )
        raise InputError(msg)
    return network


def resized_module(module: "nn.Module", tensors: "dict[str, torch.Tensor]") -> "nn.Module":
    """A copy of a module with the given tensors, whose sizes may differ; sizes of PyTorch's layers follow them.

    **Arguments:**
    - `module`: stays as it is. `tensors`: by the names of its `state_dict`.
    """
    known = _tensors(module)
    return _replaced(module, {name: tensor for name, tensor in tensors.items() if name in known})


def network_to_module(network: TorchNetwork) -> "nn.Module":
    """A network that came from a module as such a module again, with its new weights and sizes.

    **Raises:** `InputError` when the module computes something else than the network.
    """
    tensors = {name: to_tensor(array) for name, array in network.params.items()}
    tensors |= {name: to_tensor(buffer.value) for name, buffer in network.buffers.items()}
    module = _replaced(network.origin.module, tensors)
    batch = to_tensor(network.origin.example)[None]
    if batch.is_floating_point():  # the network may have another precision now than the module had
        batch = batch.to(next((x for x in tensors.values() if x.is_floating_point()), batch).dtype)
    try:
        expected, output = evaluate(network, batch), check_repeatable(module, batch)
    except Exception as error:
        msg = f"With these sizes the code of the module does not work, so it is not handed out. {error}"
        raise InputError(msg) from error
    if not agree(expected, output):
        msg = "With these sizes the PyTorch module computes something else than the network, so it is not handed out."
        raise InputError(msg)
    return module
