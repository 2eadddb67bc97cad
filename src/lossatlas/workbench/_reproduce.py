"""Run many studies and write one page of all their claims."""

import dataclasses
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from lossatlas._errors import InputError, is_interruption
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import html_page, shown
from lossatlas.studies import find_study, study_kinds
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._study import StudyRun, claim_rows, run_study


PAGE = "reproduction.html"


@shown
@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What [`lossatlas.workbench.reproduce`][] found.

    - `runs`: the studies, in the order asked for. `failed`: those that did not end, with their error.
    - `page`: one HTML file that works offline; it links to the pages of the studies.
    """

    runs: tuple[StudyRun, ...]
    failed: dict[str, str]
    page: pathlib.Path

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Every claim, with the name of its study."""
        return [{"study": run.name, **claim} for run in self.runs for claim in run.claims]

    def counts(self) -> dict[str, int]:
        """How many claims hold, fail and are undecided."""
        return {name: sum(run.counts()[name] for run in self.runs) for name in ("holds", "fails", "undecided")}

    def _repr_html_(self) -> str:
        title = ", ".join(f"{count} {verdict}" for verdict, count in self.counts().items())
        failed = [f"{name} did not end: {reason}" for name, reason in self.failed.items()]
        return html_page(title, claim_rows(self.claims), more=[*failed, f"Page: {self.page}"], most=1000)


def reproduce(
    names: Sequence[str] | None = None,
    *,
    preset: str = "quick",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: ProgressLike | None = None,
) -> Reproduction:
    """Run studies, or find their stored runs, and write the page of all their claims.

    A study that fails to run is named on the page; the others go on.

    **Arguments:**
    - `names`: the studies; default all. `preset`, `seed`, `out`, `force`, `progress`: as for
      [`lossatlas.workbench.run_study`][].

    **Returns:** a [`lossatlas.workbench.Reproduction`][].

    **Raises:** `InputError` for unknown names, before any work.
    """
    chosen = list(dict.fromkeys(names)) if names is not None else list(study_kinds())
    for name in chosen:
        find_study(name)
    root = store_root(out)
    check_folder(root)
    meter = as_meter(progress)
    runs, failed = [], {}
    with meter.task("reproduction", len(chosen)) as task:
        for done, name in enumerate(chosen):
            task.update(done, name)
            try:
                runs.append(run_study(name, preset=preset, seed=seed, out=out, force=force, progress=meter))
            except InputError:
                raise
            except Exception as error:
                if is_interruption(error):
                    raise
                sys.stderr.write(traceback.format_exc())
                failed[name] = f"{type(error).__name__}: {error}"
    from lossatlas.workbench._study_page import write_reproduction_page

    words = ["lossatlas", "reproduce", *(names or ["--all"]), "--preset", preset]
    root.mkdir(parents=True, exist_ok=True)
    page = write_reproduction_page(root / PAGE, runs, failed, preset=preset, regenerate=" ".join(words))
    return Reproduction(tuple(runs), failed, page)
