"""The one place that turns DATA into what a model reads."""

import math
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Integer, Shaped

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters
from lossatlas._types import Network
from lossatlas.data import (
    Arrays,
    DataSet,
    Preprocessing,
    check_arrays,
    data_names,
    from_arrays,
    load,
    read_npz,
    read_table,
)
from lossatlas.networks import Transformer, input_shape
from lossatlas.workbench._reads import check_reads, is_ours


if TYPE_CHECKING:
    from lossatlas.landscape import Landscape
    from lossatlas.workbench._model import Model


class Examples(NamedTuple):
    """Data as a model reads it.

    - `inputs`: shape (n, ...). `targets`: what `loss` compares outputs with, None where the data says nothing of them.
    - `loss`: of the model; where nobody said, cross-entropy for class numbers and several outputs, else squared error.
    """

    inputs: Shaped[np.ndarray, "n ..."]
    targets: Shaped[np.ndarray, "n ..."] | None
    loss: str

    def landscape(self, batch_size: int | None = None) -> "Landscape | None":
        """The landscape of the examples; None without targets. Under `jax.enable_x64(True)` for float64."""
        from lossatlas.landscape import Landscape

        if self.targets is None:
            return None
        return Landscape(self.inputs, self.targets, loss=self.loss, batch_size=batch_size)


def read_inputs(model: "Model", data: Any, *, target: str | None = None) -> Shaped[np.ndarray, "n ..."]:
    """What a model reads of some data, checked against it; see [`lossatlas.workbench.read_examples`][]."""
    inputs, _ = _read(model, data, target, with_targets=False)
    return inputs


def read_examples(model: "Model", data: Any, *, target: str | None = None) -> Examples:
    """What a model reads of some data, and the targets of its loss.

    **Arguments:**
    - `model`: with its preprocessing, or without.
    - `data`: a data set's name, a CSV, TSV, Parquet or NPZ file, a DataFrame or a mapping of columns, a
      [`lossatlas.data.DataSet`][], [`lossatlas.data.Arrays`][], or an array of inputs. A model without preprocessing
      takes examples as they are, shape (n, ...), columns of numbers in their order, and class numbers from 0.
    - `target`: the column of the targets; default the one that the model was trained on, or for a model without
      preprocessing that reads d numbers the last of d + 1 columns.

    **Returns:** [`lossatlas.workbench.Examples`][], in the precision of the network.

    **Raises:** `InputError`, before any long work, for examples and targets that do not fit: columns, shape of one
    example, type, NaN, different numbers, labels out of range; and for a network whose outputs are random.
    """
    inputs, targets = _read(model, data, target, with_targets=True)
    if model.preprocessing is None and targets is not None:
        return _fit_targets(model, inputs, targets)
    return Examples(inputs, targets, model.loss or "mse")


def _read(model: "Model", data: Any, target: str | None, *, with_targets: bool):
    import pandas as pd

    if isinstance(data, str) and data in data_names():
        data = load(data) if target is None else load(data, target=target)
    elif isinstance(data, str | os.PathLike):
        path = pathlib.Path(data).expanduser()
        data = read_npz(path) if path.suffix.lower() == ".npz" else read_table(path)
    if isinstance(data, dict):
        data = pd.DataFrame(data)
    if model.preprocessing is None:
        inputs, targets = _plain(model, data, target)
    else:
        inputs, targets = _prepared(model.preprocessing, model.loss or "mse", data, target, with_targets=with_targets)
    inputs = _in_precision(model.network, _as_examples(model.network, inputs))
    try:
        check_reads(model.network, inputs)
    except InputError as error:
        if target is not None or model.preprocessing is not None or not isinstance(data, pd.DataFrame):
            raise
        msg = f"{error} All {data.shape[1]} columns were read; if one is the target, name it (target, --target)."
        raise InputError(msg) from error
    return inputs, targets if with_targets else None


def _prepared(preprocessing: Preprocessing, loss: str, data: Any, target: str | None, *, with_targets: bool):
    """Scaled inputs, shape (n, d), and encoded targets."""
    import pandas as pd

    if isinstance(data, DataSet):
        theirs = data.preprocessing
        if theirs.encoded_columns != preprocessing.encoded_columns and not _is_unnamed(preprocessing, data.num_inputs):
            ours, given = (", ".join(p.columns[:6]) for p in (preprocessing, theirs))
            msg = f"The model reads {ours}; {data.name} has {given}."
            raise InputError(msg)
        same = (data.kind, data.classes) == (preprocessing.kind, preprocessing.classes)
        targets = preprocessing.encode_targets(data.target, loss) if same and with_targets else None
        return preprocessing.standardise(data.features), targets
    if isinstance(data, Arrays):
        inputs = preprocessing.inputs(data.inputs.reshape(len(data.inputs), -1))
        known = data.targets is not None and with_targets
        return inputs, preprocessing.targets(data.targets, loss) if known else None
    if not isinstance(data, pd.DataFrame):
        return preprocessing.inputs(data), None
    name = preprocessing.target if target is None else target
    if target is not None and target not in data.columns:
        raise unknown_name("target column", target, map(str, data.columns))
    inputs = data.drop(columns=[name], errors="ignore")
    if _is_unnamed(preprocessing, inputs.shape[1]) and not set(preprocessing.columns) <= set(inputs.columns):
        inputs = inputs.set_axis(list(preprocessing.columns), axis=1)
    targets = preprocessing.targets(data[name], loss) if with_targets and name in data.columns else None
    return preprocessing.inputs(inputs), targets


def _is_unnamed(preprocessing: Preprocessing, size: int) -> bool:
    """Whether a model was trained on that many columns without names, so that others go by their order."""
    return preprocessing.columns == tuple(f"x{i}" for i in range(size))


def _plain(model: "Model", data: Any, target: str | None):
    """Arrays as they are, and the targets as they are: class numbers from 0 or values."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        shape = input_shape(model.network)
        if target is None and shape is not None and data.shape[1] == 1 + math.prod(n or 1 for n in shape):
            target = str(data.columns[-1])
        if target is None:
            columns = tuple(str(name) for name in data.columns)
            zeros, ones = (0.0,) * len(columns), (1.0,) * len(columns)
            plain = Preprocessing(kind="regression", columns=columns, categories={}, means=zeros, scales=ones)
            return plain.inputs(data), None
        data = from_arrays(data, target)
    if isinstance(data, DataSet):
        # Whole numbers are the class numbers of the network, also where some class has no row here.
        is_number = all(str(label).isdecimal() for label in data.classes)
        targets = data.y.astype(np.int64) if data.classes and is_number else data.target
        return data.features, targets
    arrays = data if isinstance(data, Arrays) else Arrays(np.asarray(data), None)
    return check_arrays(*arrays)


def _as_examples(network: Network, inputs: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
    """Rows of numbers as images or sequences, where the network reads such of as many numbers."""
    shape = input_shape(network)
    if shape is None or len(shape) == 1 or inputs.ndim != 2 or inputs.dtype.kind in "iu":
        return inputs
    known = math.prod(n for n in shape if n is not None)
    if inputs.shape[1] % known or (None not in shape and inputs.shape[1] != known):
        return inputs
    return inputs.reshape(len(inputs), *(-1 if n is None else n for n in shape))


def _in_precision(network: Network, inputs: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
    """The inputs as numbers of the network's precision; other networks than ours may read integers as tokens."""
    if inputs.dtype.kind == "i" and not is_ours(network):
        return inputs
    parameters = named_parameters(network)
    dtype = next(iter(parameters.values())).dtype if parameters else np.float64
    if isinstance(network, Transformer) and inputs.ndim == 2 and inputs.dtype.kind in "iu":
        return _one_hot(inputs, network.inputs.weight.shape[1]).astype(dtype)
    return inputs.astype(dtype)


def _one_hot(tokens: Integer[np.ndarray, "n t"], size: int) -> Float[np.ndarray, "n t v"]:
    """Tokens as rows of numbers, which a transformer reads as the same; a landscape needs numbers."""
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= size:
        msg = f"The tokens must lie in 0 to {size - 1} (the network has {size}), got {low} to {high}."
        raise InputError(msg)
    return np.eye(size)[tokens]


def _fit_targets(model: "Model", inputs: np.ndarray, targets: np.ndarray) -> Examples:
    """The targets of a model without preprocessing, checked against its outputs."""
    with jax.enable_x64(True):
        example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
        output: tuple[int, ...] = jax.eval_shape(model.network, example).shape
    if targets.dtype.kind in "US":
        msg = "The targets are text; a model without preprocessing takes class numbers from 0, or values."
        raise InputError(msg)
    is_labels = targets.ndim == 1 and targets.dtype.kind in "iub"
    several = len(output) == 1 and output[0] > 1
    loss = model.loss or ("cross_entropy" if is_labels and several else "mse")
    if is_labels and (several or loss != "mse"):
        return Examples(inputs, _labels(targets, output, loss), loss)
    if targets.size != len(inputs) * math.prod(output):
        msg = (
            f"The network puts out shape {output} for one example, but one target has shape {targets.shape[1:]}; "
            "give as many numbers, or class numbers (integers from 0) of shape (n,)."
        )
        raise InputError(msg)
    return Examples(inputs, _in_precision_of(targets.reshape(len(inputs), *output), inputs), loss)


def _labels(targets: np.ndarray, output: tuple[int, ...], loss: str) -> np.ndarray:
    """Class numbers as the loss takes them."""
    num_classes = 2 if loss == "logistic" else math.prod(output)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= num_classes:
        msg = f"The class numbers must lie in 0 to {num_classes - 1} ({num_classes} classes), got {low} to {high}."
        raise InputError(msg)
    if loss == "cross_entropy":
        return targets.astype(np.int32)
    if loss == "logistic":
        return targets.astype(np.float64)[:, None]
    return np.eye(num_classes)[targets.astype(int)]


def _in_precision_of(targets: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    return targets.astype(inputs.dtype if inputs.dtype.kind == "f" else np.float64)
