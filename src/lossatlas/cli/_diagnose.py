"""`lossatlas diagnose`: which small network a model is stuck at, and which steps leave."""

import pathlib
import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._model import ModelOptions


def diagnose(
    model: str,
    /,
    *,
    data: Annotated[str, Parameter(required=True)],
    target: str | None = None,
    options: ModelOptions = ModelOptions(network="big"),  # noqa: B008
    tolerance: float = 0.1,
    num_steps: int = 500,
    out: pathlib.Path | None = None,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    progress: Literal["rich", "text", "none"] | None = None,
) -> None:
    """Say which small network a model is stuck at, where that stands, and which steps leave.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    data
        The training data with the target: a data set's name, or a CSV, TSV, Parquet or NPZ file.
    target
        The column of the targets; by default the one that the model was trained on.
    options
        Which network, and what the model does not say itself.
    tolerance
        How far an output may change in the practical reduction, as a share of the spread of the targets.
    num_steps
        Steps of gradient descent after each step that leaves; 0 leaves the runs out.
    out
        Folder of the page and of the model files; by default diagnosis in the folder of runs.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    """
    prepare_jax()

    from lossatlas.cli._output import print_json, print_rows
    from lossatlas.workbench import diagnose as diagnose_model

    meter = progress or ("rich" if sys.stderr.isatty() else "none")
    found = diagnose_model(
        options.load(model),
        data,
        origin=model,
        network=options.network,
        target=target,
        out=out,
        progress=meter,
        tolerance=tolerance,
        num_steps=num_steps,
    )
    files = {"page": found.page, "after the step": found.after_step, "small network": found.small}
    paths = {name: str(path) for name, path in files.items() if path is not None}
    if json:
        print_json({**found.tables, "files": paths})
        return
    sys.stdout.write(found.tables["verdict"] + "\n")
    if found.tables["caution"]:
        sys.stdout.write(found.tables["caution"] + "\n")
    print_rows([_layer(row) for row in found.tables["layers"]])
    depth = found.tables["network"]["effective_depth"]
    if depth is not None:
        sys.stdout.write(f"effective depth: {depth}\n")
    print_rows([_way(row) for row in found.tables["ways"]] + _control(found.tables))
    for line in found.tables["unmeasured"]:
        sys.stdout.write(f"not measured: {line}\n")
    for name, path in paths.items():
        sys.stdout.write(f"{name}: {path}\n")


def _layer(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "layer": row["name"],
        "units": row["size"] + row["linear_units"],
        "different": row["effective_number"],
        "copies": row["copies"],
        "constant": row["constant"],
        "unread": row["unread"],
        "MPC": row["mpc"],
        "left": None if row["effective"] is None else row["effective"][0],
        "left: linear": None if row["effective"] is None else row["effective"][1],
    }


def _way(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "way out": row["words"],
        "predicted fall": row["predicted"],
        "measured fall": row["realised"],
        "loss": row["loss"],
        "after a short run": row["loss_after"],
        "its rate": row["learning_rate"],
    }


def _control(tables: dict[str, Any]) -> list[dict[str, Any]]:
    if tables["control"] is None:
        return []
    loss = tables["standing"]["loss"]
    rate = tables["settings"]["runs"]["learning_rate_without_a_step"]
    return [{"way out": "no step (control)", "loss": loss, "after a short run": tables["control"], "its rate": rate}]
