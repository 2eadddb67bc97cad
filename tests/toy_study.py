"""A study as a user's own package would bring it."""

import dataclasses
import pathlib
from typing import ClassVar, Literal

import numpy as np

from lossatlas.studies import Parts, Picture, claim_near, register


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


@register("toy-parts", title="A study in parts", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyParts:
    """What is left of a study that was interrupted?

    - `folder`: where it says what it computed; a file `stop` there breaks the second part.
    """

    folder: str = "."

    presets: ClassVar = {"smoke": {}, "quick": {}, "paper": {}}

    def run(self, seed, progress, journal=None):
        """Two parts, the second of two data sets."""
        parts = Parts(progress, journal)
        parts("first", lambda: {"draws": self._compute("first", seed)})
        parts("second", lambda: {"more": self._compute("second", seed), "most": self._compute("third", seed)})
        return parts.tree()

    def _compute(self, name, seed):
        import xarray as xr

        if name == "third" and (pathlib.Path(self.folder) / "stop").exists():
            raise KeyboardInterrupt
        with (pathlib.Path(self.folder) / "computed").open("a") as file:
            file.write(f"{name} ")
        values = np.random.default_rng(seed).uniform(size=(2, 3))
        names = ("place", "draw"), np.array([["a", "bc", ""], ["d", "e", "f"]])
        coordinates = {"place": [0.5, 1.0], "kind": ("draw", np.array([True, False, True]))}
        variables = {"value": (("place", "draw"), values, {"unit": "none"}), "name": names, "count": 3}
        return xr.Dataset(variables, coordinates, {"of": name})

    def claims(self, results):
        """None."""
        del results
        return []

    def figures(self, results):
        """None."""
        del results
        return {}
