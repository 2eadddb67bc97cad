"""A trained curve between two networks, measured."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import PRNGKeyArray

from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.geometry._path import BatchStatistics, Path, Refresh
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape
from lossatlas.training import CurveTraining, train_curve


def find_curve(
    key: PRNGKeyArray,
    network: Network,
    reference: Network,
    landscape: Landscape,
    *,
    kind: Literal["bezier", "polygon"] = "bezier",
    num_bends: int = 1,
    bends: Sequence[Network] | None = None,
    learning_rate: float | None = None,
    num_steps: int = 2000,
    batch_size: int | None = 128,
    num_points: int = 21,
    refresh: Refresh | None = None,
    progress: ProgressLike = "none",
    **options: Any,
) -> tuple[Path, CurveTraining]:
    """A curve of low loss between two networks: trained by Adam, then verified.

    **Arguments:**
    - `network`, `reference`: the two ends, t = 0 and 1; they stay as they are.
    - `kind`, `num_bends`, `bends`, `learning_rate`, `num_steps`, `options`: as for
      [`lossatlas.training.train_curve`][].
    - `batch_size`: examples a step; all where there are fewer.
    - `num_points`: of the verification, as for [`lossatlas.geometry.verify_path`][].
    - `refresh`: of the path, see [`lossatlas.geometry.Path`][]; by default running statistics are those of the
      landscape's inputs where the networks can compute them anew.

    **Returns:** the path, with its verification, and how it was trained.

    **Raises:** `InputError` as `train_curve` does.

    !!! cite
        Garipov et al. 2018, arXiv 1802.10026.
    """
    run = train_curve(
        key,
        network,
        reference,
        landscape,
        kind=kind,
        num_bends=num_bends,
        bends=bends,
        learning_rate=learning_rate,
        num_steps=num_steps,
        batch_size=batch_size,
        progress=progress,
        **options,
    )
    if refresh is None and getattr(network, "has_statistics", False):
        refresh = BatchStatistics(landscape.inputs)
    path = Path(run.vertices, run.kind, refresh)
    return verified(path, landscape, num_points=num_points, progress=progress), run
