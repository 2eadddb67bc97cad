"""A study as a user's own package would bring it."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from lossatlas.studies import Picture, claim_near, register


@register("toy-mean", title="Means of random numbers", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyMean:
    """Is the mean of uniform numbers one half?

    - `count`: how many. `sizes`: of samples. `kind`: which numbers.
    """

    count: int = 1000
    sizes: tuple[int, ...] = (1, 2)
    scale: float = 1.0
    kind: Literal["uniform", "broken"] = "uniform"

    presets: ClassVar = {"smoke": {"count": 10}, "quick": {}, "paper": {"count": 5000}}

    def run(self, seed, progress):
        """Draw them."""
        import xarray as xr

        if self.kind == "broken":
            msg = "the generator broke"
            raise ArithmeticError(msg)
        with progress.task("toy", 1) as task:
            task.update(1)
        drawn = self.scale * np.random.default_rng(seed).uniform(size=self.count)
        return xr.DataTree.from_dict({"draws": xr.Dataset({"value": ("draw", drawn)})})

    def claims(self, results):
        """One half."""
        mean = float(results["draws"]["value"].mean())
        return [claim_near("mean", "The mean is one half.", "folklore", expected=0.5, measured=mean, tolerance=0.1)]

    def figures(self, results):
        """The numbers."""
        from lossatlas import figures

        values = results["draws"]["value"].values
        curve = {"draws": (np.arange(len(values)), np.sort(values))}
        return {
            "draws": Picture(
                title="The numbers, sorted",
                caption="A straight line for uniform ones.",
                draw=lambda compact: figures.curves_figure(curve, x="rank", y="value", compact=compact),
            )
        }
