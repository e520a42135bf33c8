"""Rows of batches become whole blocks, in order, whatever the batches are."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from actigrad.runs.rows import StepWriter
from actigrad.storage.template import ArraySpec, Template


class Sink:
    def __init__(self):
        self.puts = []

    def put(self, array, region, block):
        self.puts.append((array, region, block))

    def commit(self, step, rows, state):
        raise AssertionError("nobody asked for a commit")


def writer(sink, n, rows, dims=("step", "sample", "neuron"), shape=None):
    shape = shape or (2, n, 3)
    chunks = tuple(
        rows if dim == "sample" else 1 if dim == "step" else size for dim, size in zip(dims, shape, strict=True)
    )
    return StepWriter(sink, Template({}, {"x": ArraySpec("x", dims, shape, chunks, "float32", {})}, {}), (5, 9), 9)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_every_row_is_put_once_in_blocks_that_end_where_chunks_do(n, batch, batches):
    rows, sink = batch * 2**batches, Sink()
    write = writer(sink, n, rows)
    values = np.arange(3.0 * n, dtype=np.float32).reshape(n, 3)
    for start in range(0, n, batch):
        write.rows("x", values[start : start + batch], start)
    write.close()
    assert [region[1] for _, region, _ in sink.puts] == [(a, min(a + rows, n)) for a in range(0, n, rows)]
    assert all(region[0] == (1, 2) for _, region, _ in sink.puts)
    np.testing.assert_array_equal(np.concatenate([block[0] for _, _, block in sink.puts]), values)


def test_samples_need_not_come_first_and_halves_become_floats():
    sink = Sink()
    write = writer(sink, 6, 4, ("step", "layer", "sample", "neuron"), (2, 2, 6, 3))
    values = jnp.arange(36.0).reshape(2, 6, 3).astype(jnp.bfloat16)
    for start in range(0, 6, 2):
        write.rows("x", np.asarray(values[:, start : start + 2]), start)
    write.close()
    assert [block.shape for _, _, block in sink.puts] == [(1, 2, 4, 3), (1, 2, 2, 3)]
    assert {block.dtype for _, _, block in sink.puts} == {np.dtype("float32")}
    np.testing.assert_array_equal(np.concatenate([block[0] for _, _, block in sink.puts], 1), values)


def test_a_batch_that_is_a_block_is_not_copied():
    sink, values = Sink(), np.ones((4, 3), np.float32)
    writer(sink, 8, 4).rows("x", values, 4)
    assert np.shares_memory(sink.puts[0][2], values)


def test_what_waits_does_not_change_with_the_batch_that_it_came_in():
    sink, values = Sink(), np.ones((2, 3), np.float32)
    write = writer(sink, 8, 4)
    write.rows("x", values, 0)
    values[:] = 7
    write.rows("x", values, 2)
    assert sink.puts[0][2][0, :, 0].tolist() == [1, 1, 7, 7]


def test_rows_that_make_no_block_are_not_lost_in_silence():
    write = writer(Sink(), 8, 4)
    write.rows("x", np.ones((2, 3), np.float32), 0)
    with pytest.raises(AssertionError, match="rows left over"):
        write.close()
