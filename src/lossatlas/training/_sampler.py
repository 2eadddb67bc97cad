"""Sample networks around a point: Langevin chains, as one compiled program."""

import math
import time
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, num_parameters, ravel, select
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape
from lossatlas.training._chain_health import ChainHealth, chain_health
from lossatlas.training._langevin import Chain, Job, advance, start
from lossatlas.training._loop import compiled


if TYPE_CHECKING:
    import xarray as xr

_METHODS = ("sgld", "mala")
_LEAST_ROOM = 256  # for records; powers of two, so that one program serves many lengths
_FLOPS = 1e9  # a cautious guess of operations in a second, for the length of the first chunk only


@shown
class Chains(eqx.Module):
    r"""Markov chains of networks around a centre, c of them, t steps each.

    - `centre`: the network that they started at. `only`: which of its parameters move.
    - `loss`: the loss at the position before each step; with minibatches that of the step's batch, drawn after the
      position, so its mean is unbiased. NaN after a divergence.
    - `distance`: of that position from the centre, Euclidean.
    - `acceptance`: the probability with which a Metropolis test takes the step: what MALA did, what SGLD left out.
      NaN with minibatches.
    - `moved`: whether the step was taken; always with SGLD.
    - `last`: the positions after the last step, flattened in `ravel_pytree` order. `mean`: those after `burn_in`.
    - `diverged_at`: the step whose loss was not finite, for each chain, or None.
    - `status`: `FINISHED`, or `DIVERGED` where a chain did.
    - `stats`: `gradients` evaluated in all, seconds. `settings`: what was run.
    """

    centre: Network
    only: Any
    loss: Float[np.ndarray, "c t"]
    distance: Float[np.ndarray, "c t"]
    acceptance: Float[np.ndarray, "c t"]
    moved: Bool[np.ndarray, "c t"]
    last: Float[np.ndarray, "c p"]
    mean: Float[np.ndarray, "c p"]
    diverged_at: tuple[int | None, ...]
    status: Status
    stats: dict[str, Any]
    settings: dict[str, Any]

    def health(self, *, burn_in: int = 0) -> ChainHealth:
        """What the losses after `burn_in` steps say of the chains; see [`lossatlas.training.ChainHealth`][]."""
        return chain_health(self.loss[:, burn_in:])

    def to_xarray(self) -> "xr.Dataset":
        """Loss, distance and acceptance over `chain` and `step`."""
        import xarray as xr

        names = ("loss", "distance", "acceptance")
        return xr.Dataset(
            {name: (("chain", "step"), getattr(self, name)) for name in names},
            attrs={**self.settings, "status": str(self.status)},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import chains_figure

        return chains_figure(self.loss, int(self.settings["burn_in"]))


def sample(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    inverse_temperature: float,
    step_size: float,
    num_steps: int,
    localisation: float = 0.0,
    num_chains: int = 4,
    burn_in: int = 0,
    method: Literal["sgld", "mala"] | str = "sgld",
    batch_size: int | None = None,
    only: Only = None,
    after: Chains | None = None,
    progress: ProgressLike = "none",
    chunk_seconds: float = 1.0,
) -> Chains:
    r"""Sample parameters from $p(\theta) \propto \exp(-\beta R(\theta) - \frac\gamma2 |\theta - \theta^*|^2)$.

    $R$ is the mean loss of the landscape and $\theta^*$ the network given, where every chain starts. With
    $U = \beta R + \frac\gamma2|\theta - \theta^*|^2$ a step of Langevin dynamics is
    $\theta' = \theta - \frac\epsilon2 \nabla U + \sqrt\epsilon\, \xi$, $\xi \sim N(0, 1)$. `"sgld"` takes every step,
    and its stationary law is off by an error of order $\epsilon h$ ($h$ the curvature of U; unstable where
    $\epsilon h \ge 4$). `"mala"` accepts or rejects, so that the law is exact.

    One compiled program for all chains, one after the other inside it, called about once a second; results do not
    depend on how often. The noise of step t of chain c comes from `fold_in(fold_in(key, c), t)`.
    Cost: `num_chains * num_steps` gradients (of the batch, where there is one).

    **Arguments:**
    - `inverse_temperature`: $\beta$, positive. n samples from a Bayesian posterior; n / log n for the WBIC.
    - `step_size`: $\epsilon$. `localisation`: $\gamma$, at least 0.
    - `num_steps`, `num_chains`: of each chain, and how many. `burn_in`: steps before `mean` begins to be taken.
    - `batch_size`: SGLD with gradients of so many examples, drawn anew each step with replacement; None for all.
    - `only`: a parameter filter; the others stay at the centre.
    - `after`: chains of the same key and settings that these continue, to the same bits as one long run; `num_steps`
      are then the further ones, and `network` has to be their centre.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.
    - `chunk_seconds`: how long one call of the program lasts, about.

    **Returns:**
    [`lossatlas.training.Chains`][]. A chain whose loss is not finite ends there.

    **Raises:** `InputError` for numbers out of range, an unknown method, minibatches with MALA, and a loss that is not
    finite at the network given.

    !!! cite
        Welling and Teh 2011 (SGLD); Roberts and Tweedie 1996 (MALA).
    """
    job = _job(
        key,
        network,
        landscape,
        inverse_temperature,
        step_size,
        num_steps,
        localisation,
        burn_in,
        method,
        batch_size,
        only,
    )
    _at_least("num_chains", num_chains, 1)
    first = jnp.broadcast_to(job.centre, (num_chains, job.centre.size))
    if after is not None:
        job, first = _continued(job, after, num_chains)
    began = time.perf_counter()
    chains = compiled(start)(job, jnp.arange(num_chains, dtype=jnp.int32), first)
    work = 6 * (batch_size or landscape.size) * num_parameters(network) * num_chains
    chunk = max(1, int(chunk_seconds * _FLOPS / work))
    onward, step = compiled(advance), 0
    with as_meter(progress).task("sampling", num_steps) as task:
        while step < num_steps:
            stop = min(num_steps, step + chunk)
            clock = time.perf_counter()
            chains = jax.block_until_ready(onward(job, chains, jnp.asarray(stop, jnp.int32)))
            seconds = max(time.perf_counter() - clock, 1e-6)
            chunk = max(1, min(10 * chunk, int(chunk_seconds * (stop - step) / seconds)))
            step = stop
            task.update(step)
    settings = {
        "method": method, "inverse_temperature": inverse_temperature, "localisation": localisation,
        "step_size": step_size, "num_steps": num_steps, "num_chains": num_chains, "burn_in": burn_in,
        "batch_size": 0 if job.batch_size is None else job.batch_size, "last_step": int(job.first_step) + num_steps,
    }  # fmt: skip
    return _as_chains(network, only, job, chains, settings, time.perf_counter() - began)


def _job(
    key, network, landscape, inverse_temperature, step_size, num_steps, localisation, burn_in, method, batch_size, only
) -> Job:
    for name, value in (("inverse_temperature", inverse_temperature), ("step_size", step_size)):
        if not (value > 0 and math.isfinite(value)):
            msg = f"{name} must be finite and positive, got {value}."
            raise InputError(msg)
    if not (localisation >= 0 and math.isfinite(localisation)):
        msg = f"localisation must be finite and not negative, got {localisation}."
        raise InputError(msg)
    _at_least("num_steps", num_steps, 1)
    if not 0 <= burn_in < num_steps:
        msg = f"burn_in must be at least 0 and less than num_steps = {num_steps}, got {burn_in}."
        raise InputError(msg)
    if method not in _METHODS:
        raise unknown_name("method", method, _METHODS)
    if batch_size is not None:
        _at_least("batch_size", batch_size, 1)
        if method == "mala":
            raise InputError("MALA needs the exact loss: use batch_size=None, or method='sgld' for minibatches.")
    if not bool(jnp.isfinite(compiled(_loss_of)(landscape, network))):
        raise InputError("The loss is not finite at this network; check its parameters and the data for NaN.")
    vector, _ = ravel(network, only)
    number = lambda value: jnp.asarray(value, vector.dtype)  # noqa: E731
    return Job(
        key=key,
        unravel=Unravel(*eqx.partition(network, select(network, only))),
        landscape=landscape,
        centre=vector,
        inverse_temperature=number(inverse_temperature),
        localisation=number(localisation),
        step_size=number(step_size),
        burn_in=jnp.asarray(burn_in, jnp.int32),
        first_step=jnp.asarray(0, jnp.int32),
        room=max(_LEAST_ROOM, 1 << (num_steps - 1).bit_length()),
        is_metropolis=method == "mala",
        batch_size=None if batch_size is None or batch_size >= landscape.size else int(batch_size),
    )


def _continued(job: Job, after: Chains, num_chains: int) -> tuple[Job, Float[Array, "c p"]]:
    """The job and the positions from which other chains go on."""
    if after.last.shape != (num_chains, job.centre.size):
        msg = (
            f"after= holds {after.last.shape[0]} chains of {after.last.shape[1]} parameters; asked for are "
            f"{num_chains} of {job.centre.size}. Give the same network, filter and number of chains."
        )
        raise InputError(msg)
    if after.status is Status.DIVERGED:
        raise InputError("The chains to continue have diverged; start anew with a smaller step_size.")
    done = jnp.asarray(after.settings["last_step"], jnp.int32)
    return eqx.tree_at(lambda j: j.first_step, job, done), jnp.asarray(after.last)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        msg = f"{name} must be at least {least}, got {value}."
        raise InputError(msg)


def _loss_of(landscape: Landscape, network: Network) -> Float[Array, ""]:
    return landscape(network)


def _as_chains(network, only, job: Job, chains: Chain, settings: dict[str, Any], seconds: float) -> Chains:
    made = np.asarray(chains.step)
    diverged = ~np.asarray(chains.is_finite)
    traced = lambda records: np.asarray(records)[:, : settings["num_steps"]]  # noqa: E731
    kept = np.maximum(made - int(job.burn_in), 1)[:, None]
    return Chains(
        centre=network,
        only=only,
        loss=traced(chains.losses),
        distance=traced(chains.distances),
        acceptance=traced(chains.acceptances),
        moved=traced(chains.moved),
        last=np.asarray(chains.vector),
        mean=np.asarray(chains.total) / kept,
        diverged_at=tuple(int(step) if bad else None for step, bad in zip(made, diverged, strict=True)),
        status=Status.DIVERGED if diverged.any() else Status.FINISHED,
        stats={"gradients": int(made.sum()), "seconds": seconds},
        settings=settings,
    )
