"""General compatible embeddings: all layers are widened at once, and critical points stay critical."""

from collections.abc import Mapping, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas.embedding._constants import require_dense
from lossatlas.embedding._record import Data, Record, make_record
from lossatlas.networks import Activation, Dense, DenseLayer


NULL = -1
"""In an index map: a null unit, which puts out a constant."""

IndexMaps = Mapping[str, Sequence[int]]


class CompatibleStep(eqx.Module):
    r"""A compatible embedding of a plain fully connected network.

    Wide weights are $W'_{ij} = \alpha_{ij} W_{I(i) I(j)} + w_{ij}$, wide biases $b'_i = b_{I(i)} + s_i$.

    - `units`: the index map I of every layer, the inputs first; -1 for null units.
    - `factors`: $\alpha$ of every layer, 0 where a unit is null; `added`: w, 0 where both units are effective.
    - `shifts`: s. `shares`: $\beta$ of every layer, the inputs first; 0 for null units.
    - `constants`: what null units put out, the inputs first; 0 for the others.
    """

    units: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    factors: tuple[Float[Array, "_ _"], ...]
    added: tuple[Float[Array, "_ _"], ...]
    shifts: tuple[Float[Array, " _"], ...]
    shares: tuple[Float[Array, " _"], ...]
    constants: tuple[Float[Array, " _"], ...]
    note: str = eqx.field(static=True, default="")

    @eqx.filter_jit
    def apply(self, network: Dense) -> Dense:
        """The wide network."""
        self._check([layer.weight.shape[0] for layer in network.layers], narrow=True)
        layers = []
        for i, layer in enumerate(network.layers):
            rows, columns = self._effective(i + 1), self._effective(i)
            weight = layer.weight[jnp.ix_(rows, columns)] * self.factors[i] + self.added[i]
            bias = jnp.where(self._is_null(i + 1), 0.0, _bias(layer)[rows]) + self.shifts[i]
            layers.append(DenseLayer(weight, bias))
        return Dense.from_layers(layers, network.activation)

    def apply_gradient(self, network: Dense, gradient: Dense) -> Dense:
        """B: the gradient at the wide point from the gradient at the narrow one."""
        del network
        layers = []
        for i, layer in enumerate(gradient.layers):
            rows, columns = self._effective(i + 1), self._effective(i)
            bias = self.shares[i + 1] * _bias(layer)[rows]
            read = jnp.where(self._is_null(i)[None], 0.0, layer.weight[jnp.ix_(rows, columns)])
            weight = self.shares[i + 1][:, None] * read + bias[:, None] * self.constants[i][None]
            layers.append(DenseLayer(weight, bias))
        return Dense.from_layers(layers, gradient.activation)

    def apply_inverse(self, network: Dense) -> Dense:
        r"""$B^\top$: the narrow network of a wide one; the inverse on the range of the map."""
        self._check([layer.weight.shape[0] for layer in network.layers], narrow=False)
        layers = []
        for i, layer in enumerate(network.layers):
            rows, columns = self._members(i + 1), self._members(i)
            shared = rows * self.shares[i + 1][None]
            weight = shared @ layer.weight @ columns.T
            layers.append(DenseLayer(weight, shared @ (_bias(layer) + layer.weight @ self.constants[i])))
        return Dense.from_layers(layers, network.activation)

    def _effective(self, layer: int) -> np.ndarray:
        return np.maximum(np.array(self.units[layer]), 0)

    def _is_null(self, layer: int) -> np.ndarray:
        return np.array(self.units[layer]) == NULL

    def _members(self, layer: int) -> Float[Array, "narrow wide"]:
        """Row k marks the copies of unit k."""
        units = np.array(self.units[layer])
        return jnp.asarray(np.arange(units.max() + 1)[:, None] == units, float)

    def _check(self, sizes: list[int], *, narrow: bool) -> None:
        wanted = [max(units) + 1 if narrow else len(units) for units in self.units[1:]]
        if sizes != wanted:
            msg = f"This embedding is for layers of {wanted} units, got {sizes}."
            raise InputError(msg)


def _bias(layer: DenseLayer) -> Float[Array, " k"]:
    assert layer.bias is not None  # seen to before the step was made
    return layer.bias


def compatible_embedding(
    key: PRNGKeyArray,
    network: Dense,
    units: IndexMaps,
    *,
    shares: Literal["equal", "random"] = "equal",
    spread: float | int = 0.5,
    landscape: Data = None,
) -> tuple[Dense, Record]:
    r"""Draw a member of the general compatible embeddings: all layers are widened at once.

    Every wide unit is a copy of a narrow one or null (constant). Copy i of unit k has a share $\beta_i$ of its error,
    $\sum_i \beta_i = 1$; the weights between the copies of k and those of s are
    $(1 \beta_G^\top + N) W_{ks}$ with any N that obeys $N 1 = 0$ and $\beta_R^\top N = 0$. Outputs stay for all
    inputs, and $\nabla_{wide} = B \nabla_{narrow}$ at every point. Null units may have outgoing weights where what
    reads them is split too; biases take up their constants.

    **Arguments:**
    - `key`: of N, of random shares, and of null units.
    - `network`: fully connected with biases, without linear units.
    - `units`: by space, for each wide unit the narrow one that it copies, or -1 for a null unit, as in
      `{"hidden[0]": [0, 1, 1, -1]}`. Spaces that are not named stay.
    - `shares`: `"equal"` within the copies of a unit, or `"random"` ones that sum to one.
    - `spread`: standard deviation of the entries of N before projection, and of null units.
    - `landscape`: as for [`lossatlas.embedding.split`][].

    **Returns:** the wide network and its record. Cost: the size of the wide network.

    **Raises:** `InputError` for unknown spaces, index maps that leave out a unit or name one that is not there, linear
    units, and layers without bias.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Theorem 5.1; that N as above gives all members is derived here.
    """
    dense = require_dense(network, "compatible_embedding")
    if shares not in ("equal", "random"):
        raise unknown_name("shares", shares, ("equal", "random"))
    if not 0 <= spread < np.inf:
        msg = f"spread must be finite and not negative, got {spread}."
        raise InputError(msg)
    maps = index_maps(dense, units)
    step = _member(key, dense, maps, shares, float(spread))
    return make_record(dense, (step,), landscape, None)


class Freedom(eqx.Module):
    r"""What is free in a member of the compatible embeddings, as they are drawn: shares, blocks, null biases.

    Projections make any such numbers a member, so this is a map from a plain vector space onto the family.

    - `shares`: of every layer, before they are made to sum to one within the copies of a unit.
    - `noise`: N and the weights of null units of every layer, before projection. `null_biases`: of every layer.
    """

    shares: tuple[Float[Array, " _"], ...]
    noise: tuple[Float[Array, "_ _"], ...]
    null_biases: tuple[Float[Array, " _"], ...]

    def step(self, maps: tuple[tuple[int, ...], ...], activation: Activation, note: str = "") -> CompatibleStep:
        """The member."""
        layouts = [_layout(units) for units in maps]
        betas = [_to_shares(values, members) for values, (members, _) in zip(self.shares, layouts, strict=True)]
        biases = [jnp.where(null, b, 0.0) for b, (_, null) in zip(self.null_biases, layouts, strict=True)]
        constants = [jnp.where(null, activation(b), 0.0) for b, (_, null) in zip(biases, layouts, strict=True)]
        factors, added, shifts = [], [], []
        for i, noise in enumerate(self.noise):
            factor, weight = _blocks(layouts[i + 1], layouts[i], betas[i + 1], betas[i], noise)
            factors.append(factor)
            added.append(weight)
            shifts.append(biases[i + 1] - weight @ constants[i])
        return CompatibleStep(maps, tuple(factors), tuple(added), tuple(shifts), tuple(betas), tuple(constants), note)


def draw_freedom(key: PRNGKeyArray, maps: tuple[tuple[int, ...], ...], shares: str, spread: float) -> Freedom:
    """Random numbers for a member."""
    keys = jax.random.split(key, 3 * len(maps))
    sizes = [len(units) for units in maps]
    scale = 1.0 if shares == "random" else 0.0
    return Freedom(
        tuple(scale * jax.random.normal(keys[3 * i], (m,)) for i, m in enumerate(sizes)),
        tuple(
            spread * jax.random.normal(keys[3 * i + 2], (q, m))
            for i, (m, q) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        ),
        tuple(spread * jax.random.normal(keys[3 * i + 1], (m,)) for i, m in enumerate(sizes)),
    )


def _member(key: PRNGKeyArray, network: Dense, maps, shares: str, spread: float) -> CompatibleStep:
    note = f"compatible embedding with {shares} shares"
    return draw_freedom(key, maps, shares, spread).step(maps, network.activation, note)


def index_maps(network: Dense, units: IndexMaps) -> tuple[tuple[int, ...], ...]:
    """The index map of every layer, the inputs first; checked."""
    if any(network.num_linear) or any(layer.bias is None for layer in network.layers):
        msg = "A compatible embedding needs a network with biases and without linear units."
        raise InputError(msg)
    if not isinstance(units, Mapping) or any(isinstance(wanted, int) for wanted in units.values()):
        msg = "units must say for every space which unit each wide one copies, like {'hidden[0]': [0, 1, 1, -1]}."
        raise InputError(msg)
    widths = network.widths
    maps = [tuple(range(width)) for width in widths]
    for name, wanted in units.items():
        known = [f"hidden[{i}]" for i in range(len(widths) - 2)]
        if name not in known:
            msg = f"units may name {', '.join(known)}, got {name!r}; inputs and outputs stay as they are."
            raise InputError(msg)
        layer = known.index(name) + 1
        given = tuple(int(u) for u in wanted)
        if set(given) - {NULL} != set(range(widths[layer])):
            msg = (
                f"The index map of {name} must hold each of 0..{widths[layer] - 1} at least once, and else only "
                f"{NULL} for null units; got {list(given)}."
            )
            raise InputError(msg)
        maps[layer] = given
    return tuple(maps)


def _layout(units: tuple[int, ...]) -> tuple[Float[np.ndarray, "narrow wide"], np.ndarray]:
    """Row k marks the copies of unit k; and which units are null."""
    index = np.array(units)
    return (np.arange(index.max() + 1)[:, None] == index).astype(float), index == NULL


def _to_shares(values: Float[Array, " wide"], members: Float[np.ndarray, "narrow wide"]) -> Float[Array, " wide"]:
    """Shares that sum to one within the copies of each unit, moved equally; 0 for null units."""
    missing = (1 - members @ values) / members.sum(axis=1)
    return members.sum(axis=0) * values + members.T @ missing


def _blocks(rows, columns, row_shares: Array, column_shares: Array, noise: Array) -> tuple[Array, Array]:
    """Factors of the narrow weights, and weights from and to null units, of one layer."""
    (row_members, null_rows), (column_members, null_columns) = rows, columns
    # What a unit reads of the copies of another sums to zero: subtract the mean within the copies.
    means = (noise @ column_members.T) / column_members.sum(axis=1)[None]
    noise = noise - means @ column_members
    # What the copies of a unit read, weighted by their shares, is zero: project along the shares.
    weighted = row_members * row_shares[None]
    along = (weighted @ noise) / (weighted @ row_shares)[:, None]
    noise = noise - row_shares[:, None] * (row_members.T @ along)
    both = ~null_rows[:, None] & ~null_columns[None]
    return jnp.where(both, column_shares[None] + noise, 0.0), jnp.where(both, 0.0, noise)
