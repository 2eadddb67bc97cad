"""Claims: every claim of the studies in the store beside what was measured, as it comes in."""

from nicegui import ui

from lossatlas.app._elements import button, heading, link, paragraph, table
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.app._run import run_path
from lossatlas.studies import study_kinds
from lossatlas.workbench import Jobs, Reproduction, Store, StudyRun, claims_table, verdicts_sentence


_VERDICTS = {"": "all claims", "fails": "that fail", "undecided": "that are undecided", "holds": "that hold"}
_PRESETS = {"smoke": "smoke: seconds each", "quick": "quick: a minute or two each", "paper": "paper: the papers' sizes"}


def claims_page(jobs: Jobs) -> None:
    """The claims of the newest finished run of each study."""
    with frame(jobs, "Claims", way="/claims"):
        lead = paragraph("", "lead")
        with ui.element("div").classes("fields"):
            verdict = ui.select(_VERDICTS, label="Show", value="").props("outlined dense").classes("field")
        area = ui.element("div")
        seen: list[object] = []

        def refresh() -> None:
            now = [verdict.value, *_newest(jobs)]
            if seen == now:
                return
            seen[:] = now
            runs = [StudyRun(jobs.root / path) for path in now[1:]]
            found = Reproduction(tuple(runs), {}, jobs.root / "reproduction.html")
            none = "No study has been run here yet. Run them below: every claim appears with what was measured."
            lead.set_content(verdicts_sentence(found.counts()) if runs else none)
            area.clear()
            with area:
                for run in runs:
                    _study(jobs, run, verdict.value)

        refresh()
        verdict.on_value_change(refresh)
        ui.timer(3.0, refresh)
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, "Run the studies")
                _form(jobs)
            job_list(jobs, "reproduction", "study")


def _newest(jobs: Jobs) -> list[str]:
    """The newest finished run of each study, in the order of the studies."""
    newest: dict[str, str] = {}
    for run in Store(jobs.root).runs(kind="study", status="finished"):
        newest.setdefault(run.name, run.path)
    order = [*study_kinds(), *newest]
    return [newest[name] for name in dict.fromkeys(order) if name in newest]


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
