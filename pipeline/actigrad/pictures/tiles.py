"""Tiles: a lazy matrix in pieces that fit into memory and into a grid, whatever its chunks are.

    tile = choose_tile(values.shape, values.chunksize, unit=(1024, 16))
    [[(rows, columns, delayed block), …], …] = delayed_tiles(values, tile)

Every chunk is read once: where tiles and chunks do not agree, Dask cuts and joins them in memory.
"""

import math
from collections.abc import Sequence
from typing import Any

import dask.array
import xarray

Span = tuple[int, int]
SMALL, LARGE = 2**23, 2**24
"""Values that a tile has at least, where the matrix has as many, and at most, where the unit allows."""
EXCESS = 1 / 8
"""By how much tiles may reach out of a matrix, where there is a choice."""


def as_lazy(values: Any) -> Any:
    """A Dask array of what slices like one."""
    values = values.data if isinstance(values, xarray.DataArray) else values
    if isinstance(values, dask.array.Array):
        return values
    return dask.array.from_array(values, chunks=getattr(values, "chunks", None) or "auto")


def choose_tile(shape: Sequence[int], chunks: Sequence[int], unit: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tile: the unit times powers of two, near the shape of a chunk.

    Args:
        shape: (row, column) or (row, column, …) of the matrix; tiles are whole along further axes.
        chunks: of the matrix.
        unit: what no tile may cut.

    >>> choose_tile((200_000, 5000), (200_000, 20), (256, 16))
    (131072, 64)
    """
    inner = math.prod(shape[2:])
    tile = [u * 2 ** max(0, (min(c, n) // u).bit_length() - 1) for u, c, n in zip(unit, chunks, shape, strict=False)]
    while math.prod(tile) * inner > LARGE and (larger := [i for i in (0, 1) if tile[i] > unit[i]]):
        tile[max(larger, key=lambda i: tile[i])] //= 2
    while math.prod(tile) * inner < SMALL and (smaller := [i for i in (0, 1) if tile[i] < shape[i]]):
        # The last tile is stored as if it were whole: 2 x 3 for a matrix of 5 would be a fifth more.
        fitting = [i for i in smaller if _excess(shape[i], 2 * tile[i]) <= max(EXCESS, _excess(shape[i], tile[i]))]
        tile[min(fitting or smaller, key=lambda i: tile[i])] *= 2
    return tile[0], tile[1]


def _excess(size: int, tile: int) -> float:
    """By how much tiles reach out of a matrix, as a share of it."""
    return -(-size // tile) * tile / size - 1


def delayed_tiles(values: Any, tile: tuple[int, int]) -> list[list[tuple[Span, Span, Any]]]:
    """Line by line the tiles of a Dask array: rows, columns and the delayed block, whole along further axes."""
    spans = [[(a, min(n, a + t)) for a in range(0, n, t)] for n, t in zip(values.shape, tile, strict=False)]
    blocks = values.rechunk((*tile, *values.shape[2:])).to_delayed()
    blocks = blocks.reshape(blocks.shape[:2])
    return [[(y, x, blocks[i, j]) for j, x in enumerate(spans[1])] for i, y in enumerate(spans[0])]
