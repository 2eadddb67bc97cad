"""How large the set of critical points is that a critical point of a narrow network becomes in a wider one."""

from collections.abc import Sequence

from lossatlas._errors import InputError


def critical_set_dimension(widths: Sequence[int], wider: Sequence[int]) -> int:
    r"""Degrees of freedom of the general compatible embeddings into a wider fully connected network.

    With $K_l$ neurons more in hidden layer l, $\sum_l K_l + \sum_l K_l K_{l-1}$: shares and the constants of null
    neurons give the first sum, the freedom of the weights between copies the second. A lower bound of the dimension of
    the critical set around the image of a point whose weights do not vanish; the corank of its Hessian grows at least
    by it.

    **Arguments:**
    - `widths`, `wider`: inputs, hidden widths, outputs: `[1, 2, 1]` and `[1, 5, 1]`.

    **Raises:** `InputError` for another number of layers, other inputs or outputs, and narrower layers.

    !!! example
        >>> critical_set_dimension([2, 2, 2, 1], [2, 3, 4, 1])
        5

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Section 5 (stated there as an estimate).
    """
    narrow, wide = list(widths), list(wider)
    if len(narrow) != len(wide) or len(narrow) < 2 or narrow[0] != wide[0] or narrow[-1] != wide[-1]:
        msg = f"Both networks need the same inputs, outputs and number of layers, got {narrow} and {wide}."
        raise InputError(msg)
    more = [after - before for before, after in zip(narrow, wide, strict=True)]
    if min(more) < 0:
        msg = f"No layer may become narrower, got {narrow} and {wide}."
        raise InputError(msg)
    return sum(more) + sum(a * b for a, b in zip(more[:-1], more[1:], strict=True))
