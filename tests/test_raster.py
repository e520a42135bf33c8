"""The raster is true: the element under a pixel is the one that the pixel says."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actigrad.errors import ViewError
from actigrad.pictures.raster import rasterise

sizes = st.integers(1, 97)
pixels = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def windows(draw):
    shape = draw(sizes), draw(sizes)
    spans = tuple(tuple(sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape)
    return shape, spans, draw(pixels)


@given(windows())
def test_the_element_of_every_cell_lies_in_the_cell(given_):
    shape, spans, pixels = given_
    row, column = np.indices(shape)
    for values, axis in ((row + 1.0, 0), (column + 1.0, 1)):
        view = rasterise(values, spans, pixels)
        place = (view.row, view.column)[axis]
        np.testing.assert_array_equal(view.extreme, place + 1)
        centres = np.expand_dims(view.centres(axis), 1 - axis)
        assert (abs(place - centres) <= view.factors[axis] / 2).all()


@given(windows())
def test_there_are_never_more_cells_than_pixels_and_the_window_is_covered(given_):
    shape, spans, pixels = given_
    view = rasterise(np.zeros(shape), spans, pixels)
    for axis in (0, 1):
        low, high = spans[axis]
        assert view.extreme.shape[axis] <= pixels[axis]
        if high > low:
            assert view.start[axis] <= low
            assert view.start[axis] + view.factors[axis] * view.extreme.shape[axis] >= high
            assert view.start[axis] % view.factors[axis] == 0


@given(windows(), st.integers(0, 2**32 - 1))
def test_each_cell_equals_brute_force(given_, seed):
    shape, spans, pixels = given_
    random = np.random.default_rng(seed)
    values = random.normal(size=shape).astype(np.float32)
    values[random.random(shape) < 0.1] = random.choice(np.asarray([np.nan, np.inf, -np.inf, -0.0], np.float32))
    view = rasterise(values, spans, pixels)
    (fy, fx), (top, left) = view.factors, view.start
    for i, j in np.ndindex(view.extreme.shape):
        bottom, right = (min(n, _up(s[1], f)) for n, s, f in zip(shape, spans, (fy, fx), strict=True))
        block = values[top + i * fy : min(bottom, top + (i + 1) * fy), left + j * fx : min(right, left + (j + 1) * fx)]
        finite = block[np.isfinite(block)]
        assert view.nonfinite[i, j] == block.size - finite.size
        if finite.size:
            assert abs(view.extreme[i, j]) == abs(finite).max()
            assert values[view.row[i, j], view.column[i, j]] == view.extreme[i, j]
            np.testing.assert_allclose(view.mean[i, j], finite.mean(dtype=np.float64), rtol=1e-5, atol=1e-6)
        else:
            assert np.isnan(view.extreme[i, j])
            assert view.row[i, j] == view.column[i, j] == -1


def _up(n, factor):
    return -(-n // factor) * factor


@pytest.mark.parametrize("spike", [7.5, -7.5, np.inf, np.nan])
@pytest.mark.parametrize("pixels", [(1, 1), (7, 11), (300, 300), (1000, 1000)])
def test_one_spike_is_seen_at_every_zoom_with_its_sign_and_its_place(spike, pixels):
    values = np.zeros((1000, 1000), np.float32)
    values[613, 377] = spike
    view = rasterise(values, None, pixels)
    if np.isfinite(spike):
        i, j = np.argwhere(view.extreme == spike)[0]
        assert (view.row[i, j], view.column[i, j]) == (613, 377)
    else:
        assert view.nonfinite.sum() == 1
        i, j = np.argwhere(view.nonfinite)[0]
    fy, fx = view.factors
    assert (i, j) == (613 // fy, 377 // fx)


def test_panning_by_a_pixel_and_back_gives_the_same_picture():
    values = np.random.default_rng(0).normal(size=(500, 500))
    first = rasterise(values, ((100, 300), (50, 450)), (60, 90))
    moved = rasterise(values, ((101, 301), (51, 451)), (60, 90))
    again = rasterise(values, ((100, 300), (50, 450)), (60, 90))
    np.testing.assert_array_equal(first.extreme, again.extreme)
    fy, fx = first.factors
    assert moved.factors == first.factors
    y, x = (moved.start[0] - first.start[0]) // fy, (moved.start[1] - first.start[1]) // fx
    shared = first.extreme[y:, x:]
    np.testing.assert_array_equal(moved.extreme[: shared.shape[0], : shared.shape[1]], shared)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "bool", ml_dtypes.bfloat16])
def test_other_dtypes_give_the_picture_of_float32(dtype):
    values = (np.random.default_rng(0).normal(size=(40, 30)) * 3).astype(dtype)
    a, b = rasterise(values, None, (9, 7)), rasterise(values.astype(np.float32), None, (9, 7))
    np.testing.assert_array_equal(a.extreme, b.extreme)
    np.testing.assert_array_equal(a.mean, b.mean)


@pytest.mark.parametrize("window", [((5, 5), (0, 3)), ((90, 99), (0, 3)), ((-9, -1), (-4, 0))])
def test_an_empty_window_and_one_outside_have_no_cells(window):
    assert rasterise(np.ones((10, 3)), window, (4, 4)).extreme.size == 0


def test_centres_are_those_of_the_elements_that_a_cell_covers():
    view = rasterise(np.zeros((6, 8)), None, (4, 3))
    assert view.factors == (2, 4)
    assert (view.centres(0).tolist(), view.centres(1).tolist()) == ([0.5, 2.5, 4.5], [1.5, 5.5])


def test_the_mean_of_a_large_cell_is_summed_in_double():
    values = np.full((1, 4096), 3e38, np.float32)
    np.testing.assert_allclose(rasterise(values, None, (1, 1)).mean, 3e38, rtol=1e-6)


def test_a_ragged_cell_shows_no_filling():
    view = rasterise(np.full((3, 3), np.nan), None, (2, 2))
    assert np.isnan(view.extreme).all()
    assert (view.row == -1).all()
    np.testing.assert_array_equal(rasterise(np.full((3, 3), 2.0), None, (2, 2)).mean, 2)


def test_a_window_that_hangs_over_is_clipped_and_has_the_cells_of_its_length():
    view = rasterise(np.ones((10, 3)), ((-5, 50), (-5, 50)), (55, 55))
    assert view.extreme.shape == (10, 3)
    assert rasterise(np.ones((10, 3)), ((-5, 50), (-5, 50)), (10, 55)).factors == (6, 1)
    assert view.start == (0, 0)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ViewError, match="3 axes"):
        rasterise(np.ones((2, 2, 2)))
