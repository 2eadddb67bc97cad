# %% [markdown]
# # Your own network, shrunk
#
# A network of another library, here an Equinox MLP trained with optax, made smaller without training it again.

# %% slow
import equinox as eqx
import jax
import numpy as np
import optax

from lossatlas import data, embedding

jax.config.update("jax_enable_x64", True)
iris = data.load("iris")
landscape = iris.landscape()
network = eqx.nn.MLP(4, 3, 12, 2, activation=jax.nn.tanh, key=jax.random.key(0))

optimizer = optax.adam(1e-2)
state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))


@eqx.filter_jit
def step(network, state):
    gradient = eqx.filter_grad(lambda net: landscape(net))(network)
    updates, state = optimizer.update(gradient, state)
    return eqx.apply_updates(network, updates), state


for _ in range(300):
    network, state = step(network, state)
print(f"loss below 0.02: {float(landscape(network)) < 0.02}")

# %% [markdown]
# ```text
# loss below 0.02: True
# ```
#
# ## Its units
#
# LossAtlas follows the axes of the parameters through the program, finds the hidden units, and tests what it found:
# copies of a unit must leave outputs and gradients as theory says.

# %% slow
found = embedding.discover_units(lambda net, x: net(x), network, landscape.inputs[0])
print({name: space.size for name, space in found.spaces.items()})

# %% [markdown]
# ```text
# {'layers[0]': 12, 'layers[1]': 12}
# ```
#
# ## Smaller
#
# A path removes units in the order of what they cost; what is left stands in for them. Ask for a size:

# %% slow
path = embedding.pruning_path(found.network, landscape)
for share in (0.8, 0.5):
    point = path.with_parameters(int(share * path.curve(1)[0].num_parameters))
    print(point)

# %% [markdown]
# The change is the largest of any output on these rows. How it grows as parameters go is the curve that `lossatlas
# shrink` draws, beside what it is on rows held back.
#
# The result is a module of the same class with smaller arrays:

# %% slow
smaller = point.network.params
print(type(smaller).__name__, smaller.layers[1].weight.shape != network.layers[1].weight.shape)
same = np.argmax(jax.vmap(smaller)(landscape.inputs), 1) == np.argmax(jax.vmap(network)(landscape.inputs), 1)
print(f"the same class for at least 95 % of the rows: {same.mean() >= 0.95}")

# %% [markdown]
# ```text
# MLP True
# the same class for at least 95 % of the rows: True
# ```
