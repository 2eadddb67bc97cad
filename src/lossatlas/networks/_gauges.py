"""Gauges of dense networks: changes of the parameters that leave the network function, or its loss, as it is."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters, replace_parameters
from lossatlas._types import Network
from lossatlas.networks._activations import Activation
from lossatlas.networks._dense import Dense
from lossatlas.networks._units import UnitSpace, put_units, take_units


_RANK_TOLERANCE = 1e-9
_ZERO = 1e-10  # weights below it, and differences of weights, count as zero


def gauge_tangents(
    network: Network, inputs: Float[Array, "n d"] | None = None, *, shared_logit: bool = False
) -> dict[str, Float[Array, "k p"]]:
    r"""Directions in which the network function does not change to first order, by the reason why.

    - `"linear mixing"`: GL(r) of r linear units, $\delta L = M L$, $\delta A = -A M$: r^2 directions.
    - `"scale"`: of a unit homogeneous of degree p: $\delta(w, b) = (w, b)$, $\delta a = -p\,a$.
    - `"zero outgoing"`: a unit that nobody reads: its incoming weights are free.
    - `"duplicate units"`: units with equal (or reflected) incoming weights: their outgoing columns may be shared
      out in any way.
    - `"shared logit"`: one number added to all outputs (with softmax it changes nothing): last width + 1 directions.

    With `inputs`, on those examples only:

    - `"collinear inputs"`: null directions of [X, 1], one for each unit of the first layer and null direction.
    - `"collinear features"`: the same for the inputs of later layers, constant (dead) units included.
    - `"affine units"`: units whose pre-activations stay inside one affine segment (a ReLU that is on for all
      examples) mix with each other and with the linear units, and shift into the next bias.

    The spans overlap (duplicates are collinear features): the rank of the union counts. At a critical point each
    exact symmetry is a zero direction of the Hessian; at others, and for changes that are not symmetries of a
    neighbourhood (sharing out the columns of duplicates), check with the Hessian, as
    [`lossatlas.geometry.inertia`][] does.

    **Arguments:**
    - `network`: parameters in `ravel_pytree` order; p of them.
    - `inputs`: the data, for what depends on it.
    - `shared_logit`: whether the loss is unchanged by a common shift of all outputs (softmax cross-entropy).

    **Returns:** For each name that occurs, its directions as rows. Cost: one forward pass and singular value
    decompositions of the features.

    **Raises:** `InputError` for networks other than [`lossatlas.networks.Dense`][].
    """
    if not isinstance(network, Dense):
        msg = f"gauge_tangents knows lossatlas.networks.Dense, got {type(network).__name__}."
        raise InputError(msg)
    space = _Tangents(network)
    for i in range(len(network.layers) - 1):
        _linear_mixing(space, i)
        if network.activation.degree is not None:
            _scale(space, i, network.activation.degree)
        _zero_outgoing(space, i)
        _duplicates(space, i)
    if shared_logit:
        _shared_logit(space)
    if inputs is not None:
        features = [np.asarray(f) for f in _features(network, inputs)]
        for i in range(len(network.layers)):
            _collinear(space, i, features[i])
        for i in range(len(network.layers) - 1):
            _affine(space, i, features[i])
    return space.result()


@eqx.filter_jit
def _features(network: Dense, inputs: Array) -> list[Array]:
    return jax.vmap(network.features)(inputs)


class _Tangents:
    """Collects tangents, each given as a change of some named parameters."""

    def __init__(self, network: Dense):
        self.network = network
        self.values = {name: np.asarray(array) for name, array in named_parameters(network).items()}
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, changes: dict[str, np.ndarray]) -> None:
        row = np.concatenate([np.ravel(changes.get(p, np.zeros(v.shape))) for p, v in self.values.items()])
        if np.any(row):
            self.rows.setdefault(name, []).append(row)

    def result(self) -> dict[str, Array]:
        return {name: jnp.asarray(np.stack(rows)) for name, rows in self.rows.items()}

    def readers(self, i: int) -> dict[str, np.ndarray]:
        """The parameters of layer i that read its input, by path."""
        names = (f"layers[{i}].weight", f"layers[{i}].linear")
        return {name: self.values[name] for name in names if name in self.values}

    def shifted_bias(self, i: int, name: str, shift: np.ndarray) -> dict[str, np.ndarray] | None:
        """The change of the bias that adds `shift` to what one parameter of layer i gives; None if it cannot."""
        if not np.any(shift):
            return {}
        bias = f"layers[{i}].bias"
        return {bias: shift} if name.endswith("weight") and bias in self.values else None


def _linear_mixing(space: _Tangents, i: int) -> None:
    layer = space.network.layers[i]
    k, path = layer.num_neurons, f"layers[{i}].linear"
    for s, t in itertools.product(range(layer.num_linear), repeat=2):
        # Row s gains row t; column t loses column s.
        changes = {path: np.zeros(space.values[path].shape)}
        changes[path][s] = space.values[path][t]
        for reader, array in space.readers(i + 1).items():
            changes[reader] = np.zeros(array.shape)
            changes[reader][:, k + t] = -array[:, k + s]
        space.add("linear mixing", changes)


def _scale(space: _Tangents, i: int, degree: float) -> None:
    for s in range(space.network.layers[i].num_neurons):
        changes = {}
        for path in (f"layers[{i}].weight", f"layers[{i}].bias"):
            if path in space.values:
                changes[path] = np.zeros(space.values[path].shape)
                changes[path][s] = space.values[path][s]
        for reader, array in space.readers(i + 1).items():
            changes[reader] = np.zeros(array.shape)
            changes[reader][:, s] = -degree * array[:, s]
        space.add("scale", changes)


def _incoming(space: _Tangents, i: int) -> list[tuple[str, int]]:
    """Every scalar that enters a row of layer i: (path, position in a row; -1 for the bias)."""
    columns = [(f"layers[{i}].weight", j) for j in range(space.values[f"layers[{i}].weight"].shape[1])]
    return columns + ([(f"layers[{i}].bias", -1)] if f"layers[{i}].bias" in space.values else [])


def _unit(shape: tuple[int, ...], index: tuple[int, ...], value: float = 1.0) -> np.ndarray:
    array = np.zeros(shape)
    array[index] = value
    return array


def _zero_outgoing(space: _Tangents, i: int) -> None:
    readers = space.readers(i + 1)
    layer = space.network.layers[i]
    for s in range(layer.num_neurons + layer.num_linear):
        largest = max((np.abs(reader).max(initial=0.0) for reader in readers.values()), default=0.0)
        if any(np.abs(reader[:, s]).max(initial=0.0) > _ZERO * (1.0 + largest) for reader in readers.values()):
            continue
        if s < layer.num_neurons:
            for path, j in _incoming(space, i):
                shape = space.values[path].shape
                space.add("zero outgoing", {path: _unit(shape, (s,) if j < 0 else (s, j))})
        else:
            path = f"layers[{i}].linear"
            shape = space.values[path].shape
            for j in range(shape[1]):
                space.add("zero outgoing", {path: _unit(shape, (s - layer.num_neurons, j))})


def _duplicates(space: _Tangents, i: int) -> None:
    layer, act = space.network.layers[i], space.network.activation
    rows = np.asarray(layer.weight)
    if layer.bias is not None:
        rows = np.concatenate([rows, np.asarray(layer.bias)[:, None]], axis=1)
    size = np.abs(rows).max(initial=0.0)
    for s, t in itertools.combinations(range(layer.num_neurons), 2):
        for sign in (1.0, -1.0):
            if np.abs(rows[s] - sign * rows[t]).max() > _ZERO * (1.0 + size):
                continue
            # sigma(z_s) = factor sigma(z_t) + constant
            relation = (1.0, 0.0) if sign > 0 else _reflected(act)
            if relation is not None:
                _share_out(space, i, s, t, *relation)
            break


def _reflected(act: Activation) -> tuple[float, float] | None:
    if act.parity == "even":
        return 1.0, 0.0
    return None if act.reflection is None else (-1.0, act.reflection)


def _share_out(space: _Tangents, i: int, s: int, t: int, factor: float, constant: float) -> None:
    for path, reader in space.readers(i + 1).items():
        for o in range(reader.shape[0]):
            shift = _unit((reader.shape[0],), (o,), -constant)
            bias = space.shifted_bias(i + 1, path, shift)
            if bias is not None:
                change = _unit(reader.shape, (o, s)) + _unit(reader.shape, (o, t), -factor)
                space.add("duplicate units", {path: change, **bias})


def _shared_logit(space: _Tangents) -> None:
    last = len(space.network.layers) - 1
    weight = space.values[f"layers[{last}].weight"]
    for j in range(weight.shape[1]):
        change = np.zeros(weight.shape)
        change[:, j] = 1.0
        space.add("shared logit", {f"layers[{last}].weight": change})
    if f"layers[{last}].bias" in space.values:
        space.add("shared logit", {f"layers[{last}].bias": np.ones(weight.shape[0])})


def _null_space(matrix: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the null space, as rows; columns are compared at one scale."""
    if matrix.shape[1] == 0:
        return np.zeros((0, 0))
    norms = np.linalg.norm(matrix, axis=0)
    norms = np.where(norms > 1e-13 * max(norms.max(), 1e-300), norms, 1.0)
    # The factor R first: the left singular vectors of the data themselves would be n x n.
    factor = np.linalg.qr(matrix / norms, mode="r")
    _, s, vt = np.linalg.svd(factor, full_matrices=True)
    rank = int(np.sum(s > _RANK_TOLERANCE * max(s.max(initial=0.0), 1e-300)))
    basis = vt[rank:] / norms
    return np.linalg.qr(basis.T)[0].T if len(basis) else basis


def _collinear(space: _Tangents, i: int, features: np.ndarray) -> None:
    name = "collinear inputs" if i == 0 else "collinear features"
    columns = _incoming(space, i)
    with_one = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    has_bias = len(columns) > features.shape[1]
    for direction in _null_space(with_one if has_bias else features):
        for s in range(space.network.layers[i].num_neurons):
            changes = {f"layers[{i}].weight": np.zeros(space.values[f"layers[{i}].weight"].shape)}
            changes[f"layers[{i}].weight"][s] = direction[: features.shape[1]]
            if has_bias:
                changes[f"layers[{i}].bias"] = _unit((space.network.layers[i].num_neurons,), (s,), direction[-1])
            space.add(name, changes)
    path = f"layers[{i}].linear"
    if path not in space.values:
        return
    # A linear unit has no bias: a constant that a direction gives goes to the next bias, where there is one.
    readers = space.readers(i + 1)
    for direction in _null_space(with_one):
        for s in range(space.values[path].shape[0]):
            change = np.zeros(space.values[path].shape)
            change[s] = direction[:-1]
            unit = space.network.layers[i].num_neurons + s
            _compensated(space, name, i, {path: change}, {p: direction[-1] * r[:, unit] for p, r in readers.items()})


def _compensated(space: _Tangents, name: str, i: int, changes: dict, shifts: dict[str, np.ndarray]) -> None:
    """Add a tangent of layer i whose constant effect is taken up by the bias of layer i + 1, if that is possible."""
    changes = dict(changes)
    for path, shift in shifts.items():
        bias = space.shifted_bias(i + 1, path, shift)
        if bias is None:
            return
        changes.update(bias)
    space.add(name, changes)


def _affine(space: _Tangents, i: int, features: np.ndarray) -> None:
    layer, act = space.network.layers[i], space.network.activation
    weight = np.asarray(layer.weight)
    bias = np.zeros(layer.num_neurons) if layer.bias is None else np.asarray(layer.bias)
    z = features @ weight.T + bias
    k, r = layer.num_neurons, layer.num_linear
    # Unit s gives slope_s * (w_s x + b_s) + offset_s on all data.
    units = {}
    for s in range(k):
        for segment in act.segments:
            if segment.lower < z[:, s].min() and z[:, s].max() < segment.upper and segment.slope != 0:
                units[s] = (segment.slope, segment.offset, weight[s], bias[s])
    if not units:
        return
    for s in range(r):
        assert layer.linear is not None
        units[k + s] = (1.0, 0.0, np.asarray(layer.linear)[s], 0.0)
    readers = space.readers(i + 1)
    for s, t in itertools.product(units, units):
        slope_s, *_ = units[s]
        slope_t, offset_t, w, b = units[t]
        # Row s gains unit t without its constant, column t loses column s; the constants meet in the next bias.
        own, constant = _row_change(space, i, s, slope_t / slope_s * w, slope_t / slope_s * b)
        changes = dict(own)
        for path, reader in readers.items():
            change = np.zeros(reader.shape)
            change[:, t] = -reader[:, s]
            changes[path] = change
        missing = offset_t if constant else offset_t + slope_t * b
        _compensated(space, "affine units", i, changes, {p: missing * reader[:, s] for p, reader in readers.items()})
    for s in units:
        if s < k and layer.bias is not None:
            change = {f"layers[{i}].bias": _unit((k,), (s,))}
            shifts = {p: -units[s][0] * reader[:, s] for p, reader in readers.items()}
            _compensated(space, "affine units", i, change, shifts)


def _row_change(space: _Tangents, i: int, s: int, w: np.ndarray, b: float) -> tuple[dict[str, np.ndarray], bool]:
    """The change of the incoming weights of unit s, and whether its bias could take its part."""
    layer = space.network.layers[i]
    path, row = (f"layers[{i}].weight", s) if s < layer.num_neurons else (f"layers[{i}].linear", s - layer.num_neurons)
    change = np.zeros(space.values[path].shape)
    change[row] = w
    changes = {path: change}
    has_bias = s < layer.num_neurons and layer.bias is not None
    if has_bias:
        changes[f"layers[{i}].bias"] = _unit((layer.num_neurons,), (row,), b)
    return changes, has_bias


def _unit_space(network: Dense, space: str) -> UnitSpace:
    spaces = network.unit_spaces()
    if space not in spaces:
        raise unknown_name("unit space", space, spaces)
    return spaces[space]


def _transform(network: Dense, unit_space: UnitSpace, writer: Array, reader: Array) -> Dense:
    """Multiply the units of the writers by one matrix, and those of the readers by another."""
    values = named_parameters(network)
    for axes, matrix in ((unit_space.writers, writer), (unit_space.readers, reader)):
        for axis in axes:
            block = take_units(values[axis.path], axis, unit_space.size)
            values[axis.path] = put_units(
                values[axis.path], axis, unit_space.size, jnp.einsum("st,...ti->...si", matrix, block)
            )
    return replace_parameters(network, values)


def apply_permutation(network: Dense, space: str, order: Array) -> Dense:
    """The network with the units of a space in another order; the function stays the same.

    **Arguments:**
    - `space`: such as `"hidden[0]"`. `order`: integers, the old index of each new unit.

    **Raises:** `InputError` for an unknown space or what is no permutation.
    """
    unit_space = _unit_space(network, space)
    indices = np.asarray(order)
    if sorted(indices.tolist()) != list(range(unit_space.size)):
        msg = f"order must be a permutation of 0..{unit_space.size - 1}, got {indices.tolist()}."
        raise InputError(msg)
    matrix = jnp.eye(unit_space.size, dtype=network.layers[0].weight.dtype)[indices]
    return _transform(network, unit_space, matrix, matrix)


def apply_scale(network: Dense, space: str, factors: Float[Array, " k"]) -> Dense:
    """Multiply the incoming weights of homogeneous units by positive factors, the outgoing ones by factor**-p.

    **Raises:** `InputError` for factors that are not positive, and units that are not homogeneous.
    """
    unit_space = _unit_space(network, space)
    act = unit_space.activation
    degree = 1.0 if act is None else act.degree
    if degree is None:
        msg = f"Units of {space} with activation {act.name if act else None!r} are not homogeneous: no scale gauge."
        raise InputError(msg)
    if factors.shape != (unit_space.size,) or not bool(jnp.all(factors > 0)):
        msg = f"factors must be {unit_space.size} positive numbers, got {np.asarray(factors).tolist()}."
        raise InputError(msg)
    return _transform(network, unit_space, jnp.diag(factors), jnp.diag(factors**-degree))


def apply_reflection(network: Dense, space: str, signs: Float[Array, " k"]) -> Dense:
    r"""Change the sign of the incoming weights of units; the rest makes up for it.

    Odd: the outgoing weights change sign. Even: nothing else. $\sigma(-t) = c - \sigma(t)$ (sigmoid): outgoing weights
    change sign and the next bias gains c times the old ones.

    **Raises:** `InputError` for signs other than 1 and -1, activations without such a symmetry, and constants that
    no bias can hold (linear units have none).
    """
    unit_space = _unit_space(network, space)
    act = unit_space.activation
    relation = (-1.0, 0.0) if act is None else _reflected(act)
    if relation is None:
        msg = f"Activation {act.name if act else None!r} has no symmetry: sigma(-t) is not c - sigma(t) or sigma(t)."
        raise InputError(msg)
    if signs.shape != (unit_space.size,) or not bool(jnp.all(jnp.abs(signs) == 1)):
        msg = f"signs must be {unit_space.size} numbers 1 or -1, got {np.asarray(signs).tolist()}."
        raise InputError(msg)
    factor, constant = relation
    flipped = signs < 0
    values = named_parameters(network)
    for axis in unit_space.readers:
        block = take_units(values[axis.path], axis, unit_space.size)[..., 0, :, 0]
        bias = axis.path.replace(".weight", ".bias")
        shift = constant * block @ flipped.astype(block.dtype)
        if not bool(jnp.any(shift)):
            continue
        if axis.path.endswith(".linear"):
            layer = axis.path.removesuffix(".linear")
            msg = (
                f"The linear units of {layer} have no bias to hold the constant that the reflection of {space} adds. "
                "Reflect only units that they do not read."
            )
            raise InputError(msg)
        if bias not in values:
            msg = f"The reflection of {space} needs {bias}, which the network lacks."
            raise InputError(msg)
        values[bias] = values[bias] + shift
    network = replace_parameters(network, values)
    return _transform(network, unit_space, jnp.diag(signs), jnp.diag(jnp.where(flipped, factor, 1.0)))


def apply_mixing(network: Dense, space: str, matrix: Float[Array, "r r"]) -> Dense:
    """Mix the linear units of a space by an invertible matrix M: L becomes M L, the readers A become A M^-1.

    **Raises:** `InputError` for a space of neurons and for a singular matrix.
    """
    unit_space = _unit_space(network, space)
    if unit_space.kind != "linear":
        msg = f"Only linear units mix freely; {space} has units of kind {unit_space.kind!r}."
        raise InputError(msg)
    if matrix.shape != (unit_space.size,) * 2 or np.linalg.matrix_rank(np.asarray(matrix)) < unit_space.size:
        msg = f"matrix must be invertible of shape {(unit_space.size,) * 2}, got shape {matrix.shape}."
        raise InputError(msg)
    return _transform(network, unit_space, matrix, jnp.linalg.inv(matrix).T)


def union_rank(tangents: dict[str, Float[Array, "k p"]], rtol: float = _RANK_TOLERANCE) -> int:
    """The rank of the union of named tangents: singular values of the unit rows above `rtol` times the largest."""
    if not tangents:
        return 0
    rows = np.concatenate([np.asarray(t) for t in tangents.values()])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    s = np.linalg.svd(rows, compute_uv=False)
    return int(np.sum(s > rtol * s.max(initial=0.0)))
