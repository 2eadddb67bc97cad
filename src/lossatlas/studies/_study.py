"""What a study is: a configuration that runs, and says what its paper claims and what came out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter
from lossatlas.studies._claims import Claim


if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr
    from jax.typing import ArrayLike
    from jaxtyping import Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of a study.

    - `title`: what it shows, a few words. `caption`: how to read it, a sentence or two.
    - `draw`: makes the figure; its argument says whether it is for pages narrower than 640 pixels.
    """

    title: str
    caption: str
    draw: "Callable[[bool], go.Figure]"


@runtime_checkable
class Study(Protocol):
    """A plain frozen keyword-only dataclass whose fields are the settings, in a file that imports no jax at its top.

    The same fields are Python arguments, options of the command line, entries of a TOML file and what is stored.
    Register it with [`lossatlas.studies.register`][].

    - `presets`: by name (`smoke` runs in seconds, `quick` in under two minutes on 2 cores, `paper` is the paper's
      size) the fields that differ from their defaults.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self, seed: int, progress: ProgressMeter, journal: Journal | None = None) -> "xr.DataTree":
        """Compute everything that claims and figures need, as labelled arrays.

        A study of a minute may leave `journal` out; it starts anew when it was interrupted. With it the parts that
        [`lossatlas.studies.Parts`][] has finished are kept.
        """
        ...

    def claims(self, results: "xr.DataTree") -> list[Claim]:
        """What the paper states beside what was measured; nothing is computed anew."""
        ...

    def figures(self, results: "xr.DataTree") -> dict[str, Picture]:
        """The pictures, by name."""
        ...


class Sweepable(Study, Protocol):
    """A study of which a sweep can measure single cells, a few numbers each, thousands in one compiled program.

    Without these a sweep runs the whole study in every cell and gathers what its claims measured.

    - `traced`: the fields that `measure` may get as arrays of jax. Cells that differ only in them, and their seeds, run
      one after another in one compiled program. A class without `traced` is measured as plain Python, cell by cell:
      for what jax cannot compile, and for convolutions, which are slow inside of a compiled loop on a CPU.
    """

    traced: ClassVar[tuple[str, ...]]

    def measure(self, seed: "Int[ArrayLike, '']") -> "Mapping[str, ArrayLike]":
        """The numbers of one cell by name, of the same shapes in every cell.

        The fields in `traced`, and the seed, are scalars of jax here. Whatever is not finite is a result: that
        training diverged.
        """
        ...
