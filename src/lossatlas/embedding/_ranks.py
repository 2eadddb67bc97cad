"""How a budget of parameters is shared out over the ranks of several matrices."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


Choices = tuple[np.ndarray, np.ndarray]
"""Of one matrix: sizes, growing, and what each loses."""


def rank_choices(energies: Float[np.ndarray, " r"], shape: tuple[int, int]) -> Choices:
    """Sizes of a matrix and what they lose: rank 1, 2, ... in two factors while that is smaller, and the whole matrix.

    **Arguments:**
    - `energies`: what each direction is worth, the largest first.
    """
    rows, columns = shape
    most = max(min(-(-rows * columns // max(rows + columns, 1)) - 1, len(energies)), 0)  # below the size of the whole
    left = np.cumsum(energies[::-1])[::-1]
    losses = np.append(left[1:], 0.0)[:most]
    return np.append((rows + columns) * np.arange(1, most + 1), rows * columns), np.append(losses, 0.0)


def share_out(choices: Sequence[Choices], most: int) -> list[int] | None:
    """Which choice of each matrix, so that all together stay within a size and lose little; None where nothing fits.

    From the smallest on, always the step (of any length) that gains most for the parameters that it takes, until none
    fits: best on the convex hull of the choices, and what is left over is used up.

    **Arguments:**
    - `most`: the size allowed for all.
    """
    chosen = [0] * len(choices)
    room = most - sum(int(sizes[0]) for sizes, _ in choices)
    if room < 0:
        return None
    while True:
        best, step = -1.0, None
        for i, (sizes, losses) in enumerate(choices):
            at = chosen[i]
            extra = sizes[at + 1 :] - sizes[at]
            fitting = int(np.searchsorted(extra, room, side="right"))
            if not fitting:
                continue
            gains = (losses[at] - losses[at + 1 : at + 1 + fitting]) / extra[:fitting]
            pick = int(np.argmax(gains))
            if gains[pick] > best:
                best, step = float(gains[pick]), (i, at + 1 + pick, int(extra[pick]))
        if step is None:
            return chosen
        chosen[step[0]] = step[1]
        room -= step[2]
