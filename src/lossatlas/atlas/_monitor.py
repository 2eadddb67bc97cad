"""Watch effective width and depth during a user's own training loop."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, final

import equinox as eqx
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._show import html_page, shown
from lossatlas.atlas._layer_facts import surviving_layers
from lossatlas.atlas._small_network import as_bottleneck, describe
from lossatlas.atlas._verdict import counted_parameters
from lossatlas.embedding import reduce
from lossatlas.geometry import effective_linear_units, effective_neurons
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


if TYPE_CHECKING:
    import xarray as xr

_LOGGER = logging.getLogger(__name__)
_loss = eqx.filter_jit(lambda probe, network: probe(network))
_predictions = eqx.filter_jit(lambda probe, network: probe.predictions(network))
_effective_neurons = eqx.filter_jit(effective_neurons)
_MOST_SHOWN = 10  # looks that a notebook shows, the last ones
_FALLS = 0.01  # a loss that falls by less than this share over the patience is called still


@shown
class Observation(NamedTuple):
    """What was seen at one step.

    - `words`, `parameters`: the small network that gives the same outputs on the probe, up to the tolerance.
    - `neurons`, `linear`: its neurons and linear units, by hidden layer of the network (0 for a layer that is gone).
    - `effective_neurons`, `linear_units`: of each layer, by [`lossatlas.geometry.effective_neurons`][] and
      [`lossatlas.geometry.effective_linear_units`][]; they are smooth in the weights.
    - `seconds`: that the observation took.
    """

    step: int
    loss: float
    words: str
    parameters: int
    neurons: tuple[int, ...]
    linear: tuple[int, ...]
    effective_neurons: tuple[float, ...]
    linear_units: tuple[float, ...]
    seconds: float

    @property
    def depth(self) -> int:
        """Hidden layers that hold neurons."""
        return sum(k > 0 for k in self.neurons)


@shown
@final
class Monitor:
    """Watch what small network a network in training is, every so many steps, on a fixed probe of rows.

    Call it at every step with the step and the network; it looks at multiples of `every` only. A network whose outputs
    have been those of one and the same smaller network for `patience` observations, while the loss stood still, is
    warned of, once, in `warnings` and through `logging`; [`lossatlas.atlas.diagnose`][] then says what to do.
    It changes nothing and needs no float64. Cost of one look: a reduction without refits, some tens of passes of the
    probe through the network, in numpy; the first one compiles, the others do not. `print(monitor)` says what it took.

    **Arguments:**
    - `landscape`: the training data, inputs and targets (arrays of numpy will do for PyTorch).
    - `every`: steps between two looks. `rows`: of the probe, at most; drawn by `seed`.
    - `tolerance`: the largest change of an output on the probe, as a share of the spread of the targets (for
      logits of the spread of the outputs, at least 1).
    - `patience`: looks without a change before a warning.
    - `convert`: makes a [`lossatlas.networks.Dense`][] of what the loop trains, such as a PyTorch module; None where
      that is one.

    **Raises:** `InputError` for data without targets, numbers out of range and, when called, other architectures and a
    step before the last one.

    !!! example
        >>> import equinox as eqx, jax, jax.numpy as jnp, optax
        >>> from lossatlas import atlas, networks
        >>> from lossatlas.landscape import Landscape
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> landscape = Landscape(x, jnp.sin(3 * x))
        >>> network = networks.Dense(jax.random.key(0), [1, 8, 1], init=2.0)
        >>> monitor = atlas.Monitor(landscape, every=10)
        >>> optimizer = optax.sgd(0.1)
        >>> state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
        >>> @eqx.filter_jit
        ... def advance(network, state):
        ...     loss, gradient = eqx.filter_value_and_grad(lambda n: landscape(n))(network)
        ...     updates, state = optimizer.update(gradient, state)
        ...     return eqx.apply_updates(network, updates), state, loss
        >>> for step in range(101):
        ...     before = network
        ...     network, state, loss = advance(network, state)
        ...     _ = monitor(step, before, loss)
        >>> monitor.history.sizes["step"]
        11
    """

    def __init__(
        self,
        landscape: Landscape,
        *,
        every: int = 100,
        tolerance: float = 0.1,
        rows: int = 64,
        patience: int = 5,
        seed: int = 0,
        convert: Callable[[Any], Any] | None = None,
    ):
        if landscape.loss is None or len(landscape.batch) != 2:
            msg = "A monitor needs the training data with targets: Landscape(inputs, targets, loss=...)."
            raise InputError(msg)
        for name, value, least in (("every", every, 1), ("rows", rows, 2), ("patience", patience, 2)):
            if value < least:
                msg = f"{name} must be at least {least}, got {value}."
                raise InputError(msg)
        if not 1e-4 <= tolerance < 1:
            msg = f"tolerance is a share of the spread of the targets, from 1e-4 to 1, got {tolerance}."
            raise InputError(msg)
        order = np.sort(np.random.default_rng(seed).permutation(landscape.size)[:rows])
        self._probe = Landscape(landscape.inputs[order], landscape.targets[order], loss=landscape.loss)
        self._spread = _spread(landscape)
        self._every, self._tolerance, self._patience, self._convert = every, tolerance, patience, convert
        self._seen: list[Observation] = []
        self._warned: list[str] = []
        self._warned_of: str | None = None
        self._layers: tuple[str, ...] = ()
        self._begun = self._ended = time.perf_counter()

    def __call__(self, step: int, network: Any, loss: Any = None) -> Observation | None:
        """Look at the network, if it is time.

        **Arguments:**
        - `step`: not below the last one. `network`: what the loop trains. `loss`: the training loss; None measures it
          on the probe.

        **Returns:** what was seen, None between two looks.
        """
        if step % self._every:
            return None
        begin = time.perf_counter()
        if not self._seen:
            self._begun = begin
        elif step <= self._seen[-1].step:
            msg = f"Step {step} comes after step {self._seen[-1].step}; steps must grow. Use one monitor for each run."
            raise InputError(msg)
        dense = network if self._convert is None else self._convert(network)
        if not isinstance(dense, Dense):
            msg = (
                f"A monitor watches lossatlas.networks.Dense, got {type(dense).__name__}. Give convert=, a function "
                "that makes one of what you train."
            )
            raise InputError(msg)
        loss = float(_loss(self._probe, dense)) if loss is None else float(loss)
        seen = self._look(int(step), dense, loss)
        self._ended = time.perf_counter()
        self._seen.append(seen._replace(seconds=self._ended - begin))
        self._layers = tuple(f"hidden[{i}]" for i in range(len(seen.neurons)))
        self._warn()
        return self._seen[-1]

    def __str__(self) -> str:
        if not self._seen:
            return f"Monitor: looks every {self._every:,} steps; nothing seen yet."
        took, share = self.overhead
        last = self._seen[-1]
        return (
            f"Monitor: {len(self._seen)} looks, {took:.2g} s in all, {100 * share:.0f} % of the time since the first. "
            f"At step {last.step:,} the network is {last.words} ({counted_parameters(last.parameters)})."
        )

    def _repr_html_(self) -> str:
        rows = [{"step": seen.step, "loss": seen.loss, "network": seen.words} for seen in self._seen[-_MOST_SHOWN:]]
        return html_page(str(self), rows, more=self._warned)

    def _figure(self) -> Any:
        from lossatlas.figures import monitor_figure

        return monitor_figure(self.history) if self._seen else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far."""
        return tuple(self._warned)

    @property
    def overhead(self) -> tuple[float, float]:
        """Seconds that all looks took, and their share of the time from the first look to the last."""
        took = sum(seen.seconds for seen in self._seen)
        return took, took / max(self._ended - self._begun, 1e-9) if self._seen else 0.0

    @property
    def history(self) -> "xr.Dataset":
        """All that was seen, as an `xarray.Dataset` over `step` (and `layer`)."""
        import xarray as xr

        shape = (len(self._seen), len(self._layers))
        by_layer = ("neurons", "linear", "effective_neurons", "linear_units")
        by_step = ("loss", "parameters", "depth", "words", "seconds")
        return xr.Dataset(
            {name: ("step", [getattr(seen, name) for seen in self._seen]) for name in by_step}
            | {
                name: (("step", "layer"), np.reshape([getattr(seen, name) for seen in self._seen], shape))
                for name in by_layer
            },
            coords={"step": [seen.step for seen in self._seen], "layer": list(self._layers)},
            attrs={"tolerance": self._tolerance, "every": self._every, "warnings": "\n".join(self._warned)},
        )

    def _look(self, step: int, network: Dense, loss: float) -> Observation:
        unit = self._spread
        outputs = np.asarray(_predictions(self._probe, network)).reshape(self._probe.size, -1)
        if unit is None:
            unit = max(1.0, float(outputs.std()))
        num = len(network.layers) - 1
        neurons, linear, words, parameters = [0] * num, [0] * num, "not finite", 0
        if np.isfinite(outputs).all():
            # Inputs alone: the gradients of a certificate would be compiled for every new size.
            small, found = reduce(network, self._probe.inputs, tolerance=self._tolerance * unit, refit=False)
            small = as_bottleneck(small, self._probe, found.tolerance)
            sizes = zip(small.widths[1:-1], small.num_linear, strict=True)
            # An affine network was given a hidden layer of linear units; the first layer holds it.
            for i, (k, r) in zip(surviving_layers(found) or [0], sizes, strict=False):
                neurons[i], linear[i] = k, r
            words, parameters = describe(small), num_parameters(small)
        return Observation(
            step=step,
            loss=loss,
            words=words,
            parameters=parameters,
            neurons=tuple(neurons),
            linear=tuple(linear),
            effective_neurons=tuple(float(a) for a in _effective_neurons(network)),
            linear_units=tuple(float(a) for a in effective_linear_units(network, self._probe)),
            seconds=0.0,
        )

    def _warn(self) -> None:
        """Say once that the network has been one small network while the loss stood still."""
        recent = self._seen[-self._patience :]
        last = recent[-1]
        if last.words == self._warned_of:
            return
        self._warned_of = None
        is_same = len(recent) == self._patience and all(seen.words == last.words for seen in recent)
        is_still = last.loss > (1 - _FALLS) * recent[0].loss
        if not is_same or not is_still or not np.isfinite(last.loss):
            return
        first = last.step
        for seen in reversed(self._seen):
            if seen.words != last.words:
                break
            first = seen.step
        text = (
            f"since step {first:,} the network is {last.words} ({counted_parameters(last.parameters)}), and the loss "
            f"stands at {last.loss:.4g}: training may be stuck. lossatlas.atlas.diagnose says where, and what leaves."
        )
        self._warned_of = last.words
        self._warned.append(text)
        _LOGGER.warning(text)


def _spread(landscape: Landscape) -> float | None:
    """The spread of the targets under squared error; None for logits."""
    assert landscape.loss is not None
    if landscape.loss.name != "mse":
        return None
    targets = np.asarray(landscape.targets, float).reshape(landscape.size, -1)
    return max(float(np.sqrt(np.mean((targets - targets.mean(axis=0)) ** 2))), 1e-300)
