"""Tensors of PyTorch and arrays of JAX, bit by bit; what a module must be before it is read."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError


if TYPE_CHECKING:
    import torch
    from torch import nn


def require_torch() -> ModuleType:
    """The module torch.

    **Raises:** `InputError` where it is not installed.
    """
    try:
        import torch
    except ImportError:
        msg = "This needs PyTorch: pip install 'lossatlas[torch]'."
        raise InputError(msg) from None
    return torch


def to_array(tensor: "torch.Tensor", name: str) -> Array:
    """A tensor as an array of its own, bit for bit.

    **Raises:** `InputError` for a tensor without data, and for float64 where JAX has it switched off.
    """
    import torch

    if tensor.is_meta:
        msg = f"{name} lies on the device 'meta' and holds no numbers; load the weights first."
        raise InputError(msg)
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in (torch.float64, torch.complex128) and jnp.zeros(()).dtype != jnp.float64:
        msg = (
            f"{name} is {str(tensor.dtype).removeprefix('torch.')}; convert the module with .float(), or work under "
            "`with jax.enable_x64(True):` or after `jax.config.update('jax_enable_x64', True)`."
        )
        raise InputError(msg)
    if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
        return jnp.array(tensor.view(torch.int16).numpy().view(jnp.bfloat16))
    return jnp.array(tensor.numpy())  # a copy: training the module further must not change the network


def to_tensor(array: Any) -> "torch.Tensor":
    """An array as a tensor of its own, bit for bit."""
    import torch

    values = np.array(array)
    if values.dtype == jnp.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def example_tensor(module: "nn.Module", example: Any) -> "torch.Tensor":
    """One example as a batch of one, in the floating type and on the device of the module.

    **Raises:** `InputError` for what is no array.
    """
    import torch

    try:
        values = example if isinstance(example, torch.Tensor) else torch.from_numpy(np.array(example))
    except TypeError:
        msg = f"example must be one input of the module as an array, got a {type(example).__name__}."
        raise InputError(msg) from None
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    if first is not None:
        values = values.to(first.device, first.dtype if values.is_floating_point() else None)
    return values[None]


def check_module(module: Any) -> None:
    """See that a module is one, and that its forward pass is a function of its input.

    **Raises:** `InputError` for another object, and in training mode where dropout or batch statistics are used.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    if isinstance(module, type) or not isinstance(module, nn.Module):
        what = "the class itself; call it first" if isinstance(module, type) else f"a {type(module).__name__}"
        msg = f"A torch.nn.Module is needed, got {what}."
        raise InputError(msg)
    for name, part in module.named_modules():
        droops = isinstance(part, _DropoutNd) and part.p > 0
        droops = droops or (isinstance(part, nn.RNNBase | nn.MultiheadAttention) and part.dropout > 0)
        if part.training and (droops or isinstance(part, _NormBase | nn.RReLU)):
            msg = (
                f"{name or 'The module'} ({type(part).__name__}) is in training mode, so the outputs are random or "
                "depend on the batch; call module.eval() first."
            )
            raise InputError(msg)


def check_repeatable(module: "nn.Module", batch: "torch.Tensor") -> "torch.Tensor":
    """The output for a batch, the same twice and with the state of the module unchanged.

    The random numbers of PyTorch go on as if nothing had been evaluated.

    **Raises:** `InputError` for a forward pass that fails, is random, changes its module, or puts out no tensor.
    """
    import torch

    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    state = torch.get_rng_state()
    try:
        with torch.no_grad():
            first, second = module(batch), module(batch)
    except Exception as error:
        msg = (
            f"The module cannot be evaluated on a batch of one example, shape {tuple(batch.shape)}: {error} "
            "Give one input without the batch axis as example=."
        )
        raise InputError(msg) from error
    finally:
        torch.set_rng_state(state)
    changed = [name for name, old in before.items() if not _same(old, dict(module.named_buffers()).get(name))]
    if changed:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in before and buffer.shape == before[name].shape:
                    buffer.copy_(before[name])
        msg = (
            f"The forward pass changes the module ({', '.join(changed[:3])}), so it is no function of its input; "
            "call module.eval(), or take that part out of forward()."
        )
        raise InputError(msg)
    if not isinstance(first, torch.Tensor) or first.shape[:1] != (1,):
        what = f"shape {tuple(first.shape)}" if isinstance(first, torch.Tensor) else f"a {type(first).__name__}"
        msg = (
            f"For a batch of one the module must put out one tensor whose first axis is the batch, got {what}; wrap it "
            "in a module whose forward() returns that tensor (and use batch_first=True where there is such an option)."
        )
        raise InputError(msg)
    if not _same(first, second):
        msg = (
            "Two evaluations of the module on the same example differ: its forward pass is random or has a state; "
            "call module.eval(), or take the random part out of forward()."
        )
        raise InputError(msg)
    return first[0]


def _same(old: "torch.Tensor", new: Any) -> bool:
    import torch

    return isinstance(new, torch.Tensor) and old.shape == new.shape and torch.equal(old.nan_to_num(), new.nan_to_num())


def agree(ours: Any, theirs: "torch.Tensor") -> bool:
    """Whether an output equals PyTorch's up to rounding, a thousand units of it."""
    ours, expected = np.asarray(ours), theirs.detach().cpu()
    if ours.shape != tuple(expected.shape):
        return False
    eps = float(jnp.finfo(ours.dtype).eps) if jnp.issubdtype(ours.dtype, jnp.inexact) else 0.0
    wide = np.asarray(expected.double().numpy())
    return bool(np.allclose(ours.astype(float), wide, rtol=0, atol=1e3 * eps * max(1.0, np.abs(wide).max(initial=0))))


def evaluate(network: Any, example: "torch.Tensor") -> Array:
    """The output of a network of ours for a batch of one, without the batch axis."""
    return _evaluate(network, to_array(example[0], "The example"))


@eqx.filter_jit
def _evaluate(network: Any, x: Array) -> Array:
    return network(x)
