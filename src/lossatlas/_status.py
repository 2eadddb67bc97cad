"""How a computation ended, and the three answers of a certificate."""

import enum


class Status(enum.Enum):
    """How a solver or a training run ended; the value is the readable text."""

    CONVERGED = "converged"
    FINISHED = "ran all steps"
    MAX_STEPS = "the maximum number of steps was reached before convergence"
    DIVERGED = "the loss became non-finite"
    AT_INFINITY = "the gradient vanishes because parameters run away: a level at infinity, not a critical point"
    STALLED = "no further decrease was possible before convergence"

    def __str__(self) -> str:
        return self.value


class Certificate(enum.Enum):
    """A certificate has three answers."""

    YES = "yes"
    NO = "no"
    NOT_CERTIFIED = "not certified"

    def __str__(self) -> str:
        return self.value
