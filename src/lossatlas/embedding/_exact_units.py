"""The exact class of reduction for any architecture with unit spaces: constants, unread units, copies."""

import dataclasses

import numpy as np
from jaxtyping import Array

from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.embedding._alignment import can_reflect, degree_of
from lossatlas.embedding._condensed import copies, merge_maps
from lossatlas.embedding._unit_map import ShiftReaders, UnitMap, reader_biases_hold, reader_norms
from lossatlas.geometry import unit_outputs
from lossatlas.networks import Activation, UnitSpace, take_units


_ROUNDING = 1e-13
_PLAIN = Activation("identity", lambda x: x)  # units without a symmetry: only equal ones are copies

Plan = tuple[ShiftReaders | UnitMap, ...]


def merge_units(network: Network, inputs: Array) -> tuple[Network, Plan]:
    """Remove units that are constant on the data or that nothing reads, and merge copies, until nothing changes.

    What is left has the outputs of the network on the data to rounding, and is critical where the network is. One
    unit stays in every space.

    **Arguments:**
    - `network`: with unit spaces. `inputs`: shape (n, ...).

    **Returns:** the smaller network and its steps.
    """
    plan: Plan = ()
    while True:
        steps = _folded(network, inputs) or _merged(network)
        if not steps:
            return network, plan
        for step in steps:
            network = step.apply(network)
        plan += steps


def _open(network: Network) -> list[UnitSpace]:
    spaces = network.unit_spaces().values()
    return [space for space in spaces if space.size > 1 and space.closed is None and space.shares == "any"]


def _folded(network: Network, inputs: Array) -> Plan:
    """Drop the constant and unread units of the first space that has some."""
    seen = unit_outputs(network, inputs)
    for space in _open(network):
        unread = reader_norms(network, space) == 0
        constant, values = np.zeros(space.size, bool), np.zeros(space.size)
        if space.name in seen:
            flat = seen[space.name].reshape(-1, space.size).astype(float)
            values = flat.mean(0)
            constant = np.ptp(flat, axis=0) <= _ROUNDING * np.maximum(np.abs(flat).max(0), 1.0)
        holds = reader_biases_hold(network, space)
        gone = unread | (constant & (holds | (np.abs(values) <= _ROUNDING)))
        gone[np.argmin(gone)] = False  # one stays; the first of those that must, where some must
        if not gone.any():
            continue
        keep = np.eye(space.size)[~gone]
        note = f"{gone.sum()} constant or unread units of {space.size} folded into biases"
        drop = UnitMap(space.name, keep, keep, note=note)
        return (ShiftReaders(space.name, np.where(gone, values, 0.0)), drop) if holds else (drop,)
    return ()


def _merged(network: Network) -> Plan:
    """Merge the copies of the first space that has some."""
    arrays = named_arrays(network)
    for space in _open(network):
        rows = [np.asarray(take_units(arrays[axis.path], axis, space.size), float) for axis in space.writers]
        vectors = np.concatenate([np.moveaxis(row, -2, 0).reshape(space.size, -1) for row in rows], axis=1)
        act = unit_symmetries(network, space)
        leaders, factors = copies(vectors, act, _ROUNDING)
        groups = len(np.unique(leaders))
        if groups == space.size:
            continue
        writers, readers, _ = merge_maps(leaders, factors, reader_norms(network, space), act)
        return (UnitMap(space.name, writers, readers, note=f"{space.size} units merged into {groups}"),)
    return ()


def unit_symmetries(network: Network, space: UnitSpace) -> Activation:
    """The activation with those symmetries only that the architecture leaves to single units."""
    act, has_scale, has_sign = space.activation, degree_of(space) is not None, can_reflect(network, space)
    if act is not None and act.parity == "even":  # the sign does not reach the readers
        has_sign = not space.is_normalised and space.kind in ("neuron", "channel")
    if act is None or not (has_scale or has_sign):
        return _PLAIN
    if not has_scale:
        act = dataclasses.replace(act, degree=None)
    return act if has_sign else dataclasses.replace(act, parity="none", reflection=None)
