"""The predicted column: what theory says of an embedding before it is made."""

from lossatlas.embedding._lift import LiftStep
from lossatlas.embedding._record import Record
from lossatlas.theory import LiftedInertia
from lossatlas.theory import lift_inertia as _lift_inertia


def lift_inertia(record: Record, inertia: tuple[int, int, int]) -> LiftedInertia:
    """The inertia of a lifted critical point, from the record of the lift and the counts of the shallow point.

    **Arguments:**
    - `record`: of [`lossatlas.embedding.lift`][].
    - `inertia`: (negative, zero, positive) of the shallow Hessian.

    **Returns:** a [`lossatlas.theory.LiftedInertia`][]; its counts are bounds when the rank defect is not 0.
    """
    step: LiftStep = record.plan[0]
    width, entering = step.weight.shape
    return _lift_inertia(
        inertia,
        entering=entering,
        width=width,
        leaving=step.readers.shape[0],
        defect=step.defect,
        has_bias=step.bias is not None,
    )
