"""Chunks of several steps are written step by step, and hold at every moment all that was put."""

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from actigrad.errors import StoreError
from actigrad.storage.create import create_store
from actigrad.storage.journal import Journal, read_commits
from actigrad.storage.steps import OpenSteps
from actigrad.storage.template import ArraySpec, Template
from actigrad.storage.writer import Writer


def make(path, steps=10, chunk=4):
    spec = ArraySpec("group/values", ("step", "neuron"), (steps, 3), (chunk, 3), "float32", {}, "sparse")
    create_store(path, Template({}, {spec.path: spec}, {}), {"actigrad_schema": 2})
    return path


def values(path):
    return zarr.open_group(path, mode="r", use_consolidated=False)["group/values"][...]


def put(writer, step):
    writer.put("group/values", [(step, step + 1), (0, 3)], np.full((1, 3), step, np.float32))
    writer.commit(step, 1)


def test_each_step_is_there_when_it_is_committed_and_a_later_writer_goes_on(tmp_path):
    path = make(tmp_path / "run.zarr")
    for start, stop in ((0, 3), (3, 6), (6, 10)):
        with Journal(path) as journal, Writer(path, journal) as writer:
            for step in range(start, stop):
                put(writer, step)
            writer.flush()
            assert len(read_commits(path)) == stop
        np.testing.assert_array_equal(values(path)[:stop], np.repeat(np.arange(stop), 3).reshape(stop, 3))
        assert np.isnan(values(path)[stop:]).all()
    assert len(list((path / "group/values/c").rglob("*"))) == 3 * 2  # three chunks, each in a folder


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 9))
def test_however_steps_come_together_the_chunks_are_those_of_all_at_once(runs, chunk, steps):
    array = zarr.create_array({}, shape=(steps, 2), chunks=(min(chunk, steps), 2), dtype="f4", fill_value=np.nan)
    expected, at, opened = np.full((steps, 2), np.nan, np.float32), 0, OpenSteps()
    for run in runs:
        chunk_end = at - at % array.chunks[0] + array.chunks[0]
        stop = min(at + run, steps, chunk_end)
        if stop <= at:
            break
        block = np.random.default_rng(at).normal(size=(stop - at, 2)).astype(np.float32)
        expected[at:stop] = block
        region, wide = opened.widen(array, [(at, stop), (0, 2)], block)
        array[slice(*region[0])] = wide
        np.testing.assert_array_equal(array[...], expected)
        at = stop


def test_committed_steps_that_cannot_be_read_are_told_and_not_replaced(tmp_path):
    path = make(tmp_path / "run.zarr")
    with Journal(path) as journal, Writer(path, journal) as writer:
        put(writer, 0)
    chunk = path / "group/values/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with (
        Journal(path) as journal,
        pytest.raises(StoreError, match=r"steps 0:4 is damaged.*actigrad repair"),
        Writer(path, journal) as writer,
    ):
        put(writer, 1)
    assert chunk.stat().st_size
