"""The studies that `benchmarks/sweep.py` sweeps; in a file of their own, since the workers import them."""

import dataclasses
from typing import ClassVar

from lossatlas.studies import register


class _Whole:
    presets: ClassVar = {"smoke": {}, "quick": {}, "paper": {}}

    def run(self, seed, progress):
        raise NotImplementedError

    def claims(self, results):
        del results
        return []

    def figures(self, results):
        del results
        return {}


@register("benchmark-trivial", title="Cells that cost nothing", papers=())
@dataclasses.dataclass(frozen=True, kw_only=True)
class Trivial(_Whole):
    """A sum.

    - `number`: added to the seed.
    """

    number: float = 0.0
    traced: ClassVar = ("number",)

    def measure(self, seed):
        return {"sum": self.number + seed}


@register("benchmark-initial-scales", title="Initial scales of two layers of ReLU", papers=("luo2021phase",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialScales(_Whole):
    """How far do the input weights move, by the scale of both layers at the start?

    Adam on the mean of 1/2 |f - y|^2 over a curve.

    - `output_power`, `input_power`: p of the standard deviations `width**-p` of both layers.
    - `width`: neurons. `num_steps`: of Adam. `num_examples`: of the curve.
    """

    output_power: float = 0.5
    input_power: float = 0.0
    width: int = 50
    num_steps: int = 2000
    num_examples: int = 32

    traced: ClassVar = ("output_power", "input_power")

    def measure(self, seed):
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        import optax

        from lossatlas.landscape import Landscape
        from lossatlas.networks import Dense

        x = jnp.linspace(-1.0, 1.0, self.num_examples)[:, None]
        landscape = Landscape(x, jnp.sin(4.0 * x) + 0.5)
        network = Dense(jax.random.key(seed), [1, self.width, 1], activation="relu")
        scales = [self.width**-self.input_power, self.width**-self.output_power]
        keys = jax.random.split(jax.random.key(seed), 2)
        weights = [
            scale * jax.random.normal(key, layer.weight.shape)
            for scale, key, layer in zip(scales, keys, network.layers, strict=True)
        ]
        start = eqx.tree_at(lambda net: [layer.weight for layer in net.layers], network, weights)
        parameters, rest = eqx.partition(start, eqx.is_inexact_array)
        optimizer = optax.adam(1e-3)

        def step(state, _):
            parameters, momenta = state
            gradient = jax.grad(lambda p: landscape(eqx.combine(p, rest)))(parameters)
            updates, momenta = optimizer.update(gradient, momenta)
            return (optax.apply_updates(parameters, updates), momenta), None

        (end, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), length=self.num_steps)
        first, last = parameters.layers[0].weight, end.layers[0].weight
        moved = jnp.linalg.norm(last - first) / jnp.linalg.norm(first)
        return {"relative_distance": moved, "loss": landscape(eqx.combine(end, rest))}
