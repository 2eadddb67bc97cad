import pickle
import warnings

import jax
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.interop import export_torch, from_torch, read_torch_weights
from lossatlas.networks import Dense


torch = pytest.importorskip("torch", reason="PyTorch is not installed")
NETWORK = Dense(jax.random.key(0), [3, 4, 2])


def stack():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_exported_weights_are_read_bit_for_bit(tmp_path, name):
    module = stack()
    module.load_state_dict(read_torch_weights(export_torch(NETWORK, tmp_path) / name))
    for ours, theirs in zip(jax.tree.leaves(from_torch(module)), jax.tree.leaves(NETWORK), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_inside_a_checkpoint_are_found(tmp_path, key):
    torch.save({key: stack().state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    assert set(read_torch_weights(tmp_path / "checkpoint.pth")) == set(stack().state_dict())


class Trap:
    """What a pickle does when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def scripted(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(stack(), torch.ones(1, 3, dtype=torch.float64)).save(path)


WRITERS = {
    "missing": (lambda path: None, "There is no file"),  # noqa: ARG005
    "a module": (lambda path: torch.save(stack(), path), "holds more than tensors.*state_dict"),
    "a trap": (lambda path: torch.save({"a": Trap()}, path), "holds more than tensors"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Trap())), "holds more than tensors|no file of"),
    "TorchScript": (scripted, "TorchScript archive.*torch.jit.load"),
    "text": (lambda path: path.write_text("weights"), "no file of torch.save"),
    "nothing": (lambda path: path.write_bytes(b""), "no file of torch.save"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor, no tensors by name"),
    "numbers": (lambda path: torch.save({"epoch": 3}, path), r"other things than tensors \(epoch\)"),
    "cut": (
        lambda path: (torch.save(stack().state_dict(), path), path.write_bytes(path.read_bytes()[:300])),
        "damaged, or no file|no file of",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_holds_no_weights_alone_is_refused_and_never_run(tmp_path, name):
    write, message = WRITERS[name]
    write(tmp_path / "file.pt")
    with pytest.raises(InputError, match=message):
        read_torch_weights(tmp_path / "file.pt")


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match="no readable safetensors file"):
        read_torch_weights(tmp_path / "model.safetensors")
