from collections.abc import Sequence

import numpy as np

from lossatlas._errors import InputError


DEFAULT_SNAPSHOTS = 160


def log_spaced_steps(num_steps: int, num_snapshots: int = DEFAULT_SNAPSHOTS) -> np.ndarray:
    """Distinct whole steps from 0 to `num_steps`, even in the logarithm as far as whole numbers allow.

    Consecutive at first, then in a constant ratio; exactly `min(num_snapshots, num_steps + 1)` of them.

    **Arguments:**
    - `num_steps`: the last step, at least 0.
    - `num_snapshots`: how many, at least 2 (0 and the last, which are one when `num_steps` is 0).

    **Returns:** increasing integers, the first 0 and the last `num_steps`.

    **Raises:** `InputError` for fewer than 2 snapshots and a negative number of steps.

    !!! example
        >>> log_spaced_steps(100, 8).tolist()
        [0, 1, 2, 4, 9, 20, 45, 100]
    """
    if num_snapshots < 2:
        msg = f"snapshots must be at least 2 (step 0 and the last step), got {num_snapshots}."
        raise InputError(msg)
    if num_steps < 0:
        msg = f"num_steps must be at least 0, got {num_steps}."
        raise InputError(msg)
    steps = [0]
    remaining = min(num_snapshots, num_steps + 1) - 1
    while remaining:
        last = max(steps[-1], 1)
        # The ratio that would reach num_steps exactly; the first step after 0 is always 1.
        ratio = (num_steps / last) ** (1 / remaining)
        following = round(last * ratio) if steps[-1] else 1
        remaining -= 1
        steps.append(num_steps if remaining == 0 else min(max(steps[-1] + 1, following), num_steps - remaining))
    return np.asarray(steps)


def as_steps(
    snapshots: int | Sequence[int] | np.ndarray, num_steps: int, what: str = "snapshots", first: int = 0
) -> np.ndarray:
    """The increasing steps that a number, or a list of steps, stands for.

    **Raises:** `InputError` for steps that are no whole numbers between `first` and `num_steps`, repeated or none.
    """
    if isinstance(snapshots, int | np.integer):
        return first + log_spaced_steps(num_steps - first, int(snapshots))
    steps = np.asarray(snapshots)
    if steps.ndim != 1 or steps.size == 0 or not np.issubdtype(steps.dtype, np.integer):
        msg = f"{what} must be a number of log-spaced steps or a non-empty list of whole steps, got {snapshots!r}."
        raise InputError(msg)
    steps = np.unique(steps)
    if steps[0] < first or steps[-1] > num_steps:
        msg = f"{what} must lie between {first} and num_steps = {num_steps}, got steps from {steps[0]} to {steps[-1]}."
        raise InputError(msg)
    return steps
