"""Networks of infinite width: the Gaussian process of their outputs, and their tangent kernel."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Shaped

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas.networks import Activation
from lossatlas.networks import activation as as_activation
from lossatlas.theory._dual_activation import dual_activation, has_closed_form
from lossatlas.theory._places import Diagonal, Everywhere, Nowhere, Places


Parametrisation = Literal["ntk", "standard"]
Arrays = Shaped[Array, "..."] | Shaped[np.ndarray, "..."]
"""Examples, one after the other."""

_NODES = 64


@shown
class InfiniteKernel(eqx.Module):
    r"""The kernels of one output of an infinitely wide network; different outputs are independent.

    - `nngp`: the covariance of the outputs at initialisation, shape (n, m).
    - `ntk`: the neural tangent kernel, shape (n, m); it equals the conventions `trace` and `sum_logits` of
      [`lossatlas.geometry.ntk`][] in the limit.
    - `quadrature_error`: the largest change of either kernel, relative to its largest entry, when half of the nodes
      are used; 0 where the activation has a closed form.
    - `parametrisation`: `"ntk"` or `"standard"`.
    """

    nngp: Float[np.ndarray, "n m"]
    ntk: Float[np.ndarray, "n m"]
    quadrature_error: float
    parametrisation: Parametrisation = eqx.field(static=True)
    settings: dict[str, Any]

    def to_xarray(self):
        """Both kernels as an `xarray.Dataset` over `row` and `column`."""
        import xarray as xr

        data = {name: (("row", "column"), np.asarray(getattr(self, name))) for name in ("nngp", "ntk")}
        return xr.Dataset(data, attrs={"parametrisation": self.parametrisation})

    def _figure(self) -> Any:
        from lossatlas.figures import matrix_figure

        return matrix_figure(np.asarray(self.ntk, float), x="example", y="example", colour="infinite tangent kernel")


def infinite_dense(
    inputs: Arrays,
    other: Arrays | None = None,
    *,
    num_hidden: int = 1,
    activation: str | Callable[[Array], Array] | Activation = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    parametrisation: Parametrisation = "ntk",
    widths: Sequence[int] | None = None,
    use_bias: bool = True,
    num_nodes: int = _NODES,
) -> InfiniteKernel:
    r"""The kernels of a fully connected network whose hidden widths go to infinity.

    With $Q^0 = x \cdot x' / d$ and, after a layer, $Q = E[\phi(u) \phi(v)]$ for $(u, v) \sim N(0, K)$
    (Neal 1996; Lee et al. 2018; Jacot, Gabriel and Hongler 2018):

    $$K^{l+1} = \sigma_w^2 Q^l + \sigma_b^2, \qquad
    \Theta^{l+1} = G^{l+1} + \sigma_w^2\, E[\phi'(u) \phi'(v)]\, \Theta^l, \qquad \Theta^0 = 0.$$

    - `"ntk"`: layers $\frac{\sigma_w}{\sqrt{n_l}} W h + \sigma_b b$ with standard normal $W$, $b$; $G = K$.
    - `"standard"`: layers $W h + b$ with variances $\sigma_w^2 / n_l$ and $\sigma_b^2$, as in our networks; $G =
      n_l Q + 1$ (the 1 with `use_bias`), which grows with the widths: the values at the widths given, to leading
      order (Sohl-Dickstein et al. 2020). `init="he"` is $\sigma_w^2 = 2$, `"lecun"` 1.

    Relu, other activations that are linear on both sides of zero, and erf are in closed form; others by quadrature,
    which converges fast for smooth ones only; `quadrature_error` tells.

    **Arguments:**
    - `inputs`: n examples, shape (n, d). `other`: m examples of the columns; default the same.
    - `num_hidden`: hidden layers. `activation`: as for [`lossatlas.networks.Dense`][].
    - `weight_variance`, `bias_variance`: $\sigma_w^2$ and $\sigma_b^2$ of all layers.
    - `parametrisation`: as above. `widths`: of the hidden layers, for `"standard"`. `use_bias`: whether biases are
      trained there.
    - `num_nodes`: of the quadrature, in each of two directions.

    **Returns:**
    An [`lossatlas.theory.InfiniteKernel`][]. Cost: n m numbers a layer, times `num_nodes` squared with quadrature.

    **Raises:** `InputError` for shapes that do not fit, negative variances, unknown names and missing widths.

    !!! example
        >>> x = np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
        >>> round(float(infinite_dense(x, weight_variance=2.0).nngp[0, 1]), 4)
        0.609
    """
    first, second = _examples(inputs, other, 2)
    spec = _Spec(weight_variance, bias_variance, parametrisation, use_bias)
    sizes = _sizes(spec, widths, num_hidden, "widths", "hidden layers")
    layers = [_Layer("dense", size) for size in (first.shape[1], *sizes)]
    settings = {"num_hidden": num_hidden}
    return _kernel(first, second, layers, spec, activation, num_nodes, Nowhere(), settings)


def infinite_conv(
    images: Arrays,
    other: Arrays | None = None,
    *,
    num_convs: int = 1,
    num_hidden: int = 0,
    kernel: int = 3,
    stride: int = 1,
    padding: Literal["SAME", "VALID"] = "SAME",
    pool: Literal["average"] | None = None,
    head: Literal["flatten", "average"] = "flatten",
    activation: str | Callable[[Array], Array] | Activation = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    parametrisation: Parametrisation = "ntk",
    channels: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    use_bias: bool = True,
    num_nodes: int = _NODES,
) -> InfiniteKernel:
    r"""The kernels of a convolutional network whose channels (and hidden widths) go to infinity.

    The network of [`lossatlas.networks.Conv`][]: convolutions, each followed by the activation and 2 x 2 average
    pooling if asked, then a head, `num_hidden` fully connected hidden layers, and an output. Kernels are kept for
    pairs of places p, p' of the maps; a convolution averages them over its k x k offsets $\delta$, zeros standing
    beside the image (Novak et al. 2019; Arora et al. 2019): $K(p, p') = \sigma_w^2 k^{-2} \sum_\delta Q(s p +
    \delta, s p' + \delta) + \sigma_b^2$, and likewise for the tangent kernel. Without pooling a flattened head
    needs equal places only: the places of different images are then independent, and weight sharing leaves no trace
    in the NNGP.

    **Arguments:**
    - `images`: shape (n, c, h, w). `other`: m images of the columns; default the same.
    - `num_convs`, `num_hidden`: layers. `kernel`, `stride`, `padding`, `pool`, `head`: as for
      [`lossatlas.networks.Conv`][]; maximum pooling has no such kernel.
    - `channels`, `widths`: for `"standard"`, the sizes of convolutions and hidden layers.
    - `activation`, `weight_variance`, `bias_variance`, `parametrisation`, `use_bias`, `num_nodes`: as for
      [`lossatlas.theory.infinite_dense`][]; weight variances are divided by the fan-in, channels times $k^2$.

    **Returns:**
    An [`lossatlas.theory.InfiniteKernel`][]. Memory: n m h w numbers; with pooling or an average n m (h w)^2.

    **Raises:** `InputError` as [`lossatlas.theory.infinite_dense`][], and for images that shrink to nothing.
    """
    first, second = _examples(images, other, 4)
    if padding not in ("SAME", "VALID"):
        raise unknown_name("padding", padding, ("SAME", "VALID"))
    if pool not in (None, "average"):
        msg = f'pool is "average" or None for infinite width, got {pool!r}; the maximum is no function of covariances.'
        raise InputError(msg)
    if head not in ("flatten", "average"):
        raise unknown_name("head", head, ("flatten", "average"))
    if min(num_convs, kernel, stride) < 1:
        msg = f"num_convs, kernel and stride must be at least 1, got {num_convs}, {kernel} and {stride}."
        raise InputError(msg)
    spec = _Spec(weight_variance, bias_variance, parametrisation, use_bias)
    maps = _sizes(spec, channels, num_convs, "channels", "convolutions")
    sizes = _sizes(spec, widths, num_hidden, "widths", "hidden layers")
    places: Places = Diagonal() if pool is None and head == "flatten" else Everywhere()
    layers = [_Layer("conv", size, kernel, stride, padding, pool) for size in (first.shape[1], *maps[:-1])]
    layers += [_Layer(head, maps[-1])] + [_Layer("dense", size) for size in sizes]
    first, second = np.moveaxis(first, 1, 3), np.moveaxis(second, 1, 3)
    settings = {"num_convs": num_convs, "num_hidden": num_hidden, "kernel": kernel, "stride": stride}
    settings |= {"padding": padding, "pool": pool, "head": head}
    return _kernel(first, second, layers, spec, activation, num_nodes, places, settings)


@dataclasses.dataclass(frozen=True)
class _Spec:
    weight_variance: float
    bias_variance: float
    parametrisation: Any
    use_bias: bool

    def __post_init__(self):
        if self.parametrisation not in ("ntk", "standard"):
            raise unknown_name("parametrisation", self.parametrisation, ("ntk", "standard"))
        if not self.weight_variance > 0 or not self.bias_variance >= 0:
            msg = (
                "weight_variance must be positive and bias_variance not negative, got "
                f"{self.weight_variance} and {self.bias_variance}."
            )
            raise InputError(msg)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer that reads `size` channels (1 where only the limit counts)."""

    kind: Literal["dense", "conv", "flatten", "average"]
    size: int
    kernel: int = 1
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "VALID"
    pool: Literal["average"] | None = None


@dataclasses.dataclass(frozen=True)
class _Covariances:
    """Covariances of pre- or post-activations: of the pairs, and of each example with itself; the tangent kernel."""

    cross: np.ndarray
    left: np.ndarray
    right: np.ndarray
    tangent: np.ndarray


def _kernel(
    first: np.ndarray,
    second: np.ndarray,
    layers: list[_Layer],
    spec: _Spec,
    activation: Any,
    num_nodes: int,
    places: Places,
    settings: dict[str, Any],
) -> InfiniteKernel:
    """Through all layers; `first` and `second` have their channels last."""
    act = as_activation(activation)
    if num_nodes < 2:
        msg = f"num_nodes must be at least 2, got {num_nodes}."
        raise InputError(msg)
    found = _through(first, second, layers, spec, act, num_nodes, places)
    error = 0.0
    if not has_closed_form(act):
        coarse = _through(first, second, layers, spec, act, num_nodes // 2, places)
        error = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(found, coarse, strict=True))
    settings = settings | {
        "activation": act.name,
        "weight_variance": spec.weight_variance,
        "bias_variance": spec.bias_variance,
    }
    return InfiniteKernel(*found, error, spec.parametrisation, settings)


def _through(
    first: np.ndarray,
    second: np.ndarray,
    layers: list[_Layer],
    spec: _Spec,
    act: Activation,
    num_nodes: int,
    places: Places,
) -> tuple[np.ndarray, np.ndarray]:
    cross, left, right = places.products(first, second)
    state = _Covariances(cross, left, right, np.zeros_like(cross))
    for number, layer in enumerate(layers):
        if number:
            state = _activated(state, act, num_nodes, places)
            before = layers[number - 1]
            if before.kind == "conv" and before.pool:
                state = _each(places.pooled, state)
        fan = layer.size
        if layer.kind == "conv":
            fan *= layer.kernel**2
            mix = lambda q, conv=layer: places.convolved(q, conv.kernel, conv.stride, conv.padding)  # noqa: E731, B023
            state = _each(mix, state)
        elif layer.kind == "flatten":
            fan *= state.cross.shape[-1] * state.cross.shape[-2]
            state, places = _each(places.flattened, state), Nowhere()
        elif layer.kind == "average":
            state, places = _each(places.averaged, state), Nowhere()
        state = _affine(state, spec, fan)
    return state.cross, state.tangent


def _affine(state: _Covariances, spec: _Spec, fan: int) -> _Covariances:
    """An affine layer after the places are mixed; the tangent kernel of its own parameters is added."""
    w, b = spec.weight_variance, spec.bias_variance
    cross = w * state.cross + b
    own = cross if spec.parametrisation == "ntk" else fan * state.cross + float(spec.use_bias)
    return _Covariances(cross, w * state.left + b, w * state.right + b, own + w * state.tangent)


def _activated(state: _Covariances, act: Activation, num_nodes: int, places: Places) -> _Covariances:
    a, b = places.variances(state.left), places.variances(state.right)
    value, slope = dual_activation(act, places.paired(a, b), state.cross, num_nodes)
    left, _ = dual_activation(act, places.own(a), state.left, num_nodes)
    right, _ = dual_activation(act, places.own(b), state.right, num_nodes)
    return _Covariances(value, left, right, slope * state.tangent)


def _each(fn: Callable[[np.ndarray], np.ndarray], state: _Covariances) -> _Covariances:
    return _Covariances(*(fn(getattr(state, field.name)) for field in dataclasses.fields(state)))


def _examples(inputs: Any, other: Any, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.asarray(inputs, float)
    second = first if other is None else np.asarray(other, float)
    words = {2: "(n, d)", 4: "(n, channels, height, width)"}[ndim]
    if first.ndim != ndim or second.ndim != ndim or first.shape[1:] != second.shape[1:] or not first.size:
        msg = f"Inputs need the shape {words}, the same beyond n; got {first.shape} and {second.shape}."
        raise InputError(msg)
    return first, second


def _sizes(spec: _Spec, given: Sequence[int] | None, num: int, name: str, what: str) -> tuple[int, ...]:
    """Sizes of layers; they count in the standard parametrisation only."""
    if num < 0:
        msg = f"The number of {what} must not be negative, got {num}."
        raise InputError(msg)
    if spec.parametrisation == "ntk":
        return (1,) * num
    given = () if given is None and num == 0 else given
    if given is None or len(given) != num or min(given, default=1) < 1:
        msg = f'parametrisation="standard" needs {name}, the sizes of the {num} {what}, got {given}.'
        raise InputError(msg)
    return tuple(int(size) for size in given)
