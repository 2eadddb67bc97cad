"""Studies to sweep: one that jax compiles, and one whose cells do everything that a cell should not."""

import dataclasses
import os
import pathlib
import time
from typing import ClassVar, Literal

import numpy as np

from lossatlas.studies import register


@register("toy-plane", title="Means of random numbers on a plane", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyPlane:
    """What is the mean of random numbers?

    - `width`: how many. `gamma`: their scale. `wait`: seconds that a compiled cell sleeps, on purpose.
    - `deadly`: the scale that ends the process, in the middle of the compiled program.
    """

    width: int = 5
    gamma: float = 1.0
    wait: float = 0.0
    deadly: float = 0.0

    presets: ClassVar = {"smoke": {"width": 3}, "quick": {}, "paper": {"width": 50}}
    traced: ClassVar = ("gamma",)

    def __post_init__(self):
        if self.width == 13:
            msg = "thirteen brings bad luck"
            raise ValueError(msg)
        if self.width == 14 and self.gamma < 0:
            msg = "too wide"
            raise ValueError(msg)

    def measure(self, seed):
        """The mean and the two largest; the logarithm of the mean is no number for about half of the seeds."""
        import jax
        import jax.numpy as jnp

        numbers = self.gamma * jax.random.normal(jax.random.key(seed), (self.width,))
        if self.wait:
            jax.debug.callback(lambda: time.sleep(self.wait))
        if self.deadly:
            jax.debug.callback(lambda gamma: os._exit(7) if gamma == self.deadly else None, self.gamma)
        mean = jnp.mean(numbers)
        return {"mean": mean, "largest": jnp.sort(numbers)[-2:], "root": jnp.sqrt(mean), "is_positive": mean > 0}

    def run(self, seed, progress):
        """Never run as a whole here."""
        raise NotImplementedError

    def claims(self, results):
        """None."""
        del results
        return []

    def figures(self, results):
        """None."""
        del results
        return {}


@register("toy-trouble", title="Cells that misbehave", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyTrouble:
    """What happens to a cell that raises, hangs, takes all memory or kills its process?

    - `what`: it does. `folder`: where it remembers how often it was tried.
    """

    what: Literal["well", "raises", "recovers", "hangs", "takes", "dies", "shape", "nothing", "nan"] = "well"
    folder: str = ""

    presets: ClassVar = {"smoke": {}, "quick": {}, "paper": {}}

    def measure(self, seed):
        """A number, if all is well."""
        tries = self._tries(seed)
        if self.what == "raises" or (self.what == "recovers" and tries < 3):
            msg = f"trouble with seed {seed}"
            raise ArithmeticError(msg)
        if self.what == "hangs":
            time.sleep(600)
        if self.what == "takes":
            hoard = []
            while True:
                hoard.append(np.ones(4_000_000))
        if self.what == "dies":
            os._exit(7)
        if self.what == "nothing":
            return None
        return {
            "seed_squared": np.full((2,) if self.what == "shape" else (), np.nan if self.what == "nan" else seed**2)
        }

    def _tries(self, seed):
        if not self.folder:
            return 0
        with (pathlib.Path(self.folder) / f"{self.what}-{seed}").open("a+") as file:
            file.write(".")
            return file.tell()

    run, claims, figures = ToyPlane.run, ToyPlane.claims, ToyPlane.figures


@register("toy-dtype", title="Means of random numbers, cell by cell", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyDtype:
    """What is the mean of five random numbers, without a compiled program?

    - `gamma`: their scale.
    """

    gamma: float = 1.0

    presets: ClassVar = {"smoke": {}, "quick": {}, "paper": {}}

    def measure(self, seed):
        """The mean."""
        return {"mean": ToyPlane(gamma=self.gamma).measure(seed)["mean"]}

    run, claims, figures = ToyPlane.run, ToyPlane.claims, ToyPlane.figures
