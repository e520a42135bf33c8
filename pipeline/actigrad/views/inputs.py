"""The inputs and what in them matters (`saliency`)."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np

from actigrad.errors import ViewError
from actigrad.pictures.palette import DIVERGING, NOT_FINITE
from actigrad.storage.store import read_samples
from actigrad.views.reading import Store, find_group, open_tree


def saliency(store: Store, *, samples: Sequence[int] | None = None, name: str | None = None) -> hv.Layout:
    """Inputs in the upper row, the gradient (of the loss, or of the run's objective) with respect to them below.

    Grey is the input's value. Blue and red: raising this pixel lowers or raises what the gradient is of; the scale is
    each sample's own and symmetric, its limit stands in the title, as gradients of well and badly classified samples
    differ by orders of magnitude. By default one sample a label: the one with the largest loss.
    """
    tree = open_tree(store)
    name, inputs = _input(tree, name)
    value, gradient = inputs["value"], inputs["gradient"]
    if value.sizes.get("neuron", 0) != 1 or "y" not in value.dims:
        raise ViewError(f"saliency shows images of one channel; input {name!r} has dims {dict(value.sizes)}.")
    chosen = list(samples) if samples is not None else _hardest(tree)
    upper, lower = [], []
    for sample in chosen:
        picture = value.isel(step=-1, sample=sample, neuron=0).values
        slope = gradient.isel(step=-1, sample=sample, neuron=0).values
        upper.append(_tile(picture, "gray_r", (0.0, float(picture.max()) or 1.0), _sample_title(tree, sample), "value"))
        limit = float(np.abs(slope).max()) or 1.0
        lower.append(_tile(slope, DIVERGING, (-limit, limit), f"±{limit:.2g}", "gradient"))
    layout: Any = hv.Layout([*upper, *lower])
    return layout.cols(len(chosen)).opts(shared_axes=False, toolbar=None, backend="bokeh")


def _input(tree, name: str | None):
    inputs = (
        {node.path.split("/")[-2]: node for node in find_group(tree, "inputs").subtree if "gradient" in node}
        if "inputs" in tree
        else {}
    )
    if not inputs or (name is not None and name not in inputs):
        raise ViewError(
            f"the store holds no input {name or ''!r} with its gradient (it has {list(inputs)}); set "
            "inputs: {keep: full}."
        )
    name = name or next(iter(inputs))
    return name, inputs[name]


def _hardest(tree) -> list[int]:
    """For each label the sample with the largest loss at the last step; without labels the ten largest."""
    loss = read_samples(tree)["loss"].isel(step=-1).values
    if "label" not in read_samples(tree):
        return np.argsort(-loss)[:10].tolist()
    labels = read_samples(tree)["label"].values
    return [int(np.flatnonzero(labels == one)[loss[labels == one].argmax()]) for one in np.unique(labels)[:10]]


def _sample_title(tree, sample: int) -> str:
    samples = read_samples(tree)
    parts = [str(samples["label"].values[sample])] if "label" in samples else [f"#{sample}"]
    if "prediction" in samples:
        parts.append(f"→ {samples['prediction'].isel(step=-1).values[sample]}")
    return " ".join(parts)


def _tile(picture: np.ndarray, cmap: Any, clim: tuple[float, float], title: str, name: str) -> hv.Image:
    h, w = picture.shape
    image: Any = hv.Image(picture, bounds=(-0.5, -0.5, w - 0.5, h - 0.5), kdims=["x", "y"], vdims=name)
    return image.opts(
        frame_width=76, frame_height=int(76 * h / w), border=4, xaxis=None, yaxis=None, cmap=cmap, clim=clim,
        title=title,
        tools=["hover"], toolbar=None, fontsize={"title": "9pt"}, clipping_colors={"NaN": NOT_FINITE}, backend="bokeh",
    )  # fmt: skip
