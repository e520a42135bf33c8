"""Plain: the bytes of chunks that no compressor changes, as Zarr lays them out, without a copy of them.

    layout = find_layout(array)                       # None where Zarr has to encode
    place.write(name, *layout.encode(block))          # views of the block, their checksums, the index of the shard

On the way through Zarr's own pipeline an array is copied four times, on one thread; what is kept whole and not
compressed is nearly all that a run writes. See `scripts/bench/stream.py`, and
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr

Part = bytes | memoryview
CHECKED = ("bytes", "crc32c")
MISSING = 2**64 - 1
"""Where and how long a chunk is that a shard at the edge of an array lacks."""


@dataclass(frozen=True)
class Layout:
    """How an array lies in its files.

    Attributes:
        chunk: the shape of what has a checksum of its own.
        shard: the shape of a file of several; None where each chunk is a file.
        dtype: of an element, little endian.
        fill: what stands where a chunk reaches out of the array.
    """

    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None
    dtype: np.dtype
    fill: Any

    def encode(self, block: np.ndarray) -> list[Part]:
        """The file of one chunk or shard, in pieces.

        Args:
            block: all of it that is in the array.
        """
        if self.shard is None:
            return self._chunk(block)
        parts, index, at = list[Part](), list[int](), 0
        for first in itertools.product(*map(range, [0] * block.ndim, self.shard, self.chunk)):
            if any(start >= size for start, size in zip(first, block.shape, strict=True)):
                index += [MISSING, MISSING]
                continue
            piece = block[tuple(slice(a, a + n) for a, n in zip(first, self.chunk, strict=True))]
            parts += self._chunk(piece)
            index += [at, self.dtype.itemsize * math.prod(self.chunk) + 4]
            at += index[-1]
        return parts + _with_checksum(np.asarray(index, "<u8"))

    def _chunk(self, piece: np.ndarray) -> list[Part]:
        if piece.shape != self.chunk:
            whole = np.full(self.chunk, self.fill, self.dtype)
            whole[tuple(map(slice, piece.shape))] = piece
            piece = whole
        return _with_checksum(np.ascontiguousarray(piece, self.dtype))


def find_layout(array: zarr.Array) -> Layout | None:
    """The layout of an array of numbers that is not compressed; None of any other."""
    described: Any = array.metadata.to_dict()
    chunk, shard, codecs = tuple(described["chunk_grid"]["configuration"]["chunk_shape"]), None, described["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inside = codecs[0]["configuration"]
        if not _is_plain(inside["index_codecs"]) or inside["index_location"] != "end":
            return None
        chunk, shard, codecs = tuple(inside["chunk_shape"]), chunk, inside["codecs"]
    dtype = np.dtype(array.dtype)
    if not _is_plain(codecs) or dtype.kind not in "fiu":
        return None
    return Layout(chunk, shard, dtype.newbyteorder("<"), array.fill_value)


def iter_files(array: zarr.Array, region: Any, block: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What of a block belongs into which file of an array; the region is of whole files."""
    sizes = array.shards or array.chunks
    spans = [range(start, stop, size) for (start, stop), size in zip(region, sizes, strict=True)]
    for offsets in itertools.product(*spans):
        index = tuple(o // size for o, size in zip(offsets, sizes, strict=True))
        within = [o - start for o, (start, _) in zip(offsets, region, strict=True)]
        part = block[tuple(slice(a, a + size) for a, size in zip(within, sizes, strict=True))]
        yield f"{array.path}/{array.metadata.encode_chunk_key(index)}", part


def _is_plain(codecs: Any) -> bool:
    """Whether they are bytes, little endian where that matters, and a checksum."""
    ends = codecs[0].get("configuration", {}).get("endian", "little")
    return tuple(codec["name"] for codec in codecs) == CHECKED and ends == "little"


def _with_checksum(values: np.ndarray) -> list[Part]:
    """An array and its CRC-32C."""
    seen: Any = values.reshape(-1).view(np.uint8)
    return [memoryview(seen), google_crc32c.value(seen).to_bytes(4, "little")]
