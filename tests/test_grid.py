"""Chunk algebra against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actigrad.errors import StoreError
from actigrad.storage.grid import (
    BLOCK_BYTES,
    PASSING_BYTES,
    SEGMENT_BYTES,
    block_rows,
    blocks,
    chunk_indices,
    segment_rows,
    validate_region,
)


@given(st.integers(0, 500), st.integers(1, 70))
def test_blocks_cover_every_row_once(n, rows):
    covered = [i for start, stop in blocks(n, rows) for i in range(start, stop)]
    assert covered == list(range(n))


SIZES = st.integers(1, 10**8)


@given(st.integers(0, 10**7), st.integers(1, 4096), SIZES, SIZES)
def test_a_segment_is_whole_batches_within_the_targets_or_one(n, batch, stored, passing):
    rows = segment_rows(n, batch, stored, passing)
    assert rows % batch == 0
    assert rows == batch or (rows * stored <= SEGMENT_BYTES and rows * passing <= PASSING_BYTES)
    assert rows == batch or rows < 2 * n
    # Twice as many would be too many: for a target, or because they are all already.
    assert rows >= n or 2 * rows * stored > SEGMENT_BYTES or 2 * rows * passing > PASSING_BYTES


@given(st.integers(0, 30), st.integers(1, 4096), SIZES)
def test_a_block_is_whole_batches_within_the_target_or_one_and_whole_blocks_make_a_segment(power, batch, row_bytes):
    segment = 2**power * batch
    rows = block_rows(segment, batch, row_bytes)
    assert rows % batch == 0
    assert rows == batch or rows * row_bytes <= BLOCK_BYTES
    assert segment % rows == 0
    assert rows == segment or 2 * rows * row_bytes > BLOCK_BYTES


@st.composite
def regions(draw):
    axes = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 12)) for _ in range(axes)]
    chunks = [draw(st.integers(1, n)) for n in shape]
    region = [tuple(sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape]
    return shape, chunks, region


@given(regions())
def test_a_region_is_accepted_when_it_owns_all_of_every_chunk_it_touches(given_):
    shape, chunks, region = given_
    mine = np.zeros(shape, bool)
    mine[tuple(slice(*span) for span in region)] = True
    touched = np.zeros(shape, bool)
    for index in chunk_indices(region, chunks):
        touched[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))] = True
    if not mine.any():
        return
    if (touched == mine).all():
        validate_region(region, shape, chunks, "array")
    else:
        with pytest.raises(StoreError, match="share a chunk"):
            validate_region(region, shape, chunks, "array")


@given(regions())
def test_the_chunks_of_a_region_are_those_that_hold_its_elements(given_):
    shape, chunks, region = given_
    elements = np.argwhere(np.ones(shape)) if all(stop > start for start, stop in region) else np.empty((0, len(shape)))
    inside = [e for e in elements if all(a <= i < b for i, (a, b) in zip(e, region, strict=True))]
    expected = sorted({tuple(int(i) // c for i, c in zip(e, chunks, strict=True)) for e in inside})
    if expected:
        assert sorted(chunk_indices(region, chunks)) == expected


def test_a_region_outside_is_refused_and_a_shared_chunk_names_the_cure():
    with pytest.raises(StoreError, match="outside of its 10"):
        validate_region([(8, 11)], [10], [4], "a")
    with pytest.raises(StoreError, match="4:10"):
        validate_region([(5, 9)], [10], [4], "a")
