"""`lossatlas survey`: the small networks of a data set, and which of them training visits."""

import datetime
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from lossatlas._errors import InputError
from lossatlas._process import prepare_jax


def parse_widths(type_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """The widths of `--hidden 50,50`.

    **Arguments:**
    - `type_`: the type to convert to (always the same here).
    - `tokens`: the words of the option.

    **Raises:** `InputError` unless every width is a whole number above zero.
    """
    del type_
    text = ",".join(token.value for token in tokens)
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        msg = f"the widths of the hidden layers are whole numbers above zero, like 50 or 50,50; got {text!r}."
        raise InputError(msg)
    return widths


_NETWORK = Group.create_ordered("The big network")
_TRAINING = Group.create_ordered("Its training")
_CATALOGUE = Group.create_ordered("The catalogue of small networks")
_OUTPUT = Group.create_ordered("Output")
_HIDDEN = Parameter(group=_NETWORK, converter=parse_widths, n_tokens=1, negative="", show_default="50,50")


def survey(
    data: str = "iris",
    /,
    *,
    target: str | None = None,
    hold_out: float = 0.25,
    hidden: Annotated[tuple[int, ...], _HIDDEN] = (50, 50),
    activation: Annotated[str, Parameter(group=_NETWORK)] = "tanh",
    loss: Annotated[Literal["auto", "mse", "cross_entropy"], Parameter(group=_NETWORK)] = "auto",
    init: Annotated[float | None, Parameter(group=_NETWORK)] = None,
    learning_rate: Annotated[float | None, Parameter(group=_TRAINING)] = None,
    num_steps: Annotated[int | None, Parameter(group=_TRAINING)] = None,
    seed: Annotated[int, Parameter(group=_TRAINING)] = 0,
    seeds: Annotated[int | None, Parameter(group=_TRAINING)] = None,
    preset: Annotated[Literal["quick", "full"], Parameter(group=_CATALOGUE)] = "quick",
    max_units: Annotated[int | None, Parameter(group=_CATALOGUE)] = None,
    out: Annotated[pathlib.Path | None, Parameter(group=_OUTPUT)] = None,
    force: Annotated[bool, Parameter(group=_OUTPUT, negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(group=_OUTPUT, negative="", show_default=False)] = False,
    progress: Annotated[Literal["rich", "text", "none"] | None, Parameter(group=_OUTPUT)] = None,
) -> None:
    """Survey a data set and print the table and where the files are.

    Parameters
    ----------
    data
        A data set (iris, wine, breast_cancer, digits, diabetes, mnist), a generator (teacher, hierarchy-1d,
        sigmoid-grid), or a CSV, TSV, NPZ or Parquet file.
    target
        The column to predict, for a file; the last one by default.
    hold_out
        Share of the rows kept aside for the held-out figures.
    hidden
        Widths of the hidden layers, like 50,50.
    activation
        Activation of the big network and of the small ones: tanh, sigmoid, relu, gelu, silu, erf, softplus, elu,
        leaky_relu, hard_tanh, sin, square, ...
    loss
        auto is squared error, one-hot for classes.
    init
        Power p of the small initialisation: weights of standard deviation max(fan_in, fan_out)**-p.
        By default what suits the depth.
    learning_rate
        Step size of full-batch gradient descent. By default what suits the data.
    num_steps
        Number of training steps. By default what suits the data.
    seed
        Seed of everything that is random.
    seeds
        Number of big networks to train. By default 1 for quick, 5 for full.
    preset
        quick takes a minute or two; full searches from many starts, trains five seeds and repeats a 5-fold
        cross-validation three times.
    max_units
        Most units (neurons and linear units) of a small network. By default by preset and data.
    out
        Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas.
    force
        Run again even if this survey was made before.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    """
    from lossatlas.atlas import SurveyConfig

    config = SurveyConfig(
        target=target,
        hold_out=hold_out,
        hidden=hidden,
        activation=activation,
        loss=loss,
        init=init,
        learning_rate=learning_rate,
        num_steps=num_steps,
        seed=seed,
        seeds=seeds,
        preset=preset,
        max_units=max_units,
    )
    prepare_jax()

    import lossatlas
    from lossatlas.cli._output import print_json, print_survey

    begun = datetime.datetime.now(datetime.UTC)
    result = lossatlas.survey(data, config=config, out=out, force=force, progress=progress)
    if result.created < begun - datetime.timedelta(seconds=1):
        sys.stderr.write(f"lossatlas: this survey was made on {result.created:%Y-%m-%d}; --force makes it again.\n")
    if json:
        print_json(result.to_json())
    else:
        print_survey(result)
