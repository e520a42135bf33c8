"""Shading: points and lines by the million, counted by Datashader, and which neuron won each pixel.

    shade_points(x, y, score, window, pixels)       # counts a pixel, and the row of the largest score in it

Counts are shown on a logarithmic scale of the picture's own. `equalise` ranks them instead (`eq_hist`), which shows
more and compares less: then the title says that colours of two pictures do not compare.
"""

from collections.abc import Callable, Mapping
from typing import Any

import datashader
import holoviews as hv
import numpy as np
import pandas
import xarray
from holoviews.streams import PlotSize, RangeXY

from actigrad.pictures.palette import MAGNITUDE

Window = tuple[tuple[float, float], tuple[float, float]]
"""The ranges along x and along y."""
PIXELS = (400, 800)
ROWS = 2**20
"""Of these the number fits beside a float32 into the 53 bits of a double."""
NOT_COMPARABLE = "colours are ranks of this picture's counts (eq_hist): they do not compare with another picture's"
COUNTS = list(reversed(MAGNITUDE))[48:]
"""From orange, which is seen on white, to dark blue."""


def shade_points(x: np.ndarray, y: np.ndarray, score: np.ndarray, window: Window, pixels=PIXELS) -> xarray.Dataset:
    """`count` (y, x) of the points in each pixel, and `winner`: the row of the largest score there, -1 where none is.

    Args:
        x: one entry a point.
        y: the same.
        score: the same; the largest wins.
        window: what is seen.
        pixels: (along y, along x).
    """
    if len(x) > ROWS:
        rows = pandas.DataFrame({"x": x, "y": y, "score": score})
        return _canvas(window, pixels).points(rows, "x", "y", _counted())
    rows = pandas.DataFrame({"x": x, "y": y, "score": _with_row(score)})
    found: Any = {"count": datashader.count(), "winner": datashader.max("score")}
    shaded = _canvas(window, pixels).points(rows, "x", "y", datashader.summary(**found))
    known = shaded["winner"].notnull()
    winner = ROWS - 1 - shaded["winner"].fillna(0).astype(np.int64) % ROWS
    return shaded.assign(winner=xarray.where(known, winner, -1))


def _with_row(score: np.ndarray) -> np.ndarray:
    """Doubles that order as float32 scores do and hold the row, the first above others: their maximum is an argmax.

    Datashader's own (`where`) takes eight times as long.
    """
    bits = score.astype(np.float32).view(np.int32).astype(np.int64)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    rank = ordered * ROWS + (ROWS - 1 - np.arange(len(score)))
    return np.where(np.isnan(score), np.nan, rank.astype(np.float64))


def shade_lines(x: np.ndarray, lines: np.ndarray, score: np.ndarray, window: Window, pixels=PIXELS) -> xarray.Dataset:
    """`count` (y, x) of the lines through each pixel, and `winner`: the line of the largest score there, or -1.

    Args:
        x: (point,), the same for all lines.
        lines: (line, point); a NaN breaks a line.
        score: (line,).
        window: what is seen.
        pixels: (along y, along x).
    """
    names = [f"y{i}" for i in range(lines.shape[1])]
    rows = pandas.DataFrame(lines, columns=names).assign(score=score)
    return _canvas(window, pixels).line(rows, x=np.asarray(x, float), y=names, axis=1, agg=_counted())


def shade_labels(x: np.ndarray, y: np.ndarray, label: np.ndarray, window: Window, pixels=PIXELS) -> xarray.DataArray:
    """(y, x, label) of the points of each label in each pixel."""
    rows = pandas.DataFrame({"x": x, "y": y, "label": pandas.Categorical(label)})
    return _canvas(window, pixels).points(rows, "x", "y", datashader.by("label", datashader.count()))


def count_image(shaded: xarray.Dataset, dims: tuple[str, str], what: str, ids: Mapping[str, np.ndarray],
                more: Mapping[str, np.ndarray] | None = None) -> hv.Image:  # fmt: skip
    """Counts as an image; hover tells who won the pixel.

    Args:
        shaded: of `shade_points` or `shade_lines`.
        dims: names along x and y.
        what: is counted.
        ids: by name, an integer for each row that may win.
        more: by name, a number for each row that may win.
    """
    count, winner = shaded["count"].values.astype(np.float32), shaded["winner"].values
    some = count > 0
    layers: dict[str, np.ndarray] = {what: np.where(some, count, np.nan)}
    for name, values in ids.items():
        layers[f"its {name}"] = np.where(some, values[np.maximum(winner, 0)], -1).astype(np.int32)
    for name, values in (more or {}).items():
        layers[f"its {name}"] = np.where(some, values[np.maximum(winner, 0)], np.nan).astype(np.float32)
    data = {dims[0]: shaded["x"].values, dims[1]: shaded["y"].values, **layers}
    return hv.Image(data, list(dims), list(layers), datatype=["grid"])


def live(draw: Callable[[Window, tuple[int, int]], Any], window: Window, *, dynamic: bool, pixels=PIXELS) -> Any:
    """`draw(window, pixels)` once, or as a DynamicMap anew at each zoom and size."""
    if not dynamic:
        return draw(window, pixels)

    def redraw(x_range=None, y_range=None, width=None, height=None, scale=None):
        across, down = _seen(x_range, window[0]), _seen(y_range, window[1])
        return draw((across, down), (int(height or pixels[0]), int(width or pixels[1])))

    return hv.DynamicMap(redraw, streams=[RangeXY(x_range=window[0], y_range=window[1]), PlotSize()])


def _seen(now: Any, whole: tuple[float, float]) -> tuple[float, float]:
    """A range as it was reported, ascending; the whole where nothing was."""
    if not now or any(v is None or not np.isfinite(v) for v in now):
        return whole
    return float(min(now)), float(max(now))


def padded(values: np.ndarray, share: float = 0.04) -> tuple[float, float]:
    """The range of the finite values, a little wider; (0, 1) where there is none."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = share * (high - low) or share * abs(high) or 1.0
    return low - room, high + room


def count_options(*, equalise: bool) -> dict[str, Any]:
    """How counts become colours."""
    options = {"cmap": COUNTS, "colorbar": True, "clipping_colors": {"NaN": "#ffffff00"}, "tools": ["hover"]}
    return options | {"cnorm": "eq_hist" if equalise else "log"}


def _canvas(window: Window, pixels: tuple[int, int]) -> datashader.Canvas:
    (height, width), (x_range, y_range) = pixels, window
    return datashader.Canvas(max(1, width), max(1, height), x_range=x_range, y_range=y_range)


def _counted() -> Any:
    return datashader.summary(count=datashader.count(), winner=datashader.where(datashader.max("score"), None))
