"""Every study of ours has its claims, its figures, its citation and its presets, and `smoke` runs in seconds."""

import dataclasses
import inspect

import pytest
import xarray as xr
from smoke_runs import smoke_parts, smoke_run

from lossatlas import citation
from lossatlas.studies import PRESETS, configure, study_kinds


OURS = [kind for kind in study_kinds().values() if kind.config.__module__.startswith("lossatlas.")]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_smoke_gives_claims_and_figures_that_belong_together(kind):
    study, results = smoke_run(kind.name)
    claims, pictures = study.claims(results), study.figures(results)
    assert len({claim.name for claim in claims}) == len(claims) > 0
    assert all(claim.text and claim.source for claim in claims)
    assert pictures
    for picture in pictures.values():
        assert picture.title
        assert picture.caption
        for compact in (False, True):
            figure = picture.draw(compact)
            assert figure.data
            layout = figure.to_dict()["layout"]
            assert layout["xaxis"]["title"]["text"]
            assert layout["yaxis"]["title"]["text"]
    # While it runs, the figures whose parts are there can be drawn.
    counts = []
    for parts in smoke_parts(kind.name):
        so_far = study.figures(xr.DataTree.from_dict(parts))
        assert all(picture.draw(False).data for picture in so_far.values())
        counts.append(len(so_far))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] <= len(pictures)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_presets_settings_and_papers_are_whole(kind):
    assert citation(kind).count("@") == 1 + len(kind.papers)
    documentation = inspect.getdoc(kind.config) or ""
    for field in dataclasses.fields(kind.config):
        assert f"`{field.name}`" in documentation
    assert [configure(kind, preset=preset) for preset in PRESETS][1] == kind.config()
