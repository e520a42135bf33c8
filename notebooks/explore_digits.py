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
# The one knob: `QUICK = True` makes a small record (3 steps, 200 samples) in half a minute. Figures in the text are of
# the whole record.

# %%
QUICK = False

# %%
from pathlib import Path

import holoviews as hv
import numpy as np

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
store

# %% [markdown]
# The store is a plain `xarray.DataTree`; nothing of ours is needed to read it. One group a site, and in it the whole
# arrays (`full`) where they were kept, and a few statistics of every neuron at every recorded step (`summary`).

# %%
store["sites/block1/conv/summary"]

# %% [markdown]
# ## Where and when
#
# One cell a site and step. Follow a row: the logits grow as the network becomes sure of itself, while the blocks in
# front of the head hardly change their size after the first steps. The gradient is largest where training begins, and
# has faded by step 200: from there on nearly everything is read rightly, and little is left to learn.

# %%
views.overview(store)

# %%
views.overview(store, quantity="gradient")

# %% [markdown]
# ## The structure, with values
#
# Arcs are the data flow, read off the traced program. The last column tells how many neurons never fire: of the head's
# 128 hidden ones 45 %. They were hardly ever of use: 51 of these 57 are dead at step 20 already. The network is larger
# than its task.

# %%
views.structure(store)

# %% [markdown]
# Does the gradient reach the input? From the head on the right to the first convolution on the left the median neuron's
# gradient stays within a factor of six: it neither vanishes nor explodes.

# %%
views.flow(store)

# %% [markdown]
# ## Neurons by samples
#
# Samples are grouped by digit, the neurons with the largest values stand on top. A cell is the signed extreme of what
# it covers, so nothing is averaged away: zoom in and cells split until each is one value. Hover names the neuron and
# the sample. Each digit has a pattern of its own, made of many neurons; the white part below is the dead ones.

# %%
views.heatmap(store, "head/relu", order="score")

# %% [markdown]
# The gradient looks different: nearly white, with few dark columns. A column is a sample, and 18 of the 1,797 carry
# 99 % of the squared gradient. What is still learned at the end is learned from them.

# %%
views.heatmap(store, "block2/conv", quantity="gradient")

# %% [markdown]
# ## The same neurons over training
#
# Each row is a neuron's largest value at a step: what a neuron is going to be is settled within the first 100 updates,
# and after that it only becomes louder.

# %%
views.heatmap(store, "head/relu", x="step", order="score")

# %% [markdown]
# All neurons of a site as lines, counted by Datashader: where many pass it is dark, and single ones are pale. One,
# neuron 92 (hover tells), ends twice as large as the typical one.

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
# Views are one way to look; the arrays are another. Which neurons of the hidden layer tell a 3 from an 8? Those whose
# mean differs most. The best for 8 does it nearly alone: with one threshold it is right for all but nine.

# %%
hidden = store["sites/head/relu/full"]["activation"].isel(step=-1).values
label = store["samples"]["label"].values
three, eight = hidden[label == 3], hidden[label == 8]
apart = eight.mean(0) - three.mean(0)
print("mean for 8 less mean for 3:", {int(n): round(float(apart[n]), 2) for n in np.argsort(-np.abs(apart))[:5]})
chosen = int(apart.argmax())
limit = (eight[:, chosen].mean() + three[:, chosen].mean()) / 2
right = np.concatenate([eight[:, chosen] > limit, three[:, chosen] <= limit]).mean()
print(f"neuron {chosen} above {limit:.1f}: an 8, else a 3; right for {right:.1%}")

# %% [markdown]
# But it is no "neuron for 8". Its card: it answers 4 most, then 6, and 3 and 5 least. What tells digits apart is the
# pattern over neurons, not one of them.

# %%
views.neuron(store, "head/relu", chosen)

# %% [markdown]
# ## Findings
#
# What the rules of the report say of this run, in a line each: the dead neurons and the few hard samples that were seen
# above, and nothing else.

# %%
from actigrad.findings import judge, measure

[f"{one.severity}: {one.site} {one.text}" for one in judge(measure(store))]
