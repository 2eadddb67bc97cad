"""Labelled arrays for other programs: NetCDF, Parquet or CSV."""

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from lossatlas._errors import InputError, unknown_name


if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


# What each needs beyond what is installed anyway.
_NEEDS = {"nc": "h5netcdf", "parquet": "pyarrow", "csv": None}


def export_arrays(
    arrays: "xr.DataTree | Callable[[], xr.DataTree]",
    to: str | os.PathLike[str],
    *,
    part: str | None = None,
    form: str | None = None,
) -> list[pathlib.Path]:
    """Write labelled arrays for other programs.

    A table is long: a column for each dimension and one for each variable that has exactly these dimensions, a row for
    each entry. Variables of other dimensions are another table, since a number that stands in many rows would be
    counted many times. So a data set whose variables share their dimensions is one table, called as it is
    (`training`), and another is several (`training.seed`, `training.seed.snapshot`). Dimensions without labels count
    from 0. Missing values stay missing.

    **Arguments:**
    - `arrays`: the tree, or what reads it.
    - `to`: a file that ends with `.nc`, `.parquet` or `.csv`, or a folder.
    - `part`: the data set (for NetCDF) or the table to write; a file takes one table, NetCDF the whole tree by default.
    - `form`: `"nc"`, `"parquet"` or `"csv"`, for a folder, which gets a file for each part.

    **Returns:** the files written; what was there is replaced, each in one step.

    **Raises:** `InputError` for other endings and unknown parts, several tables for one file, a package that is
    missing, and a place that cannot be written.
    """
    to = pathlib.Path(to).expanduser()
    is_file = to.suffix[1:] in _NEEDS
    form = to.suffix[1:] if form is None else form
    if form not in _NEEDS:
        given = "a folder needs a form" if not form else f"got {form!r}"
        msg = f"Arrays are written as {', '.join(_NEEDS)}; {given}. Give a file like arrays.nc, or a folder and "
        msg += "--format (Python: form)."
        raise InputError(msg)
    if is_file and to.suffix[1:] != form:
        msg = f"{str(to)!r} and the form {form!r} contradict each other."
        raise InputError(msg)
    need = _NEEDS[form]
    if need is not None and importlib.util.find_spec(need) is None:
        msg = f'Writing .{form} needs {need}; install it with: pip install "lossatlas[export]". CSV needs nothing more.'
        raise InputError(msg)
    tree = arrays() if callable(arrays) else arrays
    writers = _netcdf_writers(tree, part, whole=is_file) if form == "nc" else _table_writers(tree, part, form)
    if is_file and len(writers) > 1:
        msg = f"These are {len(writers)} tables ({', '.join(writers)}); name one with --part (Python: part), or give "
        msg += f"a folder and --format {form}."
        raise InputError(msg)
    files = {to if is_file else to / f"{name}.{form}": write for name, write in writers.items()}
    try:
        (to.parent if is_file else to).mkdir(parents=True, exist_ok=True)
        for path, write in files.items():
            _write_whole(path, write)
    except OSError as error:
        msg = f"{str(to)!r} cannot be written ({error.strerror or error})."
        raise InputError(msg) from error
    return list(files)


def _write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """A file that appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".lossatlas-", dir=path.parent) as folder:
        new = pathlib.Path(folder) / path.name
        write(new)
        new.replace(path)


def _netcdf_writers(
    tree: "xr.DataTree", part: str | None, *, whole: bool
) -> dict[str, Callable[[pathlib.Path], object]]:
    parts = _datasets(tree)
    if part is not None and part not in parts:
        raise unknown_name("part", part, parts)
    if part is None and whole:
        real = tree.map_over_datasets(_real)
        return {"arrays": lambda path: real.to_netcdf(path, engine="h5netcdf")}
    chosen = parts if part is None else {part: parts[part]}
    return {name: lambda path, d=d: d.to_netcdf(path, engine="h5netcdf") for name, d in chosen.items()}


def _table_writers(tree: "xr.DataTree", part: str | None, form: str) -> dict[str, Callable[[pathlib.Path], object]]:
    tables = {
        name: table for dataset, data in _datasets(tree).items() for name, table in _tables(dataset, data).items()
    }
    if part is not None:
        # The name of a data set of several tables stands for all of them.
        chosen = [part] if part in tables else [name for name in tables if name.startswith(f"{part}.")]
        if not chosen:
            raise unknown_name("part", part, tables)
        tables = {name: tables[name] for name in chosen}
    if form == "csv":
        return {name: lambda path, t=t: t.to_csv(path, index=False) for name, t in tables.items()}
    return {name: lambda path, t=t: t.to_parquet(path, index=False) for name, t in tables.items()}


def _datasets(tree: "xr.DataTree") -> dict[str, "xr.Dataset"]:
    """The data sets that hold anything, by path; a slash would be a folder, so nested ones have dots."""
    found = {node.path.strip("/").replace("/", ".") or "root": _real(node.to_dataset()) for node in tree.subtree}
    return {name: dataset for name, dataset in sorted(found.items()) if dataset.data_vars}


def _real(dataset: "xr.Dataset") -> "xr.Dataset":
    """Complex variables as two real ones, since no format here has complex numbers."""
    for name, array in dataset.data_vars.items():
        if array.dtype.kind == "c":
            dataset = dataset.assign({f"{name}_real": array.real, f"{name}_imag": array.imag}).drop_vars(str(name))
    return dataset


def _tables(name: str, dataset: "xr.Dataset") -> dict[str, "pd.DataFrame"]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for variable, array in sorted(dataset.data_vars.items()):  # a folder has no order of its own
        groups.setdefault(tuple(map(str, array.dims)), []).append(str(variable))
    return {
        name if len(groups) == 1 else ".".join([name, *dims]): _table(dataset[variables], dims)
        for dims, variables in sorted(groups.items())
    }


def _table(dataset: "xr.Dataset", dims: tuple[str, ...]) -> "pd.DataFrame":
    if not dims:
        import pandas as pd

        return pd.DataFrame({str(name): [array.item()] for name, array in dataset.data_vars.items()})
    return dataset.to_dataframe(dim_order=list(dims)).reset_index()
