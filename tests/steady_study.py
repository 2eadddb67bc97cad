"""A study that takes its time, as another package would bring it: for what is watched, stopped and gone on with."""

import dataclasses
import signal
import time
from typing import ClassVar

import numpy as np

from lossatlas._progress import show_partial
from lossatlas.studies import Picture, claim_equal, register


@register("steady-count", title="Counting, step by step", papers=("zhang2021embedding",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class SteadyCount:
    """Does counting end?

    - `steps`: how far. `seconds`: for each.
    - `deaf`: to the signal that asks to stop.
    """

    steps: int = 3
    seconds: float = 0.01
    deaf: bool = False

    presets: ClassVar = {"smoke": {}, "quick": {"steps": 30}, "paper": {"steps": 1000}}

    def run(self, seed, progress):
        """Count."""
        import xarray as xr

        if self.deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        counted = {"count": xr.Dataset({"value": ("step", np.arange(1))})}
        with progress.task("counting", self.steps) as task:
            for step in range(self.steps):
                time.sleep(self.seconds)
                task.update(step, f"at {step}")
                counted = {"count": xr.Dataset({"value": ("step", seed + np.arange(step + 1))})}
                show_partial(progress, counted)
        return xr.DataTree.from_dict(counted)

    def claims(self, results):
        """It does."""
        measured = int(results["count"].sizes["step"])
        return [claim_equal("end", "Counting ends.", "folklore", expected=self.steps, measured=measured)]

    def figures(self, results):
        """The numbers."""
        from lossatlas import figures

        values = results["count"]["value"].values
        curve = {"counted": (np.arange(len(values)), values)}
        return {
            "count": Picture(
                title="What was counted",
                caption="A line, up to the last step.",
                draw=lambda compact: figures.curves_figure(curve, x="step", y="value", compact=compact),
            )
        }


def install(folder) -> None:
    """Make a folder that brings the study by an entry point, when it is on the path of Python."""
    place = folder / "steady-1.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: steady\nVersion: 1\n")
    (place / "entry_points.txt").write_text("[lossatlas.studies]\nsteady = steady_study\n")
