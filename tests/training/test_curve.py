"""Curves whose bends are trained: the ends stay, the loss falls, and chunks and keys do what they should."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import Buffer, ravel
from lossatlas._status import Status
from lossatlas.geometry import Path, barrier, find_curve
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense
from lossatlas.training import train_curve


KEY = jax.random.key(0)


def ring(seed, num=1):
    """Two parameters whose loss is zero on the unit circle: the straight line between opposite points crosses 1."""
    fn = lambda p, b: b * (jnp.sum(p**2) - 1) ** 2  # noqa: E731
    return Landscape.from_function(fn, jnp.ones(num)), jnp.array([-1.0, 0.0]), jnp.array([1.0, seed * 1e-3])


@pytest.mark.parametrize(("kind", "num_bends"), [("bezier", 1), ("polygon", 3)])
def test_a_curve_goes_around_a_hill(kind, num_bends):
    landscape, start, end = ring(0)
    bends = [jnp.array([x, 0.3]) for x in np.linspace(-0.5, 0.5, num_bends)]
    run = train_curve(KEY, start, end, landscape, kind=kind, bends=bends, num_steps=600, learning_rate=0.01)
    assert run.vertices[0] is start
    assert run.vertices[-1] is end
    assert len(run.vertices) == num_bends + 2
    found = barrier(Path(run.vertices, run.kind), landscape, num_points=61)
    assert found.barrier < 0.2
    assert barrier(Path((start, end)), landscape).barrier == pytest.approx(1)
    assert run.loss[-1] < 0.5 * run.loss[0]
    assert run.status is Status.FINISHED


def test_the_bends_follow_the_gradient_of_the_expected_loss():
    # For L = |p - c|^2 / 2 the optimum of one bend is closed: minimise E |phi(t) - c|^2, phi linear in the bend.
    target = jnp.array([0.3, -0.7])
    landscape = Landscape.from_function(lambda p, b: b * 0.5 * jnp.sum((p - target) ** 2), jnp.ones(1))
    start, end = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    run = train_curve(KEY, start, end, landscape, num_steps=4000, optimizer="gd", learning_rate=0.05)
    t = np.linspace(0, 1, 100_001)
    a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
    rest = np.asarray(target) - a[:, None] * np.asarray(start) - c[:, None] * np.asarray(end)
    best = (b[:, None] * rest).mean(0) / (b**2).mean()
    np.testing.assert_allclose(run.vertices[1], best, atol=0.03)


def test_a_curve_between_networks_is_the_same_in_any_chunks_and_is_verified():
    inputs = jax.random.normal(jax.random.key(1), (40, 5))
    landscape = Landscape(inputs, jax.random.randint(KEY, (40,), 0, 3), loss="cross_entropy")
    first, last = (Dense(jax.random.key(seed), [5, 6, 3]) for seed in (0, 1))
    options: Any = {"num_steps": 60, "batch_size": 16, "num_bends": 2}
    path, run = find_curve(KEY, first, last, landscape, num_points=5, **options)
    again = train_curve(KEY, first, last, landscape, chunk_seconds=0.0, **options)
    for vertex, other in zip(run.vertices, again.vertices, strict=True):
        np.testing.assert_array_equal(ravel(vertex)[0], ravel(other)[0])
    np.testing.assert_array_equal(ravel(path.vertices[0])[0], ravel(first)[0])
    assert path.vertices[-1] is last
    assert path.verification is not None
    assert path.verification.stats["num_evaluations"] == 15 + 5
    assert len(run.loss) == len(run.steps) == 60
    assert run.to_xarray()["loss"].dims == ("step",)


def test_a_curve_that_diverges_says_so():
    landscape, start, end = ring(1)
    run = train_curve(KEY, start, end, landscape, bends=[jnp.array([0.0, 3.0])], optimizer="gd", learning_rate=50.0)
    assert run.status is Status.DIVERGED
    assert run.diverged_at == run.stats["num_steps"] < 2000


def normed(seed, **options):
    net = Conv(jax.random.key(seed), (1, 4, 4), [2], [2], norm="batch", **options)
    return net.with_statistics(jax.random.normal(jax.random.key(seed), (5, 1, 4, 4)))


class Scaled(eqx.Module):
    """A network with a buffer that it cannot compute anew."""

    weight: Any
    size: Buffer

    def __call__(self, x):
        return self.weight @ x / self.size.value


def test_networks_of_other_libraries_have_curves():
    first, last = (eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(seed)) for seed in (0, 1))  # functions among its leaves
    inputs = jax.random.normal(KEY, (6, 2))
    run = train_curve(KEY, first, last, Landscape(inputs, inputs[:, :1]), num_steps=30)
    assert run.loss[-1] < run.loss[0]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_running_statistics_are_those_of_the_step_as_in_training(batch_size):
    images = jax.random.normal(jax.random.key(7), (6, 1, 4, 4))
    landscape = Landscape(images, jnp.arange(6) % 2, loss="cross_entropy")
    options: Any = {"num_steps": 5, "batch_size": batch_size}
    path, run = find_curve(KEY, normed(0), normed(1), landscape, num_points=3, **options)
    first, last = (normed(seed, batch_statistics=True) for seed in (0, 1))
    wanted = train_curve(KEY, first, last, landscape, **options)
    np.testing.assert_allclose(ravel(run.vertices[1])[0], ravel(wanted.vertices[1])[0], atol=1e-8)
    np.testing.assert_allclose(run.loss, wanted.loss, rtol=1e-9)
    renewed = path(0.5).with_statistics(images)
    np.testing.assert_allclose(landscape(path(0.5)), landscape(renewed), rtol=1e-12)


def scaled(size):
    return Scaled(jnp.ones((1, 2)), Buffer(jnp.asarray(size)))


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (Dense(KEY, [2, 3, 1]), Dense(KEY, [2, 4, 1]), r"layers\[0\].weight is \(3, 2\) and \(4, 2\)"),
        (Dense(KEY, [2, 3, 1]), Dense(KEY, [2, 3, 1], activation="relu"), "one structure"),
        (scaled(1.0), scaled(2.0), r"differ in a buffer \(size.value\), which a curve cannot train"),
    ],
)
def test_ends_that_do_not_fit_are_refused(one, two, said):
    with pytest.raises(InputError, match=said):
        train_curve(KEY, one, two, Landscape(jnp.ones((3, 2)), jnp.ones((3, 1))))


def test_a_curve_without_bends_is_refused():
    landscape, start, end = ring(0)
    with pytest.raises(InputError, match="num_bends must be at least 1"):
        train_curve(KEY, start, end, landscape, num_bends=0)
