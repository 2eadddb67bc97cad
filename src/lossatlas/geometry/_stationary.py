"""Whether the gradient at a point is small enough for its curvature to say how the loss changes."""

_SMALL = 0.01  # of the loss


def gradient_warning(loss: float, gradient_norm: float, curvature: float) -> str | None:
    r"""What to say of a gradient that outweighs the curvature, None where it does not.

    A step against the gradient lowers a loss of curvature h by up to $|g|^2 / 2h$. That is compared with the loss, so
    the answer depends neither on the scale of the loss nor on that of the parameters.

    **Arguments:**
    - `curvature`: h, the largest eigenvalue without its sign.
    """
    if curvature == 0 or gradient_norm**2 / (2 * curvature) <= _SMALL * abs(loss):
        return None
    share = gradient_norm**2 / (2 * curvature) / abs(loss) if loss else float("inf")
    return (
        f"The gradient is not small (norm {gradient_norm:.3g}): one step would lower the loss by about {share:.1%}, so "
        "this is no critical point. Curvature measures speak of minima; train on, or read them as those of a point on "
        "the way."
    )
