"""Insert a plain residual block that acts linearly on the data, before the output of a residual network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._record import Data, Record, inputs_of, make_record, pull_back
from lossatlas.embedding._segments import choose_piece, lines, place
from lossatlas.networks import Affine, Residual, ResidualBlock


_STRENGTH = 0.5  # of the block beside the skip: the readers are divided by 1 + slope * this at most


class LiftBlockStep(eqx.Module):
    r"""Insert the block $s + \sigma(V s + b')$ before the output, with readers $U (I + \Lambda V) = W$.

    - `weight`, `bias`: V and b'. `slope`, `offset`: $\lambda_j$, $\mu_j$ of its neurons on the data.
    - `segment`, `margin`, `is_exact`: as in [`lossatlas.embedding.LiftStep`][].
    """

    weight: Float[Array, "m m"]
    bias: Float[Array, " m"]
    slope: Float[Array, " m"]
    offset: Float[Array, " m"]
    segment: Float[Array, "2"]
    margin: Float[Array, ""]
    is_exact: bool = eqx.field(static=True)
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Residual:
        """The deeper network."""
        passed = jnp.eye(len(self.weight), dtype=self.weight.dtype) + self.slope[:, None] * self.weight
        readers = jnp.linalg.solve(passed.T, network.output.weight.T).T
        bias = network.output.bias - readers @ (self.slope * self.bias + self.offset)
        blocks = (*network.blocks, ResidualBlock(Affine(self.weight, self.bias), None, None))
        return eqx.tree_at(lambda n: (n.blocks, n.output), network, (blocks, Affine(readers, bias)))

    def apply_inverse(self, network: Network) -> Residual:
        r"""$\Phi$: the network without its last block that a network near the lift equals on the data."""
        return merge_last_block(network, self.slope, self.offset)

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        r"""$\nabla_{deep} = D\Phi^\top \nabla_{shallow}$, at every point."""
        return pull_back(self, network, gradient)


def merge_last_block(network: Network, slope: Array, offset: Array) -> Residual:
    """The network without its last block, whose neurons follow lines; the output takes over what it did."""
    block, output = network.blocks[-1], network.output
    neurons = slope[:, None] * block.inner.weight
    constants = offset if block.inner.bias is None else slope * block.inner.bias + offset
    if block.outer is not None:
        neurons = block.outer.weight @ neurons
        constants = block.outer.weight @ constants
        constants = constants if block.outer.bias is None else constants + block.outer.bias
    weight = output.weight + output.weight @ neurons
    bias = output.bias + output.weight @ constants
    return eqx.tree_at(lambda n: (n.blocks, n.output), network, (network.blocks[:-1], Affine(weight, bias)))


def lift_block(
    network: Network,
    landscape: Data,
    before: int | None = None,
    *,
    key: PRNGKeyArray,
    segment: int | tuple[float | int, float | int] | None = None,
    margin: float = 0.3,
    exact: bool = True,
    extent: float = 0.1,
) -> tuple[Residual, Record]:
    r"""Insert a plain residual block that acts linearly on the data: outputs on it stay, critical points stay critical.

    $U (I + \Lambda V) = W$ and $U (\Lambda b' + \mu) + b'' = b$ with the readers W of the stream. Only an affine reader
    that has no skip beside it can take up the block, which is the output: before another block the skip carries the
    changed stream on.

    **Arguments:**
    - `network`: a `Residual` whose output has a bias.
    - `landscape`: a `Landscape` or inputs (n, d).
    - `before`: only the number of blocks (the output), the default, is legal.
    - `key`, `segment`, `margin`, `exact`, `extent`: as for [`lossatlas.embedding.lift`][]. V is half an orthogonal
      matrix, or less where the segment is short.

    **Returns:** the deeper network and its record. Cost: a pass over the data.

    **Raises:** `InputError` for other architectures, a place with a skip, and as for `lift`.

    !!! cite
        Bai et al. 2022, arXiv 2205.13283 (residual lifting).
    """
    if not isinstance(network, Residual):
        msg = f"lift_block needs a lossatlas.networks.Residual, got {type(network).__name__}."
        raise InputError(msg)
    num = len(network.blocks)
    if before not in (None, num):
        msg = (
            f"A block can be lifted only before the output (before={num}), got {before}: elsewhere the skip of the "
            "next block carries the changed stream on, and no reader can take that back. Use add_null_block there."
        )
        raise InputError(msg)
    if network.output.bias is None:
        msg = "The output has no bias that could hold the constants of the inserted block."
        raise InputError(msg)
    if not 0 < margin < 1:
        msg = f"margin must lie in (0, 1), got {margin}."
        raise InputError(msg)
    inputs = inputs_of(landscape, "lift_block")
    piece = choose_piece(network.activation, segment, exact=exact, extent=float(extent))
    stream = np.asarray(_streams(network, inputs))
    m = stream.shape[1]
    turned = np.linalg.qr(np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (m, m), float)))[0]
    weight, bias, scales = place(_STRENGTH * turned, stream, piece, margin, key, common=True)
    if scales[0] > 1:  # less than the segment has room for: the skip must stay the larger part
        middle = 0.5 * (piece.lower + piece.upper)
        weight, bias = weight / scales[:, None], middle + (bias - middle) / scales
    pre = stream @ weight.T + bias
    slope, offset = lines(network.activation, pre, piece)
    step = LiftBlockStep(
        *(jnp.asarray(a) for a in (weight, bias, slope, offset)),
        segment=jnp.asarray([piece.lower, piece.upper]),
        margin=jnp.asarray(np.minimum(pre - piece.lower, piece.upper - pre).min()),
        is_exact=piece.is_exact,
        note="linear residual block inserted before the output",
    )
    caution = None if piece.is_exact else "The inserted block is only nearly affine: outputs and gradients change."
    return make_record(network, (step,), landscape, caution)


@eqx.filter_jit
def _streams(network: Residual, inputs: Float[Array, "n d"]) -> Float[Array, "n m"]:
    """The stream that the output reads."""
    return jax.vmap(network.stream)(inputs)
