"""Cells: what a block of a matrix is shown as, and how blocks are joined into larger ones.

    cells = reduce_values(values, (16, 1), rows, columns)      # of the matrix itself
    cells = reduce_cells(cells, (1, 4))                        # of cells

An average hides what one looks for. So a cell keeps the signed extreme (the finite value of largest magnitude), which
row and column of the matrix it stands at, the sum and the number of finite values, and the number of those that are
NaN or infinite. Among equal magnitudes the lowest row wins, then the lowest column: so the result does not depend on
how a matrix was cut, nor on the order that it is shown in. Sums are doubles, added row by row within a cell.

The loops are compiled by Numba: one thread, without Python's lock, no threading layer, so that sessions at once are
safe. The compiled code is cached beside this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

Factors = tuple[int, int]
MANY = 4
"""Rows of a cell from which on they are reduced before its columns."""
_INFINITY = 0x7F800000
"""Bits of float32's infinity."""
_LARGEST, _NONE, _NAN, _NOWHERE = np.finfo(np.float32).max, np.float32(-1), np.float32(np.nan), np.int32(-1)


@dataclass(frozen=True)
class Cells:
    """What cells show; all arrays have one shape.

    Attributes:
        extreme: the value of largest magnitude among the finite ones, NaN where there is none.
        row, column: the ids of the row and the column that it stands at; -1 where there is none.
        total: the sum of the finite values.
        finite, nonfinite: how many values are finite, and how many are NaN or infinite.
    """

    extreme: Float32[np.ndarray, "y x"]
    row: Int32[np.ndarray, "y x"]
    column: Int32[np.ndarray, "y x"]
    total: Float64[np.ndarray, "y x"]
    finite: Int64[np.ndarray, "y x"]
    nonfinite: Int64[np.ndarray, "y x"]

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along (y, x)."""
        return self.extreme.shape

    @property
    def mean(self) -> Float32[np.ndarray, "y x"]:
        """Of the finite values; NaN where there is none."""
        mean = np.full(self.shape, np.nan, np.float32)
        np.divide(self.total, self.finite, out=mean, where=self.finite > 0, casting="unsafe")
        return mean


def read_block(block: Any) -> Float32[np.ndarray, "row column value"]:
    """What is to be reduced as float32: (row, column) or (row, column, value) of any real dtype, bfloat16 included."""
    block = np.ascontiguousarray(block, np.float32)
    return block[..., None] if block.ndim == 2 else block


def reduce_values(
    values: Float32[np.ndarray, "row column value"],
    factors: Factors,
    rows: Int32[np.ndarray, "row"],
    columns: Int32[np.ndarray, "column"],
) -> Cells:
    """Cells of a matrix, each of `factors` (rows, columns); those at the ends may cover fewer.

    Args:
        values: one value an element, or several (positions, loops) that are shown as one.
        factors: rows and columns that a cell covers.
        rows: ids.
        columns: ids.
    """
    out = _empty(values.shape, factors)
    height, width, inner = values.shape
    flat = values.reshape(height, width * inner)
    if factors[0] >= MANY:
        in_order = _by_id(rows, factors[0]), _by_id(columns, factors[1])
        _reduce_rows(flat, inner, *factors, rows, columns, *in_order, *_arrays(out))
    else:
        _reduce_values(flat, inner, *factors, rows, columns, *_arrays(out))
    return out


def _by_id(ids: Int32[np.ndarray, "place"], factor: int) -> Int64[np.ndarray, "place"]:
    """Places cell after cell, in each by ascending id."""
    if (np.diff(ids) > 0).all():
        return np.arange(len(ids))
    return np.lexsort((ids, np.arange(len(ids)) // factor))


def reduce_cells(cells: Cells, factors: Factors) -> Cells:
    """Cells of cells."""
    if factors == (1, 1):
        return cells
    out = _empty(cells.shape, factors)
    arguments: list[Any] = [*_arrays(cells), *factors, *_arrays(out)]
    _reduce_cells(*arguments)
    return out


def join_summaries(
    extreme: Float32[np.ndarray, "row column value"],
    mean: Float32[np.ndarray, "row column value"],
    nonfinite: Float32[np.ndarray, "row column value"],
    rows: Int32[np.ndarray, "row"],
    columns: Int32[np.ndarray, "column"],
    count: int,
) -> Cells:
    """Cells of one element each, from statistics of its values.

    Args:
        extreme: of each element; a last axis longer than 1 (a loop's iterations) is shown as one.
        mean: likewise.
        nonfinite: likewise.
        rows: ids.
        columns: ids.
        count: values that each statistic is of.
    """
    place = np.where(np.isfinite(extreme), np.abs(extreme), -1).argmax(-1)[..., None]
    best = np.take_along_axis(extreme, place, -1)[..., 0]
    some, finite = np.isfinite(best), np.where(np.isfinite(mean), count - nonfinite.astype(np.int64), 0)
    total = np.where(finite > 0, mean.astype(np.float64) * finite, 0.0).sum(-1)
    return Cells(
        extreme=np.where(some, best, np.nan).astype(np.float32),
        row=np.where(some, rows[:, None], -1).astype(np.int32),
        column=np.where(some, columns[None, :], -1).astype(np.int32),
        total=total,
        finite=finite.sum(-1),
        nonfinite=np.nansum(nonfinite, -1).astype(np.int64),
    )


def read_cells(fields: Float64[np.ndarray, "y x 5"], columns: Int32[np.ndarray, "x"]) -> Cells:
    """Cells of one column each, from their extreme, its row, their mean, and how many values are finite and are not.

    Args:
        fields: one of these five after the other.
        columns: ids.
    """
    extreme, row, mean, finite, nonfinite = np.moveaxis(fields, -1, 0)
    return Cells(
        extreme=extreme.astype(np.float32),
        row=row.astype(np.int32),
        column=np.where(row < 0, np.int32(-1), columns[None, :]),
        total=np.where(finite > 0, mean * finite, 0.0),
        finite=finite.astype(np.int64),
        nonfinite=nonfinite.astype(np.int64),
    )


def stack(blocks: Sequence[Sequence[Cells]]) -> Cells:
    """Cells of a matrix from those of its blocks, row by row of blocks."""
    return Cells(*(np.block([[getattr(one, f.name) for one in row] for row in blocks]) for f in fields(Cells)))


def _arrays(cells: Cells) -> Any:
    return tuple(getattr(cells, field.name) for field in fields(Cells))


def _empty(shape: Sequence[int], factors: Factors) -> Cells:
    cells = -(-shape[0] // factors[0]), -(-shape[1] // factors[1])
    dtypes = (np.float32, np.int32, np.int32, np.float64, np.int64, np.int64)
    return Cells(*(np.empty(cells, dtype) for dtype in dtypes))


# `no_type_check` keeps run-time type checkers from wrapping what Numba compiles.
@numba.njit(nogil=True, cache=True)
@no_type_check
def _reduce_values(values, inner, fy, fx, rows, columns, extreme, row, column, total, finite, nonfinite):
    """Values lie as (row, column x inner); they are read in that order, which is the memory's."""
    for a in range(extreme.shape[0]):
        top, bottom = a * fy, min(values.shape[0], (a + 1) * fy)
        for b in range(extreme.shape[1]):
            extreme[a, b], row[a, b], column[a, b] = _NAN, _NOWHERE, _NOWHERE
            total[a, b], finite[a, b] = 0.0, 0
        for i in range(top, bottom):
            for b in range(extreme.shape[1]):
                value, r, c, added, n = extreme[a, b], row[a, b], column[a, b], total[a, b], finite[a, b]
                best = abs(value) if n else _NONE
                for j in range(b * fx * inner, min(values.shape[1], (b + 1) * fx * inner)):
                    v = values[i, j]
                    magnitude = abs(v)
                    if magnitude <= _LARGEST:
                        n += 1
                        added += v
                        if magnitude > best:
                            best, value, r, c = magnitude, v, rows[i], columns[j // inner]
                        elif magnitude == best:
                            k = columns[j // inner]
                            if rows[i] < r or (rows[i] == r and k < c):
                                value, r, c = v, rows[i], k
                extreme[a, b], row[a, b], column[a, b], total[a, b], finite[a, b] = value, r, c, added, n
        for b in range(extreme.shape[1]):
            width = min(values.shape[1], (b + 1) * fx * inner) - b * fx * inner
            nonfinite[a, b] = (bottom - top) * width - finite[a, b]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _reduce_rows(
    values, inner, fy, fx, rows, columns, in_rows, in_columns, extreme, row, column, total, finite, nonfinite
):
    """The same for cells of many rows: first along the rows, so many columns at a time.

    A key is a magnitude's bits, and below them how many rows of the cell have a higher id. The largest is that of the
    extreme in the lowest row, found without a branch.
    """
    n, bits = values.shape[1], values.view(np.int32)
    keys, added, some = np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.int32)
    for a in range(extreme.shape[0]):
        top, bottom = a * fy, min(values.shape[0], (a + 1) * fy)
        keys[:], added[:], some[:] = -1, 0.0, 0
        for place in range(top, bottom):
            i, higher = in_rows[place], np.int64(bottom - 1 - place)
            for j in range(n):
                magnitude = np.int64(bits[i, j] & 0x7FFFFFFF)
                key = ((magnitude << 32) | higher) if magnitude < _INFINITY else np.int64(-1)
                keys[j] = max(keys[j], key)
            for j in range(n):
                v = values[i, j]
                known = abs(v) <= _LARGEST
                added[j] += np.float64(v) if known else 0.0
                some[j] += 1 if known else 0
        for b in range(extreme.shape[1]):
            low, high = b * fx, min(len(columns), (b + 1) * fx)
            at, most, sum_, count = 0, np.int64(-2), 0.0, 0
            for place in range(low, high):
                for j in range(in_columns[place] * inner, (in_columns[place] + 1) * inner):
                    sum_ += added[j]
                    count += some[j]
                    larger = keys[j] > most
                    most = keys[j] if larger else most
                    at = j if larger else at
            total[a, b], finite[a, b] = sum_, count
            nonfinite[a, b] = (bottom - top) * (high - low) * inner - count
            extreme[a, b], row[a, b], column[a, b] = _NAN, _NOWHERE, _NOWHERE
            if most >= 0:
                i, k = in_rows[bottom - 1 - (most & 0x7FFFFFFF)], at if inner == 1 else at // inner  # which is slow
                extreme[a, b], row[a, b], column[a, b] = values[i, at], rows[i], columns[k]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _reduce_cells(
    extreme, row, column, total, finite, nonfinite, fy, fx, extreme_, row_, column_, total_, finite_, nonfinite_
):
    for a in range(extreme_.shape[0]):
        for b in range(extreme_.shape[1]):
            best, value, r, c, added, n, bad = _NONE, _NAN, _NOWHERE, _NOWHERE, 0.0, 0, 0
            for i in range(a * fy, min(extreme.shape[0], (a + 1) * fy)):
                for j in range(b * fx, min(extreme.shape[1], (b + 1) * fx)):
                    v = extreme[i, j]
                    magnitude = abs(v)
                    if magnitude > best or (
                        magnitude == best and (row[i, j] < r or (row[i, j] == r and column[i, j] < c))
                    ):
                        best, value, r, c = magnitude, v, row[i, j], column[i, j]
                    added += total[i, j]
                    n += finite[i, j]
                    bad += nonfinite[i, j]
            extreme_[a, b], row_[a, b], column_[a, b] = value, r, c
            total_[a, b], finite_[a, b], nonfinite_[a, b] = added, n, bad
