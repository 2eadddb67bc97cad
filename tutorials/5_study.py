# %% [markdown]
# # A study of your own
#
# A study is a dataclass: its fields are the settings, and three methods run it, state its claims and draw its figures.
# It may be written in a notebook; [a file that the command line finds](../add-study.md) is the same with an entry
# point.
#
# The question here: do eight seeds of one neuron find one and the same minimum?

# %%
import dataclasses
from typing import ClassVar

import lossatlas
from lossatlas.studies import Picture, claim_most, register


@register("one-minimum", title="One neuron, one minimum?", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class OneMinimum:
    """Do all starts of one neuron end at the same loss?

    - `num_starts`: how many.
    """

    num_starts: int = 8

    presets: ClassVar = {"smoke": {"num_starts": 3}, "quick": {}, "paper": {"num_starts": 100}}

    def run(self, seed, progress):
        """Solve for a critical point from every start."""
        import jax
        import xarray as xr

        from lossatlas import data, geometry, networks

        landscape = data.load("teacher").landscape()
        keys = jax.random.split(jax.random.key(seed), self.num_starts)
        starts = [networks.Dense(key, [2, 1, 1]) for key in keys]
        points = geometry.find_critical_points(starts, landscape, method="trust_region", progress=progress)
        losses = [float(point.loss) for point in points]
        return xr.DataTree.from_dict({"ends": xr.Dataset({"loss": ("start", losses)})})

    def claims(self, results):
        """The largest difference."""
        losses = results["ends"]["loss"].values
        text = "All starts end at the same loss."
        return [claim_most("one-loss", text, "this page", measured=float(losses.max() - losses.min()), most=1e-10)]

    def figures(self, results):
        """The ends."""
        import numpy as np

        from lossatlas import figures

        losses = results["ends"]["loss"].values
        groups = {"ends": (np.arange(len(losses)), losses, [f"{loss:.10f}" for loss in losses])}
        return {
            "ends": Picture(
                title="Losses at the end",
                caption="One height means one level.",
                draw=lambda compact: figures.points_figure(groups, x="start", y="loss", compact=compact),
            )
        }


# %% [markdown]
# ## Run it
#
# It is stored like any run, with a page; the same call again finds it.

# %%
run = lossatlas.run_study("one-minimum", preset="smoke", progress="none")
for claim in run.claims:
    print(claim["name"], claim["verdict"])
print(run.report.name)

# %% [markdown]
# ```text
# one-loss holds
# report.html
# ```
#
# Settings are options, checked before anything runs:

# %%
try:
    lossatlas.run_study("one-minimum", num_strats=4)
except ValueError as error:
    print(error)
