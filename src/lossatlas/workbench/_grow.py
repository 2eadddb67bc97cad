"""Grow a model, in width and in depth, without losing what it says."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.networks import Activation, Conv, Dense, HasUnitSpaces, Residual, Transformer
from lossatlas.workbench._data import Examples, read_examples
from lossatlas.workbench._model import Model
from lossatlas.workbench._units import with_unit_spaces


if TYPE_CHECKING:
    from lossatlas.embedding import MapCertificate, Record
    from lossatlas.landscape import Landscape


@shown
@dataclasses.dataclass(frozen=True)
class Grown:
    """A model made larger.

    - `model`: the large one. `records`: how it was made, in order; each has a certificate where there was data.
    - `on_all_inputs`: whether its outputs are those of the small one for all inputs (new units), or on these rows and
      near them (new layers).
    - `change`: the largest change of an output on the rows given, in the user's units; None without data.
    - `part`: the relative noise that parts copies, 0 without.
    - `gradient_before`, `gradient_after`: largest entry of the gradient of the mean loss; None without targets.
    - `rows`, `loss`: how many rows were given, and the loss of these gradients; None without.
    - `caution`: why critical points may not stay critical, or what is only nearly kept; None when the theorem holds.
    """

    model: Model
    records: tuple["Record", ...]
    on_all_inputs: bool
    change: float | None = None
    part: float = 0.0
    gradient_before: float | None = None
    gradient_after: float | None = None
    rows: int | None = None
    loss: str | None = None
    caution: str | None = None


def grow(
    model: Model,
    widths: Mapping[str, int] | Sequence[int] | None = None,
    *,
    depth: int | None = None,
    data: Any = None,
    before: Sequence[int] | None = None,
    part: float = 0.0,
    seed: int = 0,
    target: str | None = None,
) -> Grown:
    """Make a model larger: what it says stays, and critical points stay critical; train it from there.

    Layers come first, then units. New units are copies that share what reads them (see [`lossatlas.embedding.widen`][];
    [`lossatlas.embedding.replicate`][] where a normalisation acts on the whole space), for all inputs. A new layer acts
    linearly on the data, or adds nothing to a residual stream (see [`lossatlas.embedding.deepen`][]): exactly for
    activations with an affine piece such as relu, nearly for the others such as tanh; `change` says how nearly. Float64
    whatever the global setting.

    **Arguments:**
    - `model`: from [`lossatlas.load`][].
    - `widths`: new neurons of each hidden layer, from the inputs, or new sizes by unit space:
      `{"hidden[0]": 40, "channels[1]": 16}`.
    - `depth`: how many hidden layers, convolutions or blocks it shall have in the end.
    - `data`: raw rows like those that it will see, as for [`lossatlas.workbench.read_examples`][]; a new layer needs
      them, new units are certified on them.
    - `before`: for each new layer the index of the layer that will read it, 0 (right after the inputs) to the output
      layer, in the network as it is then; default all right before the output layer.
    - `part`: relative noise on the copies of units ([`lossatlas.embedding.part_copies`][]), since equal copies stay
      equal in training up to rounding; outputs then change in second order of it. Default none.
    - `seed`: of the new layers and of the noise.
    - `target`: the column of the targets in the data.

    **Returns:** A [`lossatlas.workbench.Grown`][].

    Unit spaces of a foreign module are discovered, which takes an example: `data` is then needed.

    **Raises:** `InputError` for neither widths nor depth, sizes below the present ones, unknown unit spaces, a depth
    without data, places that do not exist, networks that cannot be made deeper, and a `part` that is negative or
    without widths.
    """
    if widths is None and depth is None:
        msg = "Say how to grow: widths (--widths 60,60), depth (--depth 3), or both."
        raise InputError(msg)
    if depth is not None and data is None:
        msg = "A new layer acts linearly on the data, so depth (--depth) needs data (--data)."
        raise InputError(msg)
    if before is not None and depth is None:
        msg = "before (--before) says where new layers go, so it needs depth (--depth)."
        raise InputError(msg)
    if not 0 <= part < np.inf or (part and widths is None):
        msg = f"part (--part) is the relative noise on copies of units, at least 0, and needs widths; got {part}."
        raise InputError(msg)
    examples = None if data is None else read_examples(model, data, target=target)
    records: list[Record] = []
    with jax.enable_x64(True):
        points = _points(examples)
        network = _with_units(model.network, examples)
        if depth is not None:
            network, made = _deepen(jax.random.key(seed), network, points, depth, before)
            records += made
        on_all_inputs, parted = not (records or part), ()
        if widths is not None:
            network, made = _widen(network, points, widths)
            records += made
            if part:
                network, parted = _part(jax.random.key(seed), network, made, points, part)
        change = None if examples is None else model.output_unit * _change(model.network, network, examples.inputs)
    large = dataclasses.replace(model, network=network)
    certificates = [*(record.certificate for record in records), *parted]
    cautions = [record.caution for record in records if record.caution]
    if part:
        cautions.append(f"Noise of {part:g} on the copies: critical points do not stay critical.")
    return Grown(
        model=dataclasses.replace(large, summary=f"{model.summary}; grown: {model.shape} -> {large.shape}"),
        records=tuple(records),
        on_all_inputs=on_all_inputs,
        change=change,
        part=part,
        gradient_before=certificates[0].gradient_before if certificates else None,
        gradient_after=certificates[-1].gradient_after if certificates else None,
        rows=None if examples is None else len(examples.inputs),
        loss=None if examples is None or examples.targets is None else examples.loss,
        caution=" ".join(dict.fromkeys(cautions)) or None,
    )


def _with_units(network: Network, examples: Examples | None) -> Network:
    """The network with its unit spaces, discovered on the first example where it states none."""
    if isinstance(network, HasUnitSpaces):
        return network
    if examples is None:
        msg = "The units of this module are found on an example: give rows that it reads as data (--data)."
        raise InputError(msg)
    return with_unit_spaces(network, examples.inputs[0])


def _points(examples: Examples | None) -> "Landscape | Array | None":
    if examples is None:
        return None
    landscape = examples.landscape()
    return jnp.asarray(examples.inputs) if landscape is None else landscape


def _widen(network: Network, points: Any, widths: Mapping[str, int] | Sequence[int]) -> tuple[Network, list["Record"]]:
    """New units; a space that is normalised as a whole is copied as a whole."""
    from lossatlas.embedding import replicate, widen

    records, sizes = [], widths
    if isinstance(widths, Mapping) and isinstance(network, HasUnitSpaces):
        spaces = network.unit_spaces()
        whole = {name: size for name, size in widths.items() if name in spaces and spaces[name].shares == "equal"}
        sizes = {name: size for name, size in widths.items() if name not in whole}
        for name, size in whole.items():
            times, rest = divmod(size, spaces[name].size)
            if rest or times < 1:
                msg = (
                    f"{name} is normalised as a whole, so all its {spaces[name].size} units are copied equally often: "
                    f"give a multiple of {spaces[name].size}, got {size}."
                )
                raise InputError(msg)
            if times > 1:
                network, record = replicate(network, name, times, landscape=points)
                records.append(record)
    if sizes:
        network, record = widen(network, sizes, landscape=points)
        records.append(record)
    return network, records


def _part(
    key: PRNGKeyArray, network: Network, records: Sequence["Record"], points: Any, noise: float
) -> tuple[Network, tuple["MapCertificate", ...]]:
    """Noise on the copies that each map has made."""
    from lossatlas.embedding import part_copies

    certificates = []
    for i, record in enumerate(records):
        network, certificate = part_copies(jax.random.fold_in(key, i), network, record, noise=noise, landscape=points)
        certificates.append(certificate)
    return network, tuple(certificates)


def _deepen(
    key: PRNGKeyArray, network: Network, points: Any, depth: int, before: Sequence[int] | None
) -> tuple[Network, list["Record"]]:
    """New layers or blocks, each before the one that is named."""
    from lossatlas.embedding import deepen

    present = _depth(network)
    if depth < present:
        msg = f"The network has depth {present} and cannot be grown to {depth}; use shrink."
        raise InputError(msg)
    if before is not None and len(before) != depth - present:
        msg = f"before (--before) must name a place for each of the {depth - present} new layers, got {list(before)}."
        raise InputError(msg)
    activation: Activation = network.activation
    is_exact = any(segment.slope != 0 for segment in activation.segments)
    records = []
    for i in range(depth - present):
        place = None if before is None else before[i]
        step_key = jax.random.fold_in(key, i)
        network, record = deepen(network, points, key=step_key, before=place, exact=is_exact)
        records.append(record)
    return network, records


def _depth(network: Network) -> int:
    """Hidden layers of a fully connected network, convolutions of a convolutional one, blocks of the others."""
    if isinstance(network, Dense):
        return len(network.layers) - 1
    if isinstance(network, Conv):
        return len(network.convs)
    if isinstance(network, Residual | Transformer):
        return len(network.blocks)
    msg = f"Only Dense, Conv, Residual and Transformer can be made deeper, got a {type(network).__name__}."
    raise InputError(msg)


def _change(first: Network, second: Network, inputs: np.ndarray) -> float:
    outputs = [np.asarray(jax.jit(jax.vmap(network))(jnp.asarray(inputs))) for network in (first, second)]
    return float(np.abs(outputs[0] - outputs[1]).max())
