"""Stacks of PyTorch's layers come over natively, bit for bit, and go back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters
from lossatlas.embedding import split
from lossatlas.interop import from_torch, to_torch
from lossatlas.networks import Conv, Dense, activation_names


torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

X = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3)) * 2)
IMAGES = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 7, 8)))


def prepared(*layers, dtype=torch.float64):
    """A stack with running statistics that are not those of a new one."""
    module = nn.Sequential(*layers).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=dtype) * 1.2 - 0.4)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.abs_().add_(0.3)
    return module.eval()


@eqx.filter_jit
def _outputs(network, x):
    return jax.vmap(network)(x)


def outputs(network, x):
    return np.asarray(_outputs(network, jnp.asarray(x.numpy())))


def assert_same(network, module, x, atol=1e-13):
    np.testing.assert_allclose(outputs(network, x), module(x).detach().numpy(), rtol=1e-12, atol=atol)


def assert_same_arrays(network, other):
    ours, theirs = named_arrays(network), named_arrays(other)
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


LAYERS = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(inplace=True),
    "elu": nn.ELU(),
    "softplus": nn.Softplus(threshold=40),
    "hard_tanh": nn.Hardtanh(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_perceptron_comes_over_bit_for_bit(name):
    module = prepared(nn.Linear(3, 4), LAYERS[name], nn.Linear(4, 3, bias=False), LAYERS[name], nn.Linear(3, 2))
    network = from_torch(module)
    assert isinstance(network, Dense)
    assert (network.widths, network.activation.name) == ((3, 4, 3, 2), name)
    assert_same(network, module, X)
    theirs = [p.detach().numpy() for p in module.parameters()]
    for ours, weights in zip(named_parameters(network).values(), theirs, strict=True):
        assert np.asarray(ours).tobytes() == weights.tobytes()


@pytest.mark.parametrize("name", [n for n in activation_names() if n != "identity"])
def test_a_perceptron_goes_over_bit_for_bit_and_comes_back(name):
    network = Dense(jax.random.key(0), [3, 4, 4, 2], activation=name, init="ntk")
    module = to_torch(network)
    assert type(module) is nn.Sequential
    assert_same(network, module, X)
    assert_same_arrays(from_torch(module), network)
    assert from_torch(module).activation == network.activation


def test_linear_units_go_over_and_come_back():
    network = Dense(jax.random.key(0), [3, 4, 0, 3, 2], num_linear=[1, 2, 0], init="ntk")
    module = to_torch(network)
    assert_same(network, module, X)
    back = from_torch(module)
    assert_same_arrays(back, network)
    assert back.num_linear == (1, 2, 0)


def test_a_linear_layer_without_bias_is_one_of_linear_units():
    module = prepared(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False), nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)
    )
    network = from_torch(module)
    assert (network.widths, network.num_linear) == ((3, 4, 0, 5, 1), (0, 2, 0))
    assert_same(network, module, X)


def test_what_passes_everything_on_is_left_out():
    inner = nn.Sequential(nn.Identity(), nn.Linear(6, 4), nn.Dropout(0.3))
    module = prepared(nn.Flatten(), inner, nn.Sequential(nn.Tanh(), nn.Sequential()), nn.Linear(4, 2))
    network = from_torch(module, torch.zeros(2, 3))
    assert network.widths == (6, 4, 2)
    x = torch.cat([X, X], 1)
    assert_same(network, module, x)


def test_linear_layers_alone_are_a_linear_network():
    module = prepared(nn.Linear(3, 4), nn.Linear(4, 2))
    network = from_torch(module, X[0])
    assert (network.widths, network.activation.name) == ((3, 4, 2), "identity")
    assert_same(network, module, X)


@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalisation_behind_a_linear_layer_is_folded(bias):
    module = prepared(nn.Linear(3, 4, bias=bias), nn.BatchNorm1d(4, eps=0.01), nn.ReLU(), nn.Linear(4, 2))
    network = from_torch(module)
    assert network.widths == (3, 4, 2)
    assert_same(network, module, X)


def test_types_are_kept():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        module = prepared(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), dtype=dtype)
        network = from_torch(module)
        assert network.layers[0].weight.dtype == str(dtype).removeprefix("torch.")
        for (_, tensor), again in zip(module.named_parameters(), to_torch(network).parameters(), strict=True):
            assert torch.equal(tensor, again)
            assert tensor.dtype == again.dtype
    with jax.enable_x64(False), pytest.raises(InputError, match=r"enable_x64\(True\)"):
        from_torch(prepared(nn.Linear(3, 2)))


def test_the_network_has_weights_of_its_own():
    module = prepared(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    network = from_torch(module)
    before = outputs(network, X)
    exported = to_torch(network)
    with torch.no_grad():
        for tensor in (*module.parameters(), *exported.parameters()):
            tensor.add_(1.0)
    np.testing.assert_array_equal(outputs(network, X), before)


def test_converting_spends_no_random_numbers():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    from_torch(to_torch(Dense(jax.random.key(0), [3, 4, 2])), X[0])
    assert torch.equal(torch.get_rng_state(), state)


CONVS = {
    "padding 0": [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)],
    "padding same": [nn.Conv2d(2, 3, (2, 4), padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(168, 2)],
    "padding 1": [nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2)],
    "batch norm, max": [
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=0.1), nn.SiLU(), nn.MaxPool2d(2),
        nn.Dropout2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 2),
    ],
    "separable": [
        nn.Conv2d(2, 3, 3), nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 4, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(4, 2),
    ],
    "stride as SAME": [
        nn.ZeroPad2d((0, 1, 1, 1)), nn.Conv2d(2, 3, 3, stride=2), nn.ELU(), nn.Flatten(), nn.Linear(48, 2),
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVS)
def test_a_convolutional_stack_comes_over_exactly_and_goes_back(name):
    module = prepared(*CONVS[name])
    network = from_torch(module, IMAGES[0])
    assert isinstance(network, Conv)
    assert_same(network, module, IMAGES)
    exported = to_torch(network)
    assert type(exported) is nn.Sequential
    assert_same(network, exported, IMAGES)
    assert_same_arrays(from_torch(exported, IMAGES[0]), network)
    # No bias is invented, and every array belongs to a unit space or is read by one.
    space = network.unit_spaces()["channels[0]"]
    assert {axis.path for axis in (*space.writers, *space.readers)} <= set(named_arrays(network))
    if network.convs[0].conv.bias is None:
        assert_same(split(network, "channels[0]", 0, 0.3)[0], module, IMAGES)


CONV_SETTINGS = [
    {"stride": 2, "norm": "batch"},
    {"stride": 3, "kernel": 4, "head": "average", "separable": True},
    {"pool": "max", "kernel": 4, "separable": True, "norm": "batch"},
    {"padding": "VALID", "kernel": 2, "pool": "average"},
]


@pytest.mark.parametrize("settings", CONV_SETTINGS)
def test_a_convolutional_network_goes_over_and_comes_back(settings):
    network = Conv(jax.random.key(0), (2, 7, 8), [3, 4], [3, 2], init="ntk", **settings)
    module = to_torch(network)
    assert type(module) is nn.Sequential
    assert_same(network, module, IMAGES)
    assert_same_arrays(from_torch(module, IMAGES[0]), network)


class Own(nn.Module):
    def forward(self, x):
        return x


TIED = nn.Linear(3, 3)
HOOKED = nn.Linear(3, 2)
HOOKED.register_forward_hook(lambda _module, _args, output: output + 1)
MISFITS = [
    ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softmax(-1)], "a Softmax stands behind a Linear"),
    ([nn.Linear(3, 4), nn.Sigmoid()], "its last layer is a Sigmoid, not a Linear"),
    ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)], r"several activations \(relu, tanh\)"),
    ([nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)], "a Linear with a bias follows another"),
    ([nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)], "a LeakyReLU stands behind a Linear"),
    ([nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)], "a Softplus stands"),  # its line differs by 2e-9
    ([nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)], "a LayerNorm stands"),
    ([nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)], "no scale and shift of its own"),
    ([TIED, nn.Tanh(), TIED], "layers share weights"),
    ([HOOKED], "a Linear has forward hooks"),
    ([nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))], "ParametrizedLinear is a class of its own"),
    ([Own(), nn.Linear(3, 2)], "Own is a class of its own"),
    ([nn.Identity()], "it has no layers"),
    ([nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(90, 2)], "it reads images"),
]


@pytest.mark.parametrize(("layers", "reason"), MISFITS)
def test_what_does_not_fit_is_said_and_never_approximated(layers, reason):
    with pytest.raises(InputError, match=reason) as error:
        from_torch(prepared(*layers))
    assert "Give example=" in str(error.value)


def test_softplus_of_pytorch_is_ours_in_float32_only():
    module = prepared(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2), dtype=torch.float32)
    assert from_torch(module).activation.name == "softplus"
    assert_same(from_torch(module), module, 30 * X.float(), atol=1e-5)


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand(x.shape)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * 2


class Pair(nn.Module):
    def forward(self, x):
        return x, x


LINEAR = nn.Linear(3, 2)
REFUSED = [
    (nn.Linear, None, r"the class itself; call it first"),
    ("model.pt", None, r"A torch.nn.Module is needed, got a str"),
    (nn.Sequential(LINEAR, nn.Dropout(0.5)), None, r"1 \(Dropout\) is in training mode.*module.eval\(\)"),
    (nn.Sequential(LINEAR, nn.BatchNorm1d(2)), X[0], r"1 \(BatchNorm1d\) is in training mode"),
    (Random(), X[0], r"Two evaluations .* differ: its forward pass is random"),
    (Counting(), X[0], r"changes the module \(calls\)"),
    (Pair(), X[0], r"must put out one tensor .* got a tuple"),
    (LINEAR, torch.zeros(4), r"cannot be evaluated on a batch of one example, shape \(1, 4\)"),
    (LINEAR, [object()], r"example must be one input"),
    (nn.Linear(3, 2, device="meta"), None, r"'meta'"),
]


@pytest.mark.parametrize(("module", "example", "message"), REFUSED)
def test_what_is_no_function_of_its_input_is_refused(module, example, message):
    with pytest.raises(InputError, match=message):
        from_torch(module, example)


def test_a_refused_module_is_left_as_it_was():
    module = Counting()
    with pytest.raises(InputError):
        from_torch(module, X[0])
    assert module.calls == 0
