"""Uncompressed chunks are laid out as Zarr lays them out: Zarr is the oracle, for reading and for writing."""

from pathlib import Path

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from zarr.codecs import Crc32cCodec, ZstdCodec

from actigrad.storage.plain import find_layout, iter_files

DTYPES = ("float32", "float64", "int32", "int64", "int8")


def create(folder, shape, chunks, shards=None, dtype="float32", compressors=None):
    return zarr.create_array(
        folder, name="group/values", shape=shape, chunks=chunks, shards=shards, dtype=dtype, fill_value=-1,
        compressors=compressors or [Crc32cCodec()], config={"write_empty_chunks": True}, overwrite=True,
    )  # fmt: skip


def write(folder, array, region, block):
    layout = find_layout(array)
    assert layout
    for name, part in iter_files(array, region, block):
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(b"".join(layout.encode(part)))


@st.composite
def grids(draw):
    """Shape, chunks, shards or None, and the region that is written: whole files of the array."""
    chunks, shards, shape, region, sharded = [], [], [], [], draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        chunk, files = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        shard = chunk * (draw(st.integers(1, 3)) if sharded else 1)
        size = shard * (files - 1) + draw(st.integers(1, shard))
        first = draw(st.integers(0, files - 1))
        stop = draw(st.integers(first + 1, files))
        chunks.append(chunk)
        shards.append(shard)
        shape.append(size)
        region.append((first * shard, min(stop * shard, size)))
    return tuple(shape), tuple(chunks), tuple(shards) if sharded else None, region


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plain")


@settings(deadline=None, max_examples=150)
@given(grids(), st.sampled_from(DTYPES), st.data())
def test_zarr_reads_what_was_laid_out_and_nothing_else_has_changed(folder, grid, dtype, data):
    shape, chunks, shards, region = grid
    array = create(folder, shape, chunks, shards, dtype)
    block = data.draw(arrays.arrays(dtype, [stop - start for start, stop in region]))
    write(folder, array, region, block)
    where = tuple(slice(*span) for span in region)
    expected = np.full(shape, array.fill_value, dtype)
    expected[where] = block
    assert zarr.open_array(folder, path="group/values", mode="r")[...].tobytes() == expected.tobytes()


@pytest.mark.parametrize("rows", [12, 10, 9, 1])
@pytest.mark.parametrize("shards", [None, (1, 12, 5)])
def test_the_bytes_are_those_of_zarr(tmp_path, rows, shards):
    chunks = (1, 4, 5) if shards else (1, 12, 5)
    block = np.random.default_rng(0).normal(size=(1, rows, 5)).astype(np.float32)
    region = [(1, 2), (0, rows), (0, 5)]
    for name in ("ours", "theirs"):
        array = create(tmp_path / name, (2, rows, 5), chunks, shards)
        if name == "ours":
            write(tmp_path / name, array, region, block)
        else:
            array[1:2] = block
    ours, theirs = ((tmp_path / name / "group/values/c/1/0/0").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs


def test_a_flipped_bit_is_an_error(tmp_path):
    array = create(tmp_path, (4, 6), (2, 6), (4, 6))
    write(tmp_path, array, [(0, 4), (0, 6)], np.ones((4, 6), np.float32))
    file = tmp_path / "group/values/c/0/0"
    content = bytearray(file.read_bytes())
    for at in (0, 60, len(content) - 5):
        content[at] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            array[...]
        content[at] ^= 1


def test_a_block_is_not_copied_on_its_way():
    array = create({}, (1, 8, 4), (1, 2, 4), (1, 8, 4))
    block = np.arange(32, dtype=np.float32).reshape(1, 8, 4)
    pieces = [part for part in find_layout(array).encode(block) if isinstance(part, memoryview)]
    assert [np.shares_memory(np.asarray(piece), block) for piece in pieces] == [True] * 4 + [False]


def test_what_a_codec_changes_is_left_to_zarr():
    assert find_layout(create({}, (4,), (2,), compressors=[ZstdCodec()])) is None
    assert find_layout(create({}, (4,), (2,), (4,), compressors=[ZstdCodec(), Crc32cCodec()])) is None
    assert find_layout(create({}, (4,), (2,), dtype="bool")) is None
    assert find_layout(create({}, (4,), (2,))) is not None
