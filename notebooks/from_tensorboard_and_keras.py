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
# # From Keras, imshow and TensorBoard
#
# How activations and gradients are usually looked at, how the same model looks here, and the way back to TensorBoard.
#
# The one knob: `QUICK = True` trains for fewer updates.

# %%
QUICK = False

# %% [markdown]
# ## What people write
#
# A Keras model, its output as an image, and the gradient of a number made of the output with respect to the input.
# Keras runs on JAX; nothing here is ours.

# %%
# %matplotlib inline
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import matplotlib.pyplot as plt
import numpy as np

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.layers.Dense(10), keras.layers.Dense(1)])
x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
output = model(x)


def mean_square(x):
    return jnp.mean(jnp.square(model(x)))


gradient = jax.grad(mean_square)(jnp.asarray(x))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.imshow(np.asarray(output), cmap="viridis")
left.set_title('the "activation map": output')
right.imshow(np.asarray(gradient), cmap="RdBu")
right.set_title('the "gradient map": d mean(output²) / d input')
plt.show()

# %% [markdown]
# Two pictures of nine numbers, and much that they do not tell: colours without a scale, axes without names, only the
# last layer, only one moment. The ten neurons in between, which do the work, are not there.
#
# ## The same model, observed
#
# `observe` gives the model as a function with every layer's output named; `capture` returns all of them and their
# gradients from one forward and one backward pass. The last layer's activation and the input's gradient are the numbers
# above.

# %%
import actigrad

apply, params = actigrad.observe(model)


def loss(params, batch):
    return jnp.mean(jnp.square(apply(params, batch["x"])))


frame = actigrad.capture(loss)(params, {"x": x})
{path: (values.shape, frame.gradients[path].shape) for path, values in frame.activations.items()}

# %%
bool(np.allclose(list(frame.activations.values())[-1], output)), bool(np.allclose(frame.input_gradients["x"], gradient))

# %% [markdown]
# `check` verifies capture on this very model: gradients against forward differences, without a reference.

# %%
actigrad.check(loss, params, {"x": x}).ok

# %% [markdown]
# ## Steps of its training
#
# In Keras one trains with `fit`. A callback records what the layers do at the start and after every so many updates.

# %%
import shutil
from pathlib import Path

folder = Path("from_keras")
shutil.rmtree(folder, ignore_errors=True)
y = x.sum(axis=1, keepdims=True) / 10
model.compile(optimizer=keras.optimizers.SGD(3e-3), loss="mse")
record = actigrad.CaptureCallback(folder / "run.zarr", x, y, every=2, full="**")
history = model.fit(x, y, epochs=10 if QUICK else 40, batch_size=3, verbose=0, callbacks=[record])
round(history.history["loss"][0], 3), round(history.history["loss"][-1], 5)

# %%
import holoviews as hv

from actigrad import views

hv.extension("bokeh", inline=True)

store = actigrad.open_store(folder / "run.zarr")
views.structure(store)

# %% [markdown]
# The structure with values at the last recorded step; then each layer at each step. Hover tells the numbers.

# %%
views.overview(store)

# %%
views.overview(store, quantity="gradient")

# %% [markdown]
# Every neuron of the first layer: by sample at the last step, its activation and its gradient, and over the steps. Red
# is positive, blue negative, white zero; the scale stands beside it, and is the same for the whole run.

# %%
first = store.attrs["sites"][0]
views.heatmap(store, first)

# %%
views.heatmap(store, first, quantity="gradient")

# %%
views.heatmap(store, first, x="step")

# %% [markdown]
# ## The same run in TensorBoard
#
# `actigrad export from_keras/run.zarr --to tensorboard` writes event files: scalars, histograms and these heatmaps
# along the step. `tensorboard --logdir from_keras` shows them; here TensorBoard's own reader reads them back.

# %%
from IPython.display import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from actigrad.export import export

logs = export(folder / "run.zarr", "tensorboard")
events = EventAccumulator(str(logs), size_guidance={"tensors": 0}).Reload()
tags = events.Tags()["tensors"]
len(tags), [tag for tag in tags if first in tag][:8]

# %%
points = events.Tensors(f"activation_rms/{first}")
{event.step: round(float(make_ndarray(event.tensor_proto)), 3) for event in points[:5]}

# %% [markdown]
# An image as TensorBoard shows it: the neurons of the first layer, from the top down, by recorded step.

# %%
_, _, png = make_ndarray(events.Tensors(f"activation_by_step/{first}")[-1].tensor_proto)
Image(png)
