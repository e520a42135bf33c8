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

store_path = Path("runs/digits_quick.zarr" if QUICK else "runs/digits/digits.zarr")
if not store_path.exists():
    from actigrad.config.files import load_config
    from actigrad.runs.job import load
    from actigrad.runs.run import run

    root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "configs").is_dir())
    small = ["train.steps=60", "data.samples=200"] if QUICK else []
    run(load(load_config(root / "configs/digits.yaml", [f"store.path={store_path}", *small])))

store = open_store(store_path)

# %% [markdown]
# ## `overview`: where and when does it go wrong?
#
# A row a site, from the input down to the output; a column a recorded step.

# %%
views.overview(store, quantity="gradient")

# %% [markdown]
# ## `structure`: where in the architecture?
#
# The module tree with its data flow. A larger model is closed until it fits; with `dynamic=True` a tap opens a part, or
# shows a site's heatmap.

# %%
views.structure(store)

# %% [markdown]
# ## `heatmap`: which neurons, when, for what?

# %%
views.heatmap(store, "head/relu", order="score")

# %% [markdown]
# ## `feature_maps`: what does a convolution see?

# %%
views.feature_maps(store, "block1/relu", sample=5)

# %% [markdown]
# ## `flow`: does the gradient vanish or explode?

# %%
views.flow(store)

# %% [markdown]
# ## `distribution`: collapse, drift, saturation?
#
# Bins are the same at every step and in every run, four a decade.

# %%
views.distribution(store, "head/hidden", quantity="gradient")

# %% [markdown]
# ## `activity`: how many are dead, and do they get gradient?

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

# %%
views.traces(store, "head/relu")

# %% [markdown]
# ## `neuron`: what is this neuron?

# %%
views.neuron(store, "head/relu", 3)

# %% [markdown]
# ## `compare`: what changed?
#
# Each step less the first, neurons by score. Given another store, the same site of another run.

# %%
views.compare(store, "head/relu", order="score")
