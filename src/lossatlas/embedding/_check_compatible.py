"""Is a wide network a compatible embedding of a narrow one, and if not, which condition fails first?"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._compatible import NULL, IndexMaps, index_maps
from lossatlas.embedding._constants import require_dense


@shown
class CompatibleVerdict(eqx.Module):
    r"""Whether a wide network is a compatible embedding of a narrow one.

    - `is_compatible`: whether every condition holds.
    - `violation`: the first condition that fails, with the layer and the units; None when all hold.
    - `shares`: $\beta$ of the units of every layer, the inputs first, as the backward conditions give them.
    - `defect`: by how much the condition fails; the largest defect of all where none does.
    """

    is_compatible: bool = eqx.field(static=True)
    violation: str | None = eqx.field(static=True)
    shares: tuple[Float[np.ndarray, " _"], ...]
    defect: float

    def __str__(self) -> str:
        return "a compatible embedding" if self.violation is None else f"no compatible embedding: {self.violation}"


def check_compatible(network: Network, wide: Network, units: IndexMaps, *, atol: float = 1e-10) -> CompatibleVerdict:
    r"""Judge an expansion that somebody else made, by the conditions that keep critical points critical.

    With $W'$ the wide weights, G the copies of unit s below and R those of unit k above: *forward*, for every copy i of
    k, $\sum_{j \in G} W'_{ij} = W_{ks}$ (0 for null i): this keeps the function. *Backward*, for every copy j of s,
    $\sum_{i \in R} \beta_i W'_{ij} = \beta_j W_{ks}$ (0 for null j): this keeps critical points. *Biases*: they
    make up for what null units put out. The shares $\beta$ follow from the readout, where they are 1, downwards.

    **Arguments:**
    - `network`, `wide`: both fully connected with biases, without linear units.
    - `units`: for each wide unit the narrow one that it copies, as for
      [`lossatlas.embedding.compatible_embedding`][].
    - `atol`: by how much a condition may fail, in units of the largest weight of its layer.

    **Returns:** A [`lossatlas.embedding.CompatibleVerdict`][]. Cost: a few passes over the weights. Maps of other
    architectures are judged by [`lossatlas.embedding.validate_map`][], which needs no index map.

    **Raises:** `InputError` for other architectures, index maps that do not fit, and other activations.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Definition 5.1; the recovery of the shares is our own.
    """
    narrow, large = require_dense(network, "check_compatible"), require_dense(wide, "check_compatible")
    maps = index_maps(narrow, units)
    sizes = tuple(len(m) for m in maps)
    if large.widths != sizes or any(large.num_linear) or any(layer.bias is None for layer in large.layers):
        msg = f"The wide network must have the widths {sizes} of the index maps, biases and no linear units."
        raise InputError(msg)
    if large.activation.name != narrow.activation.name:
        msg = f"The networks must share their activation, got {narrow.activation.name} and {large.activation.name}."
        raise InputError(msg)
    found: list[tuple[str, float]] = []
    shares, constants = _backward(narrow, large, maps, found), _null_outputs(large, maps)
    checks = _forward(narrow, large, maps, constants) + found[::-1]
    worst = max(defect for _, defect in checks)
    failed = next(((name, defect) for name, defect in checks if not defect <= atol), None)
    if failed is None:
        return CompatibleVerdict(True, None, shares, worst)
    return CompatibleVerdict(False, f"{failed[0]} fails by {failed[1]:.1e}", shares, failed[1])


def _members(units: tuple[int, ...]) -> np.ndarray:
    index = np.array(units)
    return (np.arange(index.max() + 1)[:, None] == index).astype(float)


def _scale(*arrays: np.ndarray) -> float:
    return max(1e-300, *(float(np.abs(a).max(initial=0.0)) for a in arrays))


def _forward(narrow, large, maps, constants) -> list[tuple[str, float]]:
    """Forward and bias conditions of every layer, from the inputs."""
    checks = []
    for i, (small, big) in enumerate(zip(narrow.layers, large.layers, strict=True)):
        weight, wide = np.asarray(small.weight, float), np.asarray(big.weight, float)
        rows, columns = np.array(maps[i + 1]), _members(maps[i])
        effective = rows != NULL
        read = wide @ columns.T  # of each narrow unit below, by each wide unit
        wanted = np.where(effective[:, None], weight[np.maximum(rows, 0)], 0.0)
        checks.append(_worst("forward", i, np.abs(read - wanted) / _scale(weight), maps[i + 1], None))
        bias, wide_bias = np.asarray(small.bias, float), np.asarray(big.bias, float)
        received = wide_bias + wide @ constants[i]
        missing = np.where(effective, np.abs(received - bias[np.maximum(rows, 0)]), 0.0) / _scale(weight, bias)
        checks.append(_worst("bias", i, missing[:, None], maps[i + 1], None))
    return checks


def _null_outputs(large, maps) -> list[np.ndarray]:
    """What the null units of every layer put out, the inputs first; 0 for the others."""
    constants = [np.zeros(len(maps[0]))]
    for i, layer in enumerate(large.layers):
        received = np.asarray(layer.bias, float) + np.asarray(layer.weight, float) @ constants[-1]
        output = np.asarray(large.activation(jnp.asarray(received)))
        constants.append(np.where(np.array(maps[i + 1]) == NULL, output, 0.0))
    return constants


def _backward(narrow, large, maps, found: list[tuple[str, float]]) -> tuple[np.ndarray, ...]:
    """The shares of every layer by least squares from the readout down, and how far each condition fails."""
    shares = [np.ones(len(maps[-1]))]
    for i in range(len(narrow.layers) - 1, -1, -1):
        weight, wide = np.asarray(narrow.layers[i].weight, float), np.asarray(large.layers[i].weight, float)
        columns = np.array(maps[i])
        received = _members(maps[i + 1]) @ (shares[0][:, None] * wide)  # by each narrow unit above, of each wide one
        copied = np.where(columns == NULL, 0.0, weight[:, np.maximum(columns, 0)])
        norms = np.sum(copied**2, axis=0)
        # A unit that nothing reads has any share: equal ones.
        alone = 1 / np.maximum(_members(maps[i]).sum(axis=1), 1)[np.maximum(columns, 0)]
        beta = np.where(norms > 0, np.sum(copied * received, axis=0) / np.where(norms > 0, norms, 1.0), alone)
        beta = np.where(columns == NULL, 0.0, beta)
        defect = np.abs(received - beta * copied) / _scale(weight)
        # Inputs are no copies, so their shares are 1 where the gradient of the next layer is kept whole.
        found.append(_worst("backward", i, defect.T, maps[i], maps[i + 1]))
        sums = np.abs(_members(maps[i]) @ beta - 1)
        found.append((f"the sum of the shares of {_layer_name(i)}, unit {int(sums.argmax())}", float(sums.max())))
        shares.insert(0, beta)
    return tuple(shares)


def _layer_name(i: int) -> str:
    return "the inputs" if i == 0 else f"hidden[{i - 1}]"


def _worst(kind: str, i: int, defects: np.ndarray, units, above) -> tuple[str, float]:
    """The condition with its largest defect; `defects` has a row for each unit of `units`."""
    row, column = np.unravel_index(int(np.argmax(defects)), defects.shape)
    unit = units[row]
    who = f"wide unit {row} ({'null' if unit == NULL else f'a copy of unit {unit}'})"
    if above is None:
        return f"the {kind} condition of layers[{i}], {who}", float(defects.max())
    return f"the {kind} condition of layers[{i}], {who} read by unit {column}", float(defects.max())
