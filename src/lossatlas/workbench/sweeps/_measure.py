"""Cells measured in this process: in one compiled program, as plain Python, or as whole studies."""

import copy
import dataclasses
import functools as ft
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas._progress import NoProgress
from lossatlas.studies import Study
from lossatlas.workbench.sweeps._grid import Cell
from lossatlas.workbench.sweeps._outcome import FAILED, Outcome, measured


if TYPE_CHECKING:
    from jax import Array


# Cells that one call of a compiled program can take. The program is the same for fewer.
CAPACITY = 64
# A call should take about so long, in seconds: then progress and limits of time are looked at.
_CALL = 0.5


@dataclasses.dataclass(frozen=True)
class Task:
    """Cells of one program to measure.

    - `study`: with the settings that they share, pickled: whoever hands the task on need not know it. `paths`: where
      modules were found where it was pickled. `names`: of the settings that `Cell.values` are of.
    - `retries`: how often a cell that raises is tried again.
    """

    study: bytes
    paths: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[Cell, ...]
    retries: int


@dataclasses.dataclass(frozen=True)
class Started:
    """Said before each call: which cells of the task it measures, and whether it only compiles their program."""

    first: int
    count: int
    compiles: bool = False


def measure_cells(task: Task, *, together: int = CAPACITY) -> Iterator[Started | Outcome]:
    """Measure cells one after another; an error of a cell is its outcome.

    **Arguments:**
    - `together`: how many one call may take; the results do not depend on it.
    """
    sys.path += [path for path in task.paths if path not in sys.path]
    try:
        study = pickle.loads(task.study)
    except Exception as error:  # noqa: BLE001
        yield from (_failed(cell, error, 0.0) for cell in task.cells)
        return
    if not hasattr(study, "measure"):
        yield from _one_by_one(study, task, _whole_study)
    elif not hasattr(study, "traced"):
        yield from _one_by_one(study, task, _plain)
    else:
        yield from _compiled(study, task, together)


def _one_by_one(base: Study, task: Task, measure: Any) -> Iterator[Started | Outcome]:
    import jax

    for place, cell in enumerate(task.cells):
        yield Started(place, 1)
        study = dataclasses.replace(base, **dict(zip(task.names, cell.values, strict=True)))
        start = time.perf_counter()
        for attempt in range(task.retries + 1):
            try:
                with jax.enable_x64(True):
                    values, whole = measure(study, cell.seed)
                yield measured(cell.place, values, time.perf_counter() - start, whole)
                break
            except Exception as error:  # noqa: BLE001
                if attempt == task.retries:
                    yield _failed(cell, error, time.perf_counter() - start)


def _plain(study: Any, seed: int) -> tuple[Mapping[str, Any], None]:
    return _checked(study.measure(seed)), None


def _whole_study(study: Study, seed: int) -> tuple[dict[str, Any], Any]:
    results = study.run(seed, NoProgress())
    claims = [claim.as_row() for claim in study.claims(results)]
    return claim_values(claims), (results, claims)


def claim_values(claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the claims of a study measured, by their names, and their verdicts."""
    values: dict[str, Any] = {}
    for claim in claims:
        number = claim["measured"]
        values[claim["name"]] = np.float64(number if isinstance(number, int | float) else np.nan)
        values[f"{claim['name']} verdict"] = claim["verdict"]
    return values


def _checked(values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not values or not all(isinstance(name, str) for name in values):
        msg = f"measure must return numbers by name, like {{'loss': 0.1}}, got {values!r}."
        raise TypeError(msg)
    return values


def _failed(cell: Cell, error: BaseException, seconds: float) -> Outcome:
    words = " ".join(str(error).split())
    return Outcome(cell.place, FAILED, error=f"{type(error).__name__}: {words}"[:2000], seconds=seconds)


# In one compiled program


def _compiled(study: Study, task: Task, together: int) -> Iterator[Started | Outcome]:
    import jax

    place, count = 0, 1
    yield Started(0, 1, compiles=True)
    try:
        with jax.enable_x64(True):
            run = _program(_with_values(study, task.names, task.cells[0].values), task.names)
    except Exception as error:  # noqa: BLE001
        yield from (_failed(cell, error, 0.0) for cell in task.cells)
        return
    while place < len(task.cells):
        cells = task.cells[place : place + count]
        yield Started(place, len(cells))
        start = time.perf_counter()
        with jax.enable_x64(True):
            outcomes = _call(run, task, cells, task.retries)
        spent = time.perf_counter() - start
        yield from (dataclasses.replace(outcome, seconds=spent / len(cells)) for outcome in outcomes)
        place += len(cells)
        if spent < _CALL / 2:
            count = min(2 * count, together, CAPACITY)
        elif spent > 2 * _CALL:
            count = max(1, count // 2)


def _call(run: Any, task: Task, cells: Sequence[Cell], retries: int) -> list[Outcome]:
    try:
        values = run(task, cells)
        return [measured(cell.place, {n: rows[i] for n, rows in values.items()}, 0.0) for i, cell in enumerate(cells)]
    except Exception as error:  # noqa: BLE001
        if len(cells) > 1:  # whose fault was it?
            return [outcome for cell in cells for outcome in _call(run, task, [cell], retries)]
        return _call(run, task, cells, retries - 1) if retries else [_failed(cells[0], error, 0.0)]


def _with_values(study: Study, names: Sequence[str], values: Sequence[Any]) -> Study:
    """The study of one program: the values on the axes that are not traced put in."""
    settings = dict(zip(names, values, strict=True))
    traced = getattr(study, "traced", ())
    return dataclasses.replace(study, **{name: value for name, value in settings.items() if name not in traced})


@ft.lru_cache(maxsize=16)
def _program(study: Any, names: tuple[str, ...]) -> Any:
    """One compiled program for up to CAPACITY cells; the same, to the bit, however many they are.

    A CPU measures one cell after another in a loop of which the number of turns is an argument; elsewhere all lanes of
    a batch of one size are computed, those that are not asked for too.
    """
    import jax
    import jax.numpy as jnp

    traced = tuple(name for name in names if name in study.traced)
    kinds = {name: np.asarray(getattr(study, name)).dtype for name in traced}

    def one(values: "dict[str, Array]", seed: "Array") -> "dict[str, Array]":
        cell = copy.copy(study)
        for name, value in values.items():
            object.__setattr__(cell, name, value)  # frozen, and its checks are for numbers
        return {name: jnp.asarray(value) for name, value in _checked(cell.measure(seed)).items()}

    def one_after_another(values: "dict[str, Array]", seeds: "Array", count: "Array") -> "dict[str, Array]":
        first = jax.eval_shape(one, {name: value[0] for name, value in values.items()}, seeds[0])
        empty = {name: jnp.zeros((CAPACITY, *leaf.shape), leaf.dtype) for name, leaf in first.items()}

        def body(i: "Array", rows: "dict[str, Array]") -> "dict[str, Array]":
            row = one({name: value[i] for name, value in values.items()}, seeds[i])
            return {name: array.at[i].set(row[name]) for name, array in rows.items()}

        return jax.lax.fori_loop(0, count, body, empty)

    def side_by_side(values: "dict[str, Array]", seeds: "Array", count: "Array") -> "dict[str, Array]":
        del count
        return jax.vmap(one)(values, seeds)

    on_cpu = jax.default_backend() == "cpu"
    numbers = {name: jax.ShapeDtypeStruct((CAPACITY,), kind) for name, kind in kinds.items()}
    whole = jax.ShapeDtypeStruct((CAPACITY,), np.int64), jax.ShapeDtypeStruct((), np.int64)
    compiled = jax.jit(one_after_another if on_cpu else side_by_side).lower(numbers, *whole).compile()

    def run(task: Task, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        padding = [0] * (CAPACITY - len(cells))
        values = {
            name: np.array([cells[i].values[task.names.index(name)] for i in [*range(len(cells)), *padding]], kind)
            for name, kind in kinds.items()
        }
        seeds = np.array([*(cell.seed for cell in cells), *(cells[0].seed for _ in padding)])
        rows = compiled(values, seeds, np.int64(len(cells)))
        return {name: np.asarray(array)[: len(cells)] for name, array in jax.device_get(rows).items()}

    return run
