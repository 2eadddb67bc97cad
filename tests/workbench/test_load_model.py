"""Models from anywhere: factories, checkpoints, files of other programs."""

import pathlib
import pickle
import re
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import lossatlas
from lossatlas._errors import InputError
from lossatlas.data import load as load_data
from lossatlas.networks import Dense, save


@pytest.fixture
def module(monkeypatch, tmp_path, request):
    """Write a module in the current folder; its name is new for every test."""
    monkeypatch.chdir(tmp_path)
    name = f"made_{re.sub(r'[^a-z0-9]', '_', request.node.name.lower())}"

    def write(code: str) -> str:
        pathlib.Path(f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


EQUINOX = """
    import equinox as eqx, jax
    def net():
        return eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(1))
    def small():
        return eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(1))
"""


def test_a_scikit_learn_estimator_from_a_factory(module):
    name = module("""
        from sklearn.datasets import load_iris
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        import warnings
        def fitted():
            x, y = load_iris(return_X_y=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=5, random_state=0)).fit(x, y)
        pipeline = fitted()
    """)
    rows = load_data("iris").features
    for what in ("fitted", "pipeline"):
        model = lossatlas.load(f"{name}:{what}")
        assert (model.shape, model.loss, model.summary) == ("4-4-3", "cross_entropy", f"{name}:{what}")
        expected = __import__(name).pipeline.predict_proba(rows)
        np.testing.assert_allclose(model.predict(rows).iloc[:, 1:], expected, atol=1e-12)
    with pytest.raises(InputError, match="an estimator has its own"):
        lossatlas.load(f"{name}:fitted", checkpoint="weights.safetensors")


@pytest.mark.parametrize("kind", ["eqx", "safetensors"])
def test_an_equinox_module_with_a_checkpoint_in_single_precision(module, kind):
    name = module(EQUINOX)
    trained = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(9), dtype=jnp.float32)
    if kind == "eqx":
        eqx.tree_serialise_leaves("weights.eqx", trained)
    else:
        tensors = {
            f"layers.{i}.{n}": np.asarray(getattr(trained.layers[i], n)) for i in (0, 1) for n in ("weight", "bias")
        }
        save_file(tensors, "weights.safetensors")
    model = lossatlas.load(f"{name}:net", checkpoint=f"weights.{kind}", loss="mse")
    rows = np.random.default_rng(0).normal(size=(5, 3))
    double = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, trained)
    np.testing.assert_allclose(model.predict(rows), jax.vmap(double)(jnp.asarray(rows)), atol=1e-14)
    with pytest.raises(InputError) as error:
        lossatlas.load(f"{name}:small", checkpoint=f"weights.{kind}")
    for word in ("(4, 3)", "layers.0.weight (5, 3)"):
        assert word in str(error.value)


def test_a_network_of_ours_and_a_model_with_a_checkpoint(module):
    name = module("""
        import jax
        from lossatlas.data import load
        from lossatlas.networks import Dense
        from lossatlas.workbench import Model
        def net():
            return Dense(jax.random.key(0), [4, 2, 3])
        model = Model(net(), load("iris").preprocessing, "mse", "ours")
    """)
    trained = Dense(jax.random.key(3), [4, 2, 3])
    save("trained.safetensors", trained)
    bare = lossatlas.load(f"{name}:net", checkpoint="trained.safetensors", loss="mse")
    assert eqx.tree_equal(bare.network, trained)
    model = lossatlas.load(f"{name}:model", checkpoint="trained.safetensors")
    assert eqx.tree_equal(model.network, trained)
    assert (model.loss, model.summary, model.preprocessing is None) == ("mse", "ours", False)


def test_a_safetensors_file_with_its_architecture(tmp_path):
    random = np.random.default_rng(0)
    weights = {"w1": random.normal(size=(2, 4)), "b1": random.normal(size=4), "w2": random.normal(size=(4, 1))}
    save_file({**weights, "b2": np.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=r"written by another program.*--architecture"):
        lossatlas.load(tmp_path / "net.safetensors")
    (tmp_path / "net.toml").write_text("""
        class = "Dense"
        arguments = { widths = [2, 4, 1] }
        layout = "in,out"
        tensors = { w1 = "layers.0.weight", b1 = "layers.0.bias", w2 = "layers.1.weight", b2 = "layers.1.bias" }
    """)
    model = lossatlas.load(tmp_path / "net.safetensors", architecture=tmp_path / "net.toml", loss="mse")
    rows = random.normal(size=(3, 2))
    expected = np.tanh(rows @ weights["w1"] + weights["b1"]) @ weights["w2"]
    np.testing.assert_allclose(model.predict(rows), expected, atol=1e-14)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nowhere.nets:net", "There is no module 'nowhere'"),
        ("NAME.sub:net", "There is no module|is not a package"),
        ("NAME:nett", "name in NAME: 'nett'. Did you mean 'net'"),
        ("NAME:with_arguments", r"needs arguments \(width, key\)"),
        ("NAME:failing", "NAME:failing raised KeyError: 'weights'"),
        ("NAME:number", "returned a int; a model is a fitted scikit-learn MLP"),
        ("NAME:unfitted", "MLPRegressor is not fitted"),
        ("NAME:training", r"is in training mode \(Dropout\).*inference_mode"),
        ("NAME:stateful", "returned a module with its state"),
        ("NAME:broken", r"parameter layers\[0\].weight of NAME:broken holds NaN"),
    ],
)
def test_factories_that_give_no_model(module, what, said):
    name = module("""
        import equinox as eqx, jax, jax.numpy as jnp
        from sklearn.neural_network import MLPRegressor
        from lossatlas.networks import Dense
        def net():
            return Dense(jax.random.key(0), [2, 1])
        def with_arguments(width, *, key, depth=2):
            return net()
        def failing():
            return {}["weights"]
        def number():
            return 3
        unfitted = MLPRegressor
        def training():
            return eqx.nn.Sequential([eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
        def stateful():
            return eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, axis_name="batch", mode="batch")
        def broken():
            return jax.tree.map(lambda a: a * jnp.nan if eqx.is_array(a) else a, net())
    """)
    with pytest.raises(InputError, match=said.replace("NAME", name)):
        lossatlas.load(what.replace("NAME", name))


def test_modules_that_cannot_be_imported(module):
    with pytest.raises(InputError, match="needs not_there, which is not installed"):
        lossatlas.load(f"{module('import not_there')}:net")
    pathlib.Path("syntax_of_mine.py").write_text("def net(:\n")
    with pytest.raises(InputError, match="Importing syntax_of_mine raised SyntaxError"):
        lossatlas.load("syntax_of_mine:net")


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pt"])
def test_pickles_are_refused_with_the_remedy(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="is a pickle, which could run any code.*package.module:factory"):
        lossatlas.load(tmp_path / f"model{suffix}")


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("NAME:net", {"architecture": "a.toml"}, "--architecture.* goes with a safetensors file"),
        ("own.safetensors", {"architecture": "a.toml"}, "this one names its own"),
        ("own.safetensors", {"checkpoint": "w.eqx"}, "--checkpoint.* goes with the module"),
        ("own.safetensors", {"loss": "mes"}, "must be one of mse, cross_entropy, logistic"),
        ("NAME:net", {"checkpoint": "none.eqx"}, "There is no checkpoint"),
        ("NAME:net", {"checkpoint": "w.pt"}, "is a pickle, which is never read"),
        ("NAME:net", {"checkpoint": "text.eqx"}, "It holds arrays of shapes that cannot be read; the network has"),
        ("nothing", {}, "There is no run 'nothing'.*package.module:factory"),
    ],
)
def test_options_that_do_not_go_together(module, model, options, said):
    name = module(EQUINOX)
    save("own.safetensors", Dense(jax.random.key(0), [2, 1]))
    pathlib.Path("w.pt").write_bytes(b"\x80")
    pathlib.Path("text.eqx").write_text("no arrays")
    with pytest.raises(InputError, match=said):
        lossatlas.load(model.replace("NAME", name), **options)
