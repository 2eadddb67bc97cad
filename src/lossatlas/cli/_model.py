"""The options of every command that reads a MODEL or DATA."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter


if TYPE_CHECKING:
    from lossatlas.workbench import Model


_GROUP = Group.create_ordered("The model")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network of a survey, and what a model of another program does not say itself."""

    network: Annotated[str, Parameter(group=_GROUP)] = "recommended"
    """Which network of a survey: recommended, big, or a name of its catalogue like "(1,1)"."""

    architecture: Annotated[pathlib.Path | None, Parameter(group=_GROUP)] = None
    """For a safetensors file of another program: a .json or .toml file with its class, arguments and tensor names."""

    checkpoint: Annotated[pathlib.Path | None, Parameter(group=_GROUP)] = None
    """Weights for the module of package.module:factory: safetensors, a state_dict of PyTorch (never unpickled
    further), or what equinox.tree_serialise_leaves wrote."""

    loss: Annotated[Literal["mse", "cross_entropy", "logistic"] | None, Parameter(group=_GROUP)] = None
    """What the model was trained on, if it does not say; by default cross_entropy where the targets are class numbers,
    else mse."""

    @property
    def words(self) -> dict[str, Any]:
        """How the model is to be loaded, by the names of the options; what was not said is None."""
        return {"architecture": self.architecture, "checkpoint": self.checkpoint, "loss": self.loss}

    def load(self, model: str) -> "Model":
        """The model; jax must be set up before."""
        import lossatlas

        return lossatlas.load(
            model, self.network, architecture=self.architecture, checkpoint=self.checkpoint, loss=self.loss
        )
