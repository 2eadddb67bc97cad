"""Shrink a model without changing what it says, or as little as a size allows."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer, named_arrays, num_parameters, replace_parameters
from lossatlas._show import html_page, shown
from lossatlas._types import Network
from lossatlas.geometry import find_taps
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, size_words
from lossatlas.workbench._data import Examples, read_examples
from lossatlas.workbench._model import Model
from lossatlas.workbench._units import as_float64, with_unit_spaces


if TYPE_CHECKING:
    from lossatlas.embedding import PrunedPoint


COVERAGE, CONFIDENCE = 0.95, 0.95
_HELD_BACK = 0.3
_LEAST_COVERING = 59  # rows from which on the largest change covers 95 % with 95 % confidence
_MOST_REFITTED = 3000  # outputs in all up to which layers of a fully connected network are refitted by new units
_POINTS = 16


@shown
@dataclasses.dataclass(frozen=True)
class Size:
    """One size of a model and what it costs, in output units (those of the target for numbers).

    - `shape`: in words. `num_parameters`.
    - `change`: the largest change of an output on the rows seen.
    - `fresh_change`: with a confidence of 95 %, at least 95 % of new rows like these change by no more (by the order
      statistics of the rows held back, whatever their distribution); None where there are too few, below 59.
    - `accuracy`: on the rows held back; None without class numbers. `loss`: the mean loss there; None without targets.
    """

    shape: str
    num_parameters: int
    change: float
    fresh_change: float | None
    accuracy: float | None
    loss: float | None


@shown
@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A model made smaller.

    - `model`: the small one. `steps`: how it was made, in words.
    - `chosen`, `before`: its size and that of the model.
    - `curve`: sizes from what is exact to one unit in each space, the largest first; empty for one tolerance only.
    - `tolerance`, `parameters`: what was asked for, the other None.
    - `rows_seen`, `rows_fresh`: how many rows the reduction saw, and how many were held back from it.
    - `fixed`: the unit spaces that stayed as they were, and why.
    """

    model: Model
    steps: tuple[str, ...]
    before: Size
    chosen: Size
    curve: tuple[Size, ...]
    tolerance: float | None
    parameters: int | None
    rows_seen: int
    rows_fresh: int
    fixed: dict[str, str]

    @property
    def change(self) -> float:
        """The largest change of an output on the rows seen."""
        return self.chosen.change

    @property
    def fresh_change(self) -> float | None:
        """What new rows change by at most: see [`lossatlas.workbench.Size`][]."""
        return self.chosen.fresh_change

    def _repr_html_(self) -> str:
        sizes = {"before": self.before, "chosen": self.chosen} | {f"size {i}": s for i, s in enumerate(self.curve, 1)}
        rows = [{"": name} | dataclasses.asdict(size) for name, size in sizes.items()]
        held = f"{self.rows_seen:,} rows seen, {self.rows_fresh:,} held back"
        return html_page(f"{self.before.shape} -> {self.chosen.shape}", rows, more=[held, *self.steps])

    def _figure(self) -> Any:
        from lossatlas.workbench._shrink_page import shrinking_figures

        return shrinking_figures(self)["curve"](False) if self.curve else None


def shrink(
    model: Model,
    table: Any,
    *,
    tolerance: float | None = None,
    parameters: int | None = None,
    seed: int = 0,
    target: str | None = None,
) -> Shrunk:
    """Find the smallest network that says the same as a model up to a tolerance, or the best one of a size.

    What is exact goes first (copies, constants, unread units, layers that act linearly); then units go whose absence
    changes the outputs least, and others stand in for them; layers of fully connected networks are held as two of lower
    rank where that changes the outputs less ([`lossatlas.embedding.pruning_path`][]); small such networks are also
    refitted layer by layer ([`lossatlas.embedding.reduce`][]), and the smaller result is taken. Seven tenths of the
    rows (of 118 to 196, all but 59) serve to reduce it, the others to measure the change on rows that the reduction has
    not seen. In float64 whatever the global setting; the result has the model's precision.

    **Arguments:**
    - `model`: of a survey or a file, [`lossatlas.load`][]. Unit spaces of foreign modules are discovered; the network
      of the result is then a [`lossatlas.embedding.Discovered`][] (`.params` is the smaller module;
      [`lossatlas.interop.to_torch`][] gives a PyTorch module back).
    - `table`: raw rows like those that it will see: a data set's name, a file, a DataFrame, or an array of its columns;
      see [`lossatlas.workbench.read_examples`][].
    - `tolerance`: the largest allowed change of any output on the rows seen, in output units (of the target for
      numbers; scores or logits for classes).
    - `parameters`: instead, how many parameters it may have.
    - `seed`: of the choice of rows.
    - `target`: the column of the targets, which the model does not read; default the one that it was trained on.

    **Returns:** A [`lossatlas.workbench.Shrunk`][]; its model may be as large as before, where nothing can go.

    **Raises:** `InputError` for rows that the model cannot read, fewer than ten, networks in which no unit space
    can be resized, both or none of tolerance and parameters, a tolerance that is not positive, and sizes too small.
    """
    if (tolerance is None) == (parameters is None):
        msg = "Give a tolerance (--tolerance) or a number of parameters (--parameters), and not both."
        raise InputError(msg)
    if tolerance is not None and not 0 < tolerance < np.inf:
        msg = f"tolerance (--tolerance) must be a positive number in output units, got {tolerance}."
        raise InputError(msg)
    examples = read_examples(model, table, target=target)
    if len(examples.inputs) < 10:
        msg = f"Shrinking needs at least 10 rows, got {len(examples.inputs)}."
        raise InputError(msg)
    fresh, seen = _parts(len(examples.inputs), seed)
    with jax.enable_x64(True):
        return _shrink(model, examples, seen, fresh, tolerance, parameters)


def _parts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows held back and the rows seen."""
    order = np.random.default_rng(seed).permutation(n)
    count = int(_HELD_BACK * n)
    if n >= 2 * _LEAST_COVERING:
        count = max(count, _LEAST_COVERING)
    fresh, seen = np.split(order, [count])
    return fresh, seen


def _shrink(
    model: Model,
    examples: Examples,
    seen: np.ndarray,
    fresh: np.ndarray,
    tolerance: float | None,
    parameters: int | None,
) -> Shrunk:
    from lossatlas.embedding import Discovered, pruning_path, reduce

    unit = model.output_unit
    start = with_unit_spaces(as_float64(model.network), examples.inputs[0])
    rows, held = (jnp.asarray(as_float64(examples.inputs[index])) for index in (seen, fresh))
    judge = _Judge(unit, start, rows, held, examples, fresh)
    if parameters is not None and isinstance(start, Discovered):  # of others whole layers may go
        _check_reachable(start, rows[0], parameters)
    exact, reduction = reduce(start, rows)
    steps = reduction.notes
    if parameters is not None:
        _check_reachable(exact, rows[0], parameters)
    path = pruning_path(exact, rows)
    points = path.curve(_POINTS)
    curve = [judge.size(point.masked, _shape_words(point), point.num_parameters) for point in points]
    if parameters is not None:
        point = path.with_parameters(parameters)
        network, steps = point.network, (*steps, *_notes(point.plan))
    else:
        assert tolerance is not None
        network = start
        left = tolerance / unit - reduction.certificate.output_change
        if left > 0:
            point = path.within(left)
            network, steps = point.network, (*steps, *_notes(point.plan))
        outputs = math.prod(jax.eval_shape(jax.vmap(start), rows).shape)
        if isinstance(start, Dense) and outputs <= _MOST_REFITTED:
            refitted, by_refit = reduce(start, rows, tolerance=tolerance / unit)
            if num_parameters(refitted) < num_parameters(network):
                network, steps = refitted, by_refit.notes
    chosen, before = (judge.size(net, size_words(net), num_parameters(net)) for net in (network, start))
    if tolerance is not None and not chosen.change <= tolerance:  # rounding; keep the promise
        network, chosen, steps = start, before, ()
    small = dataclasses.replace(model, network=_like(network, model.network))
    asked = f"at most {tolerance:g}" if tolerance is not None else f"{chosen.change:.3g} at most"
    words = f"shrunk: {model.shape} -> {small.shape}, outputs changed by {asked}"
    return Shrunk(
        model=dataclasses.replace(small, summary=f"{model.summary}; {words}"),
        steps=steps,
        before=before,
        chosen=chosen,
        curve=tuple(curve),
        tolerance=tolerance,
        parameters=parameters,
        rows_seen=len(seen),
        rows_fresh=len(fresh),
        fixed=path.fixed,
    )


def _shape_words(point: "PrunedPoint") -> str:
    """The sizes of a pruned network, without making its arrays; sizes alone say all where nothing is factored."""
    small = (lambda: point.network) if point.ranks else (lambda: point.start.with_sizes(point.sizes))
    return size_words(eqx.filter_eval_shape(small))


def _check_reachable(network: Network, example: Array, parameters: int) -> None:
    """See that one unit in every space that can be pruned leaves no more parameters than asked for."""
    hidden = find_taps(network, example).hidden
    sizes = {
        name: 1
        for name, space in network.unit_spaces().items()
        if space.size and space.closed is None and space.shares == "any" and name not in hidden
    }
    small = eqx.filter_eval_shape(lambda: network.with_sizes(sizes))
    leaves = jax.tree.leaves(small, is_leaf=lambda node: isinstance(node, Buffer))
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    fewest = sum(math.prod(leaf.shape) for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact))
    if fewest > parameters:
        msg = (
            f"With one unit in every space that can be pruned {fewest:,} parameters are left, more than {parameters:,} "
            "(--parameters)."
        )
        raise InputError(msg)


class _Judge:
    """Measures networks against the first one, on the rows seen and on those held back."""

    def __init__(self, unit: float, start: Network, rows: Array, held: Array, examples: Examples, fresh: np.ndarray):
        # All rows at once: a program for each network, and not for the rows seen and those held back apart.
        self.unit, self.rows, self.num_seen = unit, jnp.concatenate([rows, held]), len(rows)
        self.before = np.asarray(_outputs(start, self.rows))
        self.targets = None if examples.targets is None else examples.targets[fresh]
        self.landscape = None if self.targets is None else Landscape(held, as_float64(self.targets), loss=examples.loss)

    def size(self, network: Network, shape: str, count: int) -> Size:
        """What a network costs; its shape and number of parameters are given, its arrays may be padded with zeros."""
        after = np.asarray(_outputs(network, self.rows))
        changes = self.unit * np.abs(after - self.before).reshape(len(after), -1).max(axis=1, initial=0.0)
        seen, fresh = np.split(changes, [self.num_seen])
        loss = None if self.landscape is None else float(_loss(self.landscape, network))
        accuracy = None if self.targets is None else _accuracy(after[self.num_seen :], self.targets)
        return Size(shape, count, float(seen.max(initial=0.0)), covering(fresh), accuracy, loss)


def _accuracy(outputs: Float[np.ndarray, "n ..."], targets: np.ndarray) -> float | None:
    """The share of rows whose class is right; None where targets are no classes."""
    if outputs.ndim != 2:
        return None
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        return float(np.mean(outputs.argmax(1) == targets))
    is_one_hot = targets.ndim == 2 and targets.shape[1] > 1 and ((targets == 0) | (targets == 1)).all()
    if not is_one_hot or not (targets.sum(1) == 1).all():
        return None
    return float(np.mean(outputs.argmax(1) == targets.argmax(1)))


def covering(values: Float[np.ndarray, " n"]) -> float | None:
    """The smallest of some values that covers 95 % of new ones like them with a confidence of 95 %; None for too few.

    The k-th smallest of n covers a share q of the distribution with probability P(Bin(n, q) < k), whatever the
    distribution (Wilks 1941).
    """
    from scipy.stats import binom

    ranks = np.arange(1, len(values) + 1)
    enough = ranks[binom.cdf(ranks - 1, len(values), COVERAGE) >= CONFIDENCE]
    return float(np.sort(values)[enough[0] - 1]) if len(enough) else None


def _notes(plan: tuple[Any, ...]) -> tuple[str, ...]:
    places = (f"layer {step.layer}" if hasattr(step, "layer") else step.space for step in plan)
    return tuple(f"{place}: {step.note}" for place, step in zip(places, plan, strict=True) if step.note)


def _like(network: Network, model: Network) -> Network:
    """The network in the precision of another one."""
    dtype = next(iter(named_arrays(model).values())).dtype
    return replace_parameters(network, {name: a.astype(dtype) for name, a in named_arrays(network).items()})


@eqx.filter_jit
def _outputs(network: Network, inputs: Array) -> Float[Array, "n ..."]:
    return jax.vmap(network)(inputs)


@eqx.filter_jit
def _loss(landscape: Landscape, network: Network) -> Array:
    return landscape(network)
