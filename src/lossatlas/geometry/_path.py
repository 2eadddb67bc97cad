"""A path through the parameters: networks of one structure, and the curve that they control."""

from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, named_parameters
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._path_verification import PathVerification
from lossatlas.numerics import bezier_speed, control_weights
from lossatlas.training._curve import mixed


_KINDS = ("polygon", "bezier")
_QUADRATURE = 32  # Gauss-Legendre nodes between two places of a Bezier curve


@runtime_checkable
class Refresh(Protocol):
    """What is done to every network of a path after its parameters were put together; a pytree, called under `jit`."""

    def __call__(self, network: Network, t: Float[Array, ""]) -> Network:
        """The network as it is to be measured at t."""
        ...


class BatchStatistics(eqx.Module):
    """Running statistics computed anew at every point of a path, the ends included, by `network.with_statistics`.

    - `inputs`: whose statistics they are, shape (n, ...); those of the training data.
    """

    inputs: Array

    def __call__(self, network: Network, t: Float[Array, ""]) -> Network:
        """The network with the statistics of the inputs."""
        del t
        return network.with_statistics(self.inputs)


class MovingBuffers(eqx.Module):
    """Buffers change along the path as parameters do; right where they belong to units that move."""

    def __call__(self, network: Network, t: Float[Array, ""]) -> Network:
        """The network as it is."""
        del t
        return network


@shown
class Path(eqx.Module):
    r"""A curve $\theta(t)$, $0 \le t \le 1$, through networks of one structure.

    A polygon passes its corners at equal distances in t (by index, not by length: segment k of m lies between
    $t = k/m$ and $(k+1)/m$); a Bezier curve passes the first and the last. Two vertices are the straight line. The path
    is a pytree, its networks are never changed, and `path(t)` is the network at t.

    - `vertices`: the corners, or control points, at least two.
    - `kind`: `"polygon"` or `"bezier"`.
    - `refresh`: what is done to every network on the way, such as [`lossatlas.geometry.BatchStatistics`][]; None for
      networks of parameters alone. Running statistics do not interpolate: the loss of a path whose vertices differ
      in them is refused without it.
    - `verification`: what was found along the path by the function that made it, or None; see
      [`lossatlas.geometry.verify_path`][].

    **Raises:** `InputError` for fewer than two vertices, different structures or shapes, and parameters that are not
    finite.
    """

    vertices: tuple[Network, ...]
    kind: Literal["polygon", "bezier"] = eqx.field(static=True, default="polygon")
    refresh: Refresh | None = None
    verification: PathVerification | None = None

    def __check_init__(self):
        if self.kind not in _KINDS:
            raise unknown_name("kind of path", self.kind, _KINDS)
        if len(self.vertices) < 2:
            msg = f"A path needs at least two networks, got {len(self.vertices)}."
            raise InputError(msg)
        check_one_structure(self.vertices)

    def __call__(self, t: float) -> Network:
        """The network at t, between 0 (the first vertex) and 1 (the last)."""
        if not 0 <= t <= 1:
            msg = f"t must lie between 0 and 1, got {t}."
            raise InputError(msg)
        controls, local = self.piece(t)
        return _network_at(controls, self.kind, self.refresh, jnp.asarray(local), jnp.asarray(float(t)))

    @property
    def num_segments(self) -> int:
        """Straight segments; 1 for a Bezier curve."""
        return 1 if self.kind == "bezier" else len(self.vertices) - 1

    def piece(self, t: float) -> tuple[tuple[Network, ...], float]:
        """The control points that matter at t, and where t lies between them."""
        if self.kind == "bezier":
            return self.vertices, float(t)
        segment = min(int(t * self.num_segments), self.num_segments - 1)
        return self.vertices[segment : segment + 2], float(min(max(t * self.num_segments - segment, 0.0), 1.0))

    def lengths(self, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The Euclidean length of the path from its start up to each t (increasing), in parameters; buffers apart."""
        steps = list(zip(self.vertices[:-1], self.vertices[1:], strict=True))
        if self.kind == "polygon":
            ends = np.concatenate([[0.0], np.cumsum([np.sqrt(_product(step, step)) for step in steps])])
            return np.interp(t * self.num_segments, np.arange(len(ends)), ends)
        gram = np.asarray([[_product(one, two) for two in steps] for one in steps])
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
        starts = np.concatenate([[0.0], t[:-1]])
        half = (t - starts) / 2
        places = ((t + starts) / 2)[:, None] + np.outer(half, nodes)
        speed = bezier_speed(gram, places.ravel()).reshape(places.shape)
        return np.cumsum(half * (speed @ weights))

    def __repr__(self) -> str:
        name = "a straight line" if len(self.vertices) == 2 else f"a {self.kind} of {len(self.vertices)} networks"
        return f"Path({name}{'' if self.verification is None else f'; {self.verification}'})"


def check_one_structure(networks: tuple[Network, ...]) -> None:
    """Refuse networks that differ in more than numbers.

    **Raises:** `InputError`, which names the first parameter that differs.
    """
    first = networks[0]
    shapes = {name: f"{a.shape} {a.dtype}" for name, a in named_arrays(first).items()}
    for i, network in enumerate(networks):
        arrays = named_arrays(network)
        found = {name: f"{a.shape} {a.dtype}" for name, a in arrays.items()}
        if type(network) is not type(first) or found != shapes:
            different = sorted(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n))
            where = f": {different[0]} is {found.get(different[0])} and {shapes.get(different[0])}" if different else ""
            msg = (
                f"A path needs networks of one architecture and shape, got {type(network).__name__} and "
                f"{type(first).__name__}{where}."
            )
            raise InputError(msg)
        if jax.tree.structure(network) != jax.tree.structure(first):
            msg = (
                "The networks of a path differ in what is no array, such as the activation. Make both from one "
                "constructor, or put the arrays of one into the other with lossatlas.networks.replace_parameters."
            )
            raise InputError(msg)
        bad = next((name for name, array in arrays.items() if not np.isfinite(np.asarray(array)).all()), None)
        if bad is not None:
            msg = f"{bad} of vertex {i} contains NaN or infinity, so no path leads through it."
            raise InputError(msg)


def check_statistics(path: Path) -> None:
    """Refuse a path whose loss would depend on statistics that do not interpolate.

    **Raises:** `InputError` with the remedy.
    """
    first = path.vertices[0]
    if path.refresh is not None or getattr(first, "batch_statistics", False):
        return
    parameters = named_parameters(first).keys()
    buffers = {name: np.asarray(array) for name, array in named_arrays(first).items() if name not in parameters}
    for vertex in path.vertices[1:]:
        arrays = named_arrays(vertex)
        for name, value in buffers.items():
            if not np.array_equal(value, np.asarray(arrays[name])):
                remedy = (
                    "refresh=lossatlas.geometry.BatchStatistics(inputs) to the Path"
                    if getattr(first, "has_statistics", False)
                    else "a refresh to the Path (a pytree, called with network and t, that computes them anew), or "
                    "fold the normalisation into the weights before it"
                )
                msg = f"The vertices differ in running statistics ({name}), which do not interpolate. Give {remedy}."
                raise InputError(msg)


def point(controls: tuple[Network, ...], kind: str, t: Float[Array, ""]) -> Network:
    """The network that control points make at t; of two, a parameter that both share stays exactly as it is."""
    if len(controls) > 2:
        return mixed(controls, control_weights(kind, len(controls), t))  # pyright: ignore[reportArgumentType]
    (first, rest), (last, _) = (eqx.partition(network, eqx.is_inexact_array) for network in controls)

    def between(first: Array, last: Array) -> Array:
        at = t.astype(first.dtype)
        return jnp.where(at == 1, last, first + at * (last - first))

    return eqx.combine(jax.tree.map(between, first, last), rest)


@eqx.filter_jit
def _network_at(controls: tuple[Network, ...], kind: str, refresh: Any, local: Array, t: Array) -> Network:
    network = point(controls, kind, local)
    return network if refresh is None else refresh(network, t)


def _product(one: tuple[Network, Network], two: tuple[Network, Network]) -> float:
    """The inner product of two differences of networks, over their parameters, in float64."""
    first, second = (
        [(np.asarray(b, float) - np.asarray(a, float)).ravel() for a, b in zip(*map(_parameters, pair), strict=True)]
        for pair in (one, two)
    )
    return float(sum(np.vdot(a, b) for a, b in zip(first, second, strict=True)))


def _parameters(network: Network) -> list[Array]:
    return list(named_parameters(network).values())
