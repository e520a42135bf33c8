"""Offsets: where in its cell an extreme stands, in a byte for a cell of up to 256 elements.

    offset = to_offsets(cells, (4, 4), start, places)     # elements of the cell that come before it, row by row
    row, column = from_offsets(cells.extreme, offset, (4, 4), start, ids)

Ids of a row and a column would take half of the bytes of a level, and what levels cost to build is mostly that they are
written.
"""

from typing import no_type_check

import numba
import numpy as np

from actigrad.pictures.cells import Cells, Factors

Known = tuple[np.ndarray | None, np.ndarray | None]
"""Of rows and of columns; None where ids are places."""
_NOWHERE = np.int32(-1)


def offset_dtype(factors: Factors) -> str:
    """The smallest dtype that holds the offsets of a cell."""
    return np.min_scalar_type(factors[0] * factors[1] - 1).name


def invert(ids: np.ndarray | None) -> np.ndarray | None:
    """The place of each id."""
    if ids is None:
        return None
    places = np.full(int(ids.max(initial=-1)) + 1, -1, np.int32)
    places[ids] = np.arange(len(ids), dtype=np.int32)
    return places


def to_offsets(cells: Cells, factors: Factors, start: tuple[int, int], places: Known) -> np.ndarray:
    """The offsets of the extremes of cells; 0 where there is none.

    Args:
        cells: (y, x), ids in them.
        factors: rows and columns that a cell covers.
        start: the first place of the first cell along (y, x).
        places: of ids, as `invert` gives them.
    """
    offsets = np.empty(cells.shape, offset_dtype(factors))
    row, column = (_take(known, ids) for known, ids in zip(places, (cells.row, cells.column), strict=True))
    _to_offsets(cells.row, row, column, *factors, *start, offsets)
    return offsets


def from_offsets(
    extreme: np.ndarray, offsets: np.ndarray, factors: Factors, start: tuple[int, int], ids: Known
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the rows and the columns that extremes stand at, int32; -1 where there is none.

    Args:
        extreme: (y, x), NaN where there is none.
        offsets: (y, x).
        factors: rows and columns that a cell covers.
        start: the first place of the first cell along (y, x).
        ids: of the rows and the columns of the whole matrix.
    """
    row, column = np.empty(extreme.shape, np.int32), np.empty(extreme.shape, np.int32)
    _from_offsets(extreme, offsets, *factors, *start, row, column)
    rows, columns = (_take(known, places) for known, places in zip(ids, (row, column), strict=True))
    return rows, columns


def _take(known: np.ndarray | None, at: np.ndarray) -> np.ndarray:
    """What is known of each; nothing of -1."""
    if known is None:
        return at
    return np.where(at < 0, _NOWHERE, np.take(known, at, mode="clip")).astype(np.int32, copy=False)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _to_offsets(there, row, column, fy, fx, top, left, offsets):
    for a in range(offsets.shape[0]):
        for b in range(offsets.shape[1]):
            offset = (row[a, b] - top - a * fy) * fx + column[a, b] - left - b * fx
            offsets[a, b] = offset if there[a, b] >= 0 else 0


@numba.njit(nogil=True, cache=True)
@no_type_check
def _from_offsets(extreme, offsets, fy, fx, top, left, row, column):
    for a in range(offsets.shape[0]):
        for b in range(offsets.shape[1]):
            offset, some = np.int64(offsets[a, b]), extreme[a, b] == extreme[a, b]
            row[a, b] = top + a * fy + offset // fx if some else _NOWHERE
            column[a, b] = left + b * fx + offset % fx if some else _NOWHERE
