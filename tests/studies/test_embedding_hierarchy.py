"""What a reader would not trust of the study of the hierarchy: claims that fail, and that others can."""

import numpy as np
import pytest
from smoke_runs import smoke_run

from lossatlas.studies._points import signs_of


def _verdicts(results):
    study, _ = smoke_run("embedding-hierarchy")
    return {claim.name: str(claim.verdict) for claim in study.claims(results)}


def test_only_the_bias_condition_and_the_proof_as_printed_fail():
    verdicts = _verdicts(smoke_run("embedding-hierarchy")[1])
    assert {name for name, verdict in verdicts.items() if verdict != "holds"} == {
        "biases-as-printed",
        "theorem-6.2-proof",
    }
    assert verdicts["theorem-6.2-zero"] == "holds"


@pytest.mark.parametrize(
    ("part", "name", "value", "claim"),
    [
        ("members", "wide_negative", -1, "theorem-6.2-negative"),
        ("members", "gradient_when_critical", 1e-6, "theorem-5.1"),
        ("members", "adds_up", False, "inertia-adds-up"),
        ("dimensions", "rank", 0, "degrees-of-freedom"),
        ("subspaces", "dimension", 1, "theorem-6.1"),
        ("steps", "gradient", 1e-3, "theorem-4.2"),
    ],
)
def test_other_measurements_would_make_a_claim_fail(part, name, value, claim):
    results = smoke_run("embedding-hierarchy")[1].copy(deep=True)
    results[part].ds[name].values[:] = value
    assert _verdicts(results)[claim] == "fails"


@pytest.mark.parametrize(("small", "is_clear"), [(1e-13, True), (1e-11, False)])
def test_eigenvalues_are_counted_by_sign_and_doubtful_ones_are_told(small, is_clear):
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    signs = signs_of(turned @ np.diag([-2.0, small, 0.0, 1e-6, 3.0]) @ turned.T)
    assert signs.counts == (1, 2, 2)
    assert signs.is_clear is is_clear
