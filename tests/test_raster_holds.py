"""What a picture of any size must hold: registration, one spike, one compute, many sessions, ids of any size."""

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import zarr
from dask.config import set as configured
from dask.local import get_sync
from zarr.storage import MemoryStore

from actigrad.pictures import raster, tiles
from actigrad.pictures.levels import build_levels, open_levels
from actigrad.pictures.raster import Matrix, rasterise
from actigrad.pictures.ripmap import Source


def random_window(random, shape):
    return tuple(tuple(sorted(random.integers(-9, n + 9, 2).tolist())) for n in shape)


def test_the_id_under_every_pixel_of_a_thousand_windows_is_in_the_cell_that_the_pixel_is_in():
    shape, pixels, random = (5003, 997), (37, 53), np.random.default_rng(0)
    values = np.broadcast_to(np.arange(1, shape[0] + 1, dtype=np.float32)[:, None], shape)
    for _ in range(1000):
        window = random_window(random, shape)
        view = rasterise(values, window, pixels)
        (low, high), f, start = window[0], view.factors[0], view.start[0]
        centre = low - 0.5 + (np.arange(pixels[0]) + 0.5) * (high - low) / pixels[0]
        element = np.floor(centre + 0.5).astype(int)
        inside = (element >= 0) & (element < shape[0]) & (high > low)
        if not view.extreme.size:
            continue
        cell = (element[inside] - start) // f
        found = view.row[cell]
        assert (abs(found - (start + f * cell + (f - 1) / 2)[:, None]) <= f / 2).all()
        np.testing.assert_array_equal(view.extreme[cell], found + 1)


@pytest.mark.parametrize("turn", [lambda v: v[::-1], lambda v: v[:, ::-1], lambda v: v.T, np.asfortranarray])
def test_nothing_is_flipped_however_the_values_lie_in_memory(turn):
    values = np.arange(7 * 5, dtype=np.float32).reshape(7, 5)
    view = rasterise(turn(values), None, (50, 50))
    np.testing.assert_array_equal(view.extreme, turn(values))
    np.testing.assert_array_equal(view.row, np.indices(turn(values).shape)[0])


def test_ids_and_centres_are_exact_beyond_what_a_float32_counts():
    values = np.broadcast_to(np.float32(1), (2**26, 3))
    view = rasterise(values, ((2**26 - 5, 2**26), (0, 3)), (50, 50))
    assert view.row[:, 0].tolist() == list(range(2**26 - 5, 2**26))
    assert view.centres(0).tolist() == [float(i) for i in range(2**26 - 5, 2**26)]


@pytest.mark.parametrize("at_once", [10**9, 100])
@pytest.mark.parametrize("chunks", [(200, 3), (7, 90), (64, 64)])
def test_an_event_is_one_compute_and_pieces_give_the_whole(chunks, at_once, monkeypatch):
    monkeypatch.setattr(raster, "AT_ONCE", at_once)
    monkeypatch.setattr(tiles, "SMALL", 64)
    monkeypatch.setattr(tiles, "LARGE", 256)
    values = np.random.default_rng(0).integers(-9, 9, (200, 90)).astype(np.float32)
    computed = []

    def scheduler(graph, keys, **options):
        computed.append(keys)
        return get_sync(graph, keys, **options)

    with configured(scheduler=scheduler):
        lazy = rasterise(da.from_array(values, chunks=chunks), ((3, 199), (5, 80)), (9, 11))
    assert len(computed) == 1
    whole = rasterise(values, ((3, 199), (5, 80)), (9, 11))
    for name in ("extreme", "row", "column", "mean", "nonfinite"):
        np.testing.assert_array_equal(getattr(lazy, name), getattr(whole, name))


@pytest.mark.parametrize("spike", [-7.5, np.inf, np.nan])
def test_one_spike_is_seen_at_every_level_with_its_sign_and_place(spike):
    values = np.full((3000, 2000), 0.25, np.float32)
    values[1717, 1313] = spike
    group = zarr.create_group(MemoryStore(), zarr_format=3)
    plan = build_levels(group, Source(da.from_array(values, chunks=(500, 2000))), coarsest=64)
    assert len(plan.levels) > 10
    for (fy, fx), level in open_levels(group, values).levels.items():
        cells = level.read((0, -(-3000 // fy)), (0, -(-2000 // fx)))
        place = 1717 // fy, 1313 // fx
        if np.isfinite(spike):
            assert cells.extreme[place] == spike
            assert (cells.row[place], cells.column[place]) == (1717, 1313)
            assert (cells.extreme == spike).sum() == 1
        assert cells.nonfinite.sum() == cells.nonfinite[place] == (not np.isfinite(spike))


@pytest.mark.heavy
def test_one_spike_in_a_hundred_million_is_seen_at_every_level():
    values = da.zeros((10**6, 100), chunks=(10**5, 100), dtype=np.float32)
    spike = np.zeros((10**5, 100), np.float32)
    spike[77_777, 42] = -1e-3
    values = da.concatenate([values[:300_000], da.from_array(spike), values[400_000:]])
    group = zarr.create_group(MemoryStore(), zarr_format=3)
    build_levels(group, Source(values))
    matrix = open_levels(group, values)
    assert len(matrix.levels) > 2
    for (fy, fx), level in matrix.levels.items():
        cells = level.read((0, -(-(10**6) // fy)), (0, -(-100 // fx)))
        assert np.argwhere(cells.extreme < 0).tolist() == [[377_777 // fy, 42 // fx]]
        assert cells.row[cells.extreme < 0] == 377_777
        assert cells.column[cells.extreme < 0] == 42
    view = rasterise(matrix, None, (600, 800))
    assert np.argwhere(view.extreme == np.float32(-1e-3)).shape == (1, 2)
    y, x = np.argwhere(view.extreme == np.float32(-1e-3))[0]
    assert (view.row[y, x], view.column[y, x]) == (377_777, 42)


def test_rows_in_another_order_are_told_by_their_ids():
    values, rows = np.random.default_rng(0).normal(size=(40, 30)), np.random.default_rng(1).permutation(40)
    view = rasterise(Matrix(values[rows], rows.astype(np.int32)), None, (10, 10))
    np.testing.assert_array_equal(view.extreme, values.astype(np.float32)[view.row, view.column])


SESSIONS = """
import faulthandler, sys
faulthandler.enable()
from concurrent.futures import ThreadPoolExecutor
import numba.np.ufunc.parallel as parallel
import numpy as np
import zarr
from actigrad.pictures.levels import build_levels, open_levels
from actigrad.pictures.raster import rasterise
from actigrad.pictures.ripmap import Source
values = np.random.default_rng(0).normal(size=(700, 500)).astype(np.float32)
group = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
build_levels(group, Source(values), finest=4, coarsest=32)
matrix = open_levels(group, values)
assert len(matrix.levels) > 5
windows = [((i, 600 + i), (0, 400 + i)) for i in range(30)]
look = lambda: [rasterise(one, w, (60, 80)) for w in windows for one in (values, matrix)]
alone = look()
def session(_):
    return look()
with ThreadPoolExecutor(4) as pool:
    for views in pool.map(session, range(4)):
        for a, b in zip(views, alone, strict=True):
            np.testing.assert_array_equal(a.extreme, b.extreme)
            np.testing.assert_array_equal(a.row, b.row)
assert not parallel._is_initialized, "Numba started a threading layer"
print("fine")
"""


def test_four_sessions_with_thirty_views_each_at_once_see_what_one_sees_and_start_no_threading_layer():
    done = subprocess.run([sys.executable, "-c", SESSIONS], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr
