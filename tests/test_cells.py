"""A cell is what brute force says, however it is put together."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actigrad.pictures.cells import Cells, join_summaries, read_block, reduce_cells, reduce_values, stack

ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 2.5, -2.5, 1e-45, -3e38], np.float32)


def make_values(seed, shape):
    """Dyadic values, many ties, some that are not finite: sums are exact in double in any order."""
    random = np.random.default_rng(seed)
    values = random.integers(-8, 9, shape).astype(np.float32) / 4
    odd = random.random(shape) < 0.15
    values[odd] = random.choice(ODD[:7], odd.sum())
    return values


def ids_of(seed, n):
    return np.random.default_rng(seed).permutation(n).astype(np.int32)


def brute_force(values, factors, rows, columns):
    """One cell after the other, by NumPy and sorting."""
    shape = tuple(-(-n // f) for n, f in zip(values.shape, factors, strict=False))
    out = {name: np.zeros(shape) for name in ("extreme", "row", "column", "mean", "nonfinite")}
    (fy, fx) = factors
    for a, b in np.ndindex(shape):
        y, x = slice(a * fy, (a + 1) * fy), slice(b * fx, (b + 1) * fx)
        block, ids = values[y, x], np.broadcast_arrays(rows[y, None, None], columns[None, x, None], values[y, x])[:2]
        finite = np.isfinite(block)
        out["nonfinite"][a, b] = block.size - finite.sum()
        found = sorted(zip(-np.abs(block[finite]), ids[0][finite], ids[1][finite], block[finite], strict=True),
                       key=lambda one: one[:3])  # fmt: skip
        best = found[0] if found else (0, -1, -1, np.nan)
        out["row"][a, b], out["column"][a, b], out["extreme"][a, b] = best[1:]
        mean = block[finite].sum(dtype=np.float64) / finite.sum() if found else np.nan
        out["mean"][a, b] = np.float32(mean)
    return out


def assert_same(cells, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(cells, name), values, err_msg=name)


sizes = st.tuples(st.integers(1, 23), st.integers(1, 23), st.integers(1, 3))
factors = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(sizes, factors, st.integers(0, 2**32 - 1))
def test_a_cell_is_what_brute_force_says(shape, factors, seed):
    values, rows, columns = make_values(seed, shape), ids_of(seed, shape[0]), ids_of(seed + 1, shape[1])
    assert_same(reduce_values(values, factors, rows, columns), brute_force(values, factors, rows, columns))


@given(sizes, factors, factors, st.integers(0, 2**32 - 1))
def test_cells_of_cells_are_cells(shape, first, second, seed):
    values, rows, columns = make_values(seed, shape), ids_of(seed, shape[0]), ids_of(seed + 1, shape[1])
    together = first[0] * second[0], first[1] * second[1]
    twice = reduce_cells(reduce_values(values, first, rows, columns), second)
    assert_same(twice, brute_force(values, together, rows, columns))
    once = reduce_values(values, together, rows, columns)
    np.testing.assert_array_equal(twice.finite, once.finite)


@given(sizes, factors, st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
def test_cells_of_pieces_that_cut_no_cell_are_those_of_the_whole(shape, factors, seed, cut_y, cut_x):
    values, rows, columns = make_values(seed, shape), ids_of(seed, shape[0]), ids_of(seed + 1, shape[1])
    y, x = cut_y * factors[0], cut_x * factors[1]
    spans = [[slice(0, y), slice(y, None)], [slice(0, x), slice(x, None)]]
    blocks = [
        [reduce_values(read_block(values[a, b]), factors, rows[a], columns[b]) for b in spans[1]] for a in spans[0]
    ]
    assert_same(stack(blocks), brute_force(values, factors, rows, columns))


def test_the_sign_of_zero_and_the_smallest_and_largest_numbers_are_kept():
    place = np.zeros(1, np.int32)
    for value in (-0.0, 1e-45, -3e38):
        cells = reduce_values(np.full((1, 1, 1), value, np.float32), (1, 1), place, place)
        assert cells.extreme.tobytes() == np.float32(value).tobytes()


def test_statistics_of_elements_are_joined_over_loops_and_weighed_by_what_is_finite():
    extreme = np.array([[[3.0, -4.0], [np.nan, np.nan]]], np.float32)
    mean = np.array([[[1.0, 2.0], [np.nan, np.nan]]], np.float32)
    nonfinite = np.array([[[0.0, 5.0], [10.0, 10.0]]], np.float32)
    cells = join_summaries(extreme, mean, nonfinite, np.array([7], np.int32), np.array([2, 3], np.int32), 10)
    np.testing.assert_array_equal(cells.extreme, [[-4, np.nan]])
    assert (cells.row.tolist(), cells.column.tolist()) == ([[7, -1]], [[2, -1]])
    assert (cells.finite.tolist(), cells.nonfinite.tolist()) == ([[15, 0]], [[5, 20]])
    np.testing.assert_allclose(cells.mean, [[(10 * 1 + 5 * 2) / 15, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int32", "uint8", "bool", ml_dtypes.bfloat16])
def test_any_dtype_is_read_as_float32(dtype):
    values = make_values(0, (5, 4)).astype(np.float32)
    values = np.nan_to_num(values, posinf=1, neginf=-1).astype(dtype)
    block = read_block(values)
    assert (block.dtype, block.shape) == (np.float32, (5, 4, 1))
    np.testing.assert_array_equal(block[..., 0], values.astype(np.float32))


def test_no_values_make_no_cells():
    none = reduce_values(np.zeros((0, 3, 1), np.float32), (2, 2), np.zeros(0, np.int32), np.zeros(3, np.int32))
    assert isinstance(none, Cells)
    assert none.shape == (0, 2)
