import numpy as np
import pytest

from lossatlas.atlas._visits import find_visits


def _piecewise(corners, num=20):
    """A trajectory that goes straight from corner to corner, with its loss to the last corner."""
    pieces = [a + (b - a) * t for a, b in zip(corners[:-1], corners[1:], strict=True) for t in np.linspace(0, 1, num)]
    return np.array(pieces)


def _example():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(30, 2))
    small = 0.6 * targets + 0.3 * rng.normal(size=(30, 2))
    other = rng.normal(size=(30, 2))
    path = _piecewise([np.zeros_like(targets), small, targets])
    loss = 0.5 * np.mean(np.sum((path - targets) ** 2, axis=-1), axis=-1) + 1e-3
    return np.arange(len(path)), loss, path, small, other, targets


def test_visit_is_found_where_the_path_bends_and_not_elsewhere():
    steps, loss, path, small, other, targets = _example()
    visits = find_visits(steps, loss, path, [small, other], targets)
    assert visits.visits[0].verdict == "visit"
    assert visits.visits[0].step == 19
    assert visits.visits[0].distance == pytest.approx(0, abs=1e-12)
    assert visits.visits[1].verdict == "no match"


def test_control_denies_a_visit_that_a_straight_line_makes():
    steps, loss, _, small, _, targets = _example()
    straight = _piecewise([np.zeros_like(targets), targets], num=40)
    middle = 0.5 * targets
    visit = find_visits(steps, loss, straight, [middle], targets).visits[0]
    assert visit.distance < 0.05
    assert visit.control == pytest.approx(0, abs=1e-12)
    assert visit.verdict == "no match"


def test_control_is_the_distance_to_the_segment_in_closed_form():
    targets = np.array([[2.0, 0.0], [-2.0, 0.0]])
    entry = np.array([[1.0, 1.0], [-1.0, -1.0]])
    path = _piecewise([np.zeros((2, 2)), entry, targets])
    visit = find_visits(np.arange(40), np.ones(40), path, [entry], targets).visits[0]
    assert visit.control == pytest.approx(np.sqrt(2) / 2)  # height sqrt(2) over the segment, |entry| = 2


def test_entry_of_the_same_function_stands_behind_the_smaller_one():
    steps, loss, path, small, _, targets = _example()
    verdicts = [v.verdict for v in find_visits(steps, loss, path, [small, small + 1e-3], targets).visits]
    assert verdicts == ["visit", "same function"]


def test_slow_down_is_named_by_the_visit_around_it():
    targets = np.array([[1.0], [-1.0]])
    steps = np.unique(np.geomspace(1, 10_000, 160).astype(int))
    # Loss: falls, stays near 0.3 for a decade around step 300, falls again.
    drop = 1 / (1 + (steps / 20) ** 2) + 0.3 / (1 + (steps / 3000) ** 2) + 1e-4
    path = (1 - drop / drop[0])[:, None, None] * targets
    level = path[np.argmin(np.abs(steps - 300))]
    bent = level + np.array([[0.5], [0.5]])  # off the straight line
    at_level = np.exp(-((np.log(steps / 300) / 1.0) ** 2))[:, None, None]
    visits = find_visits(steps, drop, path + at_level * (bent - level), [bent], targets)
    named = [s for s in visits.slow_downs if s.entry == 0]
    assert len(named) == 1
    assert 150 < named[0].step < 600
    assert named[0].loss == pytest.approx(0.3, abs=0.02)


def test_entry_of_another_level_is_another_entry():
    steps, loss, path, small, _, targets = _example()
    close = small + 0.01
    apart = find_visits(steps, loss, path, [small, close], targets, sizes=[1, 2], levels=[0.2, 0.1])
    same = find_visits(steps, loss, path, [small, close], targets, sizes=[1, 2], levels=[0.2, 0.19])
    assert apart.visits[1].verdict != "same function"
    assert same.visits[1].verdict == "same function"


def test_run_that_ends_at_an_entry_visits_it():
    steps, loss, path, small, _, targets = _example()
    end = find_visits(steps, loss, path, [small, targets + 1e-3], targets).visits[1]
    assert end.verdict == "visit"
    assert end.control == np.inf
    assert end.last_step == steps[-1]


def test_visit_lasts_while_no_other_entry_is_nearer():
    targets = np.array([[1.0], [-1.0]])
    path = _piecewise([0 * targets, targets], num=101)
    one, two = find_visits(
        np.arange(101), np.ones(101), path, [0.90 * targets, 1.0 * targets], targets, sizes=[1, 1]
    ).visits
    # (t - 0.9) / 0.9 = 1 - t at t = 0.947: distances are relative to each entry's own spread.
    assert one.last_step == 94
    assert two.first_step == 95


@pytest.mark.parametrize(("share", "verdict"), [(0.5, "visit"), (0.2, "near")])
def test_verdict_weighs_the_distance_against_the_control(share, verdict):
    targets = np.array([[2.0, 0.0], [-2.0, 0.0]])
    entry, bend = (np.array([[1.0, h], [-1.0, -h]]) for h in (0.1, 0.1 * share))
    path = _piecewise([np.zeros((2, 2)), bend, targets])
    visit = find_visits(np.arange(40), np.ones(40), path, [entry], targets).visits[0]
    # The path goes the share of the way from the straight line to the entry: distance (1 - share) times the control.
    assert visit.distance == pytest.approx((1 - share) * visit.control, rel=0.02)
    assert visit.verdict == verdict
