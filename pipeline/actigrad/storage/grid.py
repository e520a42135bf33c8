"""Grid: chunks, blocks and regions, in plain integers.

An *offset* counts elements, an *index* counts chunks. A *block* is what one write owns: a whole number of chunks along
the sample axis and everything along the others, so that no two writes ever touch one chunk. A large block is a *shard*:
one file of several chunks, of which a reader decompresses those that it looks at. A *segment* is what one commit tells
of: a whole number of blocks of every array.

    >>> blocks(10, 4)
    [(0, 4), (4, 8), (8, 10)]
    >>> segment_rows(n=1797, batch=256, stored_row_bytes=60_000, passing_row_bytes=200_000)
    2048
    >>> block_rows(segment=2048, batch=256, row_bytes=8192)
    1024
    >>> inner_rows(block=1024, row_bytes=8192)
    128
    >>> step_rows(row_bytes=2048)
    16
    >>> chunk_indices([(0, 1), (4, 8), (0, 6)], (1, 4, 3))
    [(0, 1, 0), (0, 1, 1)]
"""

import itertools
from collections.abc import Sequence

from actigrad.errors import StoreError

BLOCK_BYTES = 8 * 2**20
"""Aim for a write: below 4 MiB a file costs more than its bytes, above 16 MiB a reader of one sample pays for many."""
INNER_BYTES = 2**20
"""Aim for a chunk inside of a shard; measured by scripts/bench/codecs.py."""
STEP_BYTES, STEP_ROWS = 2**15, 64
"""Aims for a chunk of several steps, which is held in memory, for every array, and written anew at each of them."""
SEGMENT_BYTES = 256 * 2**20
"""Aim for what is written between two commits: it is held in memory until its blocks are whole."""
PASSING_BYTES = 16 * 2**30
"""Aim for what is captured between two commits: what a kill costs at most."""

Region = Sequence[tuple[int, int]]


def blocks(n: int, rows: int) -> list[tuple[int, int]]:
    """The (start, stop) offsets of `n` rows in blocks of `rows`; the last may be shorter."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def segment_rows(n: int, batch: int, stored_row_bytes: int, passing_row_bytes: int) -> int:
    """Rows between two commits: a power of two of batches, of which so many bytes are stored and captured a row."""
    batches = min(SEGMENT_BYTES // max(1, batch * stored_row_bytes), PASSING_BYTES // max(1, batch * passing_row_bytes))
    enough = 1 << max(0, -(-n // batch) - 1).bit_length()
    return min(_power_of_two(batches), enough) * batch


def block_rows(segment: int, batch: int, row_bytes: int, aim: int = BLOCK_BYTES) -> int:
    """Rows of a block: a power of two of batches within `aim` bytes, at least one, at most a segment.

    Powers of two, because then the blocks of every array make up whole segments.
    """
    return min(_power_of_two(aim // max(1, batch * row_bytes)) * batch, segment)


def inner_rows(block: int, row_bytes: int) -> int | None:
    """Rows of a chunk in a block: the block in two, four, … of about `INNER_BYTES`; None where it is one chunk."""
    pieces = _power_of_two(block * row_bytes // INNER_BYTES)
    while pieces > 1 and block % pieces:
        pieces //= 2
    return block // pieces if pieces > 1 else None


def step_rows(row_bytes: int) -> int:
    """Steps of a chunk, where one step is small: a file a step and array would be millions of files."""
    return max(1, min(STEP_ROWS, STEP_BYTES // max(1, row_bytes)))


def _power_of_two(n: int) -> int:
    """The largest that is not above `n`, at least 1."""
    return 1 << max(0, n.bit_length() - 1)


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
