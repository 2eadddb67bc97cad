"""Covariances of maps at infinite width: between which places of two images they are kept."""

import itertools
from typing import Any, Literal

import numpy as np

from lossatlas._errors import InputError


Padding = Literal["SAME", "VALID"]
Places = Any
"""One of the classes below; which of their methods are used depends on the layers."""


class Nowhere:
    """Vectors, which have no places: covariances of shape (n, m), of examples with themselves (n,).

    `products`: mean products over channels (the last axis), of the pairs and of each side with itself. `variances`:
    from covariances of examples with themselves. `paired`, `own`: variances as they stand beside covariances of
    pairs, and of examples with themselves. With places also `convolved`, the mean over the offsets of a kernel;
    `pooled`, averages of 2 x 2; `flattened`, the mean over equal places; `averaged`, that over all pairs of places.
    """

    def products(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = first.shape[-1]
        return first @ second.T / size, (first**2).sum(-1) / size, (second**2).sum(-1) / size

    def variances(self, own: np.ndarray) -> np.ndarray:
        return own

    def paired(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return left[:, None], right[None]

    def own(self, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return variances, variances


class Diagonal(Nowhere):
    """Covariances between the same place of two images, shape (n, m, h, w)."""

    def products(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = first.shape[-1]
        cross = np.einsum("nhwc,mhwc->nmhw", first, second) / size
        return cross, (first**2).sum(-1) / size, (second**2).sum(-1) / size

    def convolved(self, values: np.ndarray, kernel: int, stride: int, padding: Padding) -> np.ndarray:
        return _window_mean(values, (-2, -1), kernel, stride, padding)

    def flattened(self, values: np.ndarray) -> np.ndarray:
        return values.mean((-2, -1))


class Everywhere:
    """Covariances between all pairs of places, shape (n, m, h, w, h, w)."""

    def products(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = first.shape[-1]
        cross = np.einsum("nhwc,mijc->nmhwij", first, second) / size
        left, right = (np.einsum("nhwc,nijc->nhwij", x, x) / size for x in (first, second))
        return cross, left, right

    def variances(self, own: np.ndarray) -> np.ndarray:
        return np.einsum("nhwhw->nhw", own)

    def paired(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return left[:, None, :, :, None, None], right[None, :, None, None]

    def own(self, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return variances[:, :, :, None, None], variances[:, None, None]

    def convolved(self, values: np.ndarray, kernel: int, stride: int, padding: Padding) -> np.ndarray:
        return _window_mean(values, (-4, -3, -2, -1), kernel, stride, padding)

    def pooled(self, values: np.ndarray) -> np.ndarray:
        if min(values.shape[-2:]) < 2:
            msg = f"Maps of shape {values.shape[-2:]} are too small to be pooled."
            raise InputError(msg)
        for axis in (-4, -3, -2, -1):
            kept = np.moveaxis(values, axis, -1)
            size = kept.shape[-1] // 2
            halves = kept[..., : 2 * size].reshape(*kept.shape[:-1], size, 2)
            values = np.moveaxis(halves.mean(-1), -1, axis)
        return values

    def flattened(self, values: np.ndarray) -> np.ndarray:
        return np.einsum("...hwhw->...hw", values).mean((-2, -1))

    def averaged(self, values: np.ndarray) -> np.ndarray:
        return values.mean((-4, -3, -2, -1))


def _window_mean(values: np.ndarray, axes: tuple[int, ...], kernel: int, stride: int, padding: Padding) -> np.ndarray:
    """The mean over the offsets of a kernel, the same along each pair of axes; what is padded is zero."""
    sizes = values.shape[-2:]
    outs, lows = zip(*(_span(size, kernel, stride, padding) for size in sizes), strict=True)
    pads = [(0, 0)] * (values.ndim - len(axes))
    for axis in range(len(axes)):
        low = lows[axis % 2]
        reach = (outs[axis % 2] - 1) * stride + kernel
        pads.append((low, max(reach - low - sizes[axis % 2], 0)))
    padded = np.pad(values, pads)
    total = np.zeros(())
    for offsets in itertools.product(range(kernel), repeat=2):
        cuts = [slice(o, o + (out - 1) * stride + 1, stride) for o, out in zip(offsets, outs, strict=True)]
        total = total + padded[(..., *cuts * (len(axes) // 2))]
    return total / kernel**2


def _span(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """How many places a convolution leaves along an axis, and the zeros before the first."""
    if padding == "VALID":
        out, low = (size - kernel) // stride + 1, 0
    else:
        out = -(-size // stride)
        low = max((out - 1) * stride + kernel - size, 0) // 2
    if out < 1:
        msg = f"Images of {size} places shrink to nothing under a kernel of {kernel}."
        raise InputError(msg)
    return out, low
