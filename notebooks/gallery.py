# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The twelve views
#
# One record, a small convolutional network that learns to read handwritten digits, seen in every way that this library
# knows. Each view is a function of the store; `help(views.flow)` is the legend of a picture.
#
# The one knob: `QUICK = True` makes a small record (3 steps, 200 samples) in half a minute.

# %%
QUICK = False

# %%
from pathlib import Path

import holoviews as hv

from actigrad import views
from actigrad.storage.store import open_store

hv.extension("bokeh", inline=True)

# Where scripts/run leaves it: a run that was made there is not made again.
root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "configs").is_dir())
store_path = root / ("runs/digits_quick.zarr" if QUICK else "runs/digits/digits.zarr")
if not store_path.exists():
    from actigrad.config.files import load_config
    from actigrad.runs.job import load
    from actigrad.runs.run import run

    small = ["train.steps=60", "data.samples=200"] if QUICK else []
    run(load(load_config(root / "configs/digits.yaml", [f"store.path={store_path}", *small])))

store = open_store(store_path)

# %% [markdown]
# ## `overview`: where and when does it go wrong?
#
# A row a site, from the input down to the output; a column a recorded step. Here nothing does: the gradient is largest
# when training begins, and fades everywhere alike.

# %%
views.overview(store, quantity="gradient")

# %% [markdown]
# ## `structure`: where in the architecture?
#
# The module tree with its data flow. What stands out is the 45 % of dead neurons behind the head's ReLU. A larger model
# is closed until it fits; with `dynamic=True` a tap opens a part, or shows a site's heatmap.

# %%
views.structure(store)

# %% [markdown]
# ## `heatmap`: which neurons, when, for what?
#
# Neurons from top to bottom, those of the largest values first; samples from left to right, grouped by digit. Each
# digit has a pattern of its own. With `x="step"` the same neurons over training.

# %%
views.heatmap(store, "head/relu", order="score")

# %% [markdown]
# ## `feature_maps`: what does a convolution see?
#
# One digit, a 5, through the 32 channels of the first block: some hold its strokes, some its edges, some the paper.

# %%
views.feature_maps(store, "block1/relu", sample=5)

# %% [markdown]
# ## `flow`: does the gradient vanish or explode?
#
# Neither: from the head on the right to the first convolution on the left it stays within a factor of six.

# %%
views.flow(store)

# %% [markdown]
# ## `distribution`: collapse, drift, saturation?
#
# Bins are the same at every step and in every run, four a decade. The gradient spreads over ten decades as training
# goes on: most samples are read rightly by then and push next to nothing. The line at 0 is the dead neurons.

# %%
views.distribution(store, "head/hidden", quantity="gradient")

# %% [markdown]
# ## `activity`: how many are dead, and do they get gradient?
#
# On the left 57 of 128 that are zero for every sample, on the right those that nearly always answer. The dead do get
# gradient at their output; none of it passes the ReLU, so that in front of it, at `head/hidden`, theirs is zero.

# %%
views.activity(store, "head/relu")

# %% [markdown]
# ## `weights`: which connections learn?
#
# The gradient, summed over the samples: a row an output, a column an input. `quantity` can also be the value, or the
# change by the last update, which is next to nothing here, as the learning rate ends at zero. Pale rows are dead
# neurons: nothing will teach them.

# %%
views.weights(store, "head/hidden", quantity="gradient", order="score")

# %% [markdown]
# ## `saliency`: what in the input matters, and is the map credible?
#
# Below each map the same map under randomised weights. A map that looks like its control (ρ near 1) tells of the input
# alone: here that is gradient × input, which mostly says where the ink is.

# %%
views.saliency(store)

# %% [markdown]
# ## `traces`: which neurons are typical, which are rogue?
#
# A line a neuron, dark where many pass: at the bottom the dead ones, which lie on each other. The others settle within
# 150 updates.

# %%
views.traces(store, "head/relu")

# %% [markdown]
# ## `neuron`: what is this neuron?
#
# Neuron 3 answers nearly everything, an 8 most and a 2 not at all. Its gradient is zero but for a few hard samples.

# %%
views.neuron(store, "head/relu", 3)

# %% [markdown]
# ## `compare`: what changed?
#
# Each step less the first, the neurons that end largest on top: nearly all that live have become louder. Given another
# store, the same site of another run.

# %%
views.compare(store, "head/relu", order="score")
