"""Does a network read some examples, always with the same answer? Asked before any long work."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lossatlas._errors import InputError
from lossatlas._types import Network


_ROWS = 4  # examples that are put through twice
_REMEDY = (
    "Switch dropout and batch statistics off: network = equinox.nn.inference_mode(network), or module.eval() in "
    "PyTorch; or fix the key inside the network."
)


def is_ours(network: Network) -> bool:
    """Whether a network is an architecture of `lossatlas.networks`: pure by construction."""
    return type(network).__module__.startswith("lossatlas.networks.")


def check_reads(network: Network, inputs: Shaped[np.ndarray, "n ..."]) -> None:
    """See that a network takes these examples, and puts out the same for the same ones.

    The second is tried on a few rows without compiling, since a compiled function would draw random numbers of NumPy,
    or count its calls, only once.

    **Raises:** `InputError` naming the shape, or the remedy against random outputs.
    """
    shape, dtype = inputs.shape[1:], inputs.dtype
    with jax.enable_x64(True):
        try:
            output = jax.eval_shape(network, jax.ShapeDtypeStruct(shape, dtype))
        except InputError:
            raise
        except Exception as error:
            if "key" in str(error):
                msg = f"The forward pass is random ({first_line(error)}). {_REMEDY}"
                raise InputError(msg) from error
            msg = f"The network cannot read one example of shape {shape} and type {dtype}: {first_line(error)}"
            raise InputError(msg) from error
        if not isinstance(output, jax.ShapeDtypeStruct):
            kind = type(output).__name__
            msg = f"The network must put out one array for one example, got a {kind}; wrap it so that it returns that."
            raise InputError(msg)
        if is_ours(network):
            return
        rows = jnp.asarray(inputs[:_ROWS])
        try:
            first, second = (np.asarray(jax.vmap(network)(rows)) for _ in range(2))
        except Exception as error:
            msg = f"The network fails on examples of shape {shape} and type {dtype}: {first_line(error)}"
            raise InputError(msg) from error
    if not np.array_equal(first, second, equal_nan=True):
        msg = f"The forward pass is random or keeps a state: two evaluations of the same examples differ. {_REMEDY}"
        raise InputError(msg)


def check_inference(network: Network, source: str) -> None:
    """See that no layer of an Equinox module is in training mode.

    **Arguments:**
    - `source`: what the error calls the network.

    **Raises:** `InputError` naming the layers (dropout, batch normalisation) and the remedy.
    """
    active = []

    def visit(node: object) -> bool:
        if isinstance(node, eqx.Module) and getattr(node, "inference", True) is False and _is_active(node):
            active.append(type(node).__name__)
        return False

    jax.tree.leaves(network, is_leaf=visit)
    if active:
        msg = f"{source} is in training mode ({', '.join(sorted(set(active)))}). {_REMEDY}"
        raise InputError(msg)


def _is_active(node: eqx.Module) -> bool:
    rate = getattr(node, "p", None)  # dropout with probability 0 does nothing
    return not (isinstance(rate, int | float) and rate == 0)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
