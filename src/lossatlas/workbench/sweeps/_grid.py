"""The cells of a sweep: every combination of the values on the axes, with every seed."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lossatlas._errors import InputError, unknown_name
from lossatlas.studies import Study, StudyKind, configure, convert_setting


# More are a mistake in a step more often than a wish.
_MOST_CELLS = 1_000_000


class Axis(NamedTuple):
    """A setting of a study and the values that a sweep gives it, as values or as text."""

    name: str
    values: tuple[Any, ...]


class Cell(NamedTuple):
    """One measurement of a sweep.

    - `place`: in the grid, the seed counting fastest. `values`: of the settings on the axes. `seed`.
    """

    place: int
    values: tuple[Any, ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a sweep measures.

    - `base`: the study with the settings that all cells share, and the first value of each axis. `axes`: the others.
    - `seeds`: how many in each cell, from 0.
    """

    base: Study
    axes: tuple[Axis, ...]
    seeds: int

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has, and how many seeds there are."""
        return (*(len(axis.values) for axis in self.axes), self.seeds)

    def cells(self) -> list[Cell]:
        """Every cell, in the order of the grid."""
        points = itertools.product(*(axis.values for axis in self.axes), range(self.seeds))
        return [Cell(i, point[:-1], point[-1]) for i, point in enumerate(points)]

    def study(self, cell: Cell) -> Study:
        """The study with the settings of a cell."""
        return dataclasses.replace(self.base, **self.settings(cell))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """The settings on the axes, by name."""
        return dict(zip((axis.name for axis in self.axes), cell.values, strict=True))

    def program(self, cell: Cell) -> tuple[Any, ...]:
        """Cells of which this is equal run in one compiled program: the values of the settings that are not traced."""
        traced = getattr(self.base, "traced", ())
        return tuple(v for axis, v in zip(self.axes, cell.values, strict=True) if axis.name not in traced)


def parse_axis(text: str) -> Axis:
    """An axis from `name=1,2,3`, or `name=0.5:2:0.25` for start, stop (included where a step ends there) and step.

    The values of a setting that is a list itself are separated by semicolons: `widths=5,5;10,10`.

    **Raises:** `InputError` for text of another form.
    """
    name, _, values = text.partition("=")
    parts = values.split(":")
    if not name or not values or len(parts) not in (1, 3):
        msg = f"An axis of the grid is written name=1,2,3 or name=start:stop:step, got {text!r}."
        raise InputError(msg)
    if len(parts) == 3:
        return Axis(_field(name), _steps(text, parts))
    separator = ";" if ";" in values else ","
    return Axis(_field(name), tuple(part.strip() for part in values.strip(";").split(separator)))


def _steps(text: str, parts: Sequence[str]) -> tuple[float | int, ...]:
    whole = all(part.strip().lstrip("+-").isdigit() for part in parts)
    try:
        start, stop, step = (int(part) if whole else float(part) for part in parts)
        steps = (stop - start) / step
    except (ValueError, ZeroDivisionError):
        steps = -1.0
        start = step = 0
    if not 0 <= steps < _MOST_CELLS:
        msg = f"{text!r}: start:stop:step are three numbers, and some steps lead from start to stop."
        raise InputError(msg)
    # The last step may miss its stop by rounding, and 0.1 + 2 * 0.1 is not 0.3.
    return tuple(start + i * step if whole else round(start + i * step, 12) for i in range(int(steps + 1e-9) + 1))


def make_grid(
    kind: StudyKind,
    axes: Mapping[str, Sequence[Any]],
    seeds: int,
    *,
    preset: str,
    toml: Any = None,
    options: Mapping[str, Any],
) -> Grid:
    """The grid that was asked for, every value of the type that its setting has, every combination accepted.

    **Arguments:**
    - `axes`: settings and their values, or text as of `parse_axis`. `seeds`: how many.
    - `preset`, `toml`, `options`: of the settings that all cells share, as for [`lossatlas.studies.configure`][].

    **Raises:** `InputError` for unknown settings, values of another type or twice, combinations that the study
    refuses, no cells and too many.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        msg = f"seeds must be a whole number from 1, got {seeds!r}."
        raise InputError(msg)
    fields = [field.name for field in dataclasses.fields(kind.config)]
    fixed = {_field(name): value for name, value in options.items()}
    given: dict[str, tuple[Any, ...]] = {}
    for written, values in axes.items():
        name = _field(written)
        if name not in fields:
            what = f"setting of {kind.name} on the grid"
            raise unknown_name(what, name, fields)
        if name in fixed or name in given:
            msg = f"{name} is on the grid and set once more; give it once."
            raise InputError(msg)
        given[name] = parse_axis(f"{name}={values}").values if isinstance(values, str) else tuple(values)
    count = math.prod(map(len, given.values())) * seeds
    if count > _MOST_CELLS:
        msg = f"The grid has {count:,} cells; {_MOST_CELLS:,} are allowed."
        raise InputError(msg)
    converted = [Axis(name, convert_setting(kind, name, values)) for name, values in given.items()]
    for name, values in converted:
        if not values or len(set(values)) < len(values):
            msg = f"{name} needs values on the grid, each once, got {', '.join(map(str, values)) or 'none'}."
            raise InputError(msg)
    first = {axis.name: axis.values[0] for axis in converted}
    grid = Grid(configure(kind, preset=preset, toml=toml, options=fixed | first), tuple(converted), seeds)
    for cell in grid.cells()[::seeds]:
        try:
            grid.study(cell)
        except ValueError as error:
            settings = ", ".join(f"{name}={value}" for name, value in grid.settings(cell).items())
            msg = f"{kind.name} refuses the cell {settings}: {error}"
            raise InputError(msg) from None
    return grid


def _field(name: str) -> str:
    return name.strip().replace("-", "_")
