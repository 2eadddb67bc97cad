"""The inertia of a critical point, with a certificate and an account of its zeros."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, num_parameters, ravel, select
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._status import Certificate
from lossatlas._types import Network, Only, Vector
from lossatlas.geometry._hessian import dense_hessian
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.networks._gauges import gauge_tangents


_ROUNDING = 1e-14
_FLAT = 1e-9
# Gauges along which the function stays, but not always the gradient.
_SECOND_ORDER = ("zero outgoing", "collinear features")


@shown
class Inertia(eqx.Module):
    """Numbers of negative, zero and positive eigenvalues of a Hessian, and how far they can be trusted.

    - `certificate`: YES: the counts are those of the critical point here. NOT_CERTIFIED: the remaining gradient,
      eigenvalues without a gap, or unexplained zeros that are not zero to rounding, leave it open.
      NO: this is no critical point (a Newton step does not get nearer).
    - `threshold`: eigenvalues within it count as zero: `perturbation + rtol * max|lam|`.
    - `perturbation`: how far the remaining gradient can have moved eigenvalues.
    - `gap`: the smallest counted |eigenvalue| over the larger of the threshold and the largest zero one.
    - `gauges`: how many zero directions each named gauge explains here; the spans may overlap.
    - `explained`, `unexplained`: zeros in the union of the gauges, and the others.
    - `is_flat`: whether the gradient stays zero some way along the gauges that are no symmetries (of what nothing
      reads, or of features that are collinear here); along symmetries it always does.
    """

    negative: int = eqx.field(static=True)
    zero: int = eqx.field(static=True)
    positive: int = eqx.field(static=True)
    certificate: Certificate = eqx.field(static=True)
    eigenvalues: Vector
    gradient_norm: Float[Array, ""]
    threshold: float = eqx.field(static=True)
    perturbation: float = eqx.field(static=True)
    gap: float = eqx.field(static=True)
    gauges: dict[str, int] = eqx.field(static=True)
    explained: int = eqx.field(static=True)
    unexplained: int = eqx.field(static=True)
    is_flat: bool = eqx.field(static=True)
    settings: dict[str, Any]

    @property
    def counts(self) -> tuple[int, int, int]:
        """(negative, zero, positive)."""
        return self.negative, self.zero, self.positive

    @property
    def is_strict_saddle(self) -> Certificate:
        """Whether there is a direction of negative curvature."""
        if self.certificate is not Certificate.YES:
            return Certificate.NOT_CERTIFIED
        return Certificate.YES if self.negative else Certificate.NO

    @property
    def is_minimum(self) -> Certificate:
        """Whether this is a local minimum: no negative eigenvalue, and along every zero a valley of critical points."""
        if self.certificate is not Certificate.YES:
            return Certificate.NOT_CERTIFIED
        if self.negative:
            return Certificate.NO
        return Certificate.NOT_CERTIFIED if self.unexplained or not self.is_flat else Certificate.YES

    def _figure(self) -> Any:
        from lossatlas.figures import inertia_figure

        return inertia_figure(np.asarray(self.eigenvalues), self.threshold) if self.eigenvalues.size else None


def inertia(
    network: Network,
    landscape: Landscape,
    *,
    only: Only = None,
    atol: float = 1e-10,
    rtol: float = 1e-12,
    max_size: int = 1500,
) -> Inertia:
    r"""Count the negative, zero and positive eigenvalues of the Hessian at a critical point, and certify them.

    With a remaining gradient g the Hessian differs from that of the critical point next to it, and always shows small
    spurious negative eigenvalues. The difference is measured: $\|H(\theta) - H(\theta + \delta)\|_2$ with the Newton
    step $\delta$, taken twice, plus $|g|_2$ for what moves along gauges. An eigenvalue counts as negative (positive)
    only beyond this perturbation plus `rtol` times the largest.

    Zeros are explained by the gauges of [`lossatlas.networks.gauge_tangents`][] that the Hessian confirms
    ($\|H t\|$ below the threshold).

    Whether the point is a finite one or on its way to infinity is not seen from the point alone; that is for
    [`lossatlas.geometry.find_critical_point`][] to say.

    **Arguments:**
    - `network`, `landscape`: in float64.
    - `only`: a parameter filter; gauges are then those within the selected parameters.
    - `atol`: a gradient (maximum norm) above it is never certified.
    - `rtol`: eigenvalues below this part of the largest are zero.
    - `max_size`: the largest number of parameters; the cost is two Hessians and eigendecompositions.

    **Returns:** A [`lossatlas.geometry.Inertia`][].

    **Raises:** `InputError` for lower precision, too many parameters, a loss that is not finite.

    !!! cite
        The trap of spurious negatives: Bai, Luo, Xu, Zhang, Embedding Principle in Depth, arXiv 2205.13283, Fig. 4.
    """
    require_float64((network, landscape), "The inertia")
    size = num_parameters(network, only)
    if size > max_size:
        msg = (
            f"The inertia needs the dense Hessian; {size} parameters are more than max_size={max_size}. Use a "
            "parameter filter such as only='layers[0].*', reduce the network first, or raise max_size."
        )
        raise InputError(msg)
    vector, unravel = ravel(network, only)
    loss, gradient, matrix = (np.asarray(a) for a in _derivatives(landscape, unravel, vector, only))
    if not np.isfinite(loss) or not np.isfinite(gradient).all() or not np.isfinite(matrix).all():
        msg = "The loss or one of its derivatives is not finite at this point; it has no inertia."
        raise InputError(msg)
    eigenvalues, vectors = np.linalg.eigh(matrix)
    largest = float(np.abs(eigenvalues).max(initial=0.0))

    # The Newton step over directions where the curvature is clear.
    clear = np.abs(eigenvalues) > rtol * largest
    c = vectors.T @ gradient
    step = -vectors[:, clear] @ (c[clear] / eigenvalues[clear])
    _, new_gradient, new_matrix = (
        np.asarray(a) for a in _derivatives(landscape, unravel, vector + jnp.asarray(step), only)
    )
    moved = np.linalg.norm(matrix - new_matrix, 2) if np.isfinite(new_matrix).all() else np.inf
    perturbation = float(2 * moved + np.linalg.norm(gradient))
    threshold = perturbation + rtol * largest

    negative = int(np.sum(eigenvalues < -threshold))
    positive = int(np.sum(eigenvalues > threshold))
    zero = size - negative - positive
    counted = np.abs(eigenvalues) > threshold
    smallest = np.abs(eigenvalues[counted]).min(initial=np.inf)
    gap = float(smallest / max(threshold, np.abs(eigenvalues[~counted]).max(initial=0.0), 1e-300))
    gradient_norm = float(np.abs(gradient).max(initial=0.0))
    before, after = float(np.linalg.norm(gradient)), float(np.linalg.norm(new_gradient))
    kernels = _explain(network, landscape, only, matrix, threshold)
    explained = len(_span(np.concatenate(list(kernels.values())))) if kernels else 0
    moves = [row for name, kernel in kernels.items() if name in _SECOND_ORDER for row in kernel]
    gradient_at = ft.partial(_gradient_at, landscape, unravel, only)
    is_flat = _stays_critical(gradient_at, np.asarray(vector), moves, gradient_norm, largest)
    certificate = _certificate(gradient_norm, atol, before, after, gap, zero)
    # A zero without a reason must be one to rounding, at a gradient that is: towards infinity both fade away together.
    fading = np.abs(eigenvalues[~counted]).max(initial=0.0) > _ROUNDING * largest or gradient_norm > _ROUNDING * largest
    if certificate is Certificate.YES and zero > explained and fading:
        certificate = Certificate.NOT_CERTIFIED
    return Inertia(
        negative=negative,
        zero=zero,
        positive=positive,
        certificate=certificate,
        eigenvalues=jnp.asarray(eigenvalues),
        gradient_norm=jnp.asarray(gradient_norm),
        threshold=threshold,
        perturbation=perturbation,
        gap=gap,
        gauges={name: len(kernel) for name, kernel in kernels.items()},
        explained=min(explained, zero),
        unexplained=max(zero - explained, 0),
        is_flat=is_flat,
        settings={"atol": atol, "rtol": rtol},
    )


@eqx.filter_jit
def _derivatives(landscape: Landscape, unravel: Unravel, vector: Vector, only: Only) -> tuple[Array, Vector, Array]:
    network = unravel(vector)
    loss, gradient = landscape.value_and_gradient(network, only)
    return loss, gradient, dense_hessian(network, landscape, only)


def _certificate(maximum: float, atol: float, before: float, after: float, gap: float, zero: int) -> Certificate:
    if maximum > atol:
        # Newton converges next to a critical point: a step that does not halve the gradient says there is none.
        is_far = not after < 0.5 * before
        return Certificate.NO if is_far else Certificate.NOT_CERTIFIED
    # Zeros count only with a gap above them: at a level at infinity eigenvalues fade away without one.
    return Certificate.YES if zero == 0 or gap > 3 else Certificate.NOT_CERTIFIED


def _explain(
    network: Network, landscape: Landscape, only: Only, matrix: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """The zero directions that each gauge explains, as orthonormal rows."""
    if not isinstance(network, Dense):
        return {}
    inputs = landscape.inputs if landscape._example_losses is None else None
    shared_logit = landscape.loss is not None and landscape.loss.name == "cross_entropy"
    tangents = gauge_tangents(network, inputs, shared_logit=shared_logit)
    selected = _selected(network, only)
    kernels = {}
    for name, rows in tangents.items():
        inside = _within(np.asarray(rows), selected)
        kernel = _confirmed(inside, matrix, threshold)
        if len(kernel):
            kernels[name] = kernel
    return kernels


@eqx.filter_jit
def _gradient_at(landscape: Landscape, unravel: Unravel, only: Only, vector: Vector) -> Vector:
    return landscape.gradient(unravel(vector), only)


def _stays_critical(
    gradient_at: Callable[[Vector], Vector],
    vector: np.ndarray,
    moves: Sequence[np.ndarray],
    gradient_norm: float,
    largest: float,
) -> bool:
    """Whether the gradient stays zero along directions, both ways, and along their sum: flat beyond second order."""
    if not moves:
        return True
    step = 0.1 * max(1.0, float(np.linalg.norm(vector)) / np.sqrt(vector.size))
    allowed = 10 * gradient_norm + _FLAT * largest * step
    together = np.sum(moves, axis=0) / np.sqrt(len(moves))
    ends = [vector + sign * step * move for move in [*moves, together] for sign in (1.0, -1.0)]
    return all(float(jnp.abs(gradient_at(jnp.asarray(end))).max()) <= allowed for end in ends)


def _selected(network: Network, only: Only) -> np.ndarray:
    """Which entries of the full parameter vector the filter selects."""
    spec = select(network, only)
    full = select(network)
    marks = eqx.filter(network, full)
    chosen = eqx.filter(network, spec)
    flags = []
    for leaf, keep in zip(
        jax.tree.leaves(marks, is_leaf=lambda a: a is None),
        jax.tree.leaves(chosen, is_leaf=lambda a: a is None),
        strict=True,
    ):
        if leaf is not None:
            flags.append(np.full(leaf.size, keep is not None))
    return np.concatenate(flags)


def _span(rows: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """An orthonormal basis of the span of rows."""
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0][:, None]
    if len(rows) == 0:
        return rows
    _, s, vt = np.linalg.svd(rows, full_matrices=False)
    return vt[s > tolerance * s[0]]


def _within(rows: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """The part of the span that changes selected parameters only, restricted to them."""
    if selected.all():
        return rows
    u, s, _ = np.linalg.svd(rows[:, ~selected], full_matrices=True)
    rank = int(np.sum(s > 1e-12 * max(np.abs(rows).max(), 1e-300)))
    return u[:, rank:].T @ rows[:, selected]


def _confirmed(rows: np.ndarray, matrix: np.ndarray, threshold: float) -> np.ndarray:
    """The part of a span that the Hessian sends to zero, as an orthonormal basis."""
    basis = _span(rows)
    if len(basis) == 0:
        return basis
    u, s, _ = np.linalg.svd(basis @ matrix, full_matrices=True)
    values = np.zeros(len(basis))
    values[: len(s)] = s
    return u[:, values <= threshold].T @ basis
