"""Walk on the set of lifts of one network: the same outputs on the data, another deep network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas.embedding._constants import LayerArrays, require_dense
from lossatlas.embedding._layer_steps import merge_defect
from lossatlas.embedding._lift import LiftStep
from lossatlas.embedding._record import Data, Record, inputs_of, make_record
from lossatlas.embedding._segments import Piece, lines, place
from lossatlas.networks import Dense


def walk_lift(
    key: PRNGKeyArray, record: Record, landscape: Data, *, size: float | int = 0.5, margin: float = 0.3
) -> tuple[Dense, Record]:
    r"""Move to another member of the lifted manifold: outputs on the data stay, critical points stay critical.

    The inserted layer is mixed by an invertible P near the identity, $(V, U) \to (P V, U \Lambda P^{-1} \Lambda^{-1})$,
    its rows are scaled to fit the segment, and b' is drawn anew in the box that keeps every example inside. Since that
    box is convex, all the way between two members (V, b') stays inside the segment too.

    **Arguments:**
    - `key`: of P and b'.
    - `record`: of a lift with biases, [`lossatlas.embedding.lift`][], or of an earlier walk.
    - `landscape`: the data of the lift.
    - `size`: of the step: P is the identity plus this times a matrix of norm about 1.
    - `margin`: as for `lift`.

    **Returns:** the moved deep network and its record, from the same shallow network. Cost: a pass over the data.

    **Raises:** `InputError` for other records, lifts without biases, and steps that are not positive.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283 (the lifted set); the walk is derived from
        $R_{deep} = R_{shallow} \circ \Phi$.
    """
    step = record.plan[0] if len(record.plan) == 1 else None
    if not isinstance(step, LiftStep):
        msg = "walk_lift needs the record of one lossatlas.embedding.lift of a Dense network."
        raise InputError(msg)
    if step.bias is None:
        msg = "A lift without biases has no box to walk in; lift again with another key instead."
        raise InputError(msg)
    if not (np.isfinite(size) and size > 0) or not 0 < margin < 1:
        msg = f"size must be positive and margin in (0, 1), got {size} and {margin}."
        raise InputError(msg)
    inputs = inputs_of(landscape, "walk_lift")
    dense = require_dense(record.start, "walk_lift")
    features = np.asarray(jax.vmap(lambda x: dense.features(x)[step.layer])(inputs))
    lower, upper = (float(end) for end in step.segment)
    piece = Piece(lower, upper, step.is_exact)
    slope, width = np.asarray(step.slope), len(step.slope)
    noise = np.asarray(jax.random.normal(jax.random.fold_in(key, 2), (width, width), float)) / (2 * np.sqrt(width))
    mixed = np.eye(width) + size * noise
    weight, bias, scales = place(mixed @ np.asarray(step.weight), features, piece, margin, key, common=False)
    readers = np.asarray(step.readers) * slope @ np.linalg.inv(mixed) / scales
    pre = features @ weight.T + bias
    new_slope, offset = lines(dense.activation, pre, piece)
    readers = readers / new_slope
    moved = dataclasses.replace(
        step,
        weight=jnp.asarray(weight),
        bias=jnp.asarray(bias),
        readers=jnp.asarray(readers),
        slope=jnp.asarray(new_slope),
        offset=jnp.asarray(offset),
        margin=jnp.asarray(np.minimum(pre - lower, upper - pre).min()),
        defect=merge_defect(LayerArrays(weight, bias, None), LayerArrays(readers, None, None), new_slope),
        note=f"{step.note.removesuffix(', moved')}, moved",
    )
    return make_record(dense, (moved,), landscape, record.caution)
