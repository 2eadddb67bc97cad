"""The inertia of a lifted critical point: depth adds zeros only."""

import equinox as eqx

from lossatlas._errors import InputError
from lossatlas._show import shown


@shown
class LiftedInertia(eqx.Module):
    """Eigenvalue counts of the Hessian after an exact lift of a critical point.

    - `negative`, `zero`, `positive`: the counts; when `is_exact` is False, `negative` and `positive` are upper bounds
      and `zero` is a lower bound.
    - `added`: how many parameters the lift adds.
    """

    negative: int
    zero: int
    positive: int
    added: int
    is_exact: bool


def lift_inertia(
    inertia: tuple[int, int, int],
    *,
    entering: int,
    width: int,
    leaving: int,
    defect: int = 0,
    has_bias: bool = True,
) -> LiftedInertia:
    r"""The inertia of a lifted critical point from that of the shallow one.

    Near a lift $R_{deep} = R_{shallow} \circ \Phi$, so at a critical point
    $H_{deep} = D\Phi^\top H_{shallow} D\Phi$. When $D\Phi$ is onto, negative and positive counts stay and
    $m'(m+1) + m' q - m q$ zeros are added; otherwise they can only fall. Lifting never turns a minimum into a
    strict saddle: negative eigenvalues seen there come from an inexact critical point.

    **Arguments:**
    - `inertia`: (negative, zero, positive) of the shallow critical point.
    - `entering`: m, the units of the layer before the inserted one (or the inputs).
    - `width`: m', neurons of the inserted layer.
    - `leaving`: q, units of the layer after it.
    - `defect`: $(q - \mathrm{rank}\,U)(m - \mathrm{rank}\,\Lambda V)$; zero means that $D\Phi$ is onto.
    - `has_bias`: whether the inserted layer has biases.

    **Raises:** `InputError` for negative sizes.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283 (the lift). Its versions 1 to 3 claim that minima become strict saddles;
        that is corrected here.
    """
    if min(entering, leaving) < 0 or width < 1 or defect < 0 or len(inertia) != 3 or min(inertia) < 0:
        msg = f"Sizes and counts must not be negative, got {entering=}, {width=}, {leaving=}, {defect=}, {inertia=}."
        raise InputError(msg)
    negative, zero, positive = inertia
    added = width * (entering + has_bias) + width * leaving - entering * leaving
    return LiftedInertia(negative, zero + added, positive, added, defect == 0)
