"""A matrix as a zoomable picture: a cell is the signed extreme of what it covers, and tells its row and column."""

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np

from actigrad.pictures.palette import DIVERGING, NOT_FINITE, Scale
from actigrad.pictures.raster import rasterise
from actigrad.views.shading import live
from actigrad.views.style import dress

PIXELS = (300, 600)


def matrix(
    values: Any, axes: tuple[str, str], ids: Sequence[Mapping[str, np.ndarray]], *, scale: Scale, title: Sequence[str],
    dynamic: bool, pixels: tuple[int, int] = PIXELS, **options: Any,
) -> Any:  # fmt: skip
    """A picture of a matrix, its first row on top.

    Args:
        values: (row, column); may be lazy, then only what is seen is read.
        axes: what a row and a column are.
        ids: of the rows and of the columns: by name, what hover tells of each.
        scale: of the colours.
        title: lines; what a cell is and the scale are added.
        dynamic: a DynamicMap that aggregates anew on zoom, or one static image.
        pixels: (along y, along x) of the static image, and until the plot's size is known.
        options: further ones, as for `dress`.
    """
    rows, columns = values.shape
    window = (-0.5, columns - 0.5), (-0.5, rows - 0.5)

    def draw(seen, size):
        (left, right), (top, bottom) = ((int(np.floor(a + 0.5)), int(np.ceil(b + 0.5))) for a, b in seen)
        view = rasterise(values, ((top, bottom), (left, right)), size)
        layers: dict[str, np.ndarray] = {"value": np.where(view.nonfinite > 0, np.nan, view.extreme).astype(np.float32)}
        for place, known in ((view.row, ids[0]), (view.column, ids[1])):
            for name, one in known.items():
                layers[f"its {name}"] = np.where(place >= 0, np.asarray(one)[np.maximum(place, 0)], -1).astype(np.int32)
        if max(view.factors) > 1:
            layers["mean of the cell"] = view.mean
        fy, fx = view.factors
        cell = "a cell is one value" if fx == fy == 1 else f"a cell is the signed extreme of {fy} × {fx} values"
        data = {axes[1]: view.centres(1), axes[0]: view.centres(0), **layers}
        (y, x), (h, w) = view.start, view.extreme.shape
        bounds = x - 0.5, y - 0.5, x + fx * w - 0.5, y + fy * h - 0.5  # of one cell alone nobody could tell its size
        image = hv.Image(data, [axes[1], axes[0]], list(layers), bounds=bounds, datatype=["grid"])
        return dress(
            image, height=int(np.clip(8 * rows + 150, 280, 480)), title=[*title, f"{cell}; {scale.text()}"],
            cmap=scale.colours, clim=(scale.low, scale.high), colorbar=True, clabel="value", tools=["hover"],
            invert_yaxis=True, clipping_colors={"NaN": NOT_FINITE}, axiswise=True, **options,
        )  # fmt: skip

    return live(draw, window, dynamic=dynamic, pixels=pixels)


def about_zero(limit: float) -> Scale:
    """A diverging scale up to the largest magnitude, so that nothing lies beyond it."""
    limit = limit if np.isfinite(limit) and limit > 0 else 1.0
    return Scale(-limit, limit, DIVERGING, 0.0)
