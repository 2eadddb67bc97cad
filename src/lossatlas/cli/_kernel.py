"""`lossatlas kernel`: the tangent kernel of a model."""

import pathlib
from typing import Literal

from lossatlas._errors import InputError
from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


def kernel(
    model: str,
    /,
    *,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    to: str | None = None,
    checkpoint_to: pathlib.Path | None = None,
    convention: Literal["trace", "sum_logits", "full"] = "trace",
    examples: int | None = None,
    only: str | None = None,
    test: str | None = None,
    store: pathlib.Path | None = None,
) -> None:
    """Measure the tangent kernel: spectrum, alignment with the targets, layers, and what it predicts when frozen.

    With --to, how far it moved on the way to another model: whether the network stayed in the lazy (kernel) regime, or
    learned features.

    Here --batch-size is how many examples a block of the kernel has along both sides: auto keeps a block within a
    quarter of a gigabyte, all makes a single one. The result is the same to rounding.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    to
        Another model of the same inputs and outputs: a later epoch, the initialisation, a fine-tuned one. It may be
        the same factory with other weights (--checkpoint-to). Its kernel too, and how far the kernel moved.
    checkpoint_to
        Weights for the other model, as --checkpoint is for the first.
    convention
        The mean over the outputs (trace); the kernel of their sum (sum_logits), cheaper by the number of outputs; or
        every output of every example by itself (full), larger by the square of their number.
    examples
        At most so many examples, drawn at random by the seed. By default 1000; with full as many as make 4000 rows,
        one for each output of an example.
    only
        A pattern of parameter names, like "layers[0].*": the kernel of these alone.
    test
        Other data with targets, which the frozen kernel and the network predict; else a quarter of the examples.
    store
        A file ending in .npy for the kernel of all examples, written block by block; what was stopped goes on. With
        --to, of the first model.
    """
    prepare_jax()

    import lossatlas
    from lossatlas.workbench import kernel as measure

    first, other = which.load(model), None
    if to is not None:
        words = {"architecture": which.architecture, "checkpoint": checkpoint_to, "loss": which.loss}
        other = lossatlas.load(to, which.network, **words)
    elif checkpoint_to is not None:
        msg = "checkpoint_to (--checkpoint-to) goes with another model (--to)."
        raise InputError(msg)
    found = measure(
        first,
        options.data,
        to=other,
        origin=model,
        to_origin=to,
        loaded={**which.words, "checkpoint_to": checkpoint_to},
        network=which.network,
        convention=convention,
        num_examples=examples,
        only=only,
        test=test,
        store=store,
        **options.arguments,
    )
    moved, layers = found.facts.get("moved"), found.facts["layers"]
    if moved is None:
        print_measured(found, layers, as_json=options.json)
        return
    paired = [moved["layers"]] if moved["layers"] else [layers, found.facts["to"]["layers"]]
    print_measured(found, moved["kernels"], *paired, as_json=options.json)
