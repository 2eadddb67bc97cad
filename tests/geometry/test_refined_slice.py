from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Status
from lossatlas.geometry import as_directions, directions_to, loss_slice, merge_tree, random_directions, refined_slice
from lossatlas.geometry._cells import COUNTS, box_grid, picture_axes, tails
from lossatlas.geometry._refine import Judged, Samples, Tolerance, check_size, interpolate, interpolate_grid, refine
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


SQUARE = ((-1.0, 1.0), (-1.0, 1.0))


def refined(fn, tolerance, extents=SQUARE, *, max_points=20_000, scale: Any = "absolute", seed=0, **options):
    """Refine a numpy function of points, shape (m, k)."""
    compute = lambda points: fn(points)[:, None]  # noqa: E731
    return refine(
        compute,
        extents,
        ("smooth",),
        [Judged((0,), Tolerance(tolerance, scale))],
        places=options.get("places", ()),
        coverage=options.get("coverage", 0.95),
        confidence=options.get("confidence", 0.95),
        max_points=max_points,
        rng=np.random.default_rng(seed),
        report=lambda done, note: None,  # noqa: ARG005
    )


def true_errors(found, fn, extents=SQUARE, num=4000):
    low, high = zip(*extents, strict=True)
    points = np.random.default_rng(99).uniform(low, high, (num, len(extents)))
    return np.abs(interpolate(found.cells, found.samples.values, points, ("smooth",))[:, 0] - fn(points))


def test_polynomials_up_to_the_degree_of_a_cell_are_exact():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3):
        coefficients = rng.normal(size=(7,) * k)

        def polynomial(points, k=k, coefficients=coefficients):
            for axis in range(k):
                powers = points[:, axis : axis + 1] ** np.arange(7)
                coefficients = (
                    np.tensordot(powers, coefficients, axes=1)
                    if axis == 0
                    else np.einsum("mi,mi...->m...", powers, coefficients)
                )
            return coefficients

        extents = ((-1.0, 1.0), (0.0, 2.0), (-0.5, 0.5))[:k]
        found = refined(polynomial, 1e30, extents)
        assert len(found.samples.points) == 7**k
        assert true_errors(found, polynomial, extents).max() < 1e-10 * np.abs(found.samples.values).max()


def test_the_points_of_a_cell_stay_when_it_gets_more_and_neighbours_share_their_face():
    sets = [{row.tobytes() for row in box_grid((-1.0, 0.0), (0.3, 0.7), (n, n)) + 0.0} for n in COUNTS]
    assert sets[0] < sets[1] < sets[2]
    left, right = box_grid((-1.0, 0.0), (0.3, 0.7), (7, 7)), box_grid((0.3, 0.0), (1.1, 0.7), (7, 7))
    assert np.array_equal(left[left[:, 0] == 0.3], right[right[:, 0] == 0.3])


def test_the_expected_error_of_an_analytic_function_is_of_the_size_of_the_true_one():
    # Coefficients of 1 / (1 + 4 x^2) fall by the factor (1 + sqrt 5) / 2 a degree.
    fn = lambda points: 1 / (1 + 4 * points[:, 0] ** 2)  # noqa: E731
    for count in COUNTS:
        grid = box_grid((-1.0,), (1.0,), (count,))
        (expected,), (rate,) = tails(fn(grid))
        assert rate == pytest.approx(2 / (1 + np.sqrt(5)), rel=0.1)
        x = np.linspace(-1, 1, 1001)[:, None]
        error = np.abs(np.polynomial.chebyshev.Chebyshev.fit(grid[:, 0], fn(grid), count - 1)(x[:, 0]) - fn(x)).max()
        assert 0.2 * error < expected < 5 * error


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_the_stated_error_holds_on_points_that_were_not_seen(tolerance):
    fn = lambda p: np.exp(-4 * np.sum((p - 0.3) ** 2, axis=1)) + 0.3 * np.sin(5 * p[:, 0]) * p[:, 1]  # noqa: E731
    found = refined(fn, tolerance)
    assert found.status is Status.CONVERGED
    errors = true_errors(found, fn)
    assert np.mean(errors > tolerance) < 0.05
    assert np.nanmax(found.errors) <= tolerance
    # A uniform grid with bilinear interpolation needs h^2 max |f''| / 8 below it along both axes; here max |f''| is 8.
    uniform = (2 / np.sqrt(tolerance) + 1) ** 2
    assert len(found.samples.points) + len(found.checks) < uniform / (1.5 if tolerance > 1e-3 else 50)


def test_one_direction_that_varies_gets_the_points():
    found = refined(lambda p: np.sin(9 * p[:, 0]) + 0.1 * p[:, 1], 1e-3)
    (cell,) = found.cells
    assert cell.index.shape == (25, 7)


def test_a_kink_is_halved_where_it_is_and_not_elsewhere():
    fn = lambda p: np.abs(p[:, 0] - 0.13) + 0.2 * p[:, 1]  # noqa: E731
    found = refined(fn, 2e-3)
    assert found.status is Status.CONVERGED
    assert np.mean(true_errors(found, fn) > 2e-3) < 0.05
    widths = {cell.high[0] - cell.low[0] for cell in found.cells}
    assert max(widths) == 1.0 > 0.3 > min(widths)
    assert all(cell.depth[1] == 0 for cell in found.cells)
    area = sum(np.prod(np.subtract(cell.high, cell.low)) for cell in found.cells)
    assert area == pytest.approx(4)


def test_noise_runs_out_of_points_and_says_so_with_the_error_that_it_reached():
    noise = np.random.default_rng(5)
    fn = lambda p: noise.normal(size=len(p))  # noqa: E731
    found = refined(fn, 1e-3, max_points=500)
    assert found.status is Status.MAX_STEPS
    assert len(found.samples.points) <= 500
    assert np.nanmax(found.errors) > 1


def test_an_edge_of_what_is_finite_is_followed_masked_and_excused():
    def fn(p):
        radius = np.sum(p**2, axis=1)
        return np.where(radius < 0.7, radius, np.inf)

    found = refined(fn, 1e-3)
    assert found.status is Status.CONVERGED
    assert 0 < found.num_at_edge < len(found.errors)
    points = np.random.default_rng(1).uniform(-1, 1, (4000, 2))
    values = interpolate(found.cells, found.samples.values, points, ("smooth",))[:, 0]
    inside = np.sum(points**2, axis=1) < 0.7
    assert np.isnan(values[np.sum(points**2, axis=1) > 0.85]).all()
    assert np.mean(np.isnan(values[inside])) < 0.1  # cells beside a sample that is not finite
    assert np.nanmax(np.abs(values - fn(points))[inside & np.isfinite(values)]) < 0.05
    assert np.isnan(refined(lambda p: np.full(len(p), np.nan), 0.1).samples.values).all()


def test_a_passed_check_means_what_is_said():
    # Wrong on a share of the area just above 1 - coverage: a check passes with at most 1 - confidence.
    assert check_size(0.95, 0.95) == 59
    assert check_size(0.99, 0.95) == 299
    passed = 0
    for seed in range(200):
        # A narrow ridge that no sample of the first cell meets: 6 % of the area.
        ridge = lambda p: np.where(np.abs(p[:, 0] - 0.25) < 0.06, 1.0, 0.0)  # noqa: E731
        passed += refined(ridge, 0.5, seed=seed, max_points=60).status is Status.CONVERGED  # no points for more
    share = 0.94 ** check_size(0.95, 1 - 0.75 * 0.05)  # the first check holds three quarters of the doubt
    assert passed <= 200 * share + 5 * np.sqrt(200 * share)


def test_tolerances_are_relative_to_the_spread_the_value_or_nothing():
    values = np.array([1.0, -4.0])
    assert Tolerance(0.1, "absolute").at(values, 10.0).tolist() == [0.1, 0.1]
    assert Tolerance(0.1, "range").at(values, 10.0).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(Tolerance(0.1, "value").at(values, 10.0), [0.1, 0.4])
    steep = lambda p: np.exp(6 * p[:, 0])  # noqa: E731
    by_value, by_range = (refined(steep, 0.01, scale=scale) for scale in ("value", "range"))
    assert len(by_value.samples.points) > len(by_range.samples.points)
    points = np.random.default_rng(3).uniform(-1, 1, (2000, 2))
    off = np.abs(interpolate(by_value.cells, by_value.samples.values, points, ("smooth",))[:, 0] / steep(points) - 1)
    assert np.mean(off > 0.01) < 0.05


def test_accuracies_stay_between_samples_and_gradient_norms_never_fall_below_zero(key):
    # One over zero: accuracy 0 or 1; the gradient norm of a quadratic has a tip where it is zero.
    landscape = Landscape(jnp.ones((1, 1)), jnp.ones((1, 1)), loss="logistic")
    network = Dense(key, [1, 1], use_output_bias=False)
    network = jax.tree.map(lambda a: jnp.full_like(a, 0.2), network)
    line = as_directions(network, [np.ones(1)])
    found = refined_slice(key, network, landscape, line)
    x = np.linspace(-1, 1, 501)[:, None]
    accuracy = found(x)["accuracy"]
    assert ((accuracy >= 0) & (accuracy <= 1)).all()
    quadratic = Landscape(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    sloped = refined_slice(key, network, quadratic, line, gradient_norm=True)
    np.testing.assert_allclose(sloped(x)["gradient_norm"], np.abs(x[:, 0] + 0.2), atol=1e-7)
    assert sloped.error["gradient_norm"] < 1e-7


def test_places_are_samples_of_all_cells_around_them_and_lines_of_the_picture():
    fn = lambda p: np.sin(3 * p[:, 0]) * np.cos(2 * p[:, 1])  # noqa: E731
    extents = ((-0.25, 1.25), (-0.3, 1.4))
    places = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    found = refined(fn, 0.5, extents, places=[*places, (7.0, 0.5)])  # what lies outside changes nothing
    at = lambda points: interpolate(found.cells, found.samples.values, points, ("smooth",))[:, 0]  # noqa: E731
    assert np.array_equal(at(np.array(places)), fn(np.array(places)))
    assert len(found.cells) == 9
    x, y = picture_axes(extents, places, 20)
    assert {0.0, 1.0} <= set(x)
    assert {0.0, 1.0} <= set(y)
    assert (len(x), x[0], x[-1]) == (20, -0.25, 1.25)
    assert (np.diff(x) > 0).all()
    assert len(refined(fn, 0.5, places=[(0.0, 0.0)]).cells) == 1  # the middle is a sample without a cut


def test_there_is_no_step_between_the_pieces_of_a_box_that_was_cut():
    fn = lambda p: np.exp(-p[:, 1]) * np.sin(5 * p[:, 0] * (1 - p[:, 1]))  # noqa: E731  # the lower half needs more
    found = refined(fn, 0.05, places=[(0.1, 0.3)])
    assert {cell.index.shape[0] for cell in found.cells} != {COUNTS[0]}
    assert all(not any(cell.depth) for cell in found.cells)
    x = np.linspace(-1, 1, 201)
    below, above = (
        interpolate(found.cells, found.samples.values, np.stack([x, np.full(201, y)], axis=1), ("smooth",))
        for y in (0.3 - 1e-12, 0.3 + 1e-12)
    )
    np.testing.assert_allclose(below, above, atol=1e-9)


def test_a_basin_that_only_the_interpolation_has_is_computed_and_mended():
    # The polynomial through a wall beside a plateau swings below it, by less than the tolerance: no random point fails.
    fn = lambda p: 1e-4 + 1 / (1 + np.exp(-14 * p[:, 0]))  # noqa: E731
    found = refined(fn, 0.03, ((-1.0, 1.0),))
    computed = np.concatenate([found.samples.values, found.check_values])[:, 0]
    axis = np.linspace(-1, 1, 301)[:, None]
    drawn = interpolate(found.cells, found.samples.values, axis, ("smooth",))[:, 0]
    assert drawn.min() < 0  # there is such a basin
    assert axis[drawn.argmin()] in found.checks  # and the loss there is known
    assert computed.min() - drawn.min() <= found.errors.max() <= 0.03
    # Deeper than the tolerance, it is no basin: a kink that random points would hardly meet.
    spike = lambda p: np.where(np.abs(p[:, 0] - 0.5) < 0.02, 5.0, 0.0) + p[:, 0] ** 2  # noqa: E731
    rough = refined(spike, 0.4, ((-1.0, 1.0),))
    drawn = interpolate(rough.cells, rough.samples.values, axis, ("smooth",))[:, 0]
    assert drawn.min() > -0.4


def test_nothing_is_drawn_below_the_least_that_was_computed_and_the_lowest_was(key):
    # A loss that is nowhere negative, from 1e-4 to 1: the tolerance of 1 % of its spread is far above the least.
    landscape = Landscape.from_function(
        lambda p, batch: batch * (1e-4 + jax.nn.sigmoid(14.0 * p[0])) * jnp.cosh(0.1 * p[1]), jnp.ones(1)
    )
    found = refined_slice(key, jnp.zeros(2), landscape, as_directions(jnp.zeros(2), list(np.eye(2))), max_error=0.03)
    least = min(found.values["loss"])
    place, loss = found.lowest
    assert loss == least == float(landscape(jnp.array(place)))
    picture = found.on_grid(61)
    raw = interpolate_grid(list(found.cells), found.values["loss"][:, None], picture.coordinates, ("smooth",))
    assert raw.min() < 0 < least
    assert picture.values["loss"].min() == least
    assert merge_tree(found).losses.tolist() == [least]
    assert found(np.array(np.meshgrid(*picture.coordinates)).reshape(2, -1).T)["loss"].min() == least
    assert not found.to_xarray()["checked"][0]
    assert found.to_xarray()["checked"].sum() == found.stats["checked"]


def test_points_are_computed_once():
    calls = []

    def compute(points):
        calls.append(len(points))
        return points[:, :1]

    samples = Samples(compute, 1, 1)
    samples.add(np.array([[0.0], [-0.0], [1.0], [0.0]]))
    samples.add(np.array([[1.0], [2.0]]))
    assert calls == [2, 1]
    assert samples.index(np.array([[2.0], [-0.0]])).tolist() == [2, 0]


@pytest.fixture(scope="module")
def small():
    """A network, its landscape, a plane and its refined slice."""
    key = jax.random.key(0)
    network = Dense(key, [1, 6, 1])
    x = np.linspace(-1, 1, 12)[:, None]
    landscape = Landscape(x, np.sin(4 * x))
    directions = random_directions(key, network)
    return network, landscape, directions, refined_slice(key, network, landscape, directions, max_error=1e-3)


def test_a_refined_slice_of_a_network_is_the_grid_to_the_stated_error(small):
    network, landscape, directions, found = small
    grid = loss_slice(network, landscape, directions, num=21)
    picture = found.on_grid(21)
    spread = np.ptp(found.values["loss"][: -found.stats["checked"]])
    assert found.status is Status.CONVERGED
    assert found.settings["refined"]["allowed"] == pytest.approx(1e-3 * spread)
    assert np.mean(np.abs(picture.values["loss"] - grid.values["loss"]) > 1e-3 * spread) < 0.05
    assert found.stats["points"] < 21**2
    assert picture.error == found.error
    scattered = found(np.stack(np.meshgrid(*picture.coordinates, indexing="ij"), axis=-1).reshape(-1, 2))
    np.testing.assert_allclose(picture.values["loss"].ravel(), scattered["loss"], rtol=1e-10)
    assert all(np.array_equal(a, b) for a, b in zip(picture.coordinates, grid.coordinates, strict=True))
    assert merge_tree(picture).min_persistence == 2 * found.error["loss"]  # a gap below may come from interpolation
    assert found.to_xarray().attrs["status"] == "converged"
    assert found.to_xarray().sizes["sample"] == len(found.points)


def test_the_minima_of_a_refined_slice_were_computed_and_are_deeper_than_the_error(key):
    def wells(p, batch):
        well = lambda x, y, depth: depth * jnp.exp(-20 * ((p[0] - x) ** 2 + (p[1] - y) ** 2))  # noqa: E731
        return batch * (1.0 - well(-0.55, 0, 0.7) - well(0.45, 0, 0.5) - well(0, 0.7, 0.02))

    landscape = Landscape.from_function(wells, jnp.ones(1))
    found = refined_slice(key, jnp.zeros(2), landscape, as_directions(jnp.zeros(2), list(np.eye(2))), max_error=0.002)
    assert len(merge_tree(found).losses) == 3
    coarse = eqx.tree_at(lambda f: f.error["loss"], found, 0.011)  # the third is 0.02 deep: twice the error
    tree = merge_tree(coarse)
    assert len(tree.losses) == 2
    for loss, place in zip(tree.losses, tree.minima, strict=True):
        row = np.flatnonzero((found.points == place).all(axis=1))[0]
        assert found.values["loss"][row] == loss == pytest.approx(float(landscape(jnp.asarray(place))), rel=1e-12)
    assert tree.losses[0] == found.lowest[1]
    np.testing.assert_allclose(tree.minima, [[-0.55, 0], [0.45, 0]], atol=0.1)
    assert merge_tree(found, min_persistence=0.6).losses.tolist() == [found.lowest[1]]


def test_the_deepest_basin_is_the_one_that_was_computed_so(key):
    flat = Landscape.from_function(lambda p, batch: batch + 0.0 * p[0], jnp.ones(1))
    line = as_directions(jnp.zeros(1), [np.ones(1)])
    found = refined_slice(key, jnp.zeros(1), flat, line, max_error=1.0, relative_to="absolute")  # 7 samples
    # Two samples of 0.1 on the left, between which the polynomial swings below zero; on the right a check found 0.02.
    order = np.argsort(found.points[:7, 0])
    values = np.ones(len(found.points))
    values[order] = [1.0, 0.1, 0.1, 1.0, 0.3, 0.6, 1.0]
    check = 7 + int(np.argmin(np.abs(found.points[7:, 0] - 0.5)))
    values[check] = 0.02
    found = eqx.tree_at(lambda f: (f.values["loss"], f.error["loss"]), found, (values, 0.2))
    raw = interpolate(list(found.cells), values[:, None], np.array([[-0.7]]), ("smooth",))
    assert raw.item() < 0.02
    tree = merge_tree(found)
    assert tree.losses.tolist() == [0.02, 0.1]
    assert tree.minima[0, 0] == found.points[check, 0]
    assert tree.minima[1, 0] < 0
    assert tree.parents.tolist() == [-1, 0]
    assert tree.saddle_losses[1] > 0.9


def test_an_error_relative_to_the_value_is_small_where_the_loss_is(key):
    landscape = Landscape.from_function(lambda p, batch: batch * jnp.exp(5.0 * p[0]), jnp.ones(1))
    line = as_directions(jnp.zeros(1), [np.ones(1)])
    found = refined_slice(key, jnp.zeros(1), landscape, line, max_error=0.05, relative_to="value")
    picture = found.on_grid(101)
    least = picture.values["loss"].min()
    assert 0 < picture.error_at("loss", least) <= 0.05 * least
    assert picture.error_at("loss", least) < 0.5 * found.error["loss"]
    assert picture.to_xarray()["loss"].attrs["error"] == picture.error_at("loss", least)
    refined_by_range = refined_slice(key, jnp.zeros(1), landscape, line, max_error=0.05)
    by_range = refined_by_range.on_grid(101)
    for error in (by_range.error_at("loss", least), by_range.to_xarray()["loss"].attrs["error"]):
        assert error == refined_by_range.error["loss"]
    computed = loss_slice(jnp.zeros(1), landscape, line, num=3)
    assert computed.error_at("loss", least) == 0
    assert "error" not in computed.to_xarray()["loss"].attrs


def test_networks_that_directions_lead_to_are_exact_on_a_refined_slice(small, key):
    network, landscape, _, _ = small
    others = [Dense(jax.random.key(seed), [1, 6, 1]) for seed in (1, 2)]
    directions = directions_to(network, *others)
    assert directions.networks == {"the network": (0, 0), "network 2": (1, 0), "network 3": (0, 1)}
    found = refined_slice(key, network, landscape, directions, max_error=0.3)
    losses = [float(landscape(each)) for each in (network, *others)]
    places = np.array(list(directions.networks.values()))
    np.testing.assert_allclose(found(places)["loss"], losses, rtol=1e-12)
    picture = found.on_grid(20)
    drawn = [picture.values["loss"][tuple(np.searchsorted(picture.coordinates[0], place))] for place in places]
    np.testing.assert_allclose(drawn, losses, rtol=1e-12)
    part = directions_to(network, others[0], only="layers[0].*")
    assert list(part.networks) == ["the network", "the other network, in what moves"]


def test_the_gradient_norm_has_a_tolerance_of_its_own_and_is_exact_at_the_network(small, key):
    network, landscape, directions, _ = small
    found = refined_slice(key, network, landscape, directions, max_error=0.02, gradient_norm=True)
    grid = loss_slice(network, landscape, directions, num=21, gradient_norm=True).values["gradient_norm"]
    off = np.abs(found.on_grid(21).values["gradient_norm"] - grid)
    assert np.mean(off > 0.02 * np.ptp(grid)) < 0.05
    assert found.error["gradient_norm"] <= 0.02 * np.ptp(found.values["gradient_norm"])
    assert off[10, 10] < 1e-12 * grid[10, 10]
    # What has jumps all over takes its share of points, and the loss is as good as it was.
    rough = lambda p: np.stack([p[:, 0], 1 + np.floor(1e3 * np.abs(p[:, 0] * p[:, 1])) % 2], axis=1)  # noqa: E731
    judged = [Judged((0,), Tolerance(0.01, "range")), Judged((1,), Tolerance(0.01, "range"))]
    stopped = refine(
        rough,
        SQUARE,
        ("smooth", "norm"),
        judged,
        coverage=0.95,
        confidence=0.95,
        max_points=20_000,
        rng=np.random.default_rng(0),
        report=lambda done, note: None,  # noqa: ARG005
    )
    assert stopped.status is Status.CONVERGED
    assert 500 < len(stopped.samples.points) + len(stopped.checks) < 1100
    assert np.nanmax(stopped.errors[:, 1]) > 0.5


def test_the_same_key_gives_the_same_refined_slice(small, key):
    network, landscape, directions, found = small
    again = refined_slice(key, network, landscape, directions, max_error=1e-3)
    assert np.array_equal(again.points, found.points)
    assert np.array_equal(again.values["loss"], found.values["loss"])
    assert again.error == found.error


def test_refined_slices_that_cannot_be_are_refused(small, key):
    network, landscape, directions, _ = small
    for options, words in [
        ({"max_error": 0.0}, "positive number"),
        ({"coverage": 1.0}, "coverage must lie between"),
        ({"confidence": 0.0}, "confidence must lie between"),
        ({"max_points": 0}, "max_points"),
    ]:
        with pytest.raises(InputError, match=words):
            refined_slice(key, network, landscape, directions, **options)
    nowhere = Landscape.from_function(lambda p, batch: batch * jnp.sum(p) * jnp.nan, jnp.ones(1))
    with pytest.raises(InputError, match="not finite at any sample"):
        refined_slice(key, jnp.zeros(1), nowhere, as_directions(jnp.zeros(1), [np.ones(1)]))
