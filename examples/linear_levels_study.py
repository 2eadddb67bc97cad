"""A study of one's own: does training of a linear network stall at the levels that theory gives? A template to copy."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lossatlas.studies import Claim, Picture, claim_most, claim_near, register


if TYPE_CHECKING:  # jax and xarray are imported where they are used, so that help answers at once
    import xarray as xr

_PAPER = "Baldi and Hornik 1989"


@register("linear-levels", title="Plateaus of a linear network", papers=("baldi1989linear",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearLevels:
    """Does training of a linear network from small weights stall at the critical levels of lower rank?

    - `width`: hidden units of the network. `num_steps`: of gradient descent. `learning_rate`: of it.
    - `init_power`: p of the initial standard deviation `width**-p`.
    """

    width: int = 8
    num_steps: int = 20_000
    learning_rate: float = 0.05
    init_power: float = 3.0

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"num_steps": 2_000},
        "quick": {},
        "paper": {"width": 50, "num_steps": 100_000},
    }

    def run(self, seed: int, progress: Any) -> "xr.DataTree":
        """Train on iris, and compute the levels apart from it."""
        import jax
        import numpy as np
        import xarray as xr

        from lossatlas import data, networks, theory, training

        landscape = data.load("iris").landscape()
        levels = theory.linear_levels(np.asarray(landscape.inputs), np.asarray(landscape.targets))
        network = networks.Dense(jax.random.key(seed), [4, self.width, 3], activation="identity", init=self.init_power)
        run = training.train(
            jax.random.key(seed),
            network,
            landscape,
            learning_rate=self.learning_rate,
            num_steps=self.num_steps,
            snapshots=200,
            progress=progress,
        )
        ranks = np.arange(levels.rank + 1)
        return xr.DataTree.from_dict(
            {
                "levels": xr.Dataset({"loss": ("rank", [levels.loss(r) for r in ranks])}, {"rank": ranks}),
                "training": xr.Dataset({"loss": ("step", run.loss)}, {"step": run.steps}),
            }
        )

    def claims(self, results: "xr.DataTree") -> list[Claim]:
        """The end of training, and the slowest step between the levels."""
        levels, training = results["levels"].ds, results["training"].ds
        losses, lowest = training["loss"].values, float(levels["loss"].values[-1])
        return [
            claim_near(
                "global-minimum",
                "Every local minimum is global: training ends at the level of full rank.",
                f"{_PAPER}, Fact 4",
                expected=lowest,
                measured=float(losses[-1]),
                tolerance=0.01 * lowest,
                figure="training",
            ),
            claim_most(
                "plateau-rank-1",
                "Training passes near the saddle of rank 1: some snapshot has its loss, relative.",
                f"{_PAPER}, Fact 4",
                measured=float(abs(losses / levels["loss"].values[1] - 1).min()),
                most=0.01,
                figure="training",
            ),
        ]

    def figures(self, results: "xr.DataTree") -> dict[str, Picture]:
        """Training across the levels."""
        from lossatlas import figures

        levels, training = results["levels"].ds, results["training"].ds
        curve = {"linear network": (training["step"].values, training["loss"].values)}
        named = {f"rank {r}": float(loss) for r, loss in zip(levels["rank"].values, levels["loss"].values, strict=True)}
        return {
            "training": Picture(
                title="Training across the levels",
                caption="The loss stalls at the dotted levels, which are computed from the data alone.",
                draw=lambda compact: figures.curves_figure(
                    curve, x="step", y="loss", x_scale="log", levels=named, compact=compact
                ),
            )
        }
