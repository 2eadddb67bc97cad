"""How tables are printed."""

from lossatlas.cli._output import print_survey


class Run:
    headline, report, directory = "One neuron.", "report.html", "run"

    def table(self):
        return [
            {"network": "(0,1)", "held-out loss": 0.25442, "standard error": 0.0222, "accuracy": None, "note": None},
            {"network": "(1,0)", "held-out loss": None, "standard error": None, "accuracy": None, "note": "best"},
        ]


def test_the_standard_error_stands_behind_its_number_and_empty_columns_are_left_out(capsys):
    print_survey(Run())
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[1] == ["network", "held-out", "loss", "note"]
    assert lines[3] == ["(0,1)", "0.2544", "±", "0.022"]
    assert lines[4] == ["(1,0)", "best"]


def test_a_narrow_terminal_loses_columns_of_words_and_no_numbers(capsys, monkeypatch):
    row = {"network": "(1,1)a", "words": "one neuron beside one linear unit", "kind": "critical point"}
    row |= {"held-out loss": 0.03233, "standard error": 0.0084, "visited": "18,817-33,601"}
    monkeypatch.setattr(Run, "table", lambda _: [row])

    def printed(columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        print_survey(Run())
        return capsys.readouterr().out

    assert "one neuron beside one linear unit" in printed(140)
    assert "one neuron beside" in printed(80)
    assert "critical point" not in printed(80)
    assert "beside" not in printed(60)
    assert "18,817-33,601" not in printed(40)
    for columns in (40, 60, 80, 140):
        assert "0.03233 ± 0.0084" in printed(columns)
