"""The catalogue of a data set: its small networks, each a finite critical point or a level at infinity."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Certificate, Status
from lossatlas.atlas._fit import Fit, fit_starts, slow_moments
from lossatlas.atlas._starts import children, random_starts, small_network
from lossatlas.geometry import CriticalPoint, Inertia, find_critical_points, inertia
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.networks import activation as as_activation
from lossatlas.theory import linear_levels


Kind = Literal["critical point", "level at infinity", "not certified"]

_SAME_LOSS = 1e-7
_SAME_BASIN = 0.02
_NO_LOSS = 1e-8
_MAX_DENSE = 1500


class Entry(eqx.Module):
    """One small network of a data set: k neurons and r linear units in one hidden layer.

    - `name`: `"(k,r)"`, with a letter where there are several, the lowest loss first.
    - `loss`: its mean training loss; at infinity the limit that was reached.
    - `kind`: `"critical point"` (gradient below 1e-12 and the point stands still), `"level at infinity"` (the
      gradient vanishes because weights run away), or `"not certified"`.
    - `inertia`: of its Hessian, with the zeros explained by gauges; None at infinity and where the network is too
      large for a dense Hessian.
    - `gradient_norm`: largest absolute component.
    - `runaway`: at infinity, which unit does what.
    - `predictions`: on the data, shape (n, o); probabilities for cross-entropy.
    - `found_by`: where the search started; `hits`: how many starts ended here.
    """

    name: str
    neurons: int
    linear: int
    network: Dense
    loss: float
    kind: Kind
    inertia: Inertia | None
    gradient_norm: float
    runaway: str
    predictions: Float[np.ndarray, "n o"]
    found_by: str
    hits: int

    @property
    def num_parameters(self) -> int:
        """How many scalar parameters it has."""
        return num_parameters(self.network)

    @property
    def is_minimum(self) -> bool | None:
        """Whether no eigenvalue is negative; None where that is not certified."""
        if self.inertia is None or self.inertia.certificate is not Certificate.YES:
            return None
        return self.inertia.negative == 0


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


@dataclasses.dataclass(frozen=True)
class Search:
    """How hard to look for the entries of one (k, r).

    - `random`: random starts; `warm`: most starts from entries with one unit fewer.
    - `num_steps`, `learning_rate`: of Adam before the polish.
    - `polish`: most fits polished, the lowest of each basin; `max_steps`: most Hessians of one polish.
    - `descents`: gradient descents from small weights whose stalls are sent to the nearest critical point of any index.
    - `keep`: most entries kept per size.
    """

    random: int = 8
    warm: int = 8
    num_steps: int = 3000
    learning_rate: float = 0.03
    polish: int = 6
    max_steps: int = 200
    descents: int = 0
    keep: int = 4


QUICK = Search()
QUICK_LARGE = Search(random=4, warm=4, num_steps=1500, polish=2, max_steps=60)
FULL = Search(random=24, warm=24, num_steps=6000, polish=24, descents=6, keep=12)


def make_catalogue(
    key: PRNGKeyArray,
    landscape: Landscape,
    *,
    activation: str | Activation = "tanh",
    sizes: Sequence[tuple[int, int]] | None = None,
    max_units: int = 2,
    search: Search = QUICK,
    progress: ProgressLike = "none",
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
                found[k, r] = [_linear_entry(landscape, r, act)]
                continue
            if k == r == 0 and _frequencies_are_critical(landscape):
                found[k, r] = [_constant_entry(landscape, act)]
                continue
            entries, parents = _search(size_key, landscape, num_outputs, (k, r), act, search, found)
            found[k, r] = entries
            arrows += parents
    entries = [e for size in sorted(found, key=lambda s: (sum(s), s[0])) for e in found[size]]
    place = {id(e): i for i, e in enumerate(entries)}
    leads_to = tuple(sorted({(place[id(a)], place[id(b)]) for a, b in arrows}))
    settings = {"activation": act.name, "max_units": max_units, **dataclasses.asdict(search)}
    return Catalogue(tuple(entries), leads_to, settings)


def default_sizes(landscape: Landscape, max_units: int) -> list[tuple[int, int]]:
    """All (k, r) with k + r up to a budget; a linear part has no more units than outputs need, and no fewer."""
    rank = _linear_rank(landscape)
    sizes = [(k, r) for k in range(1, max_units + 1) for r in range(min(rank, max_units - k) + 1)]
    return [(0, r) for r in range(rank + 1)] + sizes


def count_outputs(landscape: Landscape) -> int:
    """How many outputs a network of this landscape has."""
    targets = landscape.targets
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return int(targets.max()) + 1
    return targets.shape[1] if targets.ndim == 2 else 1


def linked_predictions(landscape: Landscape, network: Any) -> Float[np.ndarray, "n o"]:
    """Predictions as users read them: probabilities for classification losses."""
    assert landscape.loss is not None
    link = jax.vmap(landscape.loss.link)
    return np.asarray(link(_predictions(landscape, network)))


def linked_targets(landscape: Landscape) -> Float[np.ndarray, "n o"]:
    """What a perfect fit would predict."""
    targets = np.asarray(landscape.targets)
    if np.issubdtype(targets.dtype, np.integer):
        return np.eye(int(targets.max()) + 1)[targets]
    return targets.reshape(len(targets), -1)


_predictions = eqx.filter_jit(lambda landscape, network: landscape.predictions(network))


def _is_squared_error(landscape: Landscape) -> bool:
    return landscape.loss is not None and landscape.loss.name == "mse"


def _linear_rank(landscape: Landscape) -> int:
    return linear_levels(np.asarray(landscape.inputs), linked_targets(landscape)).rank


def _linear_entry(landscape: Landscape, r: int, act: Activation) -> Entry:
    inputs, targets = np.asarray(landscape.inputs), linked_targets(landscape)
    levels = linear_levels(inputs, targets)
    if r > levels.rank:
        msg = f"A linear network of this data has at most {levels.rank} units that lower the loss, got {r}."
        raise InputError(msg)
    writers, readers, bias = (jnp.asarray(a) for a in levels.weights(r))
    d, o = inputs.shape[1], targets.shape[1]
    network = small_network(jnp.zeros((0, d)), jnp.zeros(0), writers, jnp.zeros((o, 0)), readers, bias, act)
    return _closed_form_entry(landscape, network, r, levels.loss(r))


def _frequencies_are_critical(landscape: Landscape) -> bool:
    """Whether the loss is cross-entropy and every class occurs (a class that does not is a level at infinity)."""
    cross_entropy = landscape.loss is not None and landscape.loss.name == "cross_entropy"
    return cross_entropy and bool(linked_targets(landscape).mean(axis=0).min() > 0)


def _constant_entry(landscape: Landscape, act: Activation) -> Entry:
    """Under cross-entropy the best constant gives the frequencies of the classes; logits that sum to zero."""
    frequencies = linked_targets(landscape).mean(axis=0)
    logits = jnp.log(jnp.asarray(frequencies))
    d, o = landscape.inputs.shape[1], frequencies.size
    nothing = jnp.zeros((0, d)), jnp.zeros(0), jnp.zeros((0, d)), jnp.zeros((o, 0)), jnp.zeros((o, 0))
    network = small_network(*nothing, logits - logits.mean(), act)
    return _closed_form_entry(landscape, network, 0, float(landscape(network)))


def _closed_form_entry(landscape: Landscape, network: Dense, r: int, loss: float) -> Entry:
    small = num_parameters(network) <= _MAX_DENSE
    return Entry(
        name=f"(0,{r})",
        neurons=0,
        linear=r,
        network=network,
        loss=loss,
        kind="critical point",
        inertia=inertia(network, landscape) if small else None,
        gradient_norm=float(jnp.abs(landscape.gradient(network)).max()),
        runaway="",
        predictions=linked_predictions(landscape, network),
        found_by="closed form",
        hits=1,
    )


def _search(
    key: PRNGKeyArray,
    landscape: Landscape,
    num_outputs: int,
    size: tuple[int, int],
    act: Activation,
    search: Search,
    found: dict[tuple[int, int], list[Entry]],
) -> tuple[list[Entry], list[tuple[Entry, Entry]]]:
    """The entries of one size, and the smaller entries that lead to them."""
    k, r = size
    origins: list[Entry | None] = []
    starts: list[Dense] = []
    for parent in _parents(found, size):
        for start in children(parent.network, landscape, k, r)[: max(search.warm - len(starts), 0)]:
            starts.append(start)
            origins.append(parent)
    starts += random_starts(key, landscape, num_outputs, k, r, act, search.random)
    origins += [None] * search.random
    fitted = fit_starts(starts, landscape, num_steps=search.num_steps, learning_rate=search.learning_rate)
    basins = _basins(landscape, fitted, search.polish)
    points = find_critical_points(
        [fitted[basin[0]].network for basin in basins], landscape, method="trust_region", max_steps=search.max_steps
    )
    members = [[origins[i] for i in basin] for basin in basins]
    if search.descents:
        saddles = _saddles(jax.random.fold_in(key, 1), landscape, num_outputs, size, act, search)
        points, members = points + saddles, members + [[None] for _ in saddles]
    groups = _distinct(points)
    entries, arrows = [], []
    for letter, group in enumerate(groups[: search.keep]):
        name = f"({k},{r})" + (chr(ord("a") + letter) if len(groups) > 1 else "")
        came_from = [parent for i in group for parent in members[i]]
        parents = {id(parent): parent for parent in came_from if parent is not None}
        random_hits = len(came_from) - sum(parent is not None for parent in came_from)
        labels = [f"{parent.name} with one unit more" for parent in parents.values()]
        if all(i >= len(basins) for i in group):
            labels = ["a stall of gradient descent"]
        elif random_hits:
            labels.append("random start" if random_hits == 1 else f"{random_hits} random starts")
        entry = entry_of(name, size, points[group[0]], landscape, ", ".join(labels), len(came_from))
        entries.append(entry)
        arrows += [(parent, entry) for parent in parents.values()]
    return entries, arrows


_DESCENT_STEPS = 100_000
_DESCENT_STD = 0.3


def _saddles(
    key: PRNGKeyArray,
    landscape: Landscape,
    num_outputs: int,
    size: tuple[int, int],
    act: Activation,
    search: Search,
) -> list[CriticalPoint]:
    """Critical points near the stalls of gradient descent: Levenberg-Marquardt on the gradient, then Newton."""
    widths = [landscape.inputs.shape[1], size[0], num_outputs]
    starts = [
        Dense(jax.random.fold_in(key, i), widths, activation=act, num_linear=size[1], init=lambda *_: _DESCENT_STD)
        for i in range(search.descents)
    ]
    rate = default_learning_rate(landscape)
    slow = slow_moments(starts, landscape, num_steps=_DESCENT_STEPS, learning_rate=rate)
    if not slow:
        return []
    near = find_critical_points(slow, landscape, method="levenberg_marquardt", max_steps=2 * search.max_steps)
    near = [p for p in near if p.status is not Status.AT_INFINITY and float(p.gradient_norm) < 1e-3]
    polished = find_critical_points([p.network for p in near], landscape, method="newton", max_steps=50) if near else []
    return [p for p in polished if p.status is Status.CONVERGED]


def default_learning_rate(landscape: Landscape) -> float:
    """0.05 (0.1 above 1,000 rows), or 3/4 of the inverse of the largest input variance where that is smaller."""
    inputs = np.asarray(landscape.inputs)
    top = np.linalg.norm(inputs, 2) ** 2 / len(inputs)
    return float(min(0.1 if landscape.size > 1000 else 0.05, 0.75 / max(top, 1e-12)))


def _basins(landscape: Landscape, fitted: Sequence[Fit], most: int) -> list[list[int]]:
    """Indices of fits that compute nearly the same function, the lowest loss first in each and over all."""
    order = sorted((i for i, fit in enumerate(fitted) if np.isfinite(fit.loss)), key=lambda i: fitted[i].loss)
    basins: list[list[int]] = []
    functions: list[np.ndarray] = []
    for i in order:
        f = linked_predictions(landscape, fitted[i].network)
        near = [np.linalg.norm(f - g) < _SAME_BASIN * np.linalg.norm(g - g.mean(axis=0)) for g in functions]
        if any(near):
            basins[int(np.argmax(near))].append(i)
        else:
            basins.append([i])
            functions.append(f)
    return basins[:most]


def _parents(found: dict[tuple[int, int], list[Entry]], size: tuple[int, int]) -> list[Entry]:
    k, r = size
    smaller = [(k - 1, r), (k, r - 1), (k - 1, r + 1)]
    best = [e for s in smaller for e in found.get(s, [])[:2] if e.kind == "critical point"]
    return sorted(best, key=lambda e: e.loss)


def _distinct(points: Sequence[CriticalPoint]) -> list[list[int]]:
    """Indices of points of the same loss, the lowest first; in each group the best certified comes first."""
    usable = [i for i, p in enumerate(points) if np.isfinite(p.loss) and p.status is not Status.DIVERGED]
    usable.sort(key=lambda i: points[i].loss)
    groups: list[list[int]] = []
    for i in usable:
        if groups and points[i].loss - points[groups[-1][-1]].loss < _SAME_LOSS * (1e-3 + points[i].loss):
            groups[-1].append(i)
        else:
            groups.append([i])
    order = {Status.CONVERGED: 0, Status.AT_INFINITY: 1}
    for group in groups:
        group.sort(key=lambda i: (order.get(points[i].status, 2), points[i].gradient_norm))
    # A start that stopped half way is no level; it is kept only where nothing better was found.
    ended = [g for g in groups if points[g[0]].status in order]
    return ended or groups[:1]


def entry_of(
    name: str, size: tuple[int, int], point: CriticalPoint, landscape: Landscape, found_by: str, hits: int
) -> Entry:
    """The entry of a point that a search ended with."""
    kinds: dict[Status, Kind] = {Status.CONVERGED: "critical point", Status.AT_INFINITY: "level at infinity"}
    kind = kinds.get(point.status, "not certified")
    small = num_parameters(point.network) <= _MAX_DENSE
    counted = inertia(point.network, landscape) if kind == "critical point" and small else None
    runaway = describe_runaway(point)
    spread = float(linked_targets(landscape).var(axis=0).sum())
    if counted is not None and counted.certificate is not Certificate.YES and point.loss < _NO_LOSS * spread:
        # A loss of nearly 0 with a singular Hessian that no gauge explains: 0 is approached, not attained.
        kind, counted, runaway = "level at infinity", None, "the loss 0 is approached, not attained"
    return Entry(
        name=name,
        neurons=size[0],
        linear=size[1],
        network=point.network,
        loss=float(point.loss),
        kind=kind,
        inertia=counted,
        gradient_norm=float(point.gradient_norm),
        runaway=runaway,
        predictions=linked_predictions(landscape, point.network),
        found_by=found_by,
        hits=hits,
    )


def describe_runaway(point: CriticalPoint) -> str:
    """In words, which unit runs away and how; empty for finite points."""
    phrases = {
        "step": "becomes a step (pre-activations of {0.smallest_preactivation:.1f} or more on all data)",
        "linear": "becomes linear (incoming weights {0.incoming_norm:.1e}, outgoing {0.outgoing_norm:.1e})",
        "merging pair": "merge with opposite outgoing weights of {0.outgoing_norm:.0f}",
        "merging group": "merge with outgoing weights of {0.outgoing_norm:.0f} that cancel",
        "separable": "without end: some classes can be told apart without error",
    }
    if point.status is not Status.AT_INFINITY:
        return ""
    said = []
    for group in point.runaway:
        phrase = phrases.get(group.kind, "without end")
        if phrase.startswith("without"):
            phrase = ("grows " if len(group.units) == 1 else "grow ") + phrase
        said.append(f"{' and '.join(group.units) or 'weights'} {phrase.format(group)}")
    return "; ".join(said)
