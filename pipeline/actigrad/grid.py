"""Grid: chunks, blocks and regions, in plain integers.

An *offset* counts elements, an *index* counts chunks. A *block* is what one write owns: a whole number of chunks along
the sample axis and everything along the others, so that no two writes ever touch one chunk.

    >>> blocks(10, 4)
    [(0, 4), (4, 8), (8, 10)]
    >>> block_rows(n=1797, batch=256, row_bytes=8192)
    1024
    >>> chunk_indices([(0, 1), (4, 8), (0, 6)], (1, 4, 3))
    [(0, 1, 0), (0, 1, 1)]
"""

import itertools
from collections.abc import Sequence

from actigrad.errors import StoreError

BLOCK_BYTES = 8 * 2**20
"""Aim for a write: below 4 MiB a file costs more than its bytes, above 16 MiB a reader of one sample pays for many."""

Region = Sequence[tuple[int, int]]


def blocks(n: int, rows: int) -> list[tuple[int, int]]:
    """The (start, stop) offsets of `n` rows in blocks of `rows`; the last may be shorter."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def block_rows(n: int, batch: int, row_bytes: int) -> int:
    """Rows of a block: as many whole batches as stay within `BLOCK_BYTES`, at least one, at most all."""
    batches = max(1, BLOCK_BYTES // max(1, batch * row_bytes))
    return min(batches * batch, -(-n // batch) * batch) if n else batch


def chunk_indices(region: Region, chunks: Sequence[int]) -> list[tuple[int, ...]]:
    """The chunks that a region touches."""
    spans = [range(start // size, -(-stop // size)) for (start, stop), size in zip(region, chunks, strict=True)]
    return list(itertools.product(*spans))


def validate_region(region: Region, shape: Sequence[int], chunks: Sequence[int], name: str) -> None:
    """Raise unless the region owns every chunk that it touches, to the last element.

    Raises:
        StoreError: naming the axis, and the race that a shared chunk would be.
    """
    for axis, ((start, stop), size, chunk) in enumerate(zip(region, shape, chunks, strict=True)):
        if not 0 <= start <= stop <= size:
            raise StoreError(f"{name}: rows {start}:{stop} of axis {axis} lie outside of its {size}.")
        if start % chunk or (stop % chunk and stop != size):
            raise StoreError(
                f"{name}: rows {start}:{stop} of axis {axis} share a chunk (of {chunk} rows) with another write; the "
                "two would overwrite each other. Write whole chunks: "
                f"{start - start % chunk}:{min(size, -(-stop // chunk) * chunk)}."
            )
