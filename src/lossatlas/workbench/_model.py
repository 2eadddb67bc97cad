"""A network that reads raw columns and answers in the user's units."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, num_parameters
from lossatlas.data import Preprocessing, read_table
from lossatlas.networks import Dense
from lossatlas.networks import load as load_network
from lossatlas.networks import save as save_network


if TYPE_CHECKING:
    import pandas as pd


_BLOCK = 2**15


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with the preprocessing that it was trained with.

    - `network`: reads standardised inputs.
    - `preprocessing`: from raw columns to those, and from outputs to labels or the user's units.
    - `loss`: what it was trained on: `"mse"`, `"cross_entropy"`.
    - `summary`: what it is, in words.
    """

    network: Dense
    preprocessing: Preprocessing
    loss: str
    summary: str

    def __repr__(self) -> str:
        return f"Model({self.summary})"

    @property
    def num_parameters(self) -> int:
        """How many parameters the network has."""
        return num_parameters(self.network)

    @property
    def shape(self) -> str:
        """`4-2+1-3`: two neurons beside one linear unit between 4 inputs and 3 outputs."""
        first, *hidden, last = self.network.widths
        middle = [f"{k}+{r}" if r else str(k) for k, r in zip(hidden, self.network.num_linear, strict=True)]
        return "-".join([str(first), *middle, str(last)])

    def predict(self, table: Any) -> "pd.DataFrame":
        """Predict on raw rows, in float64 whatever the global setting (float32 for a network of that precision).

        **Arguments:**
        - `table`: a DataFrame or a mapping of columns as in the file that was surveyed (others, the target among them,
          are ignored), a CSV, TSV or Parquet file of such, or an array of shape (n, columns) in their order.

        **Returns:**
        One row each, with the index of `table`. For classes the label, in a column of the target's name, and
        `probability[...]` for every class under cross-entropy, or `score[...]`, the outputs fitted to one-hot rows by
        squared error, which are no probabilities. For regression the values in the units of the target.

        **Raises:** `InputError` naming column and row, for missing columns, unknown categories, text, NaN, infinity.
        """
        import pandas as pd

        if isinstance(table, str | os.PathLike):
            table = read_table(pathlib.Path(table))
        inputs = self.preprocessing.inputs(table)
        with jax.enable_x64(True):
            dtype = next(iter(named_parameters(self.network).values())).dtype
            blocks = [inputs[i : i + _BLOCK].astype(dtype) for i in range(0, len(inputs), _BLOCK)]
            outputs = np.concatenate([np.asarray(_predict(self.network, jnp.asarray(block))) for block in blocks])
        decoded = self.preprocessing.decode(outputs, self.loss)
        index = table.index if isinstance(table, pd.DataFrame) else None
        name, values = self.preprocessing.target, decoded.values
        if decoded.labels is None:
            names = [name] if values.shape[1] == 1 else [f"{name}[{i}]" for i in range(values.shape[1])]
            return pd.DataFrame(values, columns=names, index=index)
        word = "score" if decoded.probabilities is None else "probability"
        columns = {name: decoded.labels}
        columns |= {f"{word}[{label}]": values[:, i] for i, label in enumerate(self.preprocessing.classes)}
        return pd.DataFrame(columns, index=index)


@eqx.filter_jit
def _predict(network: Dense, inputs: Float[Array, "n d"]) -> Float[Array, "n o"]:
    return jax.vmap(network)(inputs)


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to one safetensors file; the header holds everything but the parameters.

    **Arguments:**
    - `path`: usually `.safetensors`; [`lossatlas.load`][] reads it.

    **Raises:** `InputError` for a folder that cannot be written.
    """
    extra = {"loss": model.loss, "summary": model.summary}
    save_network(pathlib.Path(path), model.network, preprocessing=model.preprocessing.to_dict(), extra=extra)


def read_model(path: pathlib.Path) -> Model:
    """Read what `save_model` wrote; nothing is ever unpickled.

    **Raises:** `InputError` for a file that is missing, damaged, or holds no preprocessing.
    """
    with jax.enable_x64(True):
        saved = load_network(path)
    if saved.preprocessing is None or "loss" not in saved.extra:
        msg = (
            f"{path.name!r} holds a network without preprocessing, so it cannot predict on raw columns; "
            "read it with lossatlas.networks.load."
        )
        raise InputError(msg)
    preprocessing = Preprocessing.from_dict(saved.preprocessing)
    if not isinstance(saved.network, Dense):
        msg = f"{path.name!r} holds a {type(saved.network).__name__}; read it with lossatlas.networks.load."
        raise InputError(msg)
    return Model(saved.network, preprocessing, saved.extra["loss"], saved.extra.get("summary", path.stem))
