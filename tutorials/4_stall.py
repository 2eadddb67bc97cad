# %% [markdown]
# # Why training stalls
#
# A wide network was grown from a narrow one, trains on, and the loss does not move. `diagnose` says why, and what
# leaves.

# %%
import jax

from lossatlas import atlas, data, embedding, networks, training

jax.config.update("jax_enable_x64", True)
landscape = data.load("teacher").landscape()
key = jax.random.key(3)
narrow = training.train(key, networks.Dense(key, [2, 1, 1]), landscape, learning_rate=0.2, num_steps=10_000).network
wide, _ = embedding.replicate(narrow, "hidden[0]", 4)
run = training.train(key, wide, landscape, learning_rate=0.05, num_steps=2_000)
print(f"{float(run.loss[0]):.4f} -> {float(run.loss[-1]):.4f}")

# %% [markdown]
# ```text
# 0.0684 -> 0.0684
# ```
#
# Four neurons, and the loss of one. Ask:

# %% slow
diagnosis = atlas.diagnose(run.network, landscape, num_steps=300)
print(diagnosis.state)
print(diagnosis.small.words)
print(diagnosis.verdict)

# %% [markdown]
# The state is *stuck* where the gradient is that of a stall **and** the function is that of a critical point of a small
# network. Here that network is one neuron, and the verdict says what it is in the wide network: a strict saddle, so
# there are ways down.
#
# ## The layers
#
# All four neurons point the same way: the effective number is one.

# %%
from lossatlas import geometry

print([f"{float(n):.2f}" for n in geometry.effective_neurons(run.network)])

# %% [markdown]
# ```text
# ['1.00']
# ```
#
# Equal copies have equal gradients, so gradient descent never parts them, however long it runs.
#
# ## The ways out
#
# Each is a step in the wide network, beside what the curvature predicts and what was measured after it.

# %% slow
for way in diagnosis.ways:
    print(way.words, f"{way.realised:.4f}")

# %% [markdown]
# Take the network after the best one, `diagnosis.ways[0].network`, and train from there. The simplest cure when you
# grow networks yourself is to move copies apart at once:

# %%
wide, record = embedding.replicate(narrow, "hidden[0]", 4)
parted, _ = embedding.part_copies(jax.random.key(1), wide, record, noise=0.2)
run = training.train(key, parted, landscape, learning_rate=0.05, num_steps=20_000)
print(f"below the loss of two neurons: {float(run.loss[-1]) < 0.0096}")

# %% [markdown]
# ```text
# below the loss of two neurons: True
# ```
#
# ## During training
#
# `atlas.Monitor` watches for such a plateau in your own loop and warns once; `lossatlas diagnose` does all of this from
# the shell.
