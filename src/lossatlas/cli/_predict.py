"""`lossatlas predict`: use a network that a survey saved, on raw columns."""

import pathlib
import sys
from typing import Annotated

from cyclopts import Parameter

from lossatlas._errors import InputError
from lossatlas.cli._run import prepare_jax


def predict(
    run: str,
    /,
    *,
    data: Annotated[pathlib.Path, Parameter(required=True)],
    out: pathlib.Path | None = None,
    network: str = "recommended",
) -> None:
    """Predict on new rows and print them as CSV.

    Parameters
    ----------
    run
        The folder of a survey, or a model file (.safetensors).
    data
        A CSV, TSV or Parquet file of new rows, with the columns that the network was trained on.
    out
        Write the predictions to this CSV file instead of printing them.
    network
        Which network of the survey: recommended, big, or a name of its catalogue like "(1,1)".
    """
    prepare_jax()

    import lossatlas
    from lossatlas.data import read_table

    model = lossatlas.load(run, network=network)
    text = model.predict(read_table(data)).to_csv(index=False, lineterminator="\n")
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text)
    except OSError as error:
        msg = f"Cannot write {str(out)!r} ({error.strerror}). Choose another file with --out."
        raise InputError(msg) from error
