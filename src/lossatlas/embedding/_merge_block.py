"""Remove the last block of a residual network where its neurons act linearly on the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._depth import LayerMerge, finish
from lossatlas.embedding._layer_steps import numerical_rank
from lossatlas.embedding._lift_block import merge_last_block
from lossatlas.embedding._measure import best_lines
from lossatlas.embedding._record import Data, inputs_of
from lossatlas.networks import Residual


class MergeBlock(eqx.Module):
    r"""Remove the last block, whose neurons act as $\lambda_j t + \mu_j$: the output reads $W (I + \Lambda V)$.

    - `slope`, `offset`: $\lambda$ and $\mu$ of its neurons.
    """

    slope: Float[Array, " k"]
    offset: Float[Array, " k"]
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Residual:
        """The shallower network."""
        return merge_last_block(network, self.slope, self.offset)


def merge_block(network: Network, landscape: Data, block: int | None = None) -> tuple[Residual, LayerMerge]:
    r"""Remove the last residual block, each of its neurons replaced by the line it follows on the data.

    A plain block becomes $W (I + \Lambda V)$ in the output, one with readers of its own $W (I + V_o \Lambda U)$. Only
    the last block can go: what follows another has a skip, so its change would have to be folded into every later
    reader and writer of the stream, which norms forbid.

    **Arguments:**
    - `network`: a `Residual` whose output has a bias.
    - `landscape`: a `Landscape`, or inputs (n, d) alone.
    - `block`: only the last one, the default, is legal.

    **Returns:** the shallower network and a [`lossatlas.embedding.LayerMerge`][]. Its bound is the deviation from the
    lines that the output reads; a defect of 0 guarantees that a critical point stays critical. Cost: a few passes.

    **Raises:** `InputError` for other architectures, another block, a norm before it, and an output without bias.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283, Section 5, for blocks with a skip.
    """
    if not isinstance(network, Residual):
        msg = f"merge_block needs a lossatlas.networks.Residual, got {type(network).__name__}."
        raise InputError(msg)
    num = len(network.blocks)
    if num == 0:
        msg = "The network has no block left to remove."
        raise InputError(msg)
    if block not in (None, num - 1):
        msg = (
            f"Only the last block ({num - 1}) can be merged, got {block}: the stream after block {block} passes on "
            "through the skip of the next block, and an affine change of it would have to go into every later reader."
        )
        raise InputError(msg)
    last = network.blocks[-1]
    if last.norm is not None:
        msg = "The block reads the stream through a norm, which is no affine map, so it cannot be merged."
        raise InputError(msg)
    if network.output.bias is None:
        msg = "The output has no bias that could hold the constants of the block."
        raise InputError(msg)
    inputs = inputs_of(landscape, "merge_block")
    pre, post = (np.asarray(a) for a in _neurons(network, inputs))
    slope, offset, _ = best_lines(pre, post, network.activation)
    output = np.asarray(network.output.weight)
    readers = output if last.outer is None else output @ np.asarray(last.outer.weight)
    deviation = np.linalg.norm((post - slope * pre - offset) @ readers.T, axis=1).max()
    step = MergeBlock(jnp.asarray(slope), jnp.asarray(offset), f"block {num - 1} of {len(slope)} neurons merged")
    # D Phi reaches every change of the output's weights where either factor has full rank.
    neurons = slope[:, None] * np.asarray(last.inner.weight)
    added = neurons if last.outer is None else np.asarray(last.outer.weight) @ neurons
    q, m = output.shape
    defect = (q - numerical_rank(readers * slope)) * (m - numerical_rank(np.eye(m) + added))
    return finish(network, landscape, (step,), defect, float(deviation))


@eqx.filter_jit
def _neurons(network: Residual, inputs: Float[Array, "n d"]) -> tuple[Array, Array]:
    """Pre-activations and outputs of the neurons of the last block."""
    pre = jax.vmap(lambda x: network.blocks[-1].inner(network.stream(x, len(network.blocks) - 1)))(inputs)
    return pre, network.activation(pre)
