"""`lossatlas shrink` and `lossatlas grow`: a model made smaller or larger that says the same."""

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from lossatlas._errors import InputError
from lossatlas.cli._model import ModelOptions
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
    target: str | None = None,
    seed: int = 0,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write the smallest model that says the same.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    data
        A data set's name, or a CSV, TSV, Parquet or NPZ file of rows like those that the model will see.
    out
        The new model file.
    tolerance
        The largest allowed change of any output on these rows, in output units.
    target
        The column of the targets, which the model does not read; by default the one that it was trained on.
    seed
        Seed of the choice of the rows that are held back.
    options
        Which network, and what the model does not say itself.
    json
        Print JSON, for machines.
    """
    prepare_jax()

    from lossatlas.networks import check_savable
    from lossatlas.workbench import save_model
    from lossatlas.workbench import shrink as shrink_model

    before = options.load(model)
    check_savable(before.network)
    found = shrink_model(before, data, tolerance=tolerance, seed=seed, target=target)
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


def parse_sizes(type_: Any, tokens: Sequence[Token]) -> tuple[int, ...] | dict[str, int]:
    """The sizes of `--widths 60,60`, or by unit space of `--widths hidden[0]=40,channels[1]=16`.

    **Arguments:**
    - `type_`: the type to convert to (always the same here).
    - `tokens`: the words of the option.

    **Raises:** `InputError` unless every size is a whole number above zero, and every space is named once.
    """
    text = ",".join(token.value for token in tokens)
    if "=" not in text:
        return parse_widths(type_, tokens)
    sizes = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        if not name or not size.isdecimal() or int(size) < 1 or name in sizes:
            msg = f"sizes by unit space are written like hidden[0]=40,channels[1]=16, each once; got {text!r}."
            raise InputError(msg)
        sizes[name] = int(size)
    return sizes


def parse_places(type_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """The layers of `--before 1,2`.

    **Arguments:**
    - `type_`: the type to convert to (always the same here).
    - `tokens`: the words of the option.

    **Raises:** `InputError` unless all are whole numbers from zero.
    """
    del type_
    text = ",".join(token.value for token in tokens)
    if not all(part.strip().isdecimal() for part in text.split(",")):
        msg = f"the places of new layers are whole numbers from zero, like 1 or 1,2; got {text!r}."
        raise InputError(msg)
    return tuple(int(part) for part in text.split(","))


_SIZES = Parameter(converter=parse_sizes, n_tokens=1, negative="")
_PLACES = Parameter(converter=parse_places, n_tokens=1, negative="")


def grow(
    model: str,
    /,
    *,
    out: Annotated[pathlib.Path, Parameter(required=True)],
    widths: Annotated[tuple[int, ...] | dict[str, int] | None, _SIZES] = None,
    depth: int | None = None,
    data: str | None = None,
    target: str | None = None,
    before: Annotated[tuple[int, ...] | None, _PLACES] = None,
    seed: int = 0,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write a wider or deeper model that says the same.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    out
        The new model file.
    widths
        New neurons of each hidden layer, like 60,60, or new sizes by unit space, like hidden[0]=40,channels[1]=16; not
        below the present ones.
    depth
        How many hidden layers it shall have; new ones act linearly on the data. Needs --data.
    data
        A data set's name, or a CSV, TSV, Parquet or NPZ file of rows like those that the model will see: what the
        result is certified on.
    target
        The column of the targets; by default the one that the model was trained on.
    before
        For each new layer which layer will read it, like 1,1: 0 is the first. By default the output layer.
    seed
        Seed of the new layers.
    options
        Which network, and what the model does not say itself.
    json
        Print JSON, for machines.
    """
    prepare_jax()

    from lossatlas.networks import check_savable
    from lossatlas.workbench import grow as grow_model
    from lossatlas.workbench import save_model

    small = options.load(model)
    check_savable(small.network)
    found = grow_model(small, widths, depth=depth, data=data, before=before, seed=seed, target=target)
    save_model(out, found.model)
    facts: dict[str, Any] = {
        "before": {"widths": small.shape, "parameters": small.num_parameters},
        "after": {"widths": found.model.shape, "parameters": found.model.num_parameters},
        "outputs_stay_on_all_inputs": found.on_all_inputs,
        "largest_change": found.change,
        "rows": found.rows,
        "loss": found.loss,
        "largest_gradient_before": found.gradient_before,
        "largest_gradient_after": found.gradient_after,
        "caution": found.caution,
        "model": str(out),
    }
    lines = [f"{_size(small)} -> {_size(found.model)}", *_certificate(found), f"model: {out}"]
    say(facts, lines, as_json=json)


def _certificate(found: Any) -> list[str]:
    measured = None if found.rows is None else f"by at most {found.change:.3g} on these {found.rows:,} rows"
    if found.on_all_inputs:
        lines = [f"outputs stay for all inputs{'' if measured is None else f'; changed {measured}'}"]
    else:
        lines = [f"outputs changed {measured}, and may change on others"]
    if found.gradient_after is not None:
        lines.append(
            f"largest entry of the gradient of the mean loss ({found.loss}): {found.gradient_before:.3g} -> "
            f"{found.gradient_after:.3g}"
        )
    return lines if found.caution is None else [*lines, f"caution: {found.caution}"]


def _size(model: Any) -> str:
    return f"{model.shape} ({model.num_parameters:,} parameters)"
