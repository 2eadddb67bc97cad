"""`lossatlas shrink` and `lossatlas grow`: a model made smaller or larger that says the same."""

import pathlib
from typing import Annotated, Any

from cyclopts import Parameter

from lossatlas.cli._output import say
from lossatlas.cli._run import prepare_jax
from lossatlas.cli._survey import parse_widths


def shrink(
    model: str,
    /,
    *,
    data: Annotated[str, Parameter(required=True)],
    out: Annotated[pathlib.Path, Parameter(required=True)],
    tolerance: Annotated[float, Parameter(required=True)],
    network: str = "recommended",
    seed: int = 0,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write the smallest model that says the same.

    Parameters
    ----------
    model
        The folder of a survey, or a model file (.safetensors).
    data
        A data set's name, or a CSV, TSV or Parquet file of rows like those that the model will see.
    out
        The new model file.
    tolerance
        The largest allowed change of any output on these rows, in output units.
    network
        Which network of a survey: recommended, big, or a name of its catalogue like "(1,1)".
    seed
        Seed of the choice of the rows that are held back.
    json
        Print JSON, for machines.
    """
    prepare_jax()

    import lossatlas
    from lossatlas.workbench import save_model
    from lossatlas.workbench import shrink as shrink_model

    before = lossatlas.load(model, network=network)
    found = shrink_model(before, data, tolerance=tolerance, seed=seed)
    save_model(out, found.model)
    facts = {
        "before": {"widths": before.shape, "parameters": before.num_parameters},
        "after": {"widths": found.model.shape, "parameters": found.model.num_parameters},
        "tolerance": tolerance,
        "largest_change": found.change,
        "rows_seen": found.rows_seen,
        "change_covering_95_percent_of_new_rows": found.fresh_change,
        "rows_held_back": found.rows_fresh,
        "model": str(out),
    }
    if found.model.num_parameters >= before.num_parameters:
        lines = [f"Nothing can be removed at a tolerance of {tolerance:g}: {_size(before)}."]
    else:
        lines = [f"{_size(before)} -> {_size(found.model)}"]
    lines.append(
        f"largest change of an output on the {found.rows_seen:,} rows seen: {found.change:.3g} (allowed {tolerance:g})"
    )
    if found.fresh_change is None:
        lines.append(f"rows held back: {found.rows_fresh}, too few to say anything of new rows (59 are needed)")
    else:
        lines.append(
            f"on rows not seen: at most {found.fresh_change:.3g} for 95 % of new rows, with 95 % confidence "
            f"({found.rows_fresh:,} rows were held back)"
        )
    say(facts, [*lines, f"model: {out}"], as_json=json)


def grow(
    model: str,
    /,
    *,
    widths: Annotated[tuple[int, ...], Parameter(converter=parse_widths, n_tokens=1, negative="", required=True)],
    out: Annotated[pathlib.Path, Parameter(required=True)],
    network: str = "recommended",
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write a wider model that says the same on all inputs.

    Parameters
    ----------
    model
        The folder of a survey, or a model file (.safetensors).
    widths
        New neurons of each hidden layer, like 60,60; not below the present ones.
    out
        The new model file.
    network
        Which network of a survey: recommended, big, or a name of its catalogue like "(1,1)".
    json
        Print JSON, for machines.
    """
    prepare_jax()

    import lossatlas
    from lossatlas.workbench import grow as grow_model
    from lossatlas.workbench import save_model

    before = lossatlas.load(model, network=network)
    after = grow_model(before, widths)
    save_model(out, after)
    facts: dict[str, Any] = {
        "before": {"widths": before.shape, "parameters": before.num_parameters},
        "after": {"widths": after.shape, "parameters": after.num_parameters},
        "model": str(out),
    }
    say(facts, [f"{_size(before)} -> {_size(after)}; outputs stay for all inputs", f"model: {out}"], as_json=json)


def _size(model: Any) -> str:
    return f"{model.shape} ({model.num_parameters:,} parameters)"
