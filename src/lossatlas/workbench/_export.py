"""Hand a model to another program."""

import json
import os
import pathlib
from typing import Literal, get_args

import jax

from lossatlas._errors import InputError, unknown_name
from lossatlas.networks import Dense
from lossatlas.workbench._model import Model, save_model


Format = Literal["torch", "sklearn", "safetensors"]


def export(model: Model, to: Format, out: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Write a model for another program; none of them needs LossAtlas to use it.

    **Arguments:**
    - `model`: from [`lossatlas.load`][].
    - `to`: `"safetensors"`: one file, tensors named `layers.0.weight`, the rest in its header, which
      [`lossatlas.load`][] reads. `"torch"`: a folder with a PyTorch module, its weights, and `preprocessing.json`.
      `"sklearn"`: a folder with `model.py`, whose `load()` builds the fitted `Pipeline` from `model.npz` beside it; no
      pickle.
    - `out`: the file or the folder; a folder is made where it is missing.

    **Returns:** the files written.

    **Raises:** `InputError` for an unknown format, a place that cannot be written, and what the other program cannot
    express.

    The preprocessing of a PyTorch module stands beside it, not in it, as the entries of
    [`lossatlas.data.Preprocessing`][] with the loss: inputs are `(x - means) / scales` of the encoded columns (0 where
    a scale is 0), outputs of regression times `target_scales` plus `target_means`.
    """
    if to not in get_args(Format):
        raise unknown_name("format", to, get_args(Format))
    out = pathlib.Path(out)
    if to == "safetensors":
        save_model(out, model)
        return [out]
    if out.is_file():
        msg = f"{str(out)!r} is a file; {to} is exported to a folder."
        raise InputError(msg)
    try:
        return _export_sklearn(model, out) if to == "sklearn" else _export_torch(model, out)
    except OSError as error:
        msg = f"The folder {str(out)!r} cannot be written ({error.strerror or error}). Choose another with --out."
        raise InputError(msg) from None


def _export_sklearn(model: Model, out: pathlib.Path) -> list[pathlib.Path]:
    from lossatlas.interop import write_sklearn

    if not isinstance(model.network, Dense) or model.preprocessing is None:
        what = "networks with preprocessing" if isinstance(model.network, Dense) else "fully connected networks"
        msg = f"scikit-learn knows {what} only, got {model.shape}; export to torch or safetensors."
        raise InputError(msg)
    with jax.enable_x64(True):
        return write_sklearn(model.network, model.preprocessing, model.loss or "mse", out)


def _export_torch(model: Model, out: pathlib.Path) -> list[pathlib.Path]:
    from lossatlas import interop

    export_torch = getattr(interop, "export_torch", None)
    if export_torch is None:
        msg = "This version of lossatlas writes no PyTorch modules; export to safetensors."
        raise InputError(msg)
    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):
        export_torch(model.network, out)
    preprocessing = None if model.preprocessing is None else model.preprocessing.to_dict()
    facts = {"loss": model.loss, "summary": model.summary, "preprocessing": preprocessing}
    (out / "preprocessing.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return sorted(path for path in out.iterdir() if path.is_file())
