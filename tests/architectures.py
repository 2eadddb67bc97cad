"""Every architecture that states unit spaces, small, with the shape of one example."""

from typing import Any

import jax

from lossatlas.networks import (
    Affine,
    Conv,
    ConvLayer,
    Convolution,
    Dense,
    Recurrent,
    Residual,
    Transformer,
)


KEY = jax.random.key(0)
IMAGE = (2, 6, 6)
SMALL_CONV: dict[str, Any] = {"image": IMAGE, "channels": [3, 4], "widths": [2]}
SMALL_TRANSFORMER: dict[str, Any] = {"num_stream": 5, "num_heads": 2, "num_hidden": 4, "num_blocks": 1}
_CONV = Conv(KEY, IMAGE, [3, 4], [3, 2], padding="VALID")
NO_BIASES = Conv.from_layers(
    [ConvLayer(None, Convolution(layer.conv.weight, None, padding="VALID"), None) for layer in _CONV.convs],
    [Affine(layer.weight, None) for layer in _CONV.layers],
    image=IMAGE,
)
ARCHITECTURES = {
    "dense": (Dense(KEY, [3, 4, 3, 2]), (3,)),
    "linear units": (Dense(KEY, [3, 4, 3, 2], num_linear=[1, 2], activation="sigmoid"), (3,)),
    "only linear units": (Dense(KEY, [3, 0, 2], num_linear=2), (3,)),
    "no bias": (Dense(KEY, [3, 4, 3, 2], use_bias=False, activation="gelu"), (3,)),
    "no output bias": (Dense(KEY, [3, 4, 2], use_output_bias=False, num_linear=1), (3,)),
    "no biases": (Dense(KEY, [3, 4, 2], use_bias=False, use_output_bias=False, activation="relu"), (3,)),
    "conv, SAME": (Conv(KEY, **SMALL_CONV, pool="max"), IMAGE),
    "conv, VALID": (Conv(KEY, IMAGE, [3, 4], [3, 2], padding="VALID", activation="sigmoid"), IMAGE),
    "conv, stride, mean": (Conv(KEY, **SMALL_CONV, stride=2, head="average", activation="gelu"), IMAGE),
    "conv, separable": (Conv(KEY, **SMALL_CONV, separable=True, pool="average"), IMAGE),
    "conv, running norm": (Conv(KEY, **SMALL_CONV, norm="batch"), IMAGE),
    "conv, batch norm": (Conv(KEY, **SMALL_CONV, norm="batch", batch_statistics=True, padding="VALID"), IMAGE),
    "conv, separable batch norm": (
        Conv(KEY, **SMALL_CONV, norm="batch", batch_statistics=True, separable=True), IMAGE,
    ),
    "conv, no biases": (NO_BIASES, IMAGE),
    "residual, plain": (Residual(KEY, 3, 4, 2), (3,)),
    "residual, pre-activation": (Residual(KEY, 3, 4, 2, num_hidden=5, activation="relu"), (3,)),
    "residual, layer norm": (Residual(KEY, 3, 4, 2, num_hidden=5, norm="layer"), (3,)),
    "residual, rms norm": (Residual(KEY, 3, 4, 2, num_hidden=5, norm="rms", activation="silu"), (3,)),
    "transformer": (Transformer(KEY, 3, 4, 2, **SMALL_TRANSFORMER), (4, 3)),
    "transformer, causal, gated": (
        Transformer(KEY, 3, 4, 2, **SMALL_TRANSFORMER, gated=True, norm="rms", is_causal=True, activation="silu"),
        (4, 3),
    ),
    "transformer, no norm": (Transformer(KEY, 3, 4, 2, **SMALL_TRANSFORMER, norm=None, head_size=3), (4, 3)),
    "recurrent": (Recurrent(KEY, 3, 4, 2), (5, 3)),
}  # fmt: skip
