import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import data
from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._progress import NoProgress
from lossatlas.atlas import FULL, Search, make_catalogue
from lossatlas.atlas._training import train_big
from lossatlas.landscape import Landscape
from lossatlas.networks import activation


SMALL = Search(random=6, warm=4, num_steps=1000, polish=3)


@pytest.fixture(scope="module")
def iris():
    landscape = data.load("iris").landscape()
    return make_catalogue(
        jax.random.key(0), landscape, sizes=[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], search=SMALL
    ), landscape


def test_levels_of_iris_have_their_known_values_and_inertias(iris):
    catalogue, _ = iris
    known = {"(0,0)": 1 / 3, "(0,1)": 0.1716879676, "(0,2)": 0.1346835292}
    for name, loss in known.items():
        assert catalogue[name].loss == pytest.approx(loss, abs=1e-9)
    losses = [e.loss for e in catalogue.of_size(1, 1)]
    assert losses[:2] == pytest.approx([0.0198099153, 0.0367469506], abs=1e-9)
    for entry in catalogue.of_size(1, 1)[:2]:
        inertia = entry.inertia
        assert entry.kind == "critical point"
        assert (inertia.negative, inertia.zero, inertia.positive) == (0, 1, 17)
        assert inertia.unexplained == 0  # the scale gauge of the linear unit
        assert entry.is_minimum


def test_level_at_infinity_is_never_called_a_critical_point(iris):
    catalogue, _ = iris
    steps = [e for e in catalogue.of_size(1, 0) if abs(e.loss - 1 / 6) < 1e-6]
    assert steps
    assert all(e.kind == "level at infinity" and "step" in e.runaway and e.inertia is None for e in steps)


def test_every_critical_point_stands_still_under_the_gradient(iris):
    catalogue, landscape = iris
    for entry in catalogue.entries:
        if entry.kind == "critical point":
            assert float(jnp.abs(landscape.gradient(entry.network)).max()) < 1e-12
            assert float(landscape(entry.network)) == pytest.approx(entry.loss, abs=1e-12)


def test_larger_networks_grow_out_of_smaller_ones(iris):
    catalogue, _ = iris
    names = [e.name for e in catalogue.entries]
    arrows = [(names[i], names[j]) for i, j in catalogue.leads_to]
    assert any(a.startswith("(0,") and b.startswith("(1,") for a, b in arrows)
    assert all(catalogue[b].loss < catalogue[a].loss for a, b in arrows)


def test_same_key_gives_the_same_catalogue():
    landscape = data.load("iris").landscape()
    search = Search(random=2, warm=2, num_steps=200, polish=2, max_steps=60)
    one, two = (make_catalogue(jax.random.key(3), landscape, sizes=[(0, 1), (1, 0)], search=search) for _ in range(2))
    assert [e.name for e in one.entries] == [e.name for e in two.entries]
    for a, b in zip(one.entries, two.entries, strict=True):
        np.testing.assert_array_equal(a.predictions, b.predictions)


def test_constant_network_under_cross_entropy_is_the_class_frequencies():
    landscape = data.load("iris").take(np.arange(120)).landscape("cross_entropy")
    search = Search(random=1, warm=0, num_steps=200, polish=1)
    (entry,) = make_catalogue(jax.random.key(0), landscape, sizes=[(0, 0)], search=search).entries
    frequencies = np.array([50, 50, 20]) / 120
    np.testing.assert_allclose(entry.predictions, np.tile(frequencies, (120, 1)), atol=1e-9)
    assert entry.loss == pytest.approx(-np.sum(frequencies * np.log(frequencies)), abs=1e-12)
    assert entry.inertia is not None
    assert entry.inertia.zero == 1
    assert entry.inertia.unexplained == 0  # the common shift of the logits


def test_networks_too_large_for_a_dense_hessian_are_descended_to_and_not_certified(monkeypatch):
    for module in ("_entry", "_search"):
        monkeypatch.setattr(f"lossatlas.atlas.{module}.MAX_DENSE", 30)
    inputs = jax.random.normal(jax.random.key(0), (40, 5))
    labels = jnp.eye(4)[jnp.argmax(inputs[:, :4], axis=1)]
    landscape = Landscape(inputs, labels + 0.1 * jax.random.normal(jax.random.key(1), labels.shape))
    search = Search(random=2, warm=2, num_steps=50, polish=1)
    catalogue = make_catalogue(jax.random.key(0), landscape, sizes=[(0, 1), (3, 0)], search=search)
    large = catalogue["(3,0)"]
    assert large.num_parameters > 30 >= catalogue["(0,1)"].num_parameters
    assert catalogue["(0,1)"].inertia is not None
    assert (large.kind, large.inertia, large.is_minimum) == ("not certified", None, None)
    assert large.loss < catalogue["(0,1)"].loss


def test_float32_and_wrong_names_are_refused(iris):
    with pytest.raises(InputError, match="float64"):
        make_catalogue(jax.random.key(0), Landscape(jnp.ones((3, 1), "float32"), jnp.ones((3, 1), "float32")))
    with pytest.raises(InputError, match=r"\(0,0\), "):
        iris[0]["(9,9)"]


@pytest.fixture(scope="module")
def hierarchy():
    landscape = data.load("hierarchy-1d").landscape()
    sizes = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0)]
    return make_catalogue(jax.random.key(0), landscape, sizes=sizes, search=FULL), landscape


@pytest.mark.slow
def test_hierarchy_levels_are_found_without_being_told(hierarchy):
    catalogue, _ = hierarchy
    known = {
        1: [(0.2990502719, (0, 0, 4)), (0.3555080128, (0, 0, 4))],
        2: [(0.1547960483, (0, 0, 7))],
        3: [(0.0, (0, 0, 10)), (0.0036372374, (1, 0, 9))],
    }
    for neurons, levels in known.items():
        found = [e for e in catalogue.of_size(neurons, 0) if e.kind == "critical point"]
        for loss, counts in levels:
            (entry,) = [e for e in found if abs(e.loss - loss) < 1e-8]
            assert entry.inertia is not None
            assert entry.inertia.counts == counts


@pytest.mark.slow
def test_plateaus_of_a_wide_network_are_named(hierarchy):
    catalogue, landscape = hierarchy
    runs = train_big(
        jax.random.key(1),
        landscape,
        catalogue,
        (200,),
        activation("tanh"),
        num_seeds=2,
        power=1.5,
        learning_rate=0.05,
        num_steps=200_000,
        progress=NoProgress(),
        journal=Journal(),
    )
    saddle = next(i for i, e in enumerate(catalogue.entries) if abs(e.loss - 0.0036372374) < 1e-8)
    for run in runs:
        named = {s.entry: s.loss for s in run.visits.slow_downs if s.entry is not None}
        assert 0.0030 < named[saddle] < 0.0045
        (one_neuron,) = [e for e, loss in named.items() if 0.28 < loss < 0.30]
        assert catalogue.entries[one_neuron].neurons == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "loss"), [("diabetes", (1, 0), 0.2343499308), ("wine", (0, 2), 0.0499763544)])
def test_other_data_sets_have_their_known_levels(name, size, loss):
    landscape = data.load(name).landscape()
    catalogue = make_catalogue(jax.random.key(0), landscape, sizes=[(0, 0), size])
    assert any(abs(e.loss - loss) < 1e-9 and e.kind == "critical point" for e in catalogue.of_size(*size))
