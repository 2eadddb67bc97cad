"""A study, run once and stored with its claims, figures and page."""

import dataclasses
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._progress import ProgressLike, ProgressMeter, as_meter
from lossatlas._show import html_page, shown
from lossatlas.studies import Study, StudyKind, configure, find_study
from lossatlas.workbench._arrays import write_arrays
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._record import checksum, damaged, is_finished, read_record, write_record
from lossatlas.workbench._run import ARRAYS, REPORT, stored_arrays
from lossatlas.workbench._store import Place, make_run, run_key


if TYPE_CHECKING:
    import xarray as xr


KIND = "study"


@shown
@final
class StudyRun:
    """A finished study in its folder.

    **Arguments:**
    - `directory`: the folder that [`lossatlas.workbench.run_study`][] wrote.

    **Raises:** `InputError` for a folder that holds no finished study.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)
        self._record = read_record(self.directory)
        kind, status = self._record.get("kind"), self._record.get("status")
        if kind != KIND or status != "finished":
            msg = f"{str(self.directory)!r} holds no finished study: it is a {kind}, {status}."
            raise InputError(msg)

    @property
    def name(self) -> str:
        """The study."""
        return self._record["name"]

    @property
    def config(self) -> dict[str, Any]:
        """Its settings, with the seed."""
        return self._record["config"]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """What the paper states beside what was measured; see [`lossatlas.studies.Claim`][]."""
        return self._record["claims"]

    @property
    def papers(self) -> tuple[str, ...]:
        """What to cite: `lossatlas.citation(run)`."""
        return tuple(self._record["papers"])

    @property
    def report(self) -> pathlib.Path:
        """The page, one HTML file that works offline."""
        return self.directory / REPORT

    @property
    def record(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON knows it."""
        return {"directory": str(self.directory), "report": str(self.report), **self._record}

    @property
    def results(self) -> "xr.DataTree":
        """The labelled arrays, read into memory."""
        return stored_arrays(self.directory)

    @property
    def study(self) -> Study:
        """The study with the settings of this run."""
        settings = {name: value for name, value in self.config.items() if name != "seed"}
        return configure(find_study(self.name), preset="quick", options=settings)

    def counts(self) -> dict[str, int]:
        """How many claims hold, fail and are undecided."""
        verdicts = [claim["verdict"] for claim in self.claims]
        return {verdict: verdicts.count(verdict) for verdict in ("holds", "fails", "undecided")}

    def verify(self) -> tuple[str, ...]:
        """The files that are missing, were added or changed since they were written, by checksum; empty for none."""
        return damaged(self.directory)

    def __repr__(self) -> str:
        words = ", ".join(f"{count} {verdict}" for verdict, count in self.counts().items() if count)
        return f"StudyRun({str(self.directory)!r}): {self.name}, {words}"

    def _repr_html_(self) -> str:
        return html_page(repr(self), claim_rows(self.claims), more=[f"Report: {self.report}"], most=100)

    def _figure(self) -> Any:
        pictures = self.study.figures(self.results)
        return next((picture.draw(False) for picture in pictures.values()), None)

    def write_report(self) -> pathlib.Path:
        """Draw figures and page anew from what is stored; nothing is computed again."""
        from lossatlas.workbench._study_page import write_study_page

        write_study_page(self)
        stated = self._record["checksums"] | {REPORT: checksum(self.report)}
        write_record(self.directory, {**self._record, "checksums": stated})
        self._record = read_record(self.directory)
        return self.report


def claim_rows(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The short table of claims."""
    names = ("study", "name", "text", "expected", "measured", "verdict")
    return [{name: claim[name] for name in names if name in claim} for claim in claims]


def run_study(
    study: str | Study,
    *,
    preset: str = "quick",
    toml: str | os.PathLike[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: ProgressLike | None = None,
    **options: Any,
) -> StudyRun:
    """Run a study and store its results, claims, figures and page; what was run before is found again.

    Float64 whatever the global setting.

    **Arguments:**
    - `study`: its name ([`lossatlas.studies.study_kinds`][]), or a configuration.
    - `preset`: `"smoke"`, `"quick"` or `"paper"`. `toml`: a file of settings. `options`: single ones, which win.
    - `seed`: of everything that is random.
    - `out`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `force`: run it again although it is there.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter; default rich on a terminal and in a notebook.

    **Returns:** a [`lossatlas.workbench.StudyRun`][], read from the folder.

    **Raises:** `InputError` for unknown names and settings, before any work.

    !!! example
        >>> run = lossatlas.run_study("embedding-width", preset="smoke")  # doctest: +SKIP
        >>> [claim["name"] for claim in run.claims if claim["verdict"] == "fails"]  # doctest: +SKIP
    """
    kind = find_study(study) if isinstance(study, str) else _kind_of(study)
    if isinstance(study, str):
        config = configure(kind, preset=preset, toml=None if toml is None else pathlib.Path(toml), options=options)
    elif options or toml is not None:
        given = ", ".join(options) or "toml"
        msg = f"A configuration has its settings already; give the name of the study to set {given}."
        raise InputError(msg)
    else:
        config = study
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        msg = f"seed must be a whole number from 0, got {seed!r}."
        raise InputError(msg)
    meter = as_meter(progress)
    root = store_root(out)
    check_folder(root)
    place = study_place(root, kind, config, seed)
    if force or not is_finished(place.directory):

        def compute(journal: Journal) -> tuple["xr.DataTree", list[dict[str, Any]]]:
            import jax

            keeps = "journal" in inspect.signature(config.run).parameters
            with jax.enable_x64(True):
                results = config.run(seed, meter, journal) if keeps else config.run(seed, meter)
                return results, [claim.as_row() for claim in config.claims(results)]

        keep_study(place, kind, config, seed, compute, meter=meter, force=force)
    run = StudyRun(place.directory)
    if not run.report.exists():
        run.write_report()
    return run


def study_place(root: pathlib.Path, kind: StudyKind, config: Study, seed: int) -> Place:
    """Where a study with these settings and this seed is kept."""
    settings = dataclasses.asdict(config) | {"seed": seed}
    return Place(root, KIND, kind.name, run_key(KIND, kind.version, settings, kind.name))


def keep_study(
    place: Place,
    kind: StudyKind,
    config: Study,
    seed: int,
    compute: Callable[[Journal], tuple["xr.DataTree", list[dict[str, Any]]]],
    *,
    meter: ProgressMeter,
    force: bool = False,
    seconds: float | None = None,
) -> None:
    """Make the run of a study of what `compute` returns, its results and claims; `seconds` where it was timed."""
    header = {
        "config": dataclasses.asdict(config) | {"seed": seed},
        "papers": list(kind.papers),
        "title": kind.title,
        "regenerate": " ".join(["lossatlas", "study", "run", *study_words(kind, config, seed)]),
    }

    def write(folder: pathlib.Path, journal: Journal) -> Mapping[str, Any]:
        results, claims = compute(journal)
        write_arrays(folder / ARRAYS, results)
        return {"claims": claims} | ({} if seconds is None else {"seconds": round(seconds, 2)})

    make_run(place, header, write, meter=meter, force=force)


def _kind_of(study: Study):
    from lossatlas.studies import study_kinds

    for kind in study_kinds().values():
        if kind.config is type(study):
            return kind
    msg = f"{type(study).__name__} is no registered study; decorate it with lossatlas.studies.register(...)."
    raise InputError(msg)


def study_words(kind: StudyKind, config: Study, seed: int = 0) -> list[str]:
    """The words of the command line for a study and the settings that are not its defaults."""
    defaults = kind.config()
    words = [kind.name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(defaults, field.name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{field.name.replace('_', '-')}", text]
    return words + (["--seed", str(seed)] if seed else [])
