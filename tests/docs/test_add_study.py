"""The template of the page "Add a study": a package of one's own whose study is found, run and reproduced."""

import json
import os
import shutil
import subprocess
import sys

from site_pages import DOCS, ROOT


TEMPLATE = ROOT / "examples" / "linear_levels_study.py"
# Two commands in one process: what they share is imported once.
RUN = """
import sys
from lossatlas.cli._app import app
from lossatlas.cli._run import run
for words in (["study", "show", "linear-levels"], ["study", "run", "linear-levels", "--preset", "smoke", "--json"],
              ["reproduce", "linear-levels", "--preset", "smoke", "--json"]):
    if run(app, words):
        sys.exit(1)
    print("=====")
"""


def test_a_study_in_a_package_of_its_own_is_found_run_and_reproduced(tmp_path):
    shutil.copy(TEMPLATE, tmp_path)
    entry = tmp_path / "my_studies-1.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: my-studies\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text("[lossatlas.studies]\nlinear-levels = linear_levels_study\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "LOSSATLAS_STORE": str(tmp_path / "runs")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, run, reproduced, _ = done.stdout.split("=====\n")
    assert "linear-levels: Plateaus of a linear network" in shown
    assert "--init-power" in shown
    assert {claim["name"]: claim["verdict"] for claim in json.loads(run)["claims"]} == {
        "global-minimum": "holds",
        "plateau-rank-1": "holds",
    }
    assert [claim["study"] for claim in json.loads(reproduced)["claims"]] == ["linear-levels"] * 2
    page = (tmp_path / "runs" / "reproduction.html").read_text("utf-8")
    assert "Every local minimum is global" in page


def test_the_page_shows_the_template_and_its_entry_point():
    text = (DOCS / "add-study.md").read_text("utf-8")
    assert '--8<-- "examples/linear_levels_study.py"' in text
    assert '[project.entry-points."lossatlas.studies"]' in text
