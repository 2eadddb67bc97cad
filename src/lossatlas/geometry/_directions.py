"""Directions in the space of parameters: random ones, eigenvectors, principal components, to other networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, named_parameters, num_parameters, ravel
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._filters import Normalisation, filter_axes, normalised, selected_names
from lossatlas.geometry._products import host_generator
from lossatlas.geometry._spectrum import spectrum
from lossatlas.landscape import Landscape
from lossatlas.training import Flow, Training


_WORDS = {
    "none": "no normalisation",
    "filter": "filter-normalised",
    "layer": "layer-normalised",
    "model": "model-normalised",
}
_MARGIN = 0.2  # of the extent of a trajectory, on each side


@shown
class Directions(eqx.Module):
    """Directions from a network: what spans a line, a plane, or more.

    - `vectors`: one row a direction, in `ravel_pytree` order of the moving parameters.
    - `parameters`: the paths of those parameters; the others stay where they are.
    - `names`: what each direction is, for an axis.
    - `extents`: the least and the largest coordinate to look at along each, where nothing else is asked for.
    - `facts`: numbers of each direction by name: `explained_variance` of principal components, `eigenvalue` and
      `residual` of eigenvectors.
    - `settings`: how they were made, seeds included.
    """

    vectors: Float[np.ndarray, "k p"]
    parameters: tuple[str, ...]
    names: tuple[str, ...]
    extents: tuple[tuple[float, float], ...]
    facts: dict[str, Float[np.ndarray, " k"]]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def cosines(self) -> Float[np.ndarray, "k k"]:
        """The cosines between the directions; a plane whose directions are not orthogonal is drawn sheared."""
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return unit @ unit.T

    @property
    def networks(self) -> dict[str, tuple[float, ...]]:
        """By name the coordinates of the networks that are known to lie there: this one, and those it was led to."""
        led_to = zip(self.settings.get("networks", ()), np.eye(len(self)).tolist(), strict=False)
        return {"the network": (0.0,) * len(self)} | {name: tuple(place) for name, place in led_to}

    def only(self, name: str) -> bool:
        """Whether a parameter moves: a filter for whatever takes `only`."""
        return name in self.parameters

    def origin(self, network: Network) -> Float[Array, " p"]:
        """The moving parameters of a network, flat.

        **Raises:** `InputError` for a network that has other ones.
        """
        return self.split(network)[0]

    def split(self, network: Network) -> tuple[Float[Array, " p"], Unravel]:
        """The moving parameters, flat, and the way back to a network with others in their place.

        **Raises:** `InputError` for a network that has other ones.
        """
        _check_fits(network, self)
        return ravel(network, self.only)


def random_directions(
    key: PRNGKeyArray,
    network: Network,
    num: int = 2,
    *,
    normalise: Normalisation = "filter",
    include_biases: bool = False,
    only: Only = None,
    axes: Mapping[str, int] | None = None,
) -> Directions:
    r"""Gaussian directions, scaled to the network.

    With `"filter"` (Li et al. 2018) every filter f of a direction d becomes
    $d_f \leftarrow d_f \|w_f\| / \|d_f\|$, so that slices of networks that differ by the scale of their filters
    compare. A filter is the slice that makes one output: by the unit spaces where a network states them, for others
    along axis 0, as PyTorch and Equinox store weights.

    **Arguments:**
    - `num`: how many.
    - `normalise`: `"filter"`, `"layer"` (each parameter array has the norm of the network's), `"model"` (all that
      moves together), `"none"`.
    - `include_biases`: False leaves biases, scales and shifts of normalisations, and other arrays of at most one axis,
      at exactly zero; True moves them too, with `"filter"` each as one filter. Running statistics never move.
    - `axes`: by path, a pattern with `*`: which axis counts the filters, for weights stored otherwise.

    **Returns:** [`lossatlas.geometry.Directions`][]; the same key gives the same numbers. They are not made orthogonal.

    **Raises:** `InputError` for an unknown normalisation or path, `num` below 1, and where nothing would move.

    !!! cite
        Li, Xu, Taylor, Studer and Goldstein 2018, arXiv 1712.09913, section 4.
    """
    if num < 1:
        msg = f"num must be at least 1, got {num}."
        raise InputError(msg)
    origin, filters = _host(network, only), filter_axes(network, only, axes)
    rng = host_generator(key)
    rows = [
        normalised(origin, rng.standard_normal(origin.size), filters, normalise, include_biases=include_biases)
        for _ in range(num)
    ]
    return Directions(
        vectors=_as_rows(rows, network, only),
        parameters=tuple(filters),
        names=tuple(f"random direction {i + 1}, {_WORDS[normalise]}" for i in range(num)),
        extents=((-1.0, 1.0),) * num,
        facts={},
        settings={
            "kind": "random",
            "seed": np.asarray(jax.random.key_data(key)).tolist(),
            "normalise": normalise,
            "include_biases": include_biases,
        },
    )


def as_directions(
    network: Network,
    tangents: Sequence[PyTree],
    *,
    names: Sequence[str] | None = None,
    normalise: Normalisation = "none",
    include_biases: bool = True,
    only: Only = None,
    axes: Mapping[str, int] | None = None,
) -> Directions:
    """Directions that are given.

    **Arguments:**
    - `tangents`: each a network of the same structure, the arrays of the moving parameters as of `equinox.filter`, or
      a flat vector of them.
    - `names`: for the axes. `normalise`, `include_biases`, `axes`: as for [`lossatlas.geometry.random_directions`][];
      as they are by default.

    **Raises:** `InputError` for tangents that do not fit, none, zero ones and such as are not finite.
    """
    origin, filters = _host(network, only), filter_axes(network, only, axes)
    names = tuple(names or [f"direction {i + 1}" for i in range(len(tangents))])
    if not tangents or len(names) != len(tangents):
        msg = f"There must be a name for each direction, and at least one: got {len(tangents)} and {len(names)} names."
        raise InputError(msg)
    rows = []
    for name, tangent in zip(names, tangents, strict=True):
        row = _flat(network, tangent, only, name)
        rows.append(normalised(origin, row, filters, normalise, include_biases=include_biases))
    return Directions(
        vectors=_as_rows(rows, network, only, names),
        parameters=tuple(filters),
        names=names,
        extents=((-1.0, 1.0),) * len(names),
        facts={},
        settings={"kind": "given", "normalise": normalise, "include_biases": include_biases},
    )


def directions_to(network: Network, *others: Network, only: Only = None) -> Directions:
    """The straight lines to other networks of the same shape: one makes a line, two a plane through three networks.

    The other networks lie at coordinate 1 of their own direction and 0 of the rest. With `only` they lie there in the
    selected parameters alone. The directions of a plane are not made orthogonal. Buffers such as running statistics
    stay those of `network`, so what lies at 1 is the other network only where theirs are the same.

    **Arguments:**
    - `others`: networks of the same structure.

    **Raises:** `InputError` for none, another structure, and a network that has the same parameters.
    """
    names = [f"towards network {i + 2}" if len(others) > 1 else "towards the other network" for i in range(len(others))]
    origin = _host(network, only)
    tangents = [_flat(network, other, only, name) - origin for name, other in zip(names, others, strict=True)]
    found = as_directions(network, tangents, names=names, only=only)
    extents = ((-0.25, 1.25),) * len(others)
    moved = "" if only is None else ", in what moves"
    settings = {"kind": "to other networks", "networks": [name.removeprefix("towards ") + moved for name in names]}
    return Directions(found.vectors, found.parameters, found.names, extents, {}, settings)


def hessian_directions(
    network: Network,
    landscape: Landscape,
    *,
    num_top: int = 2,
    num_bottom: int = 0,
    only: Only = None,
    key: PRNGKeyArray | None = None,
) -> Directions:
    """Eigenvectors of the Hessian at the network, of unit length.

    The eigenvalues and their residuals are in `facts`; cost and method are those of
    [`lossatlas.geometry.spectrum`][].

    **Arguments:**
    - `num_top`, `num_bottom`: how many from the largest down, and from the smallest up; those come last.
    - `key`: of the random starts.

    **Raises:** `InputError` as [`lossatlas.geometry.spectrum`][].
    """
    found = spectrum(network, landscape, num_top=num_top, num_bottom=num_bottom, only=only, key=key)
    order = [*range(found.num_top), *reversed(range(found.num_top, found.num_top + found.num_bottom))]
    values = np.asarray(found.values, float)[order]
    return Directions(
        vectors=np.asarray(found.vectors)[order],
        parameters=tuple(selected_names(network, only)),
        names=tuple(f"eigenvector of curvature {value:.3g}" for value in values),
        extents=((-1.0, 1.0),) * len(order),
        facts={"eigenvalue": values, "residual": np.asarray(found.residuals, float)[order]},
        settings={"kind": "Hessian eigenvectors", **found.settings, "status": str(found.status)},
    )


def trajectory_directions(
    network: Network, trajectory: Training | Flow | Float[np.ndarray, "s p"], num: int = 2
) -> Directions:
    """The principal components of a trajectory, of unit length.

    `facts` holds the share of the variance of the snapshots that each explains. Snapshots crowd where they are dense,
    in training early if they are log-spaced, so the shares are those of the snapshots and not of time.

    **Arguments:**
    - `network`: where the plane goes through; usually the end of training. The extents cover the trajectory.
    - `trajectory`: of training, or its parameters, a row for each snapshot.
    - `num`: how many components.

    **Raises:** `InputError` for too few snapshots, snapshots of other networks and such as are not finite.

    !!! cite
        Li, Xu, Taylor, Studer and Goldstein 2018, arXiv 1712.09913, section 7.2.
    """
    origin = _host(network, None)
    rows = snapshots_of(trajectory, origin.size)
    if not 1 <= num < len(rows):
        msg = f"{len(rows)} snapshots give at most {len(rows) - 1} directions and there must be at least 1; got {num}."
        raise InputError(msg)
    _, sizes, components = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    if not sizes[num - 1] > sizes[0] * len(rows) * np.finfo(float).eps:
        msg = f"The trajectory does not span {num} directions: it stays in fewer, or stands still."
        raise InputError(msg)
    components = components[:num]
    coordinates = (rows - origin) @ components.T
    low, high = np.minimum(coordinates.min(axis=0), 0), np.maximum(coordinates.max(axis=0), 0)
    # The second component may be far shorter; a window of less than a tenth of the first would show next to nothing.
    widened = np.maximum(0.1 * (high - low).max() - (high - low), 0) / 2
    low, high = low - widened - _MARGIN * (high - low), high + widened + _MARGIN * (high - low)
    shares = sizes[:num] ** 2 / np.sum(sizes**2)
    return Directions(
        vectors=_as_rows(list(components), network, None),
        parameters=tuple(selected_names(network)),
        names=tuple(f"principal component {i + 1} ({100 * share:.1f} % of variance)" for i, share in enumerate(shares)),
        extents=tuple(zip(low.tolist(), high.tolist(), strict=True)),
        facts={"explained_variance": shares},
        settings={"kind": "principal components of a trajectory", "num_snapshots": len(rows)},
    )


def snapshots_of(trajectory: Training | Flow | Float[np.ndarray, "s p"], size: int) -> Float[np.ndarray, "s p"]:
    """The parameters of a trajectory in float64; checked."""
    rows = trajectory.parameters if isinstance(trajectory, Training | Flow) else trajectory
    rows = np.asarray(rows, float)
    if rows.ndim != 2 or rows.shape[1] != size:
        msg = f"The trajectory must hold a row of {size} parameters for each snapshot, got shape {rows.shape}."
        raise InputError(msg)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        msg = f"Snapshot {first} of the trajectory is not finite; leave out what follows a divergence."
        raise InputError(msg)
    return rows


def _host(network: Network, only: Only) -> np.ndarray:
    return np.asarray(ravel(network, only)[0], float)


def _flat(network: Network, tangent: PyTree, only: Only, name: str) -> np.ndarray:
    """A tangent as a flat vector; a network as well as the arrays of its selected parameters."""
    size = num_parameters(network, only)
    if isinstance(tangent, Array | np.ndarray) and tangent.shape == (size,):
        return np.asarray(tangent, float)
    if not isinstance(tangent, Array | np.ndarray):
        wanted, given = _chosen(network, selected_names(network, only)), _chosen(tangent, selected_names(network, only))
        if [(path, a.shape) for path, a in wanted.items()] == [(path, a.shape) for path, a in given.items()]:
            return np.concatenate([np.ravel(a) for a in given.values()]).astype(float)
    msg = (
        f"The {name!r} does not fit: it must be a network of the same structure and shapes, the pytree of its moving "
        f"parameters, or a vector of {size} numbers."
    )
    raise InputError(msg)


def _chosen(tree: PyTree, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of a tree under some of their paths; modules of other programs share no more than paths."""
    return {path: array for path, array in named_parameters(tree).items() if path in names}


def _as_rows(rows: Sequence[np.ndarray], network: Network, only: Only, names: Sequence[str] = ()) -> np.ndarray:
    """Directions as rows in the type of the parameters; zero and non-finite ones are refused."""
    dtype = ravel(network, only)[0].dtype
    for i, row in enumerate(rows):
        what = names[i] if names else f"direction {i + 1}"
        if not np.isfinite(row).all():
            msg = f"{what!r} is not finite."
            raise InputError(msg)
        if not row.any():
            msg = f"{what!r} is zero; there is nothing to see along it."
            raise InputError(msg)
    return np.stack(rows).astype(dtype)


def _check_fits(network: Network, directions: Directions) -> None:
    parameters = named_parameters(network)
    names = [name for name in parameters if name in directions.parameters]
    size = sum(parameters[name].size for name in names)
    if tuple(names) != directions.parameters or size != directions.vectors.shape[1]:
        msg = (
            f"The directions move {directions.vectors.shape[1]} parameters of a network that has "
            f"{', '.join(directions.parameters[:4])}...; this network has {', '.join(list(parameters)[:4])}..., "
            f"{size} of them shared. Make the directions from this network."
        )
        raise InputError(msg)


def moved_along(network: Network, directions: Directions, coordinates: Sequence[float | int]) -> Network:
    """The network at some coordinates; the given one stays as it is.

    **Arguments:**
    - `coordinates`: one number a direction.

    **Raises:** `InputError` for another number of coordinates, and directions of another network.
    """
    if len(coordinates) != len(directions):
        msg = f"There are {len(directions)} directions, got {len(coordinates)} coordinates."
        raise InputError(msg)
    origin, unravel = directions.split(network)
    step = jnp.asarray(coordinates, origin.dtype) @ jnp.asarray(directions.vectors)
    return unravel(origin + step)
