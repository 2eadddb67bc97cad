"""Where labels go so that they do not overlap: pixel geometry only."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: int | float
    top: int | float
    right: int | float
    bottom: int | float

    def overlap(self, other: "Box") -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.bottom - self.top)


def spread(
    wanted: Sequence[int | float], gap: int | float | Sequence[int | float], low: int | float, high: int | float
) -> list[float]:
    """Positions nearest to the wanted ones (least squares), in the same order, at least `gap` apart, within bounds.

    Labels that touch move as one block, as in isotonic regression (pool adjacent violators).

    **Arguments:**
    - `wanted`: in any order. `gap`: least distance of neighbours, or the height of each label (neighbours then
      keep half the sum of theirs apart).
    - `low`, `high`: bounds of the positions; when they are too near for all, the gaps shrink.
    """
    if not len(wanted):
        return []
    order = np.argsort(wanted, kind="stable")
    heights = np.broadcast_to(np.asarray(gap, float), (len(wanted),))[order]
    offsets = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    if offsets[-1] > high - low:
        offsets *= (high - low) / offsets[-1]
    blocks: list[list[float]] = []  # mean of the shifted position, number of labels
    for value in np.asarray(wanted, float)[order] - offsets:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            blocks[-1] = [
                (blocks[-1][0] * blocks[-1][1] + mean * count) / (blocks[-1][1] + count),
                blocks[-1][1] + count,
            ]
    shifted = np.repeat([b[0] for b in blocks], [int(b[1]) for b in blocks])
    # Clipping what is sorted keeps it sorted, so the gaps survive the bounds.
    places = np.clip(shifted, low, high - offsets[-1]) + offsets
    result = np.empty(len(wanted))
    result[order] = places
    return result.tolist()


def text_size(text: str, font: int | float) -> tuple[float, float]:
    """Width and height in pixels of plain text with `<br>`, on the safe side for sans-serif fonts."""
    lines = text.replace("<b>", "").replace("</b>", "").split("<br>")
    return 0.58 * font * max(len(line) for line in lines) + 4, 1.3 * font * len(lines) + 2


class Offset(NamedTuple):
    """Where a label stands relative to its point: pixels to the nearest point of its box, and the side."""

    dx: int | float
    dy: int | float
    xanchor: str
    yanchor: str

    def box(self, x: int | float, y: int | float, size: tuple[int | float, int | float]) -> Box:
        """The rectangle of a label of this size."""
        width, height = size
        left = x + self.dx - {"left": 0.0, "center": width / 2, "right": width}[self.xanchor]
        top = y + self.dy - {"top": 0.0, "middle": height / 2, "bottom": height}[self.yanchor]
        return Box(left, top, left + width, top + height)


def _candidates() -> list[Offset]:
    result = []
    for distance in (14, 30, 48, 70, 95, 125, 160):
        side = min(distance, 24)
        result += [
            Offset(side, -distance, "left", "bottom"),
            Offset(-side, distance, "right", "top"),
            Offset(0, -distance, "center", "bottom"),
            Offset(0, distance, "center", "top"),
            Offset(-side, -distance, "right", "bottom"),
            Offset(side, distance, "left", "top"),
        ]
    return result


def _squares(centres: np.ndarray, half: float) -> np.ndarray:
    """Boxes around points, shape (n, 4)."""
    return np.concatenate([centres - half, centres + half], axis=1)


def _covered(box: Box, boxes: np.ndarray) -> float:
    """The sum of the common areas of a box with others, shape (n, 4)."""
    width = np.minimum(box.right, boxes[:, 2]) - np.maximum(box.left, boxes[:, 0])
    height = np.minimum(box.bottom, boxes[:, 3]) - np.maximum(box.top, boxes[:, 1])
    return float(np.sum(np.maximum(width, 0) * np.maximum(height, 0)))


def place_labels(
    points: Sequence[tuple[int | float, int | float]],
    texts: Sequence[str],
    font: int | float,
    frames: Sequence[Callable[[int | float, int | float], tuple[int | float, int | float]]],
    size: Sequence[tuple[int | float, int | float]],
    obstacles: np.ndarray,
    *,
    near: Sequence[Offset] = (),
    strong: Sequence[bool] | None = None,
) -> list[Offset | None]:
    """A place for each label, near its point, off the curves, off the other labels and inside the picture.

    Tried one after the other for every given width of the picture at once, since a page is read at many; where no
    place is free the one with the least overlap is taken, or none when more than a third is covered (a twentieth for
    labels that are not strong).

    **Arguments:**
    - `points`: in data units. `texts`: plain, with `<br>`. `font`: its size in pixels.
    - `frames`: maps from data units to pixels, one for each width. `size`: width and height of each picture.
    - `obstacles`: points of curves, data units, shape (n, 2).
    - `near`: places tried before all others. `strong`: which labels matter; default all.
    """
    taken = []
    for frame in frames:
        curve = np.array([frame(x, y) for x, y in obstacles]).reshape(-1, 2)
        marks = np.array([frame(x, y) for x, y in points]).reshape(-1, 2)
        taken.append(np.concatenate([_squares(curve, 3.0), _squares(marks, 7.0)]))
    chosen: list[Offset | None] = []
    for (x, y), text, matters in zip(points, texts, strong or [True] * len(texts), strict=True):
        extent = text_size(text, font)
        best, least = None, np.inf
        for offset in [*near, *_candidates()]:
            cost = 0.0
            for frame, (width, height), boxes in zip(frames, size, taken, strict=True):
                box = offset.box(*frame(x, y), extent)
                outside = box.area - box.overlap(Box(0.0, 0.0, width, height))
                cost += 4 * outside + _covered(box, boxes)
            if cost < least - 1e-9:
                best, least = offset, cost
            if cost < 1e-9:
                break
        if best is None or least > extent[0] * extent[1] * len(frames) * (1 / 3 if matters else 1 / 20):
            chosen.append(None)
            continue
        chosen.append(best)
        for i, frame in enumerate(frames):
            taken[i] = np.vstack([taken[i], best.box(*frame(x, y), extent)])
    return chosen
