"""`lossatlas export`: hand a model to another program."""

import pathlib
from typing import Annotated, Literal

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._model import ModelOptions
from lossatlas.cli._output import say


def export(
    model: str,
    /,
    *,
    to: Annotated[Literal["torch", "sklearn", "safetensors"], Parameter(required=True)],
    out: Annotated[pathlib.Path, Parameter(required=True)],
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write a model for another program.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    to
        torch: a folder with a PyTorch module, its weights, and preprocessing.json beside them. sklearn: a folder with
        model.py, whose load() builds the fitted Pipeline from model.npz; no pickle. safetensors: one file.
    out
        The folder, or the file for safetensors.
    options
        Which network, and what the model does not say itself.
    json
        Print JSON, for machines.
    """
    prepare_jax()

    from lossatlas.workbench import export as export_model

    found = options.load(model)
    files = [str(path) for path in export_model(found, to, out)]
    facts = {"model": found.shape, "parameters": found.num_parameters, "to": to, "files": files}
    say(facts, [f"{found.shape} ({found.num_parameters:,} parameters) for {to}", *files], as_json=json)
