from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network
from lossatlas.training._state import TrainingState


if TYPE_CHECKING:
    import xarray as xr

_MOST_CURVES = 6  # members of an ensemble that a figure shows


@shown
class Training(eqx.Module):
    """A training run seen at its snapshots.

    - `network`: the network at the end.
    - `steps`: the steps of the snapshots, increasing. A run that ended early has its last step as last snapshot.
    - `loss`: mean loss over all data at each snapshot, whatever the batch size.
    - `gradient_norm`: Euclidean norm of the gradient of that loss.
    - `parameters`: the parameters, flattened in `ravel_pytree` order.
    - `status`: `FINISHED` (ran all steps), `CONVERGED` (gradient tolerance reached) or `DIVERGED`.
    - `diverged_at`: the first step whose loss is not finite, None otherwise.
    - `stats`: `num_steps` (the step that was reached), `compile_seconds`, `run_seconds`.
    - `settings`: what was run.
    - `state`: where the run is at its end, for `train(..., start=state)` to go on from.
    """

    network: Network
    steps: Int[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    gradient_norm: Float[np.ndarray, " s"]
    parameters: Float[np.ndarray, "s p"]
    status: Status
    diverged_at: int | None
    stats: dict[str, Any]
    settings: dict[str, Any]
    state: TrainingState

    @property
    def num_snapshots(self) -> int:
        """How many snapshots there are."""
        return len(self.steps)

    def network_at(self, index: int) -> Network:
        """The network at a snapshot (an index into `steps`; negative counts from the end)."""
        return _network_at(self.network, self.parameters, index)

    def to_xarray(self) -> "xr.Dataset":
        """Loss, gradient norm and parameters over `step`; the settings and the status as attributes."""
        return _dataset(self, {"step": self.steps}, ("step",), self.network)

    def _figure(self) -> Any:
        return _loss_figure({"loss": (self.steps, self.loss)}, "training step")


@shown
class Flow(eqx.Module):
    """A gradient flow seen at its snapshots; as [`lossatlas.training.Training`][] with `times` for `steps`.

    `status` is `FINISHED`, `CONVERGED`, `DIVERGED`, `MAX_STEPS` or `STALLED` (the solver failed otherwise);
    `diverged_at` is the time of the first snapshot whose loss is not finite. `stats` counts accepted and rejected
    steps of the solver.
    """

    network: Network
    times: Float[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    gradient_norm: Float[np.ndarray, " s"]
    parameters: Float[np.ndarray, "s p"]
    status: Status
    diverged_at: float | None
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def num_snapshots(self) -> int:
        """How many snapshots there are."""
        return len(self.times)

    def network_at(self, index: int) -> Network:
        """The network at a snapshot (an index into `times`; negative counts from the end)."""
        return _network_at(self.network, self.parameters, index)

    def to_xarray(self) -> "xr.Dataset":
        """Loss, gradient norm and parameters over `time`; the settings and the status as attributes."""
        return _dataset(self, {"time": self.times}, ("time",), self.network)

    def _figure(self) -> Any:
        return _loss_figure({"loss": (self.times, self.loss)}, "time")


@shown
class Ensemble(eqx.Module):
    """Training runs of networks of one shape, a leading member axis m on everything.

    A member that ended early has fewer snapshots: its row is filled up with step -1 and NaN.

    - `networks`: the networks at the end, stacked: every array has the member axis first.
    - `steps`, `loss`, `gradient_norm`, `parameters`: as in [`lossatlas.training.Training`][], per member.
    - `num_snapshots`: how many snapshots of each member are real.
    - `num_steps`: the step that each member reached.
    - `status`, `diverged_at`: one per member.
    - `hyperparameters`: the values of each member.
    - `stats`: `num_steps` of all members together, `compile_seconds`, `run_seconds`.
    - `settings`: what was run.
    - `state`: where the members are at their ends.
    """

    networks: Network
    steps: Int[np.ndarray, "m s"]
    loss: Float[np.ndarray, "m s"]
    gradient_norm: Float[np.ndarray, "m s"]
    parameters: Float[np.ndarray, "m s p"]
    num_snapshots: Int[np.ndarray, " m"]
    num_steps: Int[np.ndarray, " m"]
    status: tuple[Status, ...]
    diverged_at: tuple[int | None, ...]
    hyperparameters: dict[str, Any]
    stats: dict[str, Any]
    settings: dict[str, Any]
    state: TrainingState

    def __len__(self) -> int:
        return len(self.status)

    def member(self, index: int) -> Training:
        """One run, as [`lossatlas.training.train`][] would have returned it.

        **Raises:** `InputError` when there is no such member.
        """
        if not -len(self) <= index < len(self):
            msg = f"There are {len(self)} members, numbered from 0; got {index}."
            raise InputError(msg)
        count = int(self.num_snapshots[index])
        pick = lambda a: a[index] if isinstance(a, np.ndarray) and a.ndim else a  # noqa: E731
        return Training(
            network=jax.tree.map(lambda a: a[index] if eqx.is_array(a) else a, self.networks),
            steps=self.steps[index, :count],
            loss=self.loss[index, :count],
            gradient_norm=self.gradient_norm[index, :count],
            parameters=self.parameters[index, :count],
            status=self.status[index],
            diverged_at=self.diverged_at[index],
            stats={**self.stats, "num_steps": int(self.num_steps[index])},
            settings={**self.settings, **{name: pick(value) for name, value in self.hyperparameters.items()}},
            state=jax.tree.map(lambda a: a[index], self.state),
        )

    def to_xarray(self) -> "xr.Dataset":
        """Loss, gradient norm and parameters over `member` and `snapshot`; the steps are a coordinate."""
        coordinates = {"member": np.arange(len(self)), "step": (("member", "snapshot"), self.steps)}
        for name, value in self.hyperparameters.items():
            if isinstance(value, np.ndarray) and value.ndim:
                coordinates[name] = ("member", value)
        return _dataset(self, coordinates, ("member", "snapshot"), self.member(0).network)

    def _figure(self) -> Any:
        curves = {
            f"member {i}": (self.steps[i, :count], self.loss[i, :count])
            for i, count in enumerate(self.num_snapshots[:_MOST_CURVES])
        }
        return _loss_figure(curves, "training step")


def _loss_figure(curves: dict[str, tuple[np.ndarray, np.ndarray]], x: str) -> Any:
    """The loss of some runs; logarithmic, and from the first step on."""
    from lossatlas.figures import curves_figure

    return curves_figure(curves, x=x, y="mean loss over the data", x_scale="log", y_scale="log")


def _network_at(network: Network, parameters: np.ndarray, index: int) -> Network:
    if not -len(parameters) <= index < len(parameters):
        msg = f"There are {len(parameters)} snapshots, numbered from 0; got {index}."
        raise InputError(msg)
    vector, unravel = ravel(network)
    return unravel(jax.numpy.asarray(parameters[index], vector.dtype))


def _dataset(
    result: Training | Flow | Ensemble, coordinates: dict[str, Any], dims: tuple[str, ...], network: Network
) -> "xr.Dataset":
    import xarray as xr

    names = [name for name, leaf in named_parameters(network).items() for _ in range(_size(leaf))]
    status = result.status if isinstance(result.status, tuple) else (result.status,)
    return xr.Dataset(
        {
            "loss": (dims, result.loss, {"long_name": "mean loss over the data"}),
            "gradient_norm": (dims, result.gradient_norm, {"long_name": "Euclidean norm of the gradient"}),
            "parameters": ((*dims, "parameter"), result.parameters),
        },
        coords={**coordinates, "parameter": names},
        attrs={**result.settings, "status": "; ".join(str(s) for s in status)},
    )


def _size(leaf: Array) -> int:
    return int(np.prod(leaf.shape))
