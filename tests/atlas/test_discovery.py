import jax
import pytest

from lossatlas import data
from lossatlas._journal import Journal
from lossatlas._progress import NoProgress
from lossatlas.atlas import make_catalogue
from lossatlas.atlas._discovery import with_found_by_training
from lossatlas.atlas._training import train_big
from lossatlas.networks import activation


@pytest.mark.slow
def test_unnamed_stall_becomes_the_critical_point_that_training_passed():
    landscape = data.load("hierarchy-1d").landscape()
    bare = make_catalogue(jax.random.key(0), landscape, sizes=[(0, 0), (0, 1)])
    (run,) = train_big(
        jax.random.key(1),
        landscape,
        bare,
        (200,),
        activation("tanh"),
        num_seeds=1,
        power=1.5,
        learning_rate=0.05,
        num_steps=150_000,
        progress=NoProgress(),
        journal=Journal(),
    )
    grown = with_found_by_training(bare, run, landscape)
    # The stall near 0.292 is one neuron beside one linear unit, which the bare catalogue does not hold.
    (level,) = [e for e in grown.entries[len(bare.entries) :] if abs(e.loss - 0.2873475390) < 1e-8]
    assert level.name.startswith("T")
    assert (level.kind, level.neurons, level.linear) == ("critical point", 1, 1)
    named = run.named_by(grown, landscape)
    assert named.visits.visits[grown.entries.index(level)].verdict == "visit"
    assert with_found_by_training(grown, named, landscape).entries[: len(grown.entries)] == grown.entries
