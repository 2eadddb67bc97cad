"""`lossatlas shrink` and `lossatlas grow`: a model made smaller or larger that says the same."""

import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from lossatlas._errors import InputError
from lossatlas._process import prepare_jax
from lossatlas.cli._model import ModelOptions
from lossatlas.cli._output import say
from lossatlas.cli._survey import parse_widths


if TYPE_CHECKING:
    from lossatlas.workbench import Shrunk, Size


def shrink(
    model: str,
    /,
    *,
    data: Annotated[str, Parameter(required=True)],
    out: Annotated[pathlib.Path, Parameter(required=True)],
    tolerance: float | None = None,
    parameters: int | None = None,
    target: str | None = None,
    seed: int = 0,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write the smallest model that says the same, or the best one of a size.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    data
        A data set's name, or a CSV, TSV, Parquet or NPZ file of rows like those that the model will see.
    out
        The new model file; a page with the curve of size against change is written beside it. For the module of a
        factory it holds weights, to be given with --checkpoint beside that factory.
    tolerance
        The largest allowed change of any output on these rows, in output units.
    parameters
        Instead of a tolerance: how many parameters the new model may have.
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

    from lossatlas.workbench import check_writable, write_resized, write_shrink_page
    from lossatlas.workbench import shrink as shrink_model

    before = options.load(model)
    check_writable(before, model, out)
    found = shrink_model(before, data, tolerance=tolerance, parameters=parameters, seed=seed, target=target)
    use = write_resized(out, found.model, model)
    asked = ["--tolerance", f"{tolerance:g}"] if parameters is None else ["--parameters", str(parameters)]
    words = ["lossatlas", "shrink", model, "--data", data, *asked, "--network", options.network, "--out", str(out)]
    page = write_shrink_page(
        out.with_suffix(".html"), found, name=model, data=data, regenerate=shlex.join([*words, "--seed", str(seed)])
    )
    facts = {
        "before": _size_facts(found.before),
        "after": _size_facts(found.chosen),
        "tolerance": found.tolerance,
        "steps": list(found.steps),
        "rows_seen": found.rows_seen,
        "rows_held_back": found.rows_fresh,
        "curve": [_size_facts(size) for size in found.curve],
        "left_as_they_were": found.fixed,
        "model": str(out),
        "use": use,
        "page": str(page),
    }
    say(facts, [*_shrink_lines(found), f"model: {out}", *use, f"page: {page}"], as_json=json)


def _size_facts(size: "Size") -> dict[str, Any]:
    return {
        "widths": size.shape,
        "parameters": size.num_parameters,
        "largest_change": size.change,
        "change_covering_95_percent_of_new_rows": size.fresh_change,
        "accuracy_on_rows_held_back": size.accuracy,
        "loss_on_rows_held_back": size.loss,
    }


def _shrink_lines(found: "Shrunk") -> list[str]:
    """What `shrink` says."""
    before, after = found.before, found.chosen
    if after.num_parameters >= before.num_parameters:
        lines = [f"Nothing can be removed at a tolerance of {found.tolerance:g}: {_words(before)}."]
    else:
        lines = [f"{_words(before)} -> {_words(after)}"]
    allowed = "" if found.tolerance is None else f" (allowed {found.tolerance:g})"
    seen = f"largest change of an output on the {found.rows_seen:,} rows seen: {after.change:.3g}{allowed}"
    lines.append(seen)
    if after.fresh_change is None:
        lines.append(f"rows held back: {found.rows_fresh}, too few to say anything of new rows (59 are needed)")
    else:
        lines.append(
            f"on rows not seen: at most {after.fresh_change:.3g} for 95 % of new rows, with 95 % confidence "
            f"({found.rows_fresh:,} rows were held back)"
        )
    for name in ("accuracy", "loss"):
        was, now = getattr(before, name), getattr(after, name)
        if now is not None:
            lines.append(f"{name} on the rows held back: {was:.4g} -> {now:.4g}")
    return [*lines, f"steps: {'; '.join(found.steps)}"] if found.steps else lines


def _words(size: "Size") -> str:
    return f"{size.shape} ({size.num_parameters:,} parameters)"


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
    part: float = 0.0,
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
        The new model file; for the module of a factory weights, to be given with --checkpoint beside that factory.
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
    part
        Noise on copies of units, relative to the size of their parameters, like 0.02: equal copies stay equal in
        training. Outputs then change a little.
    seed
        Seed of the new layers and of the noise.
    options
        Which network, and what the model does not say itself.
    json
        Print JSON, for machines.
    """
    prepare_jax()

    from lossatlas.workbench import check_writable, write_resized
    from lossatlas.workbench import grow as grow_model

    small = options.load(model)
    check_writable(small, model, out)
    found = grow_model(small, widths, depth=depth, data=data, before=before, part=part, seed=seed, target=target)
    use = write_resized(out, found.model, model)
    facts: dict[str, Any] = {
        "before": {"widths": small.shape, "parameters": small.num_parameters},
        "after": {"widths": found.model.shape, "parameters": found.model.num_parameters},
        "outputs_stay_on_all_inputs": found.on_all_inputs,
        "largest_change": found.change,
        "noise_on_copies": found.part,
        "rows": found.rows,
        "loss": found.loss,
        "largest_gradient_before": found.gradient_before,
        "largest_gradient_after": found.gradient_after,
        "caution": found.caution,
        "model": str(out),
        "use": use,
    }
    lines = [f"{_size(small)} -> {_size(found.model)}", *_certificate(found), f"model: {out}", *use]
    say(facts, lines, as_json=json)


def _certificate(found: Any) -> list[str]:
    measured = None if found.rows is None else f"by at most {found.change:.3g} on these {found.rows:,} rows"
    if found.on_all_inputs:
        lines = [f"outputs stay for all inputs{'' if measured is None else f'; changed {measured}'}"]
    elif measured is None:
        lines = [f"outputs changed by noise of {found.part:g} on the copies; --data measures by how much"]
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
