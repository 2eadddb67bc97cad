"""Claims: every claim of the studies in the store beside what was measured, as it comes in."""

from nicegui import ui

from lossatlas.app._elements import button, heading, link, paragraph, table
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.app._run import run_path
from lossatlas.app._watch import watch_runs
from lossatlas.studies import study_kinds
from lossatlas.workbench import Jobs, Reproduction, Runs, StudyRun, claims_table, verdicts_sentence


_VERDICTS = {"": "all claims", "fails": "that fail", "undecided": "that are undecided", "holds": "that hold"}
_PRESETS = {"smoke": "smoke: seconds each", "quick": "quick: a minute or two each", "paper": "paper: the papers' sizes"}


def claims_page(jobs: Jobs) -> None:
    """The claims of the newest finished run of each study."""
    with frame(jobs, "Claims", way="/claims"):
        shown = {"verdict": ""}
        watch_runs(jobs, lambda runs: _claims(jobs, runs, shown), kind="study")
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, "Run the studies")
                _form(jobs)
            job_list(jobs, "reproduction", "study")


def _claims(jobs: Jobs, runs: Runs, shown: dict[str, str]) -> None:
    """The claims; `shown` remembers which, when other runs come in."""
    newest = _newest(runs)
    if not newest:
        paragraph("No study was run here yet. Run them below: each claim appears with what was measured.", "empty")
        return
    found = tuple(StudyRun(jobs.root / path) for path in newest)
    counts = Reproduction(found, {}, jobs.root).counts()
    paragraph(f"{verdicts_sentence(counts)} Of the newest run of each study that is finished.", "lead")
    with ui.element("div").classes("fields"):
        verdict = (
            ui.select(_VERDICTS, label="Show").bind_value(shown, "verdict").props("outlined dense").classes("field")
        )
    area = ui.element("div")

    def show() -> None:
        shown["verdict"] = verdict.value
        area.clear()
        with area:
            for run in found:
                _study(jobs, run, verdict.value)

    show()
    verdict.on_value_change(show)


def _newest(runs: Runs) -> list[str]:
    """The newest run of each study, in the order of the studies."""
    newest: dict[str, str] = {}
    for run in runs:
        newest.setdefault(run.name, run.path)
    return [newest[name] for name in dict.fromkeys([*study_kinds(), *newest]) if name in newest]


def _study(jobs: Jobs, run: StudyRun, verdict: str) -> None:
    claims = [claim for claim in run.claims if verdict in ("", claim["verdict"])]
    with ui.element("section"):
        heading(2, run.record["title"])
        paragraph(verdicts_sentence(run.counts()), "remark")
        with ui.element("div").classes("row"):
            place = run.directory.relative_to(jobs.root).as_posix()
            link("Figures and settings", run_path(place))
            link("Report", f"/files/{place}/report.html")
        if claims:
            table(claims_table(claims, {}), "claims")
        else:
            paragraph("None of this study.", "empty")


def _form(jobs: Jobs) -> None:
    names = list(study_kinds())
    with ui.element("div").classes("field"):
        preset = ui.select(_PRESETS, label="Preset", value="smoke").props("outlined dense")
        paragraph(f"Of {', '.join(names)}. What was run before with the same settings is taken as it is.", "remark")

    def begin() -> None:
        start(
            jobs, "reproduction", f"All studies, {preset.value}", {"studies": names, "preset": preset.value, "seed": 0}
        )

    button("Run all studies", begin, "action")
