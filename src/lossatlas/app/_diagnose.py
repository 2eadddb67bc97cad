"""Diagnose: a model and the data that it was trained on; which small network it is stuck at, and what leaves."""

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._choose import TABLES, choice
from lossatlas.app._elements import button, field_input, heading, paragraph
from lossatlas.app._form import Field, read_fields
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.data import data_names
from lossatlas.workbench import Jobs, Store


_LOSSES = ("as the model says", "mse", "cross_entropy", "logistic")
_FIELDS = (
    Field("target", "Target", "The column of the targets; empty: the one that the model was trained on.", str, ""),
    Field("network", "Network", "Of a survey: big, recommended, or a name of its catalogue like (1,1).", str, "big"),
    Field("loss", "Loss", "What the model was trained on, if it does not say.", str, _LOSSES[0], _LOSSES),
    Field(
        "tolerance",
        "Tolerance",
        "How far an output may change in the practical reduction, as a share of the spread of the targets.",
        float,
        0.1,
    ),
    Field("num_steps", "Steps", "Of gradient descent after each step that leaves; 0 leaves these runs out.", int, 500),
)


def diagnose_page(jobs: Jobs) -> None:
    """A form that starts a diagnosis, and those that were made."""
    with frame(jobs, "Diagnose", way="/diagnose"):
        lead = (
            "Which small network is your model stuck at, where does that stand on the loss landscape, and which steps"
        )
        paragraph(f"{lead} leave?", "lead")
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, "Diagnose a model")
                _form(jobs)
            job_list(jobs, "diagnosis", most=20)


def _form(jobs: Jobs) -> None:
    surveys = Store(jobs.root).runs(kind="survey", status="finished")[:50]
    known = {str((jobs.root / run.path).absolute()): f"survey of {run.name}, {run.key}" for run in surveys}
    model = choice(jobs, "Model", known, (".safetensors",))
    label = "Its architecture, for a model of another program"
    architecture = choice(jobs, label, {}, (".json", ".toml"), optional=True)
    data = choice(jobs, "The data that it was trained on", {name: name for name in data_names()}, TABLES)
    with ui.element("div").classes("fields"):
        elements = {field.name: field_input(field) for field in _FIELDS}

    def begin() -> None:
        if not model.value:
            msg = "Choose a model first: the network of a survey, or a .safetensors file."
            raise InputError(msg)
        typed = read_fields(_FIELDS, {name: element.value for name, element in elements.items()})
        asked = {
            "model": model.value,
            "data": data.value,
            "architecture": architecture.value or None,
            "network": typed["network"],
            "target": typed["target"] or None,
            "loss": None if typed["loss"] == _LOSSES[0] else typed["loss"],
            "options": {name: typed[name] for name in ("tolerance", "num_steps")},
        }
        title = f"Diagnosis of {model.options[model.value]} on {data.options[data.value]}"
        start(jobs, "diagnosis", title, asked)

    button("Start the diagnosis", begin, "action")
