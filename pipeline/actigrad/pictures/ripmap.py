"""Ripmap: which levels a matrix has, and in which tiles they are made.

    >>> choose_levels((70_000, 2000))
    [(4, 4), (16, 4), (64, 1), (64, 4), (256, 1), (256, 4)]

A mip-map shrinks both axes at once; a matrix of 200,000 neurons by 5,000 steps seen from far needs one axis shrunk by
300 and the other by 6. So level (fy, fx) exists for every pair of powers of four, from 16 elements a cell (64 where
they lie along one axis) until an axis has at most 1,024 cells. Tiles are cut on the grid of the coarsest cells, so that
no cell of any level is in two of them. Fine levels are written by the tiles, which own whole chunks of them; coarse
ones, where a tile's part would be a crumb, are gathered and written at the end.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actigrad.pictures.cells import Factors
from actigrad.pictures.tiles import as_lazy, choose_tile

FACTOR, FINEST, COARSEST = 4, 16, 1024
CHUNK = 512
"""Cells that a chunk has along either axis; along one more where along the other there are fewer."""
GATHERED = 2**20
"""Cells that a level may have to be gathered in memory; more where the matrix has more than 4,096 times as many."""


@dataclass(frozen=True)
class Source:
    """A matrix that levels are built of.

    Attributes:
        values: lazy (row, column) or (row, column, value): elements of one or several values, of any real dtype. With
            `statistics`, (row, column, loop, 3): extreme, mean and non-finite count of the values of an element; or
            with `cells`, (block, column, 5): what `read_cells` takes.
        rows, columns: ids; None where they are the places.
        statistics: how many values of an element each statistic is of; 0 where values are values.
        copy: whether 1x1 is stored although the matrix could be read.
        attrs: provenance, for the group.
        block: how many rows are one along the first axis of values.
        height: how many rows there are; 0 for as many as values have.
    """

    values: Any
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    statistics: int = 0
    copy: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    block: int = 1
    height: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height or self.values.shape[0], self.values.shape[1]

    @property
    def cells(self) -> bool:
        """Whether values are cells already."""
        return self.height > 0

    @property
    def count(self) -> int:
        """Values of an element."""
        if self.cells:
            return self.statistics
        return max(1, self.statistics) * (self.values.shape[2] if self.values.ndim > 2 else 1)


@dataclass(frozen=True)
class Plan:
    """Which levels a matrix has, and how they are written.

    Attributes:
        shape: of the matrix.
        tile: rows and columns.
        gathered, direct: the levels written at the end, and those written by the tiles.
        base: what the first levels are reduced from: 1x1, or the finest that was kept.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    gathered: tuple[Factors, ...]
    direct: tuple[Factors, ...]
    base: Factors = (1, 1)

    @property
    def levels(self) -> tuple[Factors, ...]:
        """All, each after the one that it is reduced from."""
        return tuple(sorted({*self.gathered, *self.direct}, key=lambda f: (math.prod(f), f)))

    def chunks(self, factors: Factors) -> tuple[int, int]:
        """Of a level's arrays."""
        if factors in self.gathered:
            return CHUNK, CHUNK
        high, wide = (t // f for t, f in zip(self.tile, factors, strict=True))
        tall, across = (_part(one, max(CHUNK, CHUNK**2 // other)) for one, other in ((high, wide), (wide, high)))
        return tall, across

    def finer(self, factors: Factors) -> Factors | None:
        """The level that one is reduced from, always the same; None for the base."""
        candidates = (factors[0] // FACTOR, factors[1]), (factors[0], factors[1] // FACTOR)
        return next((one for one in candidates if one in self.levels and one != self.base), None)


def _part(size: int, most: int) -> int:
    """Of so many cells, as many as go into them a whole number of times."""
    return math.gcd(size, 1 << (most.bit_length() - 1)) if size > most else size


def choose_levels(shape: tuple[int, int], *, finest: int = FINEST, coarsest: int = COARSEST) -> list[Factors]:
    """The levels of a matrix, 1x1 excluded, each after the one that it is reduced from."""
    axes = [[1], [1]]
    for axis, size in zip(axes, shape, strict=True):
        while size > coarsest * axis[-1]:
            axis.append(FACTOR * axis[-1])
    least = lambda fy, fx: finest if min(fy, fx) > 1 else max(2, FACTOR * finest)
    levels = [(fy, fx) for fy in axes[0] for fx in axes[1] if fy * fx >= least(fy, fx)]
    return sorted(levels, key=lambda f: (math.prod(f), f))


def make_plan(source: Source, *, finest: int = FINEST, coarsest: int = COARSEST) -> Plan:
    """Levels, tiles, and who writes what."""
    lazy, base = as_lazy(source.values), (source.block, 1)
    found = choose_levels(lazy.shape[:2], finest=finest, coarsest=coarsest)
    levels = [(source.block * fy, fx) for fy, fx in found]
    unit = tuple(max([f[axis] for f in found], default=1) for axis in (0, 1))
    if source.copy or source.count > 1:
        levels = [base, *levels]
    tile = choose_tile(lazy.shape, lazy.chunksize, unit)
    tile = tile[0] * source.block, tile[1]
    cells = lambda f: math.prod(-(-n // one) for n, one in zip(source.shape, f, strict=True))
    most = max(GATHERED, math.prod(source.shape) // 4096)
    gathered = tuple(f for f in levels if cells(f) <= most)
    return Plan(source.shape, tile, gathered, tuple(f for f in levels if f not in gathered), base)
