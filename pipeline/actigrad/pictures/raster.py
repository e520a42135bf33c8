"""Raster: a viewport on a matrix to an aggregate of at most as many cells as there are pixels.

    view = rasterise(values, window=((0, 200_000), (0, 5000)), pixels=(600, 800))
    view.extreme[i, j], view.row[i, j], view.column[i, j]      # what the pixel shows, and which element that is

A cell is a block of fy x fx elements on a grid that does not depend on the window (block k covers elements k fy up to
(k + 1) fy), and fy and fx depend on how long the window is, not on where: so panning by a pixel and back gives the same
picture. Averages would hide what one looks for: each cell keeps its signed extreme and the position of it, next to the
mean of its finite values and the count of those that are not.

Where a matrix has levels (see `levels`), the view starts from the one that costs least: it is read once, snapped
outward, and reduced by integers. A picture has at least half as many cells along each axis as there are pixels, unless
the matrix has no more. Without levels a window that is large is reduced piece by piece, in one pass and bounded memory.

Why not `Canvas.raster`: at a zoom that is not a whole number of elements a pixel it puts a neighbouring element under
up to half of the pixels, and infinities never show.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from dask.base import compute
from dask.delayed import delayed

from actigrad.errors import ViewError
from actigrad.pictures.cells import Cells, Factors, read_block, reduce_cells, reduce_values, stack
from actigrad.pictures.tiles import as_lazy, choose_tile, delayed_tiles

Span = tuple[int, int]
Window = tuple[Span, Span]
AT_ONCE = 2**23
"""Values that are read in one piece; more are reduced piece by piece."""
CHEAP = 16
"""Bytes a pixel that may be read for a finer picture; beyond, the level that costs least is taken."""
LEVEL_BYTES = 9
"""Of a cell: its extreme, its mean, and where in it the extreme stands."""


@runtime_checkable
class Level(Protocol):
    """One entry of the rip-map."""

    def read(self, rows: Span, columns: Span) -> Cells:
        """Its cells from one to another along both axes."""
        ...


@dataclass(frozen=True)
class Matrix:
    """What is looked at.

    Attributes:
        values: (row, column) or (row, column, value), what slices like NumPy and becomes an array; any real dtype. None
            where there is nothing finer than the finest level.
        rows, columns: the ids of what is shown at each place; None where they are the places.
        levels: by factors.
        size: rows and columns, where values do not tell.
    """

    values: Any
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    levels: Mapping[Factors, Level] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.size or (self.values.shape[0], self.values.shape[1])

    @property
    def finest(self) -> Factors:
        """Rows and columns that a cell covers at least."""
        return min(self.levels) if self.values is None else (1, 1)

    def ids(self, axis: int, span: Span) -> np.ndarray:
        """Of the rows (0) or columns (1) from one place to another."""
        known = (self.rows, self.columns)[axis]
        return np.arange(*span, dtype=np.int32) if known is None else np.asarray(known[slice(*span)], np.int32)


@dataclass(frozen=True)
class Aggregate:
    """What a viewport shows; all arrays have shape (cells along y, cells along x).

    Attributes:
        extreme: the value of largest magnitude among the finite ones, NaN where there is none.
        row, column: the ids of the row and the column that it stands at; -1 where there is none.
        mean: of the finite values.
        finite, nonfinite: how many values are finite, and how many are NaN or infinite.
        factors: elements of a cell along (y, x).
        start: the first place of the first cell along (y, x).
    """

    extreme: np.ndarray
    row: np.ndarray
    column: np.ndarray
    mean: np.ndarray
    finite: np.ndarray
    nonfinite: np.ndarray
    factors: Factors
    start: tuple[int, int]

    @property
    def share(self) -> np.ndarray:
        """Of the values that are NaN or infinite."""
        return self.nonfinite / np.maximum(1, self.finite + self.nonfinite)

    def centres(self, axis: int) -> np.ndarray:
        """Positions of the cells' centres along y (0) or x (1), float64; element i covers i - 0.5 to i + 0.5."""
        cells, factor = self.extreme.shape[axis], self.factors[axis]
        return self.start[axis] + factor * np.arange(cells) + (factor - 1) / 2


def rasterise(values: Any, window: Window | None = None, pixels: tuple[int, int] = (600, 800)) -> Aggregate:
    """Reduce a window of a matrix to at most `pixels` cells.

    Args:
        values: a `Matrix`, or what one is made of.
        window: ((first row, stop), (first column, stop)); may hang over the matrix; None for all of it.
        pixels: (along y, along x).

    Raises:
        ViewError: when `values` is not a matrix.
    """
    matrix = values if isinstance(values, Matrix) else _as_matrix(values)
    wanted = window or ((0, matrix.shape[0]), (0, matrix.shape[1]))
    inside = [(max(0, min(a, n)), max(0, min(b, n))) for (a, b), n in zip(wanted, matrix.shape, strict=True)]
    y, x = (_needed(wanted[i][1] - wanted[i][0], inside[i][1], max(1, pixels[i])) for i in (0, 1))
    level, factors = _choose((y, x), matrix)
    rows, columns = (_snap(*inside[i], factors[i], matrix.shape[i]) for i in (0, 1))
    cells = _read(matrix, level, factors, (rows, columns))
    start = rows[0], columns[0]
    return Aggregate(cells.extreme, cells.row, cells.column, cells.mean, cells.finite, cells.nonfinite, factors, start)


def _as_matrix(values: Any) -> Matrix:
    if values.ndim != 2:
        raise ViewError(f"a heatmap needs a matrix; got {values.ndim} axes of sizes {tuple(values.shape)}.")
    return Matrix(values)


def _needed(length: int, stop: int, pixels: int) -> int:
    """The smallest factor with which a window of this length, wherever it lies, touches at most `pixels` cells."""
    if length <= pixels:
        return 1
    return (length - 2) // (pixels - 1) + 1 if pixels > 1 else max(1, stop)


def _snap(low: int, high: int, factor: int, size: int) -> Span:
    """Outward to whole cells; an empty span stays empty."""
    start = low // factor * factor
    return start, min(size, -(-high // factor) * factor) if high > low else start


def _choose(needed: tuple[int, int], matrix: Matrix) -> tuple[Factors, Factors]:
    """The level to read and the factors to show, whole multiples of the level's, at most twice what is needed."""
    options, levels = [], matrix.levels
    for level in {matrix.finest, *levels}:
        factors = -(-needed[0] // level[0]) * level[0], -(-needed[1] // level[1]) * level[1]
        width = LEVEL_BYTES if level in levels else 4
        cost = width * (needed[0] / level[0]) * (needed[1] / level[1])
        if level == matrix.finest or (factors[0] <= 2 * needed[0] and factors[1] <= 2 * needed[1]):
            options.append((max(cost, CHEAP), factors[0] * factors[1], cost, factors, level))
    *_, factors, level = min(options)
    return level, factors


def _read(matrix: Matrix, level: Factors, factors: Factors, spans: Window) -> Cells:
    multiples = factors[0] // level[0], factors[1] // level[1]
    if level in matrix.levels:
        rows, columns = ((low // f, -(-high // f)) for (low, high), f in zip(spans, level, strict=True))
        return reduce_cells(matrix.levels[level].read(rows, columns), multiples)
    (top, bottom), (left, right) = spans
    rows, columns = matrix.ids(0, spans[0]), matrix.ids(1, spans[1])
    values = matrix.values
    size = (bottom - top) * (right - left) * int(np.prod(values.shape[2:]))
    if size <= AT_ONCE or isinstance(values, np.ndarray):
        return reduce_values(read_block(values[top:bottom, left:right]), factors, rows, columns)
    return _read_in_pieces(as_lazy(values)[top:bottom, left:right], factors, rows, columns)


def _read_in_pieces(values: Any, factors: Factors, rows: np.ndarray, columns: np.ndarray) -> Cells:
    """In one compute; what is held is a few tiles and the cells."""
    tile = choose_tile(values.shape, values.chunksize, factors)
    reduce = delayed(lambda block, rows, columns: reduce_values(read_block(block), factors, rows, columns))
    pieces = [
        [reduce(block, rows[slice(*span_y)], columns[slice(*span_x)]) for span_y, span_x, block in line]
        for line in delayed_tiles(values, tile)
    ]
    return stack(compute(pieces)[0])
