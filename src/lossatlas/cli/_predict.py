"""`lossatlas predict`: use a network that a survey saved, on raw columns."""

import pathlib
import sys
from typing import Annotated

from cyclopts import Parameter

from lossatlas._errors import InputError
from lossatlas._process import prepare_jax
from lossatlas.cli._model import ModelOptions


def predict(
    model: str,
    /,
    *,
    data: Annotated[str, Parameter(required=True)],
    out: pathlib.Path | None = None,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Predict on new rows and print them as CSV.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    data
        A CSV, TSV or Parquet file of new rows with the columns that the network was trained on, an NPZ file with an
        array `inputs`, or a data set's name.
    out
        Write the predictions to this CSV file instead of printing them.
    options
        Which network, and what the model does not say itself.
    """
    prepare_jax()

    text = options.load(model).predict(data).to_csv(index=False, lineterminator="\n")
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text)
    except OSError as error:
        msg = f"Cannot write {str(out)!r} ({error.strerror}). Choose another file with --out."
        raise InputError(msg) from error
