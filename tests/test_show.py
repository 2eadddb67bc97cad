"""Every result shows itself in a notebook: how sure it is, a short table, its figure; and work shows a bar."""

import importlib
import inspect
import re
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import atlas, embedding, geometry, networks, training
from lossatlas._progress import NoProgress, RichProgress, as_meter
from lossatlas._show import html_page, in_notebook, in_words, shown
from lossatlas._status import Certificate, Status


# Public classes that are no results: what is asked for, steps of a plan, networks, protocols, words.
NOT_RESULTS = {
    "atlas": {"Search", "SurveyConfig"},
    "data": {"Arrays", "Preprocessing"},
    "embedding": {
        *("CompatibleStep", "LiftBlockStep", "LiftConvolutionStep", "LiftStep", "MergeBlock", "MergeLayer"),
        *("Discovered", "NullBlock", "Repair", "UnitMap"),
    },
    "geometry": {"BatchStatistics", "MovingBuffers", "Refresh", "SignedPermutation", "UnitTaps"},
    "interop": {"KerasNetwork", "TorchNetwork"},
    "studies": {"Parts", "Picture", "Study", "StudyKind", "Sweepable", "Verdict"},
    "theory": set(),
    "training": set(),
    "workbench": {"Examples", "Jobs"},
}


def _public_classes(name: str) -> dict[str, type]:
    module = importlib.import_module(f"lossatlas.{name}")
    public = {key: getattr(module, key) for key in dir(module) if not key.startswith("_")}
    return {key: value for key, value in public.items() if inspect.isclass(value)}


@pytest.mark.parametrize("name", NOT_RESULTS)
def test_every_public_result_shows_itself(name):
    found = _public_classes(name)
    assert {key for key, cls in found.items() if not hasattr(cls, "_repr_html_")} == NOT_RESULTS[name]
    for cls in found.values():
        assert hasattr(cls, "_figure") == hasattr(cls, "_ipython_display_")


class Part(NamedTuple):
    name: str
    size: int
    weights: np.ndarray


Part = shown(Part)


@shown
class Result(eqx.Module):
    """What was <found>.

    More of it.
    """

    values: Any
    certificate: Certificate
    parts: tuple[Any, ...]


def test_a_result_shows_certificates_first_and_its_parts_below():
    parts = (Part("one", 1234, np.ones(9)), Part("two", 2, np.ones(9)))
    text: str = Result(np.arange(3), Certificate.NOT_CERTIFIED, parts)._repr_html_()  # pyright: ignore
    assert "<b>Result</b> What was &lt;found&gt;." in text
    cells = re.findall("<td>(.*?)</td>", text)
    assert cells[:4] == ["certificate", "? not certified", "values", "0, 1, 2"]
    assert cells[-4:] == ["one", "1,234", "two", "2"]
    assert text.count("<table>") == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456789, "0.1235"),
        (Certificate.YES, "✓ yes"),
        (Status.FINISHED, "ran all steps"),
        (np.array([1.0, 2.5]), "1, 2.5"),
        (jnp.float64(0.25), "0.25"),
        (np.array([[0.0, np.nan, 7.0]] * 3), "3 × 3, 0 to 7, 3 not finite"),
        (np.arange(9) > 5, "9, 3 of 9 yes"),
        (np.array(["a"] * 9), "9 <U1"),
        (np.zeros(0), "none"),
        ((1, "a", None), "1, a, –"),
        (range, "range"),
        (list(range(9)), "0, 1, 2, 3, 4, 5, … (9 in all)"),
        ({"a": 1, "b": 0.5}, "a: 1, b: 0.5"),
        ({}, "none"),
    ],
)
def test_values_in_words(value, words):
    assert in_words(value) == words


def test_networks_keys_and_results_in_words(key):
    assert in_words(networks.Dense(key, [2, 3, 1])) == "Dense, 13 parameters"
    assert in_words(Result(0, Certificate.NO, ())) == "Result (✗ no)"
    assert in_words(key).startswith("key<")


def test_a_table_is_cut_escaped_and_may_lack_cells():
    text = html_page("<t>", [{"a": "<b>"}, {"b": 1}, {}], more=["x & y"], most=2)
    assert "<p><b>&lt;t&gt;</b></p>" in text
    assert "<tr><td>&lt;b&gt;</td><td></td></tr><tr><td></td><td>1</td></tr></table>" in text
    assert "<p>and 1 more</p><p>x &amp; y</p>" in text
    assert "<table>" not in html_page("t", [])


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell as a notebook's kernel has it."""
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    settings = importlib.import_module("traitlets.config").Config({"HistoryManager": {"enabled": False}})
    made = interactive.InteractiveShell.instance(config=settings)
    yield made
    interactive.InteractiveShell.clear_instance()


def _dense(key) -> networks.Dense:
    return networks.Dense(key, [1, 2, 1])


def _training(key) -> training.Training:
    steps, loss = np.array([0, 1, 10]), np.array([1.0, 0.5, 0.1])
    zero = jnp.asarray(0)
    state = training.TrainingState(zero, zero, jnp.zeros(7), (), jnp.zeros(()), None)
    return training.Training(_dense(key), steps, loss, loss, np.zeros((3, 7)), Status.FINISHED, None, {}, {}, state)


def _inertia() -> geometry.Inertia:
    values = jnp.array([2.0, 0.0, -1.0])
    counts = (1, 1, 1, Certificate.YES, values, jnp.array(0.0), 1e-9, 1e-10, 10.0, {}, 1, 0, True, {})
    return geometry.Inertia(*counts)


def _drawn(key) -> dict[str, Any]:
    """Results with a figure, and the name of a trace of it."""
    values = jnp.array([3.0, 1.0])
    flow = training.Flow(
        _dense(key), np.array([0.0, 1.0]), np.ones(2), np.ones(2), np.zeros((2, 7)), Status.FINISHED, None, {}, {}
    )
    spectrum = geometry.Spectrum(
        values, jnp.eye(2), values, values > 0, None, 1, 1, Certificate.YES, Status.CONVERGED, {}, {}
    )
    density = geometry.SpectralDensity(values, values, values, values[None], values[None], 2, 0.1, 3, {}, {})
    return {
        "loss": _training(key),
        "loss ": flow,
        "zero: 1": _inertia(),
        "eigenvalues": spectrum,
        "density": density,
    }


def test_a_notebook_has_table_and_figure_and_a_terminal_the_words(shell, key):
    from IPython.utils.capture import capture_output

    for name, result in _drawn(key).items():
        with capture_output() as captured:
            assert shell.display_formatter.format(result) == ({}, {})  # it has displayed itself
        table, *figure = (output.data for output in captured.outputs)
        assert table["text/html"] == result._repr_html_()
        assert table["text/plain"] == repr(result)
        assert name.strip() in str(figure)
        shell.display_formatter.active_types = ["text/plain"]
        with capture_output() as captured:
            shell.display_formatter.format(result)
        assert len(captured.outputs) == 1
        shell.display_formatter.active_types = shell.display_formatter.format_types


def test_figures_of_results_come_from_their_values(key):
    traces = {name: result._figure().data for name, result in _drawn(key).items()}
    (loss,) = traces["loss"]
    assert list(loss.y) == [1.0, 0.5, 0.1]
    assert np.isnan(loss.x[0])  # step 0 has no place on a logarithmic axis
    assert [t.name for t in traces["zero: 1"]] == ["positive: 1", "zero: 1", "negative: 1"]
    assert list(traces["eigenvalues"][0].y) == [3.0, 1.0]


def test_results_that_hold_others_have_a_table_of_them(key):
    network = _dense(key)
    entry = atlas.Entry("(2,0)", 2, 0, network, 0.25, "critical point", None, 0.0, "", np.zeros((3, 1)), "start", 1)
    text: str = atlas.Catalogue((entry,), (), {})._repr_html_()  # pyright: ignore[reportAttributeAccessIssue]
    assert "<td>(2,0)</td>" in text
    assert "<td>0.25</td>" in text
    certificate = embedding.MapCertificate(1e-16, None, None, 0.0)
    text = embedding.Record(network, (), certificate, None)._repr_html_()  # pyright: ignore
    assert "<td>certificate</td><td>MapCertificate" in text


@pytest.mark.parametrize("name", [None, "rich"])
def test_work_draws_a_bar_in_a_notebook_that_goes_when_it_is_done(shell, name):
    from IPython.utils.capture import capture_output

    assert shell.display_formatter.active_types == shell.display_formatter.format_types
    meter = as_meter(name)
    meter.interval = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    with capture_output() as captured, meter.task("a <b>", 10) as task, meter.task("inner", 2):
        task.update(5, "half")
    shown = [output.data["text/html"] for output in captured.outputs]
    assert shown[0] == '<div>a &lt;b&gt; <progress value="0.0000" max="1"></progress> 0 % </div>'
    assert '<progress value="0.5000" max="1"></progress> 50 % half</div><div>inner' in shown[2]
    assert shown[-1] == ""
    assert {output.metadata.get("display_id") for output in captured.outputs} == {None}


def test_outside_of_notebooks_work_is_silent_or_on_the_terminal(monkeypatch):
    assert not in_notebook()
    assert isinstance(as_meter(None), NoProgress)
    assert isinstance(as_meter("rich"), RichProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(as_meter(None), RichProgress)
