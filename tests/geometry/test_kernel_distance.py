import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import (
    alignment,
    effective_rank,
    kernel_distance,
    kernel_spectrum,
    ntk,
    sketched_kernel_distance,
    target_kernel,
)
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, apply_permutation


RNG = np.random.default_rng(0)
NETWORK = Dense(jax.random.key(1), [3, 5, 2], activation="relu")
OTHER = Dense(jax.random.key(2), [3, 5, 2], activation="relu")
INPUTS = RNG.normal(size=(8, 3))


def positive(size=6):
    half = RNG.normal(size=(size, size))
    return half @ half.T


# -- the acceptance table of the card -----------------------------------------------------------------------------


def test_distance_is_blind_to_scale():
    kernel = positive()
    found = kernel_distance(kernel, 3.7 * kernel)
    assert found.distance <= 1e-12
    assert found.scale == pytest.approx(3.7, rel=1e-12)
    assert found.change == pytest.approx(2.7, rel=1e-12)


def test_distance_of_rank_one_kernels_is_the_squared_sine():
    u, v = np.array([1.0, 0.0]), np.array([0.5, np.sqrt(0.75)])
    assert kernel_distance(np.outer(u, u), np.outer(v, v)).distance == pytest.approx(0.75, abs=1e-12)


def test_distance_of_orthogonal_kernels_is_one():
    found = kernel_distance(np.diag([1.0, 0.0]), np.diag([0.0, 1.0]))
    assert found.distance == pytest.approx(1, abs=1e-12)
    assert found.angle == pytest.approx(np.pi / 2, abs=1e-12)


def test_small_distances_do_not_cancel():
    # Rank-one kernels at an angle of 1e-7: sin^2 is 1e-14, far below what a difference from 1 resolves.
    u, v = np.array([1.0, 0.0]), np.array([np.cos(1e-7), np.sin(1e-7)])
    assert kernel_distance(np.outer(u, u), np.outer(v, v)).distance == pytest.approx(1e-14, rel=1e-6)


def test_change_follows_from_scale_and_distance():
    found = kernel_distance(positive(), positive())
    s, d = found.scale, found.distance
    assert found.change**2 == pytest.approx(s**2 + 1 - 2 * s * (1 - d), abs=1e-10)


def test_distance_is_symmetric_and_its_angle_a_metric():
    a, b, c = positive(), positive(), positive()
    angle = lambda x, y: kernel_distance(x, y).angle  # noqa: E731
    assert angle(a, b) == pytest.approx(angle(b, a), abs=1e-9)
    assert angle(a, c) <= angle(a, b) + angle(b, c) + 1e-9


def test_permuted_neurons_leave_the_kernel():
    permuted = apply_permutation(NETWORK, "hidden[0]", jnp.array([3, 0, 4, 1, 2]))
    found = kernel_distance(ntk(NETWORK, INPUTS, convention="full"), ntk(permuted, INPUTS, convention="full"))
    assert found.distance <= 1e-12


# -- alignment -----------------------------------------------------------------------------------------------------


def test_centred_alignment_is_cka():
    x, y = RNG.normal(size=(9, 4)), RNG.normal(size=(9, 3))
    a, b = x - x.mean(0), y - y.mean(0)
    cka = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert alignment(x @ x.T + 5, y @ y.T) == pytest.approx(cka, rel=1e-12)
    assert alignment(x @ x.T, 2 * x @ x.T, centred=False) == pytest.approx(1, abs=1e-12)


def test_target_kernel_tells_classes_apart():
    np.testing.assert_array_equal(target_kernel(np.array([0, 1, 0])), [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_allclose(target_kernel(np.array([1.0, 2.0])), [[1, 2], [2, 4]])


def test_effective_rank_counts_equal_directions():
    assert effective_rank(np.diag([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(np.ones((5, 5))) == pytest.approx(1)


def test_bad_kernels_say_what_is_wrong():
    for bad, words in [
        (np.eye(3), "the same examples"),
        (np.zeros((2, 2)), "no direction"),
        (np.full((2, 2), np.nan), "NaN"),
    ]:
        with pytest.raises(InputError, match=words):
            kernel_distance(np.eye(2), bad)
    with pytest.raises(InputError, match="conventions 'trace' and 'sum_logits'"):
        kernel_distance(ntk(NETWORK, INPUTS), ntk(NETWORK, INPUTS, convention="sum_logits"))
    with pytest.raises(InputError, match="examples with themselves"):
        kernel_distance(np.ones((2, 3)), np.ones((2, 3)), centred=True)


# -- spectra and sketches ------------------------------------------------------------------------------------------


def test_spectrum_is_that_of_the_gauss_newton_matrix():
    landscape = Landscape(INPUTS, np.zeros((8, 2)))
    wanted = 8 * np.linalg.eigvalsh(landscape.gauss_newton(NETWORK))[::-1][:4]
    for method in ("exact", "lanczos"):
        found = kernel_spectrum(NETWORK, landscape, num=4, convention="full", method=method, batch_size=3)
        np.testing.assert_allclose(found.values, wanted, rtol=1e-9)
        assert bool(found.converged.all()) and str(found.complete) == "yes"
    assert found.all_values is None and found.effective_rank is None


def test_spectrum_of_a_linear_network_is_that_of_its_data():
    line = Dense(jax.random.key(0), [3, 1], use_output_bias=False)
    found = kernel_spectrum(line, INPUTS, num=3)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(INPUTS @ INPUTS.T)[::-1][:3], rtol=1e-12)
    assert found.effective_rank == pytest.approx(effective_rank(INPUTS @ INPUTS.T))


def test_bad_spectra_say_what_is_allowed():
    with pytest.raises(InputError, match="between 1 and the number of rows of the kernel, 8"):
        kernel_spectrum(NETWORK, INPUTS, num=9)
    with pytest.raises(InputError, match="ten times the rounding unit"):
        kernel_spectrum(NETWORK, INPUTS, rtol=1e-20)
    with pytest.raises(InputError, match="Unknown method"):
        inspect.unwrap(kernel_spectrum)(NETWORK, INPUTS, method="fast")


def test_sketched_distance_is_the_distance_within_its_error():
    first, second = (ntk(network, INPUTS, convention="full") for network in (NETWORK, OTHER))
    wanted = kernel_distance(first, second)
    found = sketched_kernel_distance(jax.random.key(0), NETWORK, OTHER, INPUTS, num_probes=400)
    inner = float((first.matrix * second.matrix).sum())
    assert abs(found.inner - inner) <= 5 * found.inner_error
    assert abs(found.distance - wanted.distance) <= 5 * found.distance_error
    assert found.distance_error < 0.05
    assert found.scale == pytest.approx(wanted.scale, rel=0.2)
    same = sketched_kernel_distance(jax.random.key(0), NETWORK, NETWORK, INPUTS, num_probes=3)
    assert same.distance == pytest.approx(0, abs=1e-12) and same.distance_error <= 1e-12
    with pytest.raises(InputError, match="at least 3"):
        sketched_kernel_distance(jax.random.key(0), NETWORK, OTHER, INPUTS, num_probes=2)
