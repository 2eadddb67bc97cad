"""The predicted column: what theory says of an embedding before it is made."""

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas.embedding._lift import LiftStep
from lossatlas.embedding._lift_block import LiftBlockStep
from lossatlas.embedding._lift_convolution import LiftConvolutionStep
from lossatlas.embedding._record import Record
from lossatlas.theory import LiftedInertia
from lossatlas.theory import lift_inertia as _lift_inertia


def lift_inertia(record: Record, inertia: tuple[int, int, int]) -> LiftedInertia:
    r"""The inertia of a lifted critical point, from the record of the lift and the counts of the shallow point.

    Residual blocks and convolutions are lifted with readers that can take any value whatever V is, so $D\Phi$ is onto
    and all that is added are zeros.

    **Arguments:**
    - `record`: of [`lossatlas.embedding.lift`][], `lift_block` or `lift_convolution`.
    - `inertia`: (negative, zero, positive) of the shallow Hessian.

    **Returns:** a [`lossatlas.theory.LiftedInertia`][]; its counts are bounds when the rank defect is not 0.

    **Raises:** `InputError` for the record of another map, and for a lift that is only nearly affine, where the
    Hessian changes.
    """
    step = record.plan[0] if len(record.plan) == 1 else None
    if not isinstance(step, LiftStep | LiftBlockStep | LiftConvolutionStep):
        msg = f"lift_inertia needs the record of one lift, got {record}."
        raise InputError(msg)
    if not step.is_exact:
        msg = "The lifted layer is only nearly affine: the Hessian changes, and no count is exact."
        raise InputError(msg)
    if not isinstance(step, LiftStep):
        negative, zero, positive = inertia
        added = num_parameters(step.apply(record.start)) - num_parameters(record.start)
        return LiftedInertia(negative, zero + added, positive, added, is_exact=True)
    width, entering = step.weight.shape
    return _lift_inertia(
        inertia,
        entering=entering,
        width=width,
        leaving=step.readers.shape[0],
        defect=step.defect,
        has_bias=step.bias is not None,
    )
