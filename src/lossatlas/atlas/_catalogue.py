"""The catalogue of a data set: its small networks, each a finite critical point or a level at infinity."""

import dataclasses
import functools as ft
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._parameters import ravel
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas.atlas._entry import Entry, Level, constant_entry, count_outputs, entry_of, linear_entry, linked_targets
from lossatlas.atlas._search import QUICK, Search, search_levels
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.networks import activation as as_activation
from lossatlas.theory import linear_levels


@shown
class Catalogue(eqx.Module):
    """The small networks of a data set.

    - `entries`: the smaller first, by loss within a size; what training found stands last.
    - `leads_to`: pairs (i, j): a start built from entry i with one unit more ended at entry j.
    - `settings`: how the search was done.
    """

    entries: tuple[Entry, ...]
    leads_to: tuple[tuple[int, int], ...]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        msg = f"The catalogue has no entry {name!r}. It has: {', '.join(e.name for e in self.entries)}."
        raise InputError(msg)

    def of_size(self, neurons: int, linear: int) -> list[Entry]:
        """The entries of one (k, r), the lowest loss first."""
        return [e for e in self.entries if (e.neurons, e.linear) == (neurons, linear)]


def make_catalogue(
    key: PRNGKeyArray,
    landscape: Landscape,
    *,
    activation: str | Activation = "tanh",
    sizes: Sequence[tuple[int, int]] | None = None,
    max_units: int = 2,
    search: Search = QUICK,
    progress: ProgressLike = "none",
    journal: Journal | None = None,
) -> Catalogue:
    """The small networks of a landscape: k neurons beside r linear units, for all k + r up to a budget.

    Linear networks under squared error come in closed form, of every rank. The others come from many starts in one
    compiled program: random ones, and the smaller entries with one unit more and their escape directions; Adam,
    then polishing to a gradient of 1e-12. Of each point it is told whether it is a finite critical point or a level
    at infinity.

    **Arguments:**
    - `key`: of the random starts.
    - `landscape`: inputs (n, d) and targets; float64.
    - `activation`: of the neurons.
    - `sizes`: the (k, r) to look at; default all with k + r <= `max_units`, and every rank of the linear networks.
    - `search`: [`lossatlas.atlas.Search`][], how hard to look.
    - `journal`: keeps the sizes that are finished.

    **Returns:**
    [`lossatlas.atlas.Catalogue`][]. Cost: starts * num_steps gradients and about 30 Hessians per start and size.

    **Raises:** `InputError` for lower precision than float64 and for inputs that are not rows of numbers.
    """
    require_float64(landscape.inputs, "The catalogue")
    if landscape.inputs.ndim != 2:
        msg = f"The catalogue needs inputs of shape (n, d), got {landscape.inputs.shape}."
        raise InputError(msg)
    meter, act = as_meter(progress), as_activation(activation)
    num_outputs = count_outputs(landscape)
    wanted = list(sizes) if sizes is not None else default_sizes(landscape, max_units)
    found: dict[tuple[int, int], list[Entry]] = {}
    arrows: list[tuple[Entry, Entry]] = []
    with meter.task("catalogue", len(wanted)) as task:
        for done, (k, r) in enumerate(sorted(wanted, key=lambda s: (sum(s), s[0]))):
            task.update(done, f"{k} neurons, {r} linear units")
            size_key = jax.random.fold_in(jax.random.fold_in(key, k), r)
            if k == 0 and _is_squared_error(landscape):
                found[k, r] = [linear_entry(landscape, r, act)]
                continue
            if k == r == 0 and _frequencies_are_critical(landscape):
                found[k, r] = [constant_entry(landscape, act)]
                continue
            parents = _parents(found, (k, r))
            look = ft.partial(search_levels, size_key, landscape, num_outputs, (k, r), act, search, parents)
            levels = (journal or Journal())(f"catalogue-{k}-{r}", look)
            like = Dense(size_key, [landscape.inputs.shape[1], k, num_outputs], activation=act, num_linear=r)
            found[k, r] = _entries(levels, like, landscape)
            by_name = {parent.name: parent for parent in parents}
            arrows += [
                (by_name[name], entry)
                for names, entry in zip(levels["parents"], found[k, r], strict=True)
                for name in str(names).splitlines()
            ]
    entries = [e for size in sorted(found, key=lambda s: (sum(s), s[0])) for e in found[size]]
    place = {id(e): i for i, e in enumerate(entries)}
    leads_to = tuple(sorted({(place[id(a)], place[id(b)]) for a, b in arrows}))
    settings = {"activation": act.name, "max_units": max_units, **dataclasses.asdict(search)}
    return Catalogue(tuple(entries), leads_to, settings)


def _entries(levels: dict[str, np.ndarray], like: Dense, landscape: Landscape) -> list[Entry]:
    """The entries of one size, of the shape of `like`."""
    unravel = ravel(like)[1]
    count = len(levels["loss"])
    entries = []
    for i in range(count):
        size = (like.widths[1], like.num_linear[0])
        name = f"({size[0]},{size[1]})" + (chr(ord("a") + i) if count > 1 else "")
        level = Level(
            unravel(jnp.asarray(levels["parameters"][i])),
            float(levels["loss"][i]),
            float(levels["gradient_norm"][i]),
            Status[str(levels["status"][i])],
            str(levels["runaway"][i]),
        )
        entries.append(entry_of(name, size, level, landscape, str(levels["found_by"][i]), int(levels["hits"][i])))
    return entries


def _parents(found: dict[tuple[int, int], list[Entry]], size: tuple[int, int]) -> list[Entry]:
    k, r = size
    smaller = [(k - 1, r), (k, r - 1), (k - 1, r + 1)]
    best = [e for s in smaller for e in found.get(s, [])[:2] if e.kind == "critical point"]
    return sorted(best, key=lambda e: e.loss)


def default_sizes(landscape: Landscape, max_units: int) -> list[tuple[int, int]]:
    """All (k, r) with k + r up to a budget; a linear part has no more units than outputs need."""
    rank = _linear_rank(landscape)
    sizes = [(k, r) for k in range(1, max_units + 1) for r in range(min(rank, max_units - k) + 1)]
    return [(0, r) for r in range(rank + 1)] + sizes


def _is_squared_error(landscape: Landscape) -> bool:
    return landscape.loss is not None and landscape.loss.name == "mse"


def _frequencies_are_critical(landscape: Landscape) -> bool:
    """Whether the loss is cross-entropy and every class occurs (a class that does not is a level at infinity)."""
    cross_entropy = landscape.loss is not None and landscape.loss.name == "cross_entropy"
    return cross_entropy and bool(linked_targets(landscape).mean(axis=0).min() > 0)


def _linear_rank(landscape: Landscape) -> int:
    return linear_levels(np.asarray(landscape.inputs), linked_targets(landscape)).rank
