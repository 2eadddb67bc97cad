import time
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.training._ensemble import train_ensemble
from lossatlas.training._optimizer import OptimizerLike
from lossatlas.training._result import Ensemble, Training
from lossatlas.training._snapshots import as_steps
from lossatlas.training._train import as_batch_size, train


_CHILD = 0xC41D  # what separates the keys of children from other uses of the same key


@shown
class Spawned(eqx.Module):
    """Children of one training run, that left it at several steps and were trained to the same end.

    - `spawn_steps`: the steps at which children left.
    - `parent`: the parent at the end.
    - `children`: all of them: those of the first spawn step, then those of the next.
    - `num_children`: how many left at each step.
    - `stats`: `num_steps` made by the parent and all children, `seconds`. `settings`: what was run.
    """

    spawn_steps: Int[np.ndarray, " s"]
    parent: Network
    children: Ensemble
    num_children: int
    stats: dict[str, Any]
    settings: dict[str, Any]

    def children_at(self, step: int) -> tuple[Network, ...]:
        """The trained children that left at a spawn step.

        **Raises:** `InputError` for a step at which none left.
        """
        if step not in self.spawn_steps:
            msg = f"No children left at step {step}; the spawn steps are {self.spawn_steps.tolist()}."
            raise InputError(msg)
        first = int(np.flatnonzero(self.spawn_steps == step)[0]) * self.num_children
        return tuple(self.children.member(first + i).network for i in range(self.num_children))

    def to_xarray(self) -> Any:
        """The last losses and gradient norms of the children, over `spawn_step` and `child`."""
        import xarray as xr

        shape = (len(self.spawn_steps), self.num_children)
        last = np.arange(len(self.children)), self.children.num_snapshots - 1
        columns = {name: getattr(self.children, name)[last].reshape(shape) for name in ("loss", "gradient_norm")}
        return xr.Dataset(
            {name: (("spawn_step", "child"), values) for name, values in columns.items()},
            {"spawn_step": self.spawn_steps, "child": np.arange(self.num_children)},
            self.settings,
        )


def spawn(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    spawn_steps: Sequence[int] | np.ndarray,
    num_children: int = 3,
    same_order: bool = False,
    optimizer: OptimizerLike = "gd",
    learning_rate: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    num_steps: int,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
    chunk_seconds: float = 1.0,
    vmap_size: int | None = None,
) -> Spawned:
    """Train a network, and children that leave it at several steps and see the data in orders of their own.

    A child begins with all that its parent is at that step: parameters, momentum and other memory of the optimiser,
    place in the schedules and in the epoch. It goes on to the same last step; nothing but the order of its data is
    its own. What children that left late have in common was decided early; [`lossatlas.geometry.compare_children`][]
    measures it.

    The parent is `train(key, network, landscape, ...)` with the same options. Cost: `num_steps` for the parent, and
    `num_steps` less the spawn step for every child, all children in one program as in
    [`lossatlas.training.train_ensemble`][].

    **Arguments:**
    - `key`: decides the order of the parent's data; that of a child follows from it, the spawn step and the number of
      the child.
    - `spawn_steps`: where children leave; 0 for the beginning.
    - `num_children`: how many leave at each of them.
    - `same_order`: give the children the parent's order of the data; then each is the parent, to the last bit on a
      CPU: a check, and a control of what is measured of them.
    - all others: as in [`lossatlas.training.train`][] and [`lossatlas.training.train_ensemble`][].

    **Returns:** A [`lossatlas.training.Spawned`][].

    **Raises:** `InputError` as `train` does, for spawn steps outside of the run, for children that would be alike
    because there are no minibatches, and where the parent diverges before a spawn step.

    !!! example
        >>> found = spawn(key, network, landscape, spawn_steps=[0, 20], num_steps=100, batch_size=32)  # doctest: +SKIP
        >>> first, second, third = found.children_at(20)  # doctest: +SKIP

    !!! cite
        Fort et al. 2020, arXiv 2010.15110, section 3; Frankle et al. 2020, arXiv 1912.05671, instability analysis.
    """
    begin = time.perf_counter()
    steps = as_steps(np.asarray(spawn_steps), num_steps, "spawn_steps")
    if num_children < 1:
        msg = f"num_children must be at least 1, got {num_children}."
        raise InputError(msg)
    if not same_order and as_batch_size(batch_size, landscape) is None:
        msg = (
            "Children differ by the order of their minibatches, and there are none: give a batch_size below the "
            f"{landscape.size} examples, or same_order=True for copies."
        )
        raise InputError(msg)
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "hyperparameters": hyperparameters,
        "batch_size": batch_size,
        "progress": progress,
        "chunk_seconds": chunk_seconds,
    }

    def follow(run: Training | None, step: int) -> Training:
        at, start = (network, None) if run is None else (run.network, run.state)
        return train(key, at, landscape, start=start, num_steps=step, snapshots=[step], **options)

    run = None
    parents: list[Training] = []
    for step in steps.tolist():
        run = follow(run, step)
        if run.diverged_at is not None:
            msg = (
                f"The parent diverged at step {run.diverged_at}, before the spawn step {step}. Give a smaller "
                "learning rate, or earlier spawn steps."
            )
            raise InputError(msg)
        parents.append(run)
    end = follow(run, num_steps)
    keys = [key if same_order else _child_key(key, step, i) for step in steps.tolist() for i in range(num_children)]
    parents = [parent for parent in parents for _ in range(num_children)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(parent.state for parent in parents))
    networks = [parent.network for parent in parents]
    children = train_ensemble(
        keys,
        networks,
        landscape,
        start=state,
        num_steps=num_steps,
        snapshots=[num_steps],
        vmap_size=vmap_size,
        **options,
    )
    made = num_steps + num_children * int((num_steps - steps).sum())
    return Spawned(
        spawn_steps=steps,
        parent=end.network,
        children=children,
        num_children=num_children,
        stats={"num_steps": made, "seconds": time.perf_counter() - begin},
        settings={**children.settings, "same_order": same_order},
    )


def _child_key(key: PRNGKeyArray, step: int, child: int) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, _CHILD), step), child)
