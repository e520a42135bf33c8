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
# # What a small network does with handwritten digits
#
# A convolutional network was trained on 1,797 real 8 × 8 images while its activations and gradients were recorded at 14
# places ("sites") and 20 training steps. This notebook opens that record and looks at it. Every picture is a HoloViews
# object: zoom, pan and hover work, and what you zoom into is read from the store again, at the new resolution.
#
# The one knob: `QUICK = True` makes a small record (3 steps, 200 samples) in half a minute.

# %%
QUICK = False

# %%
from pathlib import Path

import holoviews as hv

from actigrad import views
from actigrad.storage.store import open_store, read_sites

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
store

# %% [markdown]
# The store is a plain `xarray.DataTree`; nothing of ours is needed to read it. One group a site, and in it the whole
# arrays (`full`) where they were kept, and a few statistics of every neuron at every recorded step (`summary`).

# %%
store["sites/block1/conv/summary"]

# %% [markdown]
# ## Where and when
#
# One cell a site and step. Follow a row: the logits grow as the network becomes sure of itself. Follow a column of the
# gradient: it is largest where training begins, and fades.

# %%
views.overview(store)

# %%
views.overview(store, quantity="gradient")

# %% [markdown]
# ## The structure, with values
#
# Arcs are the data flow, read off the traced program. The last column tells how many neurons never fire.

# %%
views.structure(store)

# %%
views.flow(store)

# %% [markdown]
# ## Neurons by samples
#
# Samples are grouped by digit. A cell is the signed extreme of what it covers, so nothing is averaged away: zoom in and
# cells split until each is one value. Hover names the neuron and the sample.

# %%
views.heatmap(store, "head/relu", order="score")

# %%
views.heatmap(store, "block2/conv", quantity="gradient")

# %% [markdown]
# ## The same neurons over training

# %%
views.heatmap(store, "head/relu", x="step", order="score")

# %% [markdown]
# All neurons of a site as lines, counted by Datashader: the typical ones are dark, rogue ones stand alone.

# %%
views.traces(store, "head/hidden")

# %% [markdown]
# ## What in the input matters
#
# The hardest sample of each digit, the gradient of its loss with respect to each pixel, and three more maps. Below each
# stands its control, the same map under randomised weights, with the rank correlation of both. The gradient passes (ρ
# near 0). Gradient × input and integrated gradients look as they would without training (ρ around 0.9): they show the
# ink.

# %%
views.saliency(store)

# %% [markdown]
# ## Numbers, with xarray
#
# Views are one way to look; the arrays are another. Which neurons of the hidden layer tell a 3 from an 8?

# %%
hidden = store["sites/head/relu/full"]["activation"].isel(step=-1)
label = store["samples"]["label"].values
apart = (hidden[label == 3].mean("sample") - hidden[label == 8].mean("sample")).compute()
apart.argsort().values[[0, 1, -2, -1]]

# %%
[site.path for site in read_sites(store)]
