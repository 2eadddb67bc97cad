"""Labelled arrays in a folder: an xarray tree as zarr, format 3."""

import pathlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import xarray as xr


def write_arrays(path: pathlib.Path, arrays: "xr.DataTree") -> None:
    """Write a tree. Text is stored with variable length, the only kind that the format 3 specifies."""
    arrays.map_over_datasets(lambda dataset: _cast_text(dataset, object)).to_zarr(
        path, mode="w", zarr_format=3, consolidated=False
    )


def read_arrays(path: pathlib.Path) -> "xr.DataTree":
    """Read a tree into memory, so that no file stays open."""
    import xarray as xr

    with xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None) as tree:
        return tree.load().map_over_datasets(lambda dataset: _cast_text(dataset, str))


def _cast_text(dataset: "xr.Dataset", kind: type) -> "xr.Dataset":
    text = {name: array.astype(kind) for name, array in dataset.variables.items() if array.dtype.kind in "OTU"}
    return dataset.assign({n: v for n, v in text.items() if n in dataset.data_vars}).assign_coords(
        {n: v for n, v in text.items() if n in dataset.coords}
    )
