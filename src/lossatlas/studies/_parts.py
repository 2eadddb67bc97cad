"""The results of a study, part by part, so that an interrupted run goes on with the part that it was at."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter, show_partial


if TYPE_CHECKING:
    import xarray as xr


_HEADER = "header"


class Parts:
    """The parts of a study's results: each is computed once, kept in a journal, and shown to a meter that wants it.

    !!! example
        ```python
        parts = Parts(progress, journal)
        parts("maps", lambda: {"maps": measure(key)})
        return parts.tree()
        ```

    **Arguments:**
    - `progress`: gets what is there after each part. `journal`: of the run; None keeps nothing.
    """

    def __init__(self, progress: ProgressMeter, journal: Journal | None):
        self._progress, self._journal = progress, journal or Journal()
        self._parts: dict[str, xr.Dataset] = {}

    def __call__(self, step: str, compute: "Callable[[], Mapping[str, xr.Dataset]]") -> None:
        """Add the data sets of a step, by name: those of the journal where the step is finished, else what is computed.

        A step of one name must always mean the same computation.
        """
        self._parts |= _unpack(self._journal(step, lambda: _pack(compute())))
        show_partial(self._progress, self._parts)

    def tree(self) -> "xr.DataTree":
        """All parts, as `run` returns them."""
        import xarray as xr

        return xr.DataTree.from_dict(self._parts)


def _pack(parts: "Mapping[str, xr.Dataset]") -> dict[str, np.ndarray]:
    """Data sets as arrays by name, which need no pickle."""
    header, packed = {}, {}
    for part, dataset in parts.items():
        described = {}
        for name, variable in dataset.variables.items():
            array = variable.values
            packed[f"{part}/{name}"] = array.astype(str) if array.dtype == object else array
            described[str(name)] = [list(variable.dims), variable.attrs]
        header[part] = {"variables": described, "coordinates": list(dataset.coords), "attributes": dataset.attrs}
    return {_HEADER: np.array(json.dumps(header)), **packed}


def _unpack(packed: Mapping[str, np.ndarray]) -> "dict[str, xr.Dataset]":
    import xarray as xr

    parts = {}
    for part, described in json.loads(str(packed[_HEADER])).items():
        variables = {
            name: (dims, packed[f"{part}/{name}"], attributes)
            for name, (dims, attributes) in described["variables"].items()
        }
        dataset = xr.Dataset(variables, attrs=described["attributes"])
        parts[part] = dataset.set_coords(described["coordinates"])
    return parts
