"""Labelled arrays in a folder: an xarray tree as zarr, format 3."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import xarray as xr


def write_arrays(path: pathlib.Path, arrays: "xr.DataTree") -> None:
    """Write a tree; text is stored with variable length, the only kind that format 3 specifies."""
    # By way of lists, since numpy has three kinds of text arrays and not every cast between them.
    flexible = arrays.map_over_datasets(lambda dataset: _convert_text(dataset, object))
    flexible.to_zarr(path, mode="w", zarr_format=3, consolidated=False)


def read_arrays(path: pathlib.Path) -> "xr.DataTree":
    """Read a tree into memory, so that no file stays open."""
    import xarray as xr

    with xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None) as tree:
        return tree.load().map_over_datasets(lambda dataset: _convert_text(dataset, str))


def _convert_text(dataset: "xr.Dataset", kind: type) -> "xr.Dataset":
    for name, array in dataset.variables.items():
        if array.dtype.kind in "OTU":
            dataset = dataset.assign({name: (array.dims, np.array(array.values.tolist(), dtype=kind), array.attrs)})
    return dataset
