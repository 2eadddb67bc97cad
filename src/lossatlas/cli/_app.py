"""The application `lossatlas`: its commands by import string, and how it ends."""

import sys
from collections.abc import Iterable
from typing import NoReturn

import cyclopts

from lossatlas._version import __version__
from lossatlas.cli._run import run


_HELP = """Chart the loss landscape of a neural network, and find the small networks inside it."""

_EPILOGUE = """Exit codes: 0 fine, 1 the run failed, 2 the input cannot be used, 130 interrupted.

`LOSSATLAS_STORE` is the folder of runs, `LOSSATLAS_INDEX` the database of their index (by default SQLite in that \
folder), `LOSSATLAS_DATA` that of data sets, `LOSSATLAS_CACHE` that of compiled \
programs (`off`: none); `LOSSATLAS_DEBUG=1` shows where an error of your input came from."""

app = cyclopts.App(
    name="lossatlas",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    version=__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
# A command is imported when it is called, so its help stands here.
app.command(
    "lossatlas.cli._survey:survey",
    name="survey",
    help="""Find the small networks inside a big one, which of them training visits, and the smallest that does the job.

Writes a report (one HTML file that works offline) and the recommended network; prints a table and where they are.
A survey that was made before with the same settings is shown at once.""",
)
app.command(
    "lossatlas.cli._predict:predict",
    name="predict",
    help="""Predict on new rows with a network that a survey saved, or any other model.

Columns are raw, as in the file that the survey read: scaling and labels are saved with the network.""",
)
app.command(
    "lossatlas.cli._resize:shrink",
    name="shrink",
    help="""Write the smallest model that says the same as a stored one, up to a tolerance in output units.

Prints what was removed, the largest change on the rows given, and what holds for rows that were held back.""",
)
app.command(
    "lossatlas.cli._resize:grow",
    name="grow",
    help="""Write a wider or deeper model that says the same; train it from there.

New units change no output for any input; new layers act linearly on the rows given. Prints what was measured.""",
)
app.command(
    "lossatlas.cli._export:export",
    name="export",
    help="""Write a model for PyTorch, scikit-learn or as safetensors.

What is written runs without LossAtlas.""",
)
app.command(
    "lossatlas.cli._diagnose:diagnose",
    name="diagnose",
    help="""Say which small network a model is stuck at, where that stands on the loss landscape, and which steps leave.

Writes a page (one HTML file that works offline) and the network after the best step; prints the verdict.""",
)
app.command(
    "lossatlas.cli._spectrum:spectrum",
    name="spectrum",
    help="""Measure the curvature of the loss of a model: both ends of the spectrum of the Hessian, trace, density.

Every eigenvalue comes with its residual, every random number with its error. Writes a page, JSON and arrays.""",
)
app.command(
    "lossatlas.cli._path:path",
    name="path",
    help="""Measure how far the loss rises between two models, as they are, with matched units, along a trained curve.

The matched model is written too: it computes what the second one does. Writes a page, JSON and arrays.""",
)
app.command(
    "lossatlas.cli._kernel:kernel",
    name="kernel",
    help="""Measure the tangent kernel of a model: spectrum, alignment with the targets, layers, frozen predictions.

Writes a page, JSON and arrays; with --store the kernel of all examples, however many.""",
)
app.command(
    "lossatlas.cli._flatness:flatness",
    name="flatness",
    help="""Measure how flat the loss is around one model or several, by every measure in use, each with its error.

The audit says which of the numbers change when the same function is written with other weights. Writes a page, JSON and
arrays.""",
)
app.command(
    "lossatlas.cli._plane:plane",
    name="plane",
    help="""Draw the loss around a model: a plane or a line, in random or curved directions, or through other models.

Computed where it is needed, to a stated error of the interpolation. Writes a page, JSON and arrays.""",
)
studies = cyclopts.App(name="study", help="List, explain and run the studies: the claims of papers, tested.")
studies.command("lossatlas.cli._study:list_studies", name="list", help="List the studies.")
studies.command(
    "lossatlas.cli._study:show",
    name="show",
    help="Say what a study asks, its settings and its presets, and what to cite.",
)
studies.command(
    "lossatlas.cli._study:run",
    name="run",
    help="""Run a study and print its claims beside what was measured.

Writes a page (one HTML file that works offline) and the labelled arrays. A study that was run before with the same
settings is shown at once.""",
)
app.command(studies)
app.command(
    "lossatlas.cli._study:reproduce",
    name="reproduce",
    help="""Run studies and write one page of every claim beside what was measured.

What was run before is taken as it is.""",
)
app.command(
    "lossatlas.cli._sweep:sweep",
    name="sweep",
    help="""Measure a study on a grid of its settings, in processes here or on the workers of a cluster.

A sweep that was stopped goes on where it was; cells that were measured before are taken as they are.""",
)
app.command(
    "lossatlas.cli._figures:figures",
    name="figures",
    help="""Write the figures of a run or a page for a paper, as SVG, PDF or PNG.

Sizes are those of a journal: two columns (175 mm), or one (85 mm). Needs kaleido and Chromium or Chrome.""",
)
store = cyclopts.App(name="store", help="List, show, export, verify and remove the runs of a folder.")
store.command("lossatlas.cli._store:list_runs", name="list", help="List the runs, newest first.")
store.command("lossatlas.cli._store:show", name="show", help="Show what was asked and found in a run, of any kind.")
store.command(
    "lossatlas.cli._store:remove",
    name="rm",
    help="""Remove a run, with what interrupted attempts at it left.

A run that a process makes just now is refused.""",
)
store.command(
    "lossatlas.cli._store:export",
    name="export",
    help="""Write the labelled arrays of a run as NetCDF, Parquet or CSV.

Tables are long: a row for each entry, a column for each dimension and variable.""",
)
store.command(
    "lossatlas.cli._store:rebuild",
    name="rebuild",
    help="""Make the index anew from the folders of the runs.

The folders are the truth: an index that is lost or damaged costs nothing but time.""",
)
store.command(
    "lossatlas.cli._store:verify",
    name="verify",
    help="""Compare every file of every run with its checksum, and name what was left over.

Ends with exit code 1 if a run is damaged, and says what to do.""",
)
app.command(store)
app.command(
    "lossatlas.cli._serve:serve",
    name="app",
    help="""Open the application in the browser: surveys, studies, diagnoses, claims and the store.

What is started there goes on without it. It serves this machine alone, unless you say.""",
)
app.command("lossatlas.cli._job:run_job", name="job", show=False)
app.command("lossatlas.cli._info:info", name="info", help="Print versions, devices, precision, caches and threads.")
app.register_install_completion_command(help="Install completion for your shell (bash, zsh, fish).")


def main(tokens: Iterable[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code.

    **Arguments:**
    - `tokens`: the words after `lossatlas`; those of the process by default.
    """
    sys.exit(run(app, tokens))
