"""Make a network deeper by the map that fits its architecture."""

import jax
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._lift import lift
from lossatlas.embedding._lift_block import lift_block
from lossatlas.embedding._lift_convolution import lift_convolution
from lossatlas.embedding._null_block import add_null_block
from lossatlas.embedding._record import Data, Record, make_record
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Residual, Transformer


def deepen(
    network: Network,
    landscape: Data,
    num_layers: int = 1,
    *,
    key: PRNGKeyArray,
    before: int | None = None,
    exact: bool = True,
    extent: float = 0.1,
) -> tuple[Network, Record]:
    r"""Insert layers or blocks that change nothing on the data: critical points stay critical.

    Fully connected networks get hidden layers, as wide as what enters them, that act linearly on the data
    ([`lossatlas.embedding.lift`][]); convolutional ones 1 x 1 convolutions
    ([`lossatlas.embedding.lift_convolution`][]); plain residual networks with a piecewise linear activation linear
    blocks ([`lossatlas.embedding.lift_block`][]); other residual networks and transformers blocks that put out zero
    ([`lossatlas.embedding.add_null_block`][]), and these keep outputs for all inputs.

    **Arguments:**
    - `network`: a `Dense`, `Conv`, `Residual` or `Transformer`.
    - `landscape`: a `Landscape` or inputs; lifts depend on all of them.
    - `num_layers`: how many layers or blocks.
    - `key`: of random factors.
    - `before`: the layer or block that will read the first new one; default the last place.
    - `exact`, `extent`: as for `lift`: False lets activations without affine piece through, at a change of the outputs.

    **Returns:** the deeper network and its record, one step for each layer; `record.caution` says when critical points
    do not stay critical.

    **Raises:** `InputError` for other architectures, and as the maps named above do.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283.
    """
    if num_layers < 1:
        msg = f"num_layers must be at least 1, got {num_layers}."
        raise InputError(msg)
    if not isinstance(network, Dense | Conv | Residual | Transformer):
        msg = f"deepen knows Dense, Conv, Residual and Transformer, got {type(network).__name__}."
        raise InputError(msg)
    data = landscape.inputs if isinstance(landscape, Landscape) else landscape  # certified once, at the end
    plan, cautions, point = [], [], network
    for i in range(num_layers):
        step_key = jax.random.fold_in(key, i)
        if isinstance(point, Dense):
            place = len(point.layers) - 1 if before is None else before
            entering = point.layers[place].weight.shape[1] if 0 <= place < len(point.layers) else 1
            point, record = lift(point, data, place, entering, key=step_key, exact=exact, extent=extent)
        elif isinstance(point, Conv):
            point, record = lift_convolution(point, data, before, key=step_key, exact=exact, extent=extent)
        elif _is_lifted(point, before):
            point, record = lift_block(point, data, key=step_key, exact=exact, extent=extent)
        else:
            point, record = add_null_block(point, before, key=step_key)
        plan += record.plan
        cautions += [record.caution] * (record.caution is not None and record.caution not in cautions)
    return make_record(network, tuple(plan), landscape, " ".join(cautions) or None)


def _is_lifted(network: Residual | Transformer, before: int | None) -> bool:
    if not isinstance(network, Residual) or before not in (None, len(network.blocks)):
        return False
    is_plain = all(block.outer is None for block in network.blocks)
    return is_plain and any(piece.slope for piece in network.activation.segments)
