# %% [markdown]
# # A survey, cell by cell
#
# A survey answers: which small networks do these data have, and does training visit them? Here a small one of iris is
# read piece by piece. It takes half a minute; `lossatlas survey` does the same with larger settings.

# %% slow
import lossatlas
from lossatlas.atlas import BIG, SurveyConfig

config = SurveyConfig(hidden=(20,), num_steps=10_000, max_units=2)
survey = lossatlas.survey("iris", config=config, progress="none")
print(survey.headline[:7])

# %% [markdown]
# ```text
# On iris
# ```
#
# The answer in a sentence is `survey.headline`; `survey.report` is the page, one HTML file. In a notebook `survey`
# shows its table. Everything is stored, so the cell above returns at once the next time.
#
# ## The catalogue
#
# A row for each small network: `(k,r)` has k neurons beside r linear units. Those of linear networks are exact.

# %% slow
for row in survey.tables["catalogue"][:3]:
    print(row["name"], row["words"], f"{row['loss']:.4f}", row["kind"])

# %% [markdown]
# ```text
# (0,0) a constant 0.3333 critical point
# (0,1) a linear model of rank 1 0.1717 critical point
# (1,0) one neuron 0.1667 level at infinity
# ```
#
# One neuron has no best network on iris: one of three classes can be split off, so its weights run away. That is a
# level at infinity, not a critical point.
#
# ## The visits
#
# For each small network: at which step training came nearest, and how near. The control is how near a straight path
# would come by chance.

# %% slow
(run,) = survey.tables["trainings"]
visited = [visit["name"] for visit in run["visits"] if visit["verdict"] == "visit"]
print("(0,0)" in visited, "(0,1)" in visited)

# %% [markdown]
# ```text
# True True
# ```
#
# Training from small weights stalls at a constant, then at a linear model of rank 1.
#
# ## The choice
#
# Every candidate was fitted on three quarters of the rows and measured on the others. Recommended is the smallest whose
# held-out loss is within one paired standard error of the best.

# %% slow
selection = survey.tables["selection"]
sizes = {row["name"]: row["parameters"] for row in selection["rows"]}
print(sizes[selection["recommended"]] < sizes[BIG])

# %% [markdown]
# ```text
# True
# ```
#
# ## The arrays
#
# Numbers for your own figures are labelled arrays: the curves of training by seed and snapshot.

# %% slow
training = survey.arrays["training"]
print(sorted(training.sizes))

# %% [markdown]
# Use the network on raw columns, or hand it to scikit-learn or PyTorch:

# %% slow
model = survey.model("recommended")
print(model.predict("iris").shape[0])

# %% [markdown]
# ```text
# 150
# ```
