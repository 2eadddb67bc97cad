"""Discovery on models of other libraries; skipped where they are not installed."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas.embedding import discover_units, split
from lossatlas.interop import keras_function, to_keras


@pytest.fixture(autouse=True)
def _promotion():
    """Other libraries rely on promotion, which our tests forbid."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _flax(make):
    """A Flax NNX model as a function of its state."""
    nnx = pytest.importorskip("flax.nnx")
    graph, state = nnx.split(make(nnx, nnx.Rngs(0)))
    return (lambda params, x: nnx.merge(graph, params)(x)), state


def _flax_stack(nnx, rngs):
    def positive(x):
        return nnx.relu(x)

    return nnx.Sequential(nnx.Linear(3, 5, rngs=rngs), positive, nnx.Linear(5, 2, rngs=rngs))


def _flax_images(nnx, rngs):
    return nnx.Sequential(
        nnx.Conv(1, 4, (3, 3), rngs=rngs),
        nnx.BatchNorm(4, use_running_average=True, rngs=rngs),
        nnx.relu,
        lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
        nnx.Conv(4, 6, (3, 3), padding="VALID", rngs=rngs),
        lambda x: jnp.tanh(x).reshape(x.shape[0], -1),
        nnx.Linear(24, 3, rngs=rngs),
    )


@pytest.mark.parametrize(("make", "shape", "sizes"), [(_flax_stack, (3,), [5]), (_flax_images, (8, 8, 1), [4, 6])])
def test_flax_models_are_split(make, shape, sizes):
    fn, state = _flax(make)
    network = discover_units(fn, state, jnp.ones((1, *shape))).network
    spaces = network.unit_spaces().values()
    assert [(space.size, space.closed) for space in spaces] == [(size, None) for size in sizes]
    x = jax.random.normal(jax.random.key(1), (2, 1, *shape))
    for space in spaces:
        wide, record = split(network, space.name, 1, 0.3, landscape=Landscape(x, jnp.zeros((2, *network(x[0]).shape))))
        assert wide.unit_spaces()[space.name].size == space.size + 1
        certificate = record.certificate
        assert certificate.gradient_before is not None
        assert certificate.output_change is not None
        assert certificate.intertwiner_defect is not None
        assert certificate.output_change < 1e-5  # the parameters are float32
        assert certificate.intertwiner_defect < 1e-5 * (1 + certificate.gradient_before)


def test_channels_of_flax_images_are_flattened_last():
    fn, state = _flax(_flax_images)
    last = list(discover_units(fn, state, jnp.ones((1, 8, 8, 1))).spaces.values())[-1]
    (reader,) = last.readers
    assert (reader.axis, reader.outer, reader.inner) == (0, 4, 1)
    assert last.activation is not None
    assert last.activation.name == "tanh"


def _keras(make):
    """A Keras model as a function of its variables."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX")
    model = make(keras, keras.layers)
    params = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    return (lambda p, x: model.stateless_call(*p, x, training=False)[0]), params, model


def test_keras_images_are_found_and_fixed_in_code():
    def make(keras, layers):
        return keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                layers.Conv2D(4, 3, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.Conv2D(5, 1, activation="tanh"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2),
            ]
        )

    fn, params, model = _keras(make)
    spaces = list(discover_units(fn, params, jnp.ones((1, 8, 8, 1))).spaces.values())
    np.testing.assert_allclose(fn(params, jnp.ones((1, 8, 8, 1))), model(jnp.ones((1, 8, 8, 1))), atol=1e-6)
    # Keras checks the shapes of its variables, so the spaces are found and stay closed; see keras_function.
    assert [(space.size, space.closed) for space in spaces] == [(4, "width fixed in code"), (5, "width fixed in code")]
    kernel, bias, scale, shift, filters, next_bias, mixing = (f"params[0][{i}]" for i in (0, 1, 2, 3, 4, 5, 6))
    written = {(kernel, 3), (bias, 0), (scale, 0), (shift, 0), (filters, 2), (next_bias, 0)}
    written |= {("params[1][0]", 0), ("params[1][1]", 0)}
    assert {(axis.path, axis.axis) for axis in spaces[0].writers} == written
    assert {(axis.path, axis.axis) for axis in spaces[0].readers} == {(mixing, 2)}


def test_keras_transformers_are_found():
    def make(keras, layers):
        given = layers.Input((4, 3))
        stream = layers.Dense(6)(given)
        normed = layers.LayerNormalization()(stream)
        stream = stream + layers.MultiHeadAttention(2, 3)(normed, normed)
        stream = stream + layers.Dense(6)(layers.Dense(5, "gelu")(layers.LayerNormalization()(stream)))
        return keras.Model(given, layers.Dense(2)(layers.GlobalAveragePooling1D()(stream)))

    fn, params, _ = _keras(make)
    found = discover_units(fn, params, jnp.ones((1, 4, 3))).spaces.values()
    kinds = [(space.kind, space.size, space.shares) for space in found]
    assert sorted(kinds) == [
        ("dimension", 3, "any"),
        ("dimension", 3, "any"),
        ("head", 2, "any"),
        ("neuron", 5, "any"),
        ("stream", 6, "equal"),
    ]


def test_keras_models_are_resized_through_their_configuration():
    def make(keras, layers):
        given = layers.Input((4, 3))
        stream = layers.Dense(6)(given)
        stream = stream + layers.MultiHeadAttention(2, 3)(stream, stream)
        hidden = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(5, "tanh")(stream)))
        return keras.Model(given, layers.Dense(2)(layers.GlobalAveragePooling1D()(hidden)))

    *_, model = _keras(make)
    network = keras_function(model)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 3)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(network)(x), model(x), atol=1e-6)
    found = discover_units(lambda net, x: net(x), network, x[0]).network
    opened = {space.kind: name for name, space in found.unit_spaces().items() if space.closed is None}
    assert {"head", "neuron"} <= opened.keys()
    for kind in ("head", "neuron"):
        wide, _ = split(found, opened[kind], 1, 0.3)
        back = to_keras(wide)
        assert back.count_params() > model.count_params()
        np.testing.assert_allclose(back(x), model(x), atol=1e-6)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(InputError, match="A built Keras 3 model is needed"):
        keras_function(lambda x: x)
    with pytest.raises(InputError, match="becomes a Keras model"):
        to_keras(lambda x: x)
