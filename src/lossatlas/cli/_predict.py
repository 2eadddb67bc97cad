"""`lossatlas predict`: use a network that a survey saved, on raw columns."""

import pathlib
import sys
from typing import Annotated

from cyclopts import Parameter

from lossatlas._errors import InputError
from lossatlas.cli._checks import check_folder
from lossatlas.cli._run import prepare_jax


def predict(
    run: str,
    /,
    *,
    data: Annotated[pathlib.Path, Parameter(required=True)],
    out: pathlib.Path | None = None,
    network: str | None = None,
) -> None:
    """Predict on new rows and print them as CSV.

    Parameters
    ----------
    run
        The folder of a survey, or a model file (.safetensors).
    data
        A CSV or Parquet file of new rows, with the columns that the network was trained on.
    out
        Write the predictions to this CSV file instead of printing them.
    network
        Which network of the survey; the recommended one by default.
    """
    if not pathlib.Path(run).exists():
        msg = f"There is no run {run!r}. Give the folder that `lossatlas survey` printed, or a model file."
        raise InputError(msg)
    if out is not None:
        check_folder(out.parent)
    table = _read_table(data)
    prepare_jax()

    from lossatlas import atlas

    model = atlas.load(run) if network is None else atlas.load(run, network=network)
    text = _as_csv(model.predict(table))
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def _read_table(path: pathlib.Path):
    import pandas as pd

    if not path.is_file():
        msg = f"There is no file {str(path)!r}. Give a CSV or Parquet file with --data."
        raise InputError(msg)
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix.lower() not in readers:
        msg = f"--data takes a file that ends in {' or '.join(readers)}, got {str(path)!r}."
        raise InputError(msg)
    try:
        table = readers[path.suffix.lower()](path)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        msg = f"Cannot read {str(path)!r}: {error}"
        raise InputError(msg) from error
    if table.empty:
        msg = f"{str(path)!r} has no rows. Give at least one, below a line with the names of the columns."
        raise InputError(msg)
    return table


def _as_csv(predictions) -> str:
    """Predictions as CSV text: their own columns, or `prediction` (one number a row), or `prediction[0]` and so on."""
    import numpy as np
    import pandas as pd

    if isinstance(predictions, pd.Series):
        predictions = predictions.to_frame(predictions.name or "prediction")
    if not isinstance(predictions, pd.DataFrame):
        values = np.asarray(predictions)
        if values.ndim == 1:
            predictions = pd.DataFrame({"prediction": values})
        else:
            names = [f"prediction[{i}]" for i in range(values.shape[1])]
            predictions = pd.DataFrame(values, columns=names)
    return predictions.to_csv(index=False, lineterminator="\n")
