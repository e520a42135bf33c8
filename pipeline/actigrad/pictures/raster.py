"""Raster: a viewport on a matrix to an aggregate of at most as many cells as there are pixels.

    view = rasterise(values, window=((0, 5000), (0, 200_000)), pixels=(800, 600))
    view.extreme[i, j], view.row[i, j], view.column[i, j]      # what the pixel shows, and which element that is

A cell is a block of fy x fx elements on a grid that does not depend on the window (block k covers elements k fy up to
(k + 1) fy), so panning by a pixel and back gives the same picture, and every pixel of a cell belongs to it. Averages
would hide what one looks for: each cell keeps its signed extreme and the position of it, next to the mean of its finite
values and the count of those that are not.

Why not `Canvas.raster`: at a zoom that is not a whole number of elements a pixel it puts a neighbouring element under
up to half of the pixels, and infinities never show.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actigrad.errors import ViewError

Span = tuple[int, int]


@dataclass(frozen=True)
class Aggregate:
    """What a viewport shows; all arrays have shape (cells along y, cells along x).

    Attributes:
        extreme: the value of largest magnitude among the finite ones, NaN where there is none.
        row, column: the element that it stands at, in the matrix' own numbering; -1 where there is none.
        mean: of the finite values.
        nonfinite: how many values are NaN or infinite.
        factors: elements of a cell along (y, x).
        start: the first element of the first cell along (y, x).
    """

    extreme: np.ndarray
    row: np.ndarray
    column: np.ndarray
    mean: np.ndarray
    nonfinite: np.ndarray
    factors: tuple[int, int]
    start: tuple[int, int]

    def centres(self, axis: int) -> np.ndarray:
        """Positions of the cells' centres along y (0) or x (1), float64; element i covers i - 0.5 to i + 0.5."""
        cells, factor = self.extreme.shape[axis], self.factors[axis]
        return self.start[axis] + factor * np.arange(cells) + (factor - 1) / 2


def rasterise(values: Any, window: tuple[Span, Span] | None = None, pixels: tuple[int, int] = (600, 800)) -> Aggregate:
    """Reduce a window of a matrix to at most `pixels` cells.

    Args:
        values: (rows, columns), what slices like NumPy and becomes an array: dask, zarr, xarray; any real dtype.
        window: ((first row, stop), (first column, stop)); clipped to the matrix; None for all of it.
        pixels: (along y, along x).

    Raises:
        ViewError: when `values` is not a matrix.
    """
    if values.ndim != 2:
        raise ViewError(f"a heatmap needs a matrix; got {values.ndim} axes of sizes {tuple(values.shape)}.")
    spans, factors = [], []
    for size, span, count in zip(values.shape, window or [(0, n) for n in values.shape], pixels, strict=True):
        low, high = max(0, min(span[0], size)), max(0, min(span[1], size))
        factor = max(1, -(-(high - low) // max(1, count)))
        # Snapping outward can take in one more block than there are pixels; then the blocks grow.
        while high > low and -(-high // factor) - low // factor > max(1, count):
            factor += 1
        spans.append((low // factor * factor, min(size, -(-high // factor) * factor)))
        factors.append(factor)
    (top, bottom), (left, right) = spans
    block = np.asarray(values[top:bottom, left:right])
    return _reduce(block.astype(np.float32, copy=False), (factors[0], factors[1]), (top, left))


def _reduce(block: np.ndarray, factors: tuple[int, int], start: tuple[int, int]) -> Aggregate:
    rows, columns = block.shape
    (fy, fx), cells = factors, (-(-rows // factors[0]), -(-columns // factors[1]))
    # Cells at the ragged ends are filled up with elements that are neither values nor non-finite.
    padded = np.pad(block, ((0, cells[0] * fy - rows), (0, cells[1] * fx - columns)))
    inside = np.pad(np.ones(block.shape, bool), ((0, cells[0] * fy - rows), (0, cells[1] * fx - columns)))
    blocked: Callable[[np.ndarray], np.ndarray] = lambda a: (
        a.reshape(cells[0], fy, cells[1], fx).transpose(0, 2, 1, 3).reshape(*cells, fy * fx)
    )
    values, inside = blocked(padded), blocked(inside)
    finite = np.isfinite(values) & inside
    some = finite.any(-1)
    place = np.where(finite, np.abs(values), -1).argmax(-1)
    extreme = np.take_along_axis(values, place[..., None], -1)[..., 0]
    counts = np.maximum(finite.sum(-1), 1)
    mean = np.where(finite, values, 0).sum(-1, dtype=np.float64) / counts
    row = start[0] + np.arange(cells[0])[:, None] * fy + place // fx
    column = start[1] + np.arange(cells[1])[None, :] * fx + place % fx
    return Aggregate(
        extreme=np.where(some, extreme, np.nan).astype(np.float32),
        row=np.where(some, row, -1),
        column=np.where(some, column, -1),
        mean=np.where(some, mean, np.nan).astype(np.float32),
        nonfinite=(~np.isfinite(values) & inside).sum(-1),
        factors=factors,
        start=start,
    )
