"""A trajectory of training seen on a slice, with how much of it the slice can show."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._parameters import ravel
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._directions import Directions, snapshots_of
from lossatlas.training import Flow, Training


if TYPE_CHECKING:
    import xarray as xr


@shown
class ProjectedTrajectory(eqx.Module):
    """A trajectory on the plane (or line, or more) of some directions.

    - `coordinates`: of the nearest point of the plane to each snapshot.
    - `off_plane`: the distance of each snapshot from the plane; `distance`: from the network that the plane goes
      through. Both in the space of all parameters.
    - `captured`: the share of the squared distances from that network that lies in the plane, over all snapshots. Where
      it is small, the picture shows a shadow: the loss on the plane below a snapshot is not the loss of the snapshot.
    - `steps`: of the snapshots, in units of `clock`: training steps, times, or numbers from 0 for plain arrays. `loss`:
      of the snapshots, NaN for plain arrays.
    - `names`: of the directions.
    """

    coordinates: Float[np.ndarray, "s k"]
    off_plane: Float[np.ndarray, " s"]
    distance: Float[np.ndarray, " s"]
    captured: float
    steps: Float[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    names: tuple[str, ...]
    clock: str

    def to_xarray(self) -> "xr.Dataset":
        """Coordinates and distances over `snapshot`."""
        import xarray as xr

        columns = {"off_plane": self.off_plane, "distance": self.distance, "step": self.steps, "loss": self.loss}
        columns |= {f"direction_{i + 1}": column for i, column in enumerate(self.coordinates.T)}
        return xr.Dataset(
            {name: ("snapshot", column) for name, column in columns.items()},
            attrs={"captured": self.captured, "clock": self.clock},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import trajectory_figure

        return trajectory_figure(self.to_xarray())


def project_trajectory(
    network: Network, directions: Directions, trajectory: Training | Flow | Float[np.ndarray, "s p"]
) -> ProjectedTrajectory:
    """Project a trajectory on the plane through a network, orthogonally.

    The directions need not be orthogonal: the coordinates are those of least squares.

    **Arguments:**
    - `trajectory`: of training, or all parameters of each snapshot in a row.

    **Returns:** [`lossatlas.geometry.ProjectedTrajectory`][].

    **Raises:** `InputError` for a trajectory of other networks or one that is not finite, and directions that do not
    fit the network.
    """
    directions.origin(network)
    vector, unravel = ravel(network)
    rows = snapshots_of(trajectory, vector.size)
    # Which of all parameters move: a mask in the same order.
    ones = unravel(jnp.ones_like(vector))
    zero, put = ravel(ones, directions.only)
    moving = np.asarray(ravel(put(jnp.zeros_like(zero)))[0]) == 0
    step = rows - np.asarray(vector, float)
    basis = directions.vectors.astype(float).T
    coordinates, *_ = np.linalg.lstsq(basis, step[:, moving].T)
    inside = (basis @ coordinates).T
    still = np.sum(step[:, ~moving] ** 2, axis=1)
    off = np.sqrt(np.sum((step[:, moving] - inside) ** 2, axis=1) + still)
    distance = np.linalg.norm(step, axis=1)
    total = float(np.sum(distance**2))
    clock, steps, loss = "snapshot", np.arange(len(rows)), np.full(len(rows), np.nan)
    if isinstance(trajectory, Training):
        clock, steps, loss = "step", trajectory.steps, trajectory.loss
    elif isinstance(trajectory, Flow):
        clock, steps, loss = "time", trajectory.times, trajectory.loss
    return ProjectedTrajectory(
        coordinates=coordinates.T,
        off_plane=off,
        distance=distance,
        captured=float(np.sum(inside**2)) / total if total else 1.0,
        steps=np.asarray(steps, float),
        loss=np.asarray(loss, float),
        names=directions.names,
        clock=clock,
    )
