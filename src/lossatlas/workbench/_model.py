"""A network that reads raw data and answers in the user's units."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, num_parameters
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.data import Decoded, Preprocessing
from lossatlas.networks import load as load_network
from lossatlas.networks import save as save_network
from lossatlas.networks import size_words
from lossatlas.workbench._data import read_inputs


if TYPE_CHECKING:
    import pandas as pd


_BLOCK = 2**15


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with the preprocessing that it was trained with.

    - `network`: any network of one example; reads what the preprocessing makes.
    - `preprocessing`: from raw columns to its inputs, and from outputs to labels or the user's units; None for networks
      that read and put out plain arrays.
    - `loss`: what it was trained on: `"mse"`, `"cross_entropy"`, `"logistic"`; None where nobody said.
    - `summary`: what it is, in words.
    """

    network: Network
    preprocessing: Preprocessing | None
    loss: str | None
    summary: str

    def __repr__(self) -> str:
        return f"Model({self.summary})"

    @property
    def num_parameters(self) -> int:
        """How many parameters the network has."""
        return num_parameters(self.network)

    @property
    def shape(self) -> str:
        """`4-2+1-3`, `conv 1x8x8: 8-16 | 32-10`: see [`lossatlas.networks.size_words`][]."""
        return size_words(self.network)

    @property
    def output_unit(self) -> float:
        """A change of 1 in an output of the network, in the user's units: the largest scale of a target, or 1."""
        return 1.0 if self.preprocessing is None else max(self.preprocessing.target_scales, default=1.0)

    def predict(self, table: Any) -> "pd.DataFrame":
        """Predict on raw data, in float64 whatever the global setting (float32 for a network of that precision).

        **Arguments:**
        - `table`: a DataFrame or a mapping of columns as in the file that was surveyed (others, the target among them,
          are ignored), a CSV, TSV, Parquet or NPZ file of such, or an array of shape (n, columns) in their order;
          without preprocessing an array of examples, shape (n, ...), or an NPZ file with an array `inputs`.

        **Returns:**
        One row each, with the index of `table`. For classes the label, in a column of the target's name, and
        `probability[...]` for every class under cross-entropy, or `score[...]`, the outputs fitted to one-hot rows by
        squared error, which are no probabilities. For regression the values in the units of the target. Without
        preprocessing the target is called `class` under cross-entropy (numbers from 0), else `output`.

        **Raises:** `InputError` naming column and row, for missing columns, unknown categories, text, NaN, infinity,
        and for examples of a shape that the network does not read.
        """
        import pandas as pd

        inputs = read_inputs(self, table)
        with jax.enable_x64(True):
            blocks = [inputs[i : i + _BLOCK] for i in range(0, len(inputs), _BLOCK)]
            outputs = np.concatenate([np.asarray(_predict(self.network, jnp.asarray(block))) for block in blocks])
        index = table.index if isinstance(table, pd.DataFrame) else None
        if self.preprocessing is None:
            return _plain_frame(outputs, self.loss)
        decoded = self.preprocessing.decode(outputs, self.loss or "mse")
        return _frame(decoded, self.preprocessing.target, self.preprocessing.classes, index)


def _frame(decoded: Decoded, name: str, classes: tuple[Any, ...], index: Any) -> "pd.DataFrame":
    import pandas as pd

    values = decoded.values
    if decoded.labels is None:
        names = [name] if values.shape[1] == 1 else [f"{name}[{i}]" for i in range(values.shape[1])]
        return pd.DataFrame(values, columns=names, index=index)
    word = "score" if decoded.probabilities is None else "probability"
    columns = {name: decoded.labels} | {f"{word}[{label}]": values[:, i] for i, label in enumerate(classes)}
    return pd.DataFrame(columns, index=index)


def _plain_frame(outputs: Shaped[np.ndarray, "n ..."], loss: str | None) -> "pd.DataFrame":
    """Outputs of a network without preprocessing; those of several axes are named by all their indices."""
    import pandas as pd

    if loss in ("cross_entropy", "logistic") and outputs.ndim == 2:
        size = 2 if loss == "logistic" else outputs.shape[1]
        numbers = Preprocessing(
            kind="classification", columns=(), categories={}, means=(), scales=(), classes=tuple(map(str, range(size)))
        )
        frame = _frame(numbers.decode(outputs, loss), "class", numbers.classes, None)
        return frame.astype({"class": int})
    flat = outputs.reshape(len(outputs), -1)
    places = [",".join(map(str, place)) for place in np.ndindex(outputs.shape[1:])]
    names = ["output"] if flat.shape[1] == 1 else [f"output[{place}]" for place in places]
    return pd.DataFrame(flat, columns=names)


@eqx.filter_jit
def _predict(network: Network, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
    return jax.vmap(network)(inputs)


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to one safetensors file; the header holds everything but the parameters.

    **Arguments:**
    - `path`: usually `.safetensors`; [`lossatlas.load`][] reads it.

    **Raises:** `InputError` for a folder that cannot be written, and for networks that a file cannot hold (see
    [`lossatlas.networks.save`][]).
    """
    extra = {"loss": model.loss, "summary": model.summary}
    preprocessing = None if model.preprocessing is None else model.preprocessing.to_dict()
    save_network(pathlib.Path(path), model.network, preprocessing=preprocessing, extra=extra)


def read_model(path: pathlib.Path) -> Model:
    """Read what `save_model` or `lossatlas.networks.save` wrote; nothing is ever unpickled.

    **Raises:** `InputError` for a file that is missing or damaged.
    """
    with jax.enable_x64(True):
        saved = load_network(path)
    preprocessing = None if saved.preprocessing is None else Preprocessing.from_dict(saved.preprocessing)
    return Model(saved.network, preprocessing, saved.extra.get("loss"), saved.extra.get("summary", path.stem))


def check_finite(model: Model, source: str) -> Model:
    """The model, if all its parameters are finite.

    **Arguments:**
    - `source`: what the error calls it.

    **Raises:** `InputError` naming the parameter that is not.
    """
    for name, array in named_parameters(model.network).items():
        if not bool(jnp.isfinite(array).all()):
            msg = f"The parameter {name} of {source} holds NaN or infinity."
            raise InputError(msg)
    return model
