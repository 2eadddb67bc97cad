"""Stacks of PyTorch's layers as networks of ours, natively and exactly."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer
from lossatlas._types import Network
from lossatlas.interop._torch_function import torch_function
from lossatlas.interop._torch_layers import Misfit, activation_name, plain_layers, same_padding
from lossatlas.interop._torch_tensors import (
    agree,
    check_module,
    check_repeatable,
    evaluate,
    example_tensor,
    require_torch,
    to_array,
)
from lossatlas.networks import Affine, BatchNorm, Conv, ConvLayer, Convolution, Dense, DenseLayer


if TYPE_CHECKING:
    from torch import nn


def from_torch(module: "nn.Module", example: Any = None) -> Network:
    """A PyTorch module as a point of the landscape.

    Stacks (`nn.Sequential`, nested or not) become a [`lossatlas.networks.Dense`][] or a [`lossatlas.networks.Conv`][]
    where they fit: `Linear` layers with one and the same activation between them, the last without; `Conv2d` with
    `BatchNorm2d` in all layers or none, the activation, 2 x 2 pooling where wanted, then `Flatten` or
    `AdaptiveAvgPool2d(1)` and `Linear` layers. Weights are taken over bit for bit and outputs agree up to rounding.
    Dropout passes everything on; a `Flatten` before the first `Linear` is left out, so the network reads flat vectors.
    A `BatchNorm1d` behind a `Linear` is folded into it, which keeps the function and not the parameters.
    Everything else becomes a [`lossatlas.interop.TorchNetwork`][], see [`lossatlas.interop.torch_function`][].

    !!! example
        ```python
        module = torch.nn.Sequential(torch.nn.Linear(4, 50), torch.nn.Tanh(), torch.nn.Linear(50, 3))
        network = interop.from_torch(module.eval())
        network.widths  # (4, 50, 3)
        ```

    **Arguments:**
    - `module`: in `eval()` mode, since its forward pass must be a function of its input.
    - `example`: one input without the batch axis, as an array or tensor; needed for images and for what is no plain
      stack. With it the outputs are compared, and the forward pass is seen to be neither random nor stateful.

    **Returns:** A network in the floating type of the module that reads one example; use `jax.vmap` for many.

    **Raises:** `InputError` for what is no module, for training mode with dropout or batch statistics, for a forward
    pass that is random, stateful or fails, for float64 where JAX has it switched off, and where an example is missing.
    """
    require_torch()
    check_module(module)
    if example is None:
        try:
            return _stack(module, None)
        except Misfit as reason:
            msg = (
                f"Without an example only stacks of Linear layers with one activation are read, and {reason}. Give "
                "example=, one input without the batch axis: then any module comes over."
            )
            raise InputError(msg) from None
    batch = example_tensor(module, example)
    expected = check_repeatable(module, batch)
    try:
        network = _stack(module, tuple(batch.shape[1:]))
    except Misfit:
        return torch_function(module, example)
    if isinstance(network, Dense):
        batch = batch.reshape(1, -1)
    return network if agree(evaluate(network, batch), expected) else torch_function(module, example)


def _stack(module: "nn.Module", shape: tuple[int, ...] | None) -> Network:
    layers: list[Any] = [layer for layer in plain_layers(module) if type(layer).__name__ != "Identity"]
    if not layers:
        msg = "it has no layers"
        raise Misfit(msg)
    parameters = [p for layer in layers for p in layer.parameters()]
    if len({id(p) for p in parameters}) < len(parameters):
        msg = "layers share weights"
        raise Misfit(msg)
    if len({p.dtype for p in parameters}) != 1:
        msg = "its parameters are of several types"
        raise Misfit(msg)
    if _kind(layers[0]) in ("Conv2d", "ZeroPad2d"):
        return _conv(layers, shape)
    if _kind(layers[0]) == "Flatten":
        return _dense(layers[1:])
    if shape is not None and len(shape) != 1:
        msg = f"the example has shape {shape}"
        raise Misfit(msg)
    return _dense(layers)


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _eps(layer: Any) -> float:
    import torch

    return torch.finfo(next(layer.parameters()).dtype).eps


def _dense(layers: list[Any]) -> Dense:
    found, names = _affines(layers)
    named = {name for name in names if name is not None}
    act = _one_activation(named)
    made = []
    for i, (layer, name) in enumerate(zip(found, names, strict=True)):
        if name is not None or not named or i == len(found) - 1:
            made.append(layer)
        elif layer.bias is None:
            made.append(DenseLayer(layer.weight[:0], None, layer.weight))
        else:
            msg = "a Linear with a bias follows another without an activation between them"
            raise Misfit(msg)
    return Dense.from_layers(made, act)


def _one_activation(names: set[str]) -> str:
    if len(names) > 1:
        msg = f"it has several activations ({', '.join(sorted(names))})"
        raise Misfit(msg)
    return next(iter(names), "identity")


def _affines(layers: list[Any]) -> tuple[list[DenseLayer], list[str | None]]:
    """The affine maps of `Linear` layers, and the activations behind them (None: none)."""
    found, names = [], []
    for i, layer in enumerate(layers):
        kind, before = _kind(layer), _kind(layers[i - 1]) if i else ""
        if kind == "Linear":
            found.append(DenseLayer(to_array(layer.weight, "A weight"), _bias(layer)))
            names.append(None)
        elif kind == "DenseLayer":  # of ours, with linear units
            linear = None if layer.linear is None else to_array(layer.linear, "A weight")
            found.append(DenseLayer(to_array(layer.weight, "A weight"), _bias(layer), linear))
            names.append(activation_name(layer.activation, _eps(layer)))
        elif kind == "BatchNorm1d" and before == "Linear":
            found[-1] = _folded(found[-1], layer)
        elif before in ("Linear", "BatchNorm1d") and (name := activation_name(layer, _eps(layers[i - 1]))) is not None:
            names[-1] = name
        else:
            msg = f"a {kind} stands {f'behind a {before}' if before else 'at the beginning'}"
            raise Misfit(msg)
    if not found or names[-1] is not None:
        msg = f"its last layer is a {_kind(layers[-1]) if layers else 'Flatten'}, not a Linear"
        raise Misfit(msg)
    return found, names


def _bias(layer: Any) -> Array | None:
    return None if layer.bias is None else to_array(layer.bias, "A bias")


def _statistics(norm: Any) -> tuple[Array, Array, Array, Array]:
    """Scale, shift, running mean and running variance."""
    if norm.weight is None or norm.running_mean is None:
        msg = f"a {_kind(norm)} has no {'scale and shift' if norm.weight is None else 'running statistics'} of its own"
        raise Misfit(msg)
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    scale, shift, mean, variance = (to_array(tensor, "A normalisation") for tensor in tensors)
    return scale, shift, mean, variance


def _folded(layer: DenseLayer, norm: Any) -> DenseLayer:
    r"""$\gamma (W x + b - \mu) / \sqrt{v + \epsilon} + \beta$ as one affine map, computed in float64."""
    scale, shift, mean, variance = (np.asarray(array, float) for array in _statistics(norm))
    factor = scale / np.sqrt(variance + norm.eps)
    weight = np.asarray(layer.weight, float) * factor[:, None]
    bias = ((0.0 if layer.bias is None else np.asarray(layer.bias, float)) - mean) * factor + shift
    dtype = layer.weight.dtype
    return DenseLayer(jnp.array(weight, dtype), jnp.array(bias, dtype))


def _conv(layers: list[Any], shape: tuple[int, ...] | None) -> Conv:
    if shape is None or len(shape) != 3:
        msg = "it reads images, so that example= must be one image of shape (channels, height, width)"
        if shape is not None:
            msg = f"it reads images, and the example has shape {shape}"
        raise Misfit(msg)
    head = next((i for i, layer in enumerate(layers) if _head(layer)), None)
    if head is None:
        msg = "no Flatten or AdaptiveAvgPool2d(1) leads from its Conv2d layers to Linear ones"
        raise Misfit(msg)
    convs, conv_names, pools = _convolutions(layers[:head], shape)
    kind, rest = _head(layers[head]), layers[head + 1 :]
    if kind == "average":
        if not rest or _head(rest[0]) != "flatten":
            msg = "an AdaptiveAvgPool2d is not followed by a Flatten"
            raise Misfit(msg)
        rest = rest[1:]
    found, names = _affines(rest)
    if None in names[:-1] or any(layer.linear is not None for layer in found):
        msg = "two Linear layers stand without an activation between them"
        raise Misfit(msg)
    kinds = {pool for pool in pools if pool is not None}
    if len(kinds) > 1:
        msg = "some of its convolutional layers pool by maxima and others by means"
        raise Misfit(msg)
    if len({layer.norm is None for layer in convs}) > 1:
        msg = "some of its convolutional layers have a BatchNorm2d and others do not"
        raise Misfit(msg)
    act = _one_activation({*conv_names, *(name for name in names if name is not None)})
    affines = [Affine(layer.weight, layer.bias) for layer in found]
    return Conv.from_layers(convs, affines, image=shape, activation=act, pool=kinds.pop() if kinds else None, head=kind)


def _head(layer: Any) -> Any:
    if _kind(layer) == "Flatten" and (layer.start_dim, layer.end_dim) == (1, -1):
        return "flatten"
    if _kind(layer) == "AdaptiveAvgPool2d" and layer.output_size in (1, (1, 1)):
        return "average"
    return None


def _convolutions(layers: list[Any], shape: tuple[int, int, int]) -> tuple[list[ConvLayer], list[str], list]:
    """The convolutional layers, their activations and their poolings."""
    left, size = list(layers), shape[1:]
    convs, names, pools = [], [], []
    while left:
        depthwise = None
        conv, size, is_depthwise = _take_convolution(left, size)
        if is_depthwise:
            depthwise = conv
            conv, size, is_depthwise = _take_convolution(left, size)
            if is_depthwise:
                msg = "two depthwise Conv2d layers follow each other"
                raise Misfit(msg)
            if depthwise.bias is not None:
                depthwise, conv = _moved_bias(depthwise, conv)
        eps = float(jnp.finfo(conv.weight.dtype).eps)
        norm = None
        if left and _kind(left[0]) == "BatchNorm2d":
            layer = left.pop(0)
            scale, shift, mean, variance = _statistics(layer)
            norm = BatchNorm(scale, shift, Buffer(mean), Buffer(variance), layer.eps)
        name = activation_name(left[0], eps) if left else None
        if name is not None:
            left.pop(0)
        pool = _pool(left[0]) if left else None
        if pool is not None:
            left.pop(0)
            size = (size[0] // 2, size[1] // 2)
        convs.append(ConvLayer(depthwise, conv, norm, is_pooled=pool is not None))
        names.append(name or "identity")
        pools.append(pool)
    return convs, names, pools


def _take_convolution(left: list[Any], size: tuple[int, ...]) -> tuple[Convolution, tuple[int, int], bool]:
    """The next convolution, the size of its maps, and whether it is depthwise."""
    before = (0, 0, 0, 0)  # left, right, top, bottom
    if left and _kind(left[0]) == "ZeroPad2d":
        before = tuple(left.pop(0).padding)
    if not left or _kind(left[0]) != "Conv2d":
        msg = f"a {_kind(left[0])} stands where a Conv2d is expected" if left else "a depthwise Conv2d stands alone"
        raise Misfit(msg)
    layer = left.pop(0)
    channels, stride = layer.in_channels, layer.stride[0]
    is_depthwise = layer.groups == channels == layer.out_channels > 1
    if not is_depthwise and layer.groups > 1:
        msg = f"a Conv2d has groups={layer.groups}"
        raise Misfit(msg)
    if layer.dilation != (1, 1) or layer.stride[0] != layer.stride[1] or layer.padding_mode != "zeros":
        msg = "a Conv2d has a dilation, two strides, or a padding other than zeros"
        raise Misfit(msg)
    padding, after = _padding(layer, before, size)
    weight = to_array(layer.weight, "A weight")
    return Convolution(weight, _bias(layer), stride, padding, is_depthwise), after, is_depthwise


def _padding(layer: Any, before: tuple[int, ...], size: tuple[int, ...]) -> tuple[Any, tuple[int, int]]:
    """The name of a padding, `"VALID"` or `"SAME"`, and the size of the maps behind it."""
    stride, kernels = layer.stride[0], layer.kernel_size
    if layer.padding == "same":
        own = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernels]
    elif layer.padding == "valid":
        own = [(0, 0), (0, 0)]
    else:
        own = [(p, p) for p in layer.padding]
    around = [(before[2], before[3]), (before[0], before[1])]
    pads = [(low + a, high + b) for (low, high), (a, b) in zip(own, around, strict=True)]
    sizes = [(n + low + high - k) // stride + 1 for n, k, (low, high) in zip(size, kernels, pads, strict=True)]
    after = (sizes[0], sizes[1])
    if not any(low or high for low, high in pads):
        return "VALID", after
    # SAME: windows start at -low, and there are ceil(n / stride) of them; what lies beyond the last one is not read.
    same = [same_padding(n, k, stride)[0] for n, k in zip(size, kernels, strict=True)]
    if [low for low, _ in pads] == same and sizes == [-(-n // stride) for n in size]:
        return "SAME", after
    msg = f"a Conv2d pads {layer.padding!r}, neither nothing nor so as to keep the size as 'SAME' does at this stride"
    raise Misfit(msg)


def _moved_bias(depthwise: Convolution, conv: Convolution) -> tuple[Convolution, Convolution]:
    """A bias of the filters as one of the convolution that reads them; exact where that sees no padded zeros."""
    if conv.pads:
        msg = "a depthwise Conv2d with a bias comes before a padded one"
        raise Misfit(msg)
    weight, added = np.asarray(conv.weight, float), np.asarray(depthwise.bias, float)
    bias = np.einsum("oihw,i->o", weight, added) + (0.0 if conv.bias is None else np.asarray(conv.bias, float))
    moved: Float[Array, " o"] = jnp.array(bias, conv.weight.dtype)
    return (
        Convolution(depthwise.weight, None, depthwise.stride, depthwise.padding, is_depthwise=True),
        Convolution(conv.weight, moved, conv.stride, conv.padding),
    )


def _pool(layer: Any) -> Any:
    """`"max"` or `"average"` for 2 x 2 pooling without overlap, else None."""
    kind = _kind(layer)
    if kind not in ("MaxPool2d", "AvgPool2d"):
        return None
    facts = layer.kernel_size, layer.stride, layer.padding
    plain = all(value in (wanted, (wanted, wanted)) for value, wanted in zip(facts, (2, 2, 0), strict=True))
    if kind == "MaxPool2d":
        plain = plain and layer.dilation in (1, (1, 1)) and not layer.return_indices
    else:
        plain = plain and layer.divisor_override in (None, 4)
    return {"MaxPool2d": "max", "AvgPool2d": "average"}[kind] if plain and not layer.ceil_mode else None
