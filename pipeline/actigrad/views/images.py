"""Pictures of single samples: what a convolution or an attention head sees (`feature_maps`)."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np

from actigrad.errors import ViewError
from actigrad.pictures.order import natural_order, score_order
from actigrad.pictures.palette import NOT_FINITE
from actigrad.pictures.scales import read_scale
from actigrad.sites import Work
from actigrad.storage.store import read_samples
from actigrad.views.reading import (
    Store,
    describe_quantity,
    find_group,
    find_step,
    find_summary,
    open_tree,
    read_full,
    read_place,
    require,
)
from actigrad.views.style import INK, WIDTH, dress

ORDERS = ("natural", "score")
GAP = "#e4e7ec"
NUMBER = 18
"""Pixels that the number above a tile takes."""


def feature_maps(
    store: Store, site: str, *, sample: int = 0, quantity: str = "activation", step: int | None = None,
    order: str = "natural", along: str | None = None, most: int = 64,
) -> hv.Overlay:  # fmt: skip
    """A wall of the channels of one sample, each a picture of y by x, its number above it.

    All share one scale: that of the site's quantity at the step, symmetric about zero where it is signed. Bright green
    is not finite. Hover gives the channel, the place in it, and the value.

    Args:
        store: a store, or the path of one.
        site: a site's path, kept whole; inside a loop one layer of it, as `path[3]` (the last by default).
        sample: which one, as a position among the captured.
        quantity: activation or gradient.
        step: which recorded step; the last by default.
        order: of the channels: natural, or score (by rms in this sample, largest first).
        along: the dim that the wall is made of: neuron by default; head where the site has such a dim, and the first of
            three where the other two are alike and a softmax made them, as it does the pattern of an attention.
        most: the most channels.
    """
    tree = open_tree(store)
    require("order", order, ORDERS)
    place = read_place(tree, site).narrowed()
    array = read_full(tree, place, quantity, step)
    n, dims = array.sizes.get("sample", 0), [dim for dim in array.dims if dim != "sample"]
    if len(dims) != 3:
        raise ViewError(
            f"feature maps need a site of three dims beside the sample; {site!r} has {dims}. See heatmap for it."
        )
    along = require("along", along or _along(array, dims, place.site.work), dims)
    if not 0 <= sample < n:
        raise ViewError(f"sample is {sample}; the store holds {n}, 0 to {n - 1}.")
    maps = array.isel(sample=sample).transpose(along, ...).values.astype(np.float32)
    size = np.sqrt(np.mean(np.square(np.where(np.isfinite(maps), maps, 0.0), dtype=np.float64), axis=(1, 2)))
    chosen = (score_order(size, size == 0) if order == "score" else natural_order(len(maps)))[:most]
    index = find_step(tree, step)
    scale, (h, w) = read_scale(find_summary(tree, place.site), quantity, index), maps.shape[1:]
    wall, ids, corners, gap = _wall(maps, chosen)
    rows, columns = wall.shape
    names = [dim for dim in dims if dim != along]
    layers = {"value": wall} | {f"its {name}": one for name, one in zip([along, *names], ids, strict=True)}
    data = {"across": np.arange(columns), "down": np.arange(rows), **layers}
    image = hv.Image(data, ["across", "down"], list(layers), datatype=["grid"])
    text = [(left + (w - 1) / 2, top - gap / 2, str(one)) for (top, left), one in zip(corners, chosen, strict=True)]
    labels = dress(hv.Labels(text, ["across", "down"], "text"), text_color=INK, text_font_size="8pt")
    shown = f"{len(chosen)} of {len(maps)}" if len(chosen) < len(maps) else f"{len(maps)}"
    shown += f" {along}s" if along in ("neuron", "head") else f" maps along {along}"
    return dress(
        dress(image, cmap=scale.colours, clim=(scale.low, scale.high), colorbar=True, clabel=quantity, tools=["hover"],
              clipping_colors={"NaN": GAP}) * _not_finite(wall, ids[0]) * labels,
        height=int(np.clip(WIDTH * 0.85 * (rows + gap) / columns + 80, 240, 900)), invert_yaxis=True, xaxis=None,
        yaxis=None, xlim=(-1.0, columns), ylim=(-gap - 0.2, rows), show_legend=False,
        title=[f"{place.name} · {describe_quantity(tree, quantity)} at step "
               f"{read_samples(tree)['step'].values[index]}, sample {sample_title(tree, sample)}",
               f"{shown} of {h} × {w}, {order} order; {scale.text()}"],
    )  # fmt: skip


def _along(array: Any, dims: Sequence[Any], work: Work) -> str:
    """The dim that tells channels or heads apart."""
    if "head" in dims:
        return "head"
    first, *others = (array.sizes[dim] for dim in dims)
    softmax = {"exp", "reduce_sum"} <= {name for name, _ in work.operations}
    return dims[0] if softmax and others[0] == others[1] != first else "neuron"


def _wall(maps: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[tuple[int, int]], int]:
    """The tiles with gaps between, the ids under each cell (-1 in the gaps), the tiles' corners, and the gap above."""
    h, w = maps.shape[1:]
    beside = max(1, round(0.1 * w))
    columns = max(1, min(len(chosen), round(np.sqrt(len(chosen) * 1.9 * 1.2 * h / (w + beside)))))
    rows = -(-len(chosen) // columns)
    columns = -(-len(chosen) // rows)  # four are two by two, not three and one
    gap = max(2, round(NUMBER * columns * (w + beside) / (0.85 * WIDTH))), beside
    shape = rows * (h + gap[0]) - gap[0], columns * (w + gap[1]) - gap[1]
    wall, ids, corners = np.full(shape, np.nan, np.float32), [np.full(shape, -1, np.int32) for _ in range(3)], []
    for i, one in enumerate(chosen):
        top, left = i // columns * (h + gap[0]), i % columns * (w + gap[1])
        inside = (slice(top, top + h), slice(left, left + w))
        wall[inside] = maps[one]
        for layer, values in zip(ids, (one, np.arange(h)[:, None], np.arange(w)[None]), strict=True):
            layer[inside] = values
        corners.append((top, left))
    return wall, ids, corners, gap[0]


def _not_finite(wall: np.ndarray, channel: np.ndarray) -> hv.Rectangles:
    """What is not finite within the tiles; the gaps are not."""
    cells = [(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for y, x in np.argwhere(~np.isfinite(wall) & (channel >= 0))]
    return dress(hv.Rectangles(cells), color=NOT_FINITE, line_width=0)


def sample_title(tree, sample: int) -> str:
    """`7 → 1`: the label and the prediction of a sample, or its number."""
    samples = read_samples(tree)
    parts = [str(samples["label"].values[sample])] if "label" in samples else [f"#{sample}"]
    if "prediction" in samples:
        parts.append(f"→ {samples['prediction'].isel(step=-1).values[sample]}")
    return " ".join(parts)


def find_inputs(tree) -> dict[str, Any]:
    """The inputs that the store kept, by name, in the order in which the data have them."""
    group = find_group(tree, "inputs")
    nodes = [node for node in group.subtree if "value" in node] if len(group) else []
    nodes.sort(key=lambda node: node.parent.attrs.get("index", 0))
    return {node.path.split("/")[-2]: node for node in nodes}


def sample_pictures(tree, samples: np.ndarray) -> list[Any] | None:
    """The samples' input as images, first row on top; None where no input is images of one, three or four channels."""
    for node in find_inputs(tree).values():
        value = node["value"].isel(step=-1)
        if "y" in value.dims and value.sizes.get("neuron") in (1, 3, 4):
            return [picture(value.isel(sample=int(i)).values) for i in samples]
    return None


def picture(values: np.ndarray) -> Any:
    """(y, x, channel) as an image: grey from its own smallest to largest value, or in colour."""
    h, w, channels = values.shape
    bounds = (-0.5, -0.5, w - 0.5, h - 0.5)
    low, high = float(values.min()), float(values.max())
    if channels == 1:
        image: Any = hv.Image(values[..., 0], bounds=bounds, kdims=["x", "y"], vdims="value")
        return dress(image, cmap="gray_r", clim=(min(low, 0.0), high if high > low else low + 1))
    shown = (values - low) / (high - low or 1)
    return hv.RGB(shown, bounds=bounds, kdims=["x", "y"])
