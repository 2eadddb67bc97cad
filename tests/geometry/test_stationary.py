"""The one rule for a gradient that outweighs the curvature."""

from lossatlas.geometry._stationary import gradient_warning


def test_a_gradient_is_judged_by_what_a_step_against_it_saves():
    # L = c + h w^2 / 2 at w: the step saves h w^2 / 2, whatever the units of loss and parameters.
    for loss_unit in (1.0, 1e-6):
        for unit in (1.0, 1e3):
            h, w, c = 4.0, 0.2, 1.0
            loss, slope, curvature = loss_unit * (c + h * w**2 / 2), loss_unit * h * w / unit, loss_unit * h / unit**2
            said = gradient_warning(loss, slope, curvature)
            assert said is not None
            assert "by about 7.4%" in said  # 0.08 of 1.08
            assert gradient_warning(loss, 0.3 * slope, curvature) is None
    assert gradient_warning(0.0, 0.0, 1.0) is None
    assert gradient_warning(1.0, 1.0, 0.0) is None
