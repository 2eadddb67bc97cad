"""What a survey can be asked for: the same names in Python, on the command line and in a stored run."""

import dataclasses
from typing import Literal


BIG = "big network"
"""What the tables of a survey call the big network among the candidates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """The settings of a survey.

    - `target`: the target column of a file (default: the last column).
    - `hidden`: widths of the hidden layers of the big network.
    - `activation`: its activation, and that of the small networks.
    - `loss`: `"auto"` is squared error (one-hot targets for classes); or `"mse"`, `"cross_entropy"`.
    - `seed`: seed of everything that is random.
    - `seeds`: how many big networks are trained; default 1 for `quick`, 5 for `full`.
    - `preset`: `"quick"` (minutes) or `"full"` (many starts, several seeds, repeated splits).
    - `max_units`: largest k + r of the small networks (k) neurons and (r) linear units; default by preset and data.
    - `init`: power p of the small initialisation std = max(fan_in, fan_out)**-p; default by depth.
    - `learning_rate`, `num_steps`: of the full-batch gradient descent whose visits are charted; default by data.
    - `hold_out`: share of the rows kept for the held-out figures.
    """

    target: str | None = None
    hidden: tuple[int, ...] = (50, 50)
    activation: str = "tanh"
    loss: Literal["auto", "mse", "cross_entropy"] = "auto"
    seed: int = 0
    seeds: int | None = None
    preset: Literal["quick", "full"] = "quick"
    max_units: int | None = None
    init: float | None = None
    learning_rate: float | None = None
    num_steps: int | None = None
    hold_out: float = 0.25
