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
