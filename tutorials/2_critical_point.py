# %% [markdown]
# # A critical point, embedded and certified
#
# The embedding principle in three steps: find a critical point of a narrow network, embed it in a wider one, count
# curvatures on both sides, and compare with what theory says beforehand.

# %%
import jax

from lossatlas import data, embedding, geometry, networks, theory

jax.config.update("jax_enable_x64", True)
landscape = data.load("teacher").landscape()  # 200 rows of two numbers, answered by three tanh neurons
narrow = networks.Dense(jax.random.key(3), [2, 1, 1])
point = geometry.find_critical_point(narrow, landscape)
print(point.status, f"loss {float(point.loss):.6f}", f"gradient below 1e-12: {float(point.gradient_norm) < 1e-12}")

# %% [markdown]
# ```text
# converged loss 0.068419 gradient below 1e-12: True
# ```
#
# Is it a minimum? The inertia counts negative, zero and positive eigenvalues, and says whether the count is certified.

# %%
before = geometry.inertia(point.network, landscape)
print(before.counts, before.certificate, before.is_minimum)

# %% [markdown]
# ```text
# (0, 0, 5) yes yes
# ```
#
# ## What theory says
#
# Splitting the neuron adds eigenvalues. Which, is decided by the narrow network alone; the wide Hessian is not formed.

# %%
added = theory.split_inertia(point.network, landscape, "hidden[0]", 0, 0.5)
print(added.negative, added.zero, added.positive)

# %% [markdown]
# ```text
# 2 1 1
# ```
#
# ## The split
#
# The copies share what the output reads, half each. The certificate is measured: the largest change of an output, and
# the gradient.

# %%
wide, record = embedding.split(point.network, "hidden[0]", 0, 0.5, landscape=landscape)
certificate = record.certificate
print(f"{certificate.output_change:.0e}", certificate.gradient_after < 1e-12)

# %%
after = geometry.inertia(wide, landscape)
print(after.counts, after.certificate, after.is_strict_saddle)

# %% [markdown]
# ```text
# (2, 1, 6) yes yes
# ```
#
# As predicted: 0 + 2 negative, 0 + 1 zero, 5 + 1 positive. The minimum of one neuron is a strict saddle of two. The
# zero eigenvalue is the line of all shares: moving along it changes nothing.
#
# ## And back
#
# `reduce` finds the narrow network in the wide one.

# %%
small, reduction = embedding.reduce(wide, landscape)
matched, same = embedding.match(small, point.network)
print(small.widths, same.is_same)

# %% [markdown]
# ```text
# (2, 1, 1) True
# ```
