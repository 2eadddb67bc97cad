"""The report, the audit, the comparison, and the rewritings that they rest on."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geometry.flatness_points import bowl, classifier
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters
from lossatlas.geometry import (
    FlatnessMeasure,
    adaptive_sharpness,
    compare_flatness,
    flatness_report,
    local_energy,
    pac_bayes_sigma,
    relative_point,
    rewrite,
    sharpness,
    spectrum,
    trace,
)
from lossatlas.geometry._flatness import _audit_row
from lossatlas.geometry._flatness_comparison import _paired
from lossatlas.geometry._scale_gauges import random_factors
from lossatlas.landscape import Landscape
from lossatlas.networks import Buffer, Conv, Dense, Transformer, apply_scale


KEY = jax.random.key(0)
FEW: dict[str, Any] = {"num_draws": 6, "num_probes": 12, "num_steps": 60, "num_chains": 2}
CHEAP: dict[str, Any] = {"measures": ("local_energy", "hessian", "sharpness"), **FEW}


def image_network(**options):
    network = Conv(jax.random.key(0), (1, 5, 5), [2, 3], [3], norm="batch", activation="relu", **options)
    keys = iter(jax.random.split(jax.random.key(5), 40))
    network = jax.tree.map(lambda a: a + 0.2 * jax.random.uniform(next(keys), a.shape, a.dtype), network)
    x = jax.random.normal(jax.random.key(2), (10, 1, 5, 5))
    return network, Landscape(x, jnp.arange(10) % 3, loss="cross_entropy")


# -- rewritings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scale", "permutation", "sign"])
def test_a_rewriting_keeps_every_output_and_not_the_weights(kind):
    network, landscape = classifier("tanh" if kind == "sign" else "relu", widths=(4, 3, 3, 3))
    found = rewrite(KEY, network, landscape, kind=kind)
    assert set(found.done) == {"hidden[0]", "hidden[1]"}
    assert not found.skipped
    assert found.output_change < 1e-13
    x = jax.random.normal(jax.random.key(9), (7, 4))  # not the data that it was tested on
    np.testing.assert_allclose(jax.vmap(found.network)(x), jax.vmap(network)(x), rtol=1e-10)
    for name, array in named_parameters(network).items():
        if not (kind != "sign" and name == "layers[2].bias"):
            assert (np.abs(named_parameters(found.network)[name] - array).max() > 1e-3) == (name != "layers[2].bias")
    assert (found.transport is None) == (kind == "scale")


def test_what_has_no_symmetry_stays_as_it_is():
    network, landscape = classifier("tanh")
    found = rewrite(KEY, network, landscape)
    assert found.done == {}
    assert list(found.skipped) == ["hidden[0]"]
    for one, other in zip(named_arrays(found.network).values(), named_arrays(network).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    softplus, landscape = classifier("softplus")
    assert rewrite(KEY, softplus, landscape, kind="sign").done == {}
    with pytest.raises(InputError, match="states no unit spaces.*discover_units"):
        rewrite(KEY, eqx.nn.MLP(4, 3, 5, 1, key=KEY), landscape)
    with pytest.raises(InputError, match="Unknown kind of rewriting 'mixing'"):
        rewrite(KEY, network, landscape, kind="mixing")
    with pytest.raises(InputError, match="most must be above 1"):
        rewrite(KEY, network, landscape, most=1.0)


def test_scales_that_are_found_are_those_of_the_closed_form():
    network, landscape = classifier("square", widths=(4, 3, 3))
    found = rewrite(KEY, network, landscape)
    # Homogeneous of degree 2: the reader takes the factor to the power -2.
    assert found.done["hidden[0]"] == ("layers[0].weight times c, layers[0].bias times c, layers[1].weight times c^-2")
    ratio = np.asarray(found.network.layers[0].bias / network.layers[0].bias)
    np.testing.assert_allclose(found.network.layers[1].weight, network.layers[1].weight / ratio[None] ** 2, rtol=1e-12)
    assert 1 / 8 <= ratio.min() < ratio.max() <= 8
    np.testing.assert_allclose(found.factors["hidden[0]"], ratio, rtol=1e-12)


def test_no_factor_of_a_scale_is_near_one():
    factors = np.concatenate([random_factors(jax.random.key(seed), 40, 8.0) for seed in range(5)])
    sizes = np.abs(np.log2(factors))
    assert 1.0 <= sizes.min() < 1.2
    assert 2.8 < sizes.max() <= 3.0
    assert 0.3 < (factors < 1).mean() < 0.7
    assert all(abs(np.log2(random_factors(jax.random.key(seed), 1, 8.0)[0])) >= 1 for seed in range(20))


@pytest.mark.parametrize("batch_statistics", [pytest.param(False, marks=pytest.mark.slow), True])
def test_filters_before_a_norm_may_be_scaled_alone_under_batch_statistics(batch_statistics):
    network, landscape = image_network(batch_statistics=batch_statistics)
    found = rewrite(KEY, network, landscape)
    words = found.done["channels[0]"].split("; ")
    if batch_statistics:
        assert "convs[0].conv.weight times c" in words
    else:
        assert any("conv.weight times c" in text and "norm.mean.value times c" in text for text in words)
    assert found.output_change < 3e-4  # the eps of the norm
    assert np.abs(np.log2(np.concatenate(list(found.factors.values())))).min() >= 1


@pytest.mark.slow
def test_scales_of_attention_and_gated_units_are_found():
    network = Transformer(
        KEY, 3, 4, 2, num_stream=4, num_heads=2, num_hidden=3, num_blocks=1, gated=True, norm="rms", activation="silu"
    )
    x = jax.random.normal(jax.random.key(1), (6, 4, 3))
    found = rewrite(KEY, network, Landscape(x, jnp.zeros((6, 2))))
    assert {"queries[0]", "values[0]", "hidden[0]", "stream"} <= set(found.done)
    assert "feed_forward.up.weight times c" in found.done["hidden[0]"]
    assert "attention.key times 1/c" in found.done["queries[0]"]
    assert found.output_change < 1e-12


# -- the acceptance table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [pytest.param(False, marks=pytest.mark.slow), True])
def test_rescaling_two_layers_moves_curvature_as_dinh_says_and_no_invariant(use_bias):
    """`tr H(c) = T1 / c^2 + c^2 T2`, and everything that is measured relative to the weights stays."""
    network, landscape = classifier(use_bias=use_bias)
    last_bias = "layers[1].bias" if use_bias else None
    first = float(trace(KEY, network, landscape, only="layers[0].*", method="exact").value)
    second = float(trace(KEY, network, landscape, only="layers[1].weight", method="exact").value)
    bias = float(trace(KEY, network, landscape, only=last_bias, method="exact").value) if use_bias else 0.0
    invariants = []
    for c in (1.0, 3.0, 10.0):
        # The first bias takes the factor of its layer; the last one, after 1 / c, that of both: 1.
        written = apply_scale(network, "hidden[0]", jnp.full(6, c))
        found = float(trace(KEY, written, landscape, method="exact").value)
        assert found == pytest.approx(first / c**2 + c**2 * second + bias, rel=1e-10)
        point, moved = relative_point(written, landscape)
        energy = local_energy(KEY, written, landscape, sigmas=[0.2], num_draws=3)
        invariants.append(
            np.concatenate([
                np.asarray(spectrum(point, moved).all_values),
                energy.loss_rise[:, 0],
                [float(landscape(written)), adaptive_sharpness(written, landscape, eta=0.0, num_steps=0).one_step],
            ])
        )  # fmt: skip
    for row in invariants[1:]:
        np.testing.assert_allclose(row, invariants[0], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_scaling_filters_before_a_norm_keeps_relative_measures_and_divides_the_curvature():
    network, landscape = image_network(batch_statistics=True)
    # Large inputs, so that the eps of the norm is nothing beside their variance.
    landscape = Landscape(100 * landscape.inputs, landscape.targets, loss="cross_entropy")
    c = 3.0
    where = lambda net: net.convs[0].conv.weight  # noqa: E731
    written = eqx.tree_at(where, network, c * where(network))
    assert float(landscape(written)) == pytest.approx(float(landscape(network)), rel=1e-5)
    rises = [local_energy(KEY, net, landscape, sigmas=[0.1], num_draws=3).loss_rise for net in (network, written)]
    np.testing.assert_allclose(rises[1], rises[0], rtol=1e-5)
    only = "convs[0].conv.weight"
    blocks = [
        trace(KEY, net, landscape, only=only, method="hutchinson", num_probes=2).samples for net in (network, written)
    ]
    np.testing.assert_allclose(blocks[1], blocks[0] / c**2, rtol=1e-5)


def test_permuted_units_keep_every_measure_with_the_same_probes():
    network, landscape = classifier("tanh")
    for kind in ("permutation", "sign"):
        found = rewrite(KEY, network, landscape, kind=kind)
        other, transport = found.network, found.transport
        for noise in ("additive", "multiplicative", "filter"):
            one = local_energy(KEY, network, landscape, noise=noise, sigmas=[0.2], num_draws=2)
            two = local_energy(KEY, other, landscape, noise=noise, sigmas=[0.2], num_draws=2, transport=transport)
            np.testing.assert_allclose(two.loss_rise, one.loss_rise, rtol=1e-9)
        pairs = [
            (measure(network, landscape, num_steps=3), measure(other, landscape, num_steps=3, transport=transport))
            for measure in (sharpness, adaptive_sharpness)
        ]
        for one, two in pairs:
            assert two.value == pytest.approx(one.value, rel=1e-9)
        sigmas = [
            pac_bayes_sigma(KEY, net, landscape, of="loss", num_draws=3, transport=moved).sigma
            for net, moved in ((network, None), (other, transport))
        ]
        assert sigmas[1] == pytest.approx(sigmas[0], rel=1e-6)
        ends = [np.asarray(spectrum(net, landscape).all_values) for net in (network, other)]
        np.testing.assert_allclose(ends[1], ends[0], atol=1e-12)


def test_a_saddle_has_a_negative_trace_and_its_two_ends_apart():
    matrix, point, landscape = bowl([3.0, 1.0, -7.0, 0.5])
    assert float(trace(KEY, point, landscape, method="exact").value) == pytest.approx(np.trace(matrix))
    ends = spectrum(point, landscape, num_top=1, num_bottom=1)
    np.testing.assert_allclose([ends.top[0], ends.bottom[0]], [3.0, -7.0], rtol=1e-10)
    assert np.trace(matrix) < 0


# -- report, audit and comparison ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return flatness_report(KEY, *classifier("relu"), **CHEAP)


@pytest.mark.slow
def test_the_report_holds_every_measure_and_the_audit_tells_weights_from_functions():
    report: Any = flatness_report(KEY, *classifier("relu"), **FEW)
    assert len(report.measures) == 17
    assert report.missing == {}
    assert report.audit.kind == "scale"
    verdicts = {row.name: row.verdict for row in report.audit.rows}
    assert set(verdicts) == set(report.measures)
    invariant = {
        "local energy, multiplicative, loss", "local energy, multiplicative, error", "relative trace",
        "relative top eigenvalue", "adaptive sharpness", "PAC-Bayes sigma, multiplicative",
    }  # fmt: skip
    assert {name for name in invariant if verdicts[name] != "unchanged"} == set()
    for name in ("Hessian trace", "top eigenvalue", "SAM sharpness"):
        assert verdicts[name] == "scale dependent"
        assert name in report.audit.scale_dependent
    assert report.settings["num_draws"] == 6
    assert report.chains is not None
    assert report.relative_gradient_norm > 0


def test_the_audit_tells_weights_from_functions(report: Any):
    verdicts = {row.name: row.verdict for row in report.audit.rows}
    assert {name for name, verdict in verdicts.items() if verdict == "unchanged"} >= {
        "local energy, multiplicative, loss", "relative trace", "relative top eigenvalue", "adaptive sharpness",
    }  # fmt: skip
    assert {"Hessian trace", "top eigenvalue", "SAM sharpness"} <= set(report.audit.scale_dependent)
    assert report.audit.output_change < 1e-13
    assert report.audit.response > 2
    sizes = np.abs(np.log2(report.audit.factors["hidden[0]"]))
    assert sizes.shape == (6,)
    assert 1 <= sizes.min() <= sizes.max() <= 3


def test_scales_that_do_not_reach_what_is_measured_decide_nothing():
    network, landscape = classifier("relu")
    options: Any = FEW | {"measures": ["sharpness"], "only": "layers[1].bias"}
    audit = flatness_report(KEY, network, landscape, **options).audit
    assert audit is not None
    assert audit.kind == "scale"
    assert audit.response == pytest.approx(1.0, rel=1e-12)  # the output bias keeps its value and its effect
    assert [row.change for row in audit.rows] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert {row.verdict for row in audit.rows} == {"not decided"}


def test_rows_and_arrays_carry_the_audit(report):
    rows = report.rows()
    assert rows[0]["measure"] == "local energy, additive, loss"
    assert {"value", "low", "high", "standard error", "convention", "change", "audit"} <= set(rows[0])
    data = report.to_xarray()
    np.testing.assert_array_equal(data["value"], [row["value"] for row in rows])
    assert data["change"].sel(measure="Hessian trace") > 0.01
    known = [row for row in rows if np.isfinite(row["standard error"])]
    assert {row["measure"] for row in rows if row not in known} == {"SAM sharpness", "adaptive sharpness"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in known)


def test_a_network_without_scale_symmetry_is_audited_by_what_it_has():
    network, landscape = classifier("tanh")
    report: Any = flatness_report(KEY, network, landscape, measures=["sharpness"], **FEW)
    assert report.audit.kind == "sign"
    assert report.audit.reason == (
        "the network has no scale or reflection symmetry; only signs of its units were changed, an isometry: "
        '"unchanged" then says nothing about scales'
    )
    assert {row.verdict for row in report.audit.rows} == {"unchanged"}
    softplus: Any = flatness_report(KEY, *classifier("softplus"), measures=["sharpness"], **FEW)
    assert softplus.audit.kind == "permutation"
    assert "no scale, reflection or sign symmetry; only the order" in softplus.audit.reason
    alone = rewrite(KEY, *classifier("softplus", widths=(4, 1, 3)), kind="permutation")
    assert alone.done == {}  # one unit has no other order


@pytest.mark.slow
def test_sigmoids_are_audited_by_reflections_which_show_what_belongs_to_the_weights():
    network, landscape = classifier("sigmoid")
    report: Any = flatness_report(KEY, network, landscape, measures=["sharpness", "hessian"], **FEW)
    assert (report.audit.kind, report.audit.reason) == (
        "reflection",
        "the network has no scale symmetry; it was written anew by reflections, which measures of the weights see, too",
    )
    assert report.audit.output_change < 1e-13
    assert {row.verdict for row in report.audit.rows} == {"changed"}


def test_reflected_sigmoids_keep_the_outputs_by_the_next_biases():
    network, landscape = classifier("sigmoid")
    found = rewrite(KEY, network, landscape, kind="reflection")
    x = jax.random.normal(jax.random.key(9), (7, 4))
    np.testing.assert_allclose(jax.vmap(found.network)(x), jax.vmap(network)(x), rtol=1e-10)
    turned = found.network.layers[1].weight * network.layers[1].weight < 0
    assert 0 < turned.sum() < turned.size
    shift = found.network.layers[1].bias - network.layers[1].bias
    np.testing.assert_allclose(shift, jnp.where(turned, network.layers[1].weight, 0.0).sum(1), rtol=1e-12)
    assert rewrite(KEY, classifier("tanh")[0], landscape, kind="reflection").done == {}
    bare, data = classifier("sigmoid", use_bias=False)
    assert rewrite(KEY, bare, data, kind="reflection").done == {}


def test_what_cannot_be_audited_or_measured_says_why():
    matrix, point, landscape = bowl([1.0, 2.0])
    report: Any = flatness_report(KEY, point, landscape, measures=["local_energy", "pac_bayes"], **FEW)
    assert report.audit.kind is None
    assert "states no unit spaces" in report.audit.reason
    assert report.missing["local energy of the error"] == "the data has no classes"
    assert "no classes" in report.missing["PAC-Bayes bound"]
    sigma = report.measures["PAC-Bayes sigma, additive"]
    assert "loss" in sigma.convention
    assert sigma.low < np.sqrt(0.2 / np.trace(matrix)) < sigma.high
    assert report.missing["PAC-Bayes sigma, multiplicative"].startswith("no multiplicative noise")  # all weights are 0
    with pytest.raises(InputError, match="Unknown measure 'hesian'. Did you mean 'hessian'"):
        flatness_report(KEY, point, landscape, measures=["hesian"])
    with pytest.raises(InputError, match="measures is empty"):
        flatness_report(KEY, point, landscape, measures=[])


def test_paired_differences_are_more_certain_and_the_flatter_is_found():
    landscape = Landscape.from_function(
        lambda params, batch: 0.5 * params["h"].value * jnp.sum(params["w"] ** 2)[None] * batch, jnp.ones(1)
    )
    points = {
        name: {"h": Buffer(jnp.asarray(value)), "w": jnp.zeros(5)} for name, value in (("wide", 1.0), ("narrow", 1.3))
    }
    found = compare_flatness(KEY, points, landscape, measures=["local_energy"], num_draws=8, audit=False)
    row = next(row for row in found.differences if row.measure == "local energy, additive, loss")
    assert row.is_paired
    assert row.flatter == "wide"
    assert row.value == pytest.approx(0.3 * found.reports["wide"].measures[row.measure].value, rel=1e-9)
    both = [report.measures[row.measure].standard_error for report in found.reports.values()]
    assert row.standard_error == pytest.approx(both[1] - both[0])
    assert row.standard_error < 0.3 * np.hypot(both[0], both[1])
    assert set(found.flatter_at("additive").values()) == {"wide"}
    assert found.warnings == ()


def test_differences_that_are_all_equal_are_judged_by_their_signs():
    # Student's t has no spread to go by; that n of n have one sign has the probability 2^(1 - n) without a difference.
    one = np.array([0.3, 0.7, 0.1, 0.5])
    for count, flatter in ((4, None), (16, "one")):
        samples = np.tile(one, count // 4)
        row = _paired("m", "one", "other", samples, samples + 0.1, 0.01, is_small_flat=True)
        assert row.value == pytest.approx(0.1)
        assert row.p_value == 2.0 ** (1 - count)
        assert row.flatter == flatter
        assert np.isnan(row.low) == (flatter is None)
    none = _paired("m", "one", "other", one, one, 0.01, is_small_flat=True)
    assert (none.value, none.p_value, none.flatter, none.low, none.high) == (0.0, 1.0, None, 0.0, 0.0)


def test_measures_that_disagree_and_errors_that_differ_are_said():
    network, landscape = classifier()
    written = apply_scale(network, "hidden[0]", jnp.full(6, 4.0))
    flipped = Dense.from_layers(
        [*network.layers[:-1], jax.tree.map(lambda a: -0.5 * a, network.layers[-1])], network.activation
    )
    options = CHEAP | {"measures": ["hessian", "local_energy"], "audit": False}
    same = compare_flatness(KEY, {"one": network, "other": written}, landscape, **options)
    by = {row.measure: row.flatter for row in same.differences}
    assert by["Hessian trace"] == "one"
    assert by["local energy, multiplicative, loss"] is None
    text = " ".join(compare_flatness(KEY, {"one": network, "other": flipped}, landscape, **options).warnings)
    assert "training errors of one" in text
    assert "gradient is not small" in text
    with pytest.raises(InputError, match="at least two networks"):
        compare_flatness(KEY, {"one": network}, landscape)
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        compare_flatness(KEY, {"one": network, "other": network}, landscape, level=0.0)


def test_what_a_search_found_and_bounds_rank_nothing():
    network, landscape = classifier()
    written = apply_scale(network, "hidden[0]", jnp.full(6, 8.0))
    options = {"measures": ["sharpness", "pac_bayes"], "audit": False, "num_draws": 3}
    found = compare_flatness(KEY, {"one": network, "other": written}, landscape, **options)
    rows = {row.measure: row for row in found.differences}
    assert found.reports["one"].measures["PAC-Bayes bound"].value >= 0.9  # 30 examples prove next to nothing
    for name in ("SAM sharpness", "adaptive sharpness", "PAC-Bayes bound"):
        assert not found.reports["one"].measures[name].has_interval
        assert rows[name].flatter is None
        assert np.isnan([rows[name].p_value, rows[name].low, rows[name].high]).all()
    assert abs(rows["SAM sharpness"].value) > 1e-3  # it does differ
    assert found.reports["one"].measures["PAC-Bayes sigma, additive"].has_interval
    assert "SAM" not in " ".join(found.warnings)


def test_the_training_error_is_measured_whatever_is_asked():
    report: Any = flatness_report(KEY, *classifier(), measures=["hessian"], audit=False, **FEW)
    assert report.error == pytest.approx(3 / 30)  # three labels are wrong


def test_a_prior_of_another_shape_is_refused_and_not_put_down_to_the_data():
    network, landscape = classifier()
    other, _ = classifier(widths=(4, 5, 3))
    with pytest.raises(InputError, match="The prior has 43 parameters and the network 51"):
        # One draw is refused too, by the measures before; the prior is looked at before them.
        flatness_report(KEY, network, landscape, prior=other, num_draws=1)


def test_the_audit_calls_invariants_unchanged_in_single_precision():
    network, landscape = classifier("relu")
    network = jax.tree.map(lambda a: a.astype(jnp.float32), network)
    landscape = Landscape(landscape.inputs.astype(jnp.float32), landscape.targets, loss="cross_entropy")
    report: Any = flatness_report(KEY, network, landscape, **CHEAP)
    verdicts = {row.name: row.verdict for row in report.audit.rows}
    assert {name for name, verdict in verdicts.items() if verdict == "unchanged"} >= {
        "local energy, multiplicative, loss", "relative trace", "relative top eigenvalue", "adaptive sharpness",
    }  # fmt: skip
    assert {"Hessian trace", "top eigenvalue", "SAM sharpness"} <= set(report.audit.scale_dependent)


@pytest.mark.parametrize(
    ("after", "error", "half", "response", "verdict"),
    [
        (1.0005, 0.0, 0.0, 2.0, "unchanged"),
        (1.0005, 0.0, 0.0, 0.95, "not decided"),  # of scales that hardly matter
        (1.0005, 0.0, 0.0, 0.5, "unchanged"),
        (1.0005, 0.9, 0.0, 2.0, "unchanged"),  # by the same random numbers, whatever its error
        (-1.0, 0.9, 0.0, 2.0, "not decided"),
        (1.03, 0.0, 0.0, 1.0, "scale dependent"),
        (1.03, 0.0, 0.02, 2.0, "unchanged within its error"),  # such as the residuals of two eigenvalues
        (1.05, 0.0, 0.02, 2.0, "scale dependent"),
        (1.05, 0.02, 0.0, 2.0, "unchanged within its error"),
        (1.05, 0.15, 0.0, 1.2, "not decided"),  # a change by a fifth would not have shown
        (1.05, 0.3, 0.0, 50.0, "not decided"),  # hardly known at all
        (1.05, np.nan, np.nan, 2.0, "scale dependent"),
    ],
)
def test_a_verdict_is_as_sure_as_both_intervals_and_as_the_scales_reach(after, error, half, response, verdict):
    one, other = (FlatnessMeasure("m", v, error, v - half, v + half, None, True, "") for v in (1.0, after))
    assert _audit_row(one, other, "m", "scale", 1e-3, response).verdict == verdict
