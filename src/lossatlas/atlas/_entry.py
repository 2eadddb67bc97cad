"""One small network of a data set: a finite critical point, or a level at infinity."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._show import shown
from lossatlas._status import Certificate, Status
from lossatlas.atlas._starts import small_network
from lossatlas.geometry import CriticalPoint, Inertia, inertia
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense
from lossatlas.theory import linear_levels


Kind = Literal["critical point", "level at infinity", "not certified"]

_NO_LOSS = 1e-8
MAX_DENSE = 1500
"""The most parameters of a small network whose dense Hessian is formed."""


@shown
class Entry(eqx.Module):
    """One small network of a data set: k neurons and r linear units, in one hidden layer unless training found it.

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
        """Whether it is a local minimum; None where that is not certified."""
        if self.inertia is None:
            return None
        return {Certificate.YES: True, Certificate.NO: False}.get(self.inertia.is_minimum)


class Level(NamedTuple):
    """Where a search ended: what of a critical point an entry is made of; `runaway` in words."""

    network: Dense
    loss: float
    gradient_norm: float
    status: Status
    runaway: str

    @staticmethod
    def of(point: CriticalPoint) -> "Level":
        """The level of a point."""
        return Level(
            point.network, float(point.loss), float(point.gradient_norm), point.status, describe_runaway(point)
        )


def entry_of(name: str, size: tuple[int, int], level: Level, landscape: Landscape, found_by: str, hits: int) -> Entry:
    """The entry of a level."""
    kinds: dict[Status, Kind] = {Status.CONVERGED: "critical point", Status.AT_INFINITY: "level at infinity"}
    kind, runaway = kinds.get(level.status, "not certified"), level.runaway
    small = num_parameters(level.network) <= MAX_DENSE
    counted = inertia(level.network, landscape) if kind == "critical point" and small else None
    spread = float(linked_targets(landscape).var(axis=0).sum())
    if counted is not None and counted.certificate is not Certificate.YES and level.loss < _NO_LOSS * spread:
        # A loss of nearly 0 with a singular Hessian that no gauge explains: 0 is approached, not attained.
        kind, counted, runaway = "level at infinity", None, "the loss 0 is approached, not attained"
    return Entry(
        name=name,
        neurons=size[0],
        linear=size[1],
        network=level.network,
        loss=level.loss,
        kind=kind,
        inertia=counted,
        gradient_norm=level.gradient_norm,
        runaway=runaway,
        predictions=linked_predictions(landscape, level.network),
        found_by=found_by,
        hits=hits,
    )


def linear_entry(landscape: Landscape, r: int, act: Activation) -> Entry:
    """The lowest linear network of rank r under squared error, in closed form."""
    inputs, targets = np.asarray(landscape.inputs), linked_targets(landscape)
    levels = linear_levels(inputs, targets)
    if r > levels.rank:
        msg = f"A linear network of this data has at most {levels.rank} units that lower the loss, got {r}."
        raise InputError(msg)
    writers, readers, bias = (jnp.asarray(a) for a in levels.weights(r))
    d, o = inputs.shape[1], targets.shape[1]
    network = small_network(jnp.zeros((0, d)), jnp.zeros(0), writers, jnp.zeros((o, 0)), readers, bias, act)
    return _closed_form_entry(landscape, network, r, levels.loss(r))


def constant_entry(landscape: Landscape, act: Activation) -> Entry:
    """Under cross-entropy the best constant gives the frequencies of the classes; logits that sum to zero."""
    frequencies = linked_targets(landscape).mean(axis=0)
    logits = jnp.log(jnp.asarray(frequencies))
    d, o = landscape.inputs.shape[1], frequencies.size
    nothing = jnp.zeros((0, d)), jnp.zeros(0), jnp.zeros((0, d)), jnp.zeros((o, 0)), jnp.zeros((o, 0))
    network = small_network(*nothing, logits - logits.mean(), act)
    return _closed_form_entry(landscape, network, 0, float(landscape(network)))


def _closed_form_entry(landscape: Landscape, network: Dense, r: int, loss: float) -> Entry:
    small = num_parameters(network) <= MAX_DENSE
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
