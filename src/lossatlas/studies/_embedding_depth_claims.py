"""What the paper of the embedding principle in depth claims of training, beside what the runs gave."""

from typing import TYPE_CHECKING

import numpy as np

from lossatlas.studies._claims import Claim, claim_equal, claim_most, claim_near


if TYPE_CHECKING:
    import xarray as xr


_PAPER = "arXiv 2205.13283v3"


def stall_claims(curves: "xr.Dataset", stalls: "xr.Dataset") -> list[Claim]:
    """Figures 3, B1 and B2."""
    depths = stalls["depth"].values
    straight = float(curves["straight"])
    stall, linear, end = (stalls[name].values for name in ("stall", "end_linear", "end_loss"))
    deep = depths >= 3
    shallow = float(stall[depths == 1][0]) if (depths == 1).any() else float("nan")
    claims = [
        claim_near(
            f"stall-{depth}",
            f"A network of {depth} hidden layers stalls at the loss where that of one hidden layer does.",
            f"{_PAPER}, Figure 3 (its target is only drawn; another one here)",
            expected=shallow,
            measured=float(loss),
            tolerance=0.02 * shallow,
            figure="stalls",
            note=f"flattest at step {int(step):,}; a straight line has {straight:.4g}",
        )
        for depth, loss, step in zip(depths[deep], stall[deep], stalls["stall_step"].values[deep], strict=True)
    ]
    least = stalls["stall_mpc"].values[deep]
    trained = stalls["trained"].values.astype(bool) & deep
    return [
        *claims,
        claim_equal(
            "linear-at-the-stall",
            "During the stall the superfluous layers act linearly on the data (MPC above 0.99).",
            f"{_PAPER}, Figures 3 and B1",
            expected=[True] * len(least),
            measured=(stalls["stall_linear"].values[deep] >= depths[deep] - 1),
            figure="linear",
            note=f"all but one layer at least; least MPC by depth {', '.join(f'{value:.4f}' for value in least)}",
        ),
        claim_equal(
            "linear-in-the-end",
            "Trained to a loss below 1e-3, networks of 3, 4 and 5 hidden layers have 1, 2 and 3 layers with MPC above "
            "0.99.",
            f"{_PAPER}, Figure B2 (its target is only drawn; another one here)",
            expected=(depths[trained] - 2),
            measured=linear[trained] if trained.any() else None,
            figure="linear",
            note=f"depths {depths[trained].tolist()}, when the loss first fell below it; the others ended at "
            f"{', '.join(f'{loss:.2g}' for loss in end[deep & ~trained]) or 'none'}. How many stay linear depends on "
            "the target",
        ),
    ]


def iris_claim(curves: "xr.Dataset", stalls: "xr.Dataset") -> Claim:
    """Figure 1."""
    constant, loss = float(curves["constant"]), stalls["stall"].values
    words = ", ".join(f"{accuracy:.2f}" for accuracy in stalls["accuracy"].values)
    return claim_most(
        "stall-iris",
        "ReLU networks of 3, 4 and 5 hidden layers stall at the same loss on iris.",
        f"{_PAPER}, Figure 1",
        measured=float(np.ptp(loss) / loss.mean()),
        most=0.03,
        figure="iris",
        note=f"spread of {', '.join(f'{value:.4f}' for value in loss)} (a constant output has {constant:.4f}), "
        f"flattest at steps {stalls['stall_step'].values.tolist()}; accuracies {words} of outputs that hardly differ. "
        "The paper's initial variance 0.07 gave no stall here; quick has a smaller one",
    )


def norm_claims(norm: "xr.Dataset") -> list[Claim]:
    """Figure 5."""
    scales, middle = norm["scale"].values, int(norm["middle"])
    at = norm["loss"].values[:, norm["step"].values == middle][:, 0]
    mpc = norm["mpc"].values
    words = ", ".join(f"{s:g}: {loss:.3f}, {m:.3f}" for s, loss, m in zip(scales, at, mpc, strict=True))
    note = f"initial scale (0: without BatchNorm): loss at step {middle:,}, least MPC; {words}"
    return [
        claim_equal(
            "norm-shortens-the-stall",
            "BatchNorm with an initial scale of 1 or 1.5 has left the stall where without it, or with 0.1, training "
            "still stands.",
            f"{_PAPER}, Figure 5 (the early stall; later the order of the losses changes)",
            expected=[True, True],
            measured=[bool(at[scales >= 1].max() < 0.8 * at[scales < 1].min()), bool((at[scales < 1] > 0.2).all())],
            figure="norm",
            note=note,
        ),
        claim_equal(
            "norm-breaks-linearity",
            "A larger initial scale makes the layers less linear: the MPC falls.",
            f"{_PAPER}, Figure 5",
            expected=True,
            measured=bool((np.diff(mpc[scales > 0]) < 0).all()),
            figure="norm",
            note=note,
        ),
    ]


def more_data_claims(more: "xr.Dataset") -> list[Claim]:
    """Figure 6."""
    claims = []
    words = "another target here, and the further points are drawn from the same 100; the paper's are not printed"
    for name, what, text in (
        ("halved", "the loss has halved", "From a stall on 70 examples training escapes sooner with more examples."),
        ("bent", "the MPC is below 0.99", "With more examples the layers cease to be linear sooner."),
    ):
        mean = more[name].values.mean(axis=0)
        claims.append(
            claim_equal(
                f"more-data-{name}",
                text,
                f"{_PAPER}, Figure 6",
                expected=True,
                measured=bool((np.diff(mean) < 0).all()) if np.isfinite(mean).all() else None,
                figure="data",
                note=f"steps until {what}, mean over {more.sizes['order']} orders: "
                f"{', '.join(f'{step:,.0f}' for step in mean)} for {more['examples'].values.tolist()}; {words}",
            )
        )
    return claims


def pruning_claims(digits: "xr.Dataset", pruning: "xr.Dataset") -> list[Claim]:
    """Figure 7."""
    layers, agreement, accuracy = (pruning[name].values for name in ("hidden_layers", "agreement", "accuracy"))
    source = f"{_PAPER}, Figure 7 (MNIST there: 10 to 5 hidden layers, 98.54 %, 95.4 to 95.27 %; 1,797 digits here)"
    words = ", ".join(
        f"{t:g}: {n} layers, {100 * a:.1f} %"
        for t, n, a in zip(pruning["threshold"].values, layers, agreement, strict=True)
    )
    return [
        claim_near(
            "pruning-agreement",
            "Without its layers of MPC above 0.99 a network of ten hidden layers says nearly the same.",
            source,
            expected=0.9854,
            measured=float(agreement[0]),
            tolerance=0.0146,
            figure="pruning",
            note=f"on the 797 other digits, by threshold: {words}",
        ),
        claim_near(
            "pruning-accuracy",
            "Its accuracy stays.",
            source,
            expected=float(digits["accuracy"]),
            measured=float(accuracy[0]),
            tolerance=0.01,
            figure="pruning",
            note=f"after {int(layers[0])} of 10 hidden layers are left",
        ),
        claim_equal(
            "pruning-removes",
            "Some of the ten layers are linear.",
            source,
            expected=True,
            measured=bool(layers[0] < 10),
            figure="pruning",
            note=f"MPC by layer {', '.join(f'{value:.3f}' for value in digits['mpc'].values)}",
        ),
    ]
