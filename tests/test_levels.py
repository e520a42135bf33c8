"""Every level is what brute force says, however the matrix is chunked, reordered, or grown."""

import itertools
from typing import Any

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from actigrad.pictures import levels, ripmap, stored, tiles
from actigrad.pictures.levels import build_levels, open_levels
from actigrad.pictures.raster import rasterise
from actigrad.pictures.ripmap import Source, choose_levels, make_plan
from test_cells import brute_force, ids_of, make_values

SMALL = {"finest": 4, "coarsest": 8}


@pytest.fixture(autouse=True)
def crumbs(monkeypatch):
    """Limits so small that little matrices are cut as huge ones are: many tiles, several writers."""
    monkeypatch.setattr(tiles, "SMALL", 64)
    monkeypatch.setattr(tiles, "LARGE", 4096)
    monkeypatch.setattr(ripmap, "GATHERED", 40)
    monkeypatch.setattr(ripmap, "CHUNK", 8)


def new_group():
    return zarr.create_group(MemoryStore(), zarr_format=3)


def build(values, chunks, group=None, **more):
    group = group or new_group()
    known = {key: more.pop(key) for key in ("rows", "columns", "copy", "statistics") if key in more}
    plan = build_levels(group, Source(da.from_array(values, chunks=chunks), **known), **SMALL, **more)
    return group, plan


def bytes_of(group):
    return {f"{name}/{key}": array[...].tobytes() for name, level in group.groups() for key, array in level.arrays()}


def assert_levels(group, plan, values, rows, columns):
    values = values[..., None] if values.ndim == 2 else values
    for factors in plan.levels:
        arrays = dict(group[f"{factors[0]}x{factors[1]}"].arrays())
        if factors == (1, 1) and values.shape[2] == 1:
            np.testing.assert_array_equal(arrays["extreme"][...], values[..., 0])
            continue
        expected = brute_force(values, factors, rows, columns)
        for name, array in arrays.items():
            if name != "offset":
                np.testing.assert_array_equal(array[...], expected[name], err_msg=f"{factors} {name}")
        assert ("nonfinite" in arrays) == (not np.isfinite(values).all())
        assert ("offset" in arrays) == (factors != (1, 1))
        # As somebody reads it who has nothing of ours: how many elements of the cell come before the extreme.
        offset = arrays["offset"][...].astype(int) if "offset" in arrays else np.zeros(arrays["extreme"].shape, int)
        y, x = np.indices(offset.shape)
        some = np.isfinite(arrays["extreme"][...])
        down, right = np.divmod(offset, factors[1])
        for known, ids, places in (("row", rows, y * factors[0] + down), ("column", columns, x * factors[1] + right)):
            np.testing.assert_array_equal(ids[places[some]], expected[known][some], err_msg=f"{factors} {known}")


@settings(max_examples=6)
@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 2), st.integers(0, 2**32 - 1), st.data())
def test_every_level_is_what_brute_force_says_whatever_the_chunks(height, width, inner, seed, data):
    shape = (height, width, inner)[: 2 + (inner > 1)]
    values, rows, columns = make_values(seed, shape), ids_of(seed, height), ids_of(seed + 1, width)
    chunks = data.draw(st.integers(1, height)), data.draw(st.integers(1, width)), inner
    known = {"rows": rows, "columns": columns, "copy": data.draw(st.booleans())}
    group, plan = build(values, chunks[: values.ndim], **known)
    assert_levels(group, plan, values, rows, columns)


def test_random_values_give_the_same_bits_whatever_the_chunks():
    values = np.random.default_rng(0).normal(size=(150, 90)).astype(np.float32)
    first, plan = build(values, (150, 90))
    assert plan.direct
    assert plan.gathered
    for chunks in ((150, 7), (11, 90), (64, 64)):
        assert bytes_of(build(values, chunks)[0]) == bytes_of(first)


@pytest.mark.parametrize("widths", [(40, 41, 90), (5, 97), (30, 200)])
def test_appended_columns_end_with_the_bytes_of_one_build(widths):
    values = np.random.default_rng(0).normal(size=(130, widths[-1])).astype(np.float32)
    group = None
    for width in widths:
        group, _plan = build(values[:, :width], (130, 3), group, copy=True, append=True)
        whole, _ = build(values[:, :width], (130, 3), copy=True)
        assert bytes_of(group) == bytes_of(whole)
    assert group.attrs["shape"] == [130, widths[-1]]


def test_appending_reads_and_writes_no_more_than_the_last_tiles(monkeypatch):
    values = np.random.default_rng(0).normal(size=(100, 97)).astype(np.float32)
    group, plan = build(values[:, :96], (100, 4), copy=True)
    read, written = [], []
    lazy = da.from_array(values, chunks=(100, 4)).map_blocks(
        lambda block: read.append(block.shape) or block, meta=values
    )
    write = stored.write_level

    def note(arrays, factors, cells, start, places):
        written.append(cells)
        write(arrays, factors, cells, start, places)

    monkeypatch.setattr(levels, "write_level", note)
    build_levels(group, Source(lazy, copy=True), append=True, **SMALL)
    partial = 97 - 96 // plan.tile[1] * plan.tile[1]
    assert sum(shape[1] for shape in read) <= partial + 4
    assert partial < 40
    assert all(getattr(cells, "shape", (0, 0))[1] <= partial for cells in written)


def test_a_level_exists_for_every_pair_of_factors_until_an_axis_is_short():
    assert choose_levels((10, 10)) == []
    assert choose_levels((1025, 10)) == []  # 4x1 would hold a quarter of the matrix
    assert choose_levels((200_000, 5000)) == [
        (4, 4), (4, 16), (16, 4), (64, 1), (16, 16), (64, 4), (256, 1), (64, 16), (256, 4), (256, 16),
    ]  # fmt: skip
    for shape in itertools.product((1, 1024, 1025, 10**8), repeat=2):
        for fy, fx in choose_levels(shape)[-1:]:
            assert all(-(-n // f) <= 1024 for n, f in zip(shape, (fy, fx), strict=True))


def test_no_cell_is_in_two_tiles_and_tiles_own_whole_chunks():
    for shape, chunks in [((200_000, 5000), (200_000, 20)), ((10**6, 300), (10**6, 1)), ((500, 10**6), (500, 4000))]:
        plan = make_plan(Source(da.zeros(shape, chunks=chunks, dtype=np.float32)))
        for factors in plan.levels:
            assert all(t % f == 0 for t, f in zip(plan.tile, factors, strict=True))
        for factors in plan.direct:
            parts = [t // f for t, f in zip(plan.tile, factors, strict=True)]
            assert all(p % c == 0 for p, c in zip(parts, plan.chunks(factors), strict=True))


def test_a_window_seen_through_levels_is_the_one_seen_without():
    values, rows, columns = make_values(3, (150, 140)), ids_of(0, 150), ids_of(1, 140)
    group, plan = build(values, (33, 140), rows=rows, columns=columns)
    matrix = open_levels(group, values, rows, columns)
    random, used = np.random.default_rng(0), set()
    for _ in range(60):
        window = tuple(tuple(sorted(random.integers(0, n + 1, 2).tolist())) for n in values.shape)
        view = rasterise(matrix, window, (9, 9))
        used.add(view.factors)
        ends = [s + f * n for s, f, n in zip(view.start, view.factors, view.extreme.shape, strict=True)]
        y, x = (slice(s, e) for s, e in zip(view.start, ends, strict=True))
        if view.extreme.size:
            expected = brute_force(values[y, x, None], view.factors, rows[y], columns[x])
            for name, known in expected.items():
                close = 1e-6 if name == "mean" else 0  # a stored mean is float32 when it is joined with others
                np.testing.assert_allclose(getattr(view, name), known, rtol=close, atol=close)
    assert len(used & set(plan.levels)) > 3


def test_a_matrix_of_statistics_has_a_1x1_level_and_needs_nothing_else():
    random = np.random.default_rng(0)
    extreme, mean = random.normal(size=(2, 40, 30, 1)).astype(np.float32)
    bad = (random.random((40, 30, 1)) < 0.1).astype(np.float32)
    group, plan = build(np.stack([extreme, mean, bad], -1), (40, 1, 1, 3), statistics=5)
    matrix = open_levels(group)
    assert (1, 1) in plan.levels
    view = rasterise(matrix, None, (40, 30))
    np.testing.assert_array_equal(view.extreme, extreme[..., 0])
    np.testing.assert_array_equal(view.nonfinite, bad[..., 0])
    np.testing.assert_allclose(view.mean, mean[..., 0], rtol=1e-6)
    np.testing.assert_array_equal(view.row, np.indices((40, 30))[0])
    coarse = rasterise(matrix, None, (5, 5))
    assert coarse.nonfinite.sum() == bad.sum()
    assert np.nanmax(abs(coarse.extreme)) == abs(extreme).max()


def test_the_attributes_speak_the_multiscales_convention():
    group, plan = build(make_values(0, (100, 100)), (50, 50), copy=True)
    attrs: Any = dict(group.attrs)
    assert attrs["zarr_conventions"][0]["name"] == "multiscales"
    layout = {entry["asset"]: entry for entry in attrs["multiscales"]["layout"]}
    assert set(layout) == set(group.group_keys()) == {f"{y}x{x}" for y, x in plan.levels}
    for name, entry in layout.items():
        scale = [float(part) for part in name.split("x")]
        while "derived_from" in entry:
            scale = [a / b for a, b in zip(scale, entry["transform"]["scale"], strict=True)]
            entry = layout[entry["derived_from"]]
        assert scale == [1, 1]


@pytest.mark.parametrize("dtype", ["float16", "int8", "bool", ml_dtypes.bfloat16])
def test_other_dtypes_have_the_levels_of_float32(dtype):
    values = (np.random.default_rng(0).normal(size=(60, 50)) * 3).astype(dtype)
    ours, theirs = (build(one, (16, 50))[0] for one in (values, values.astype(np.float32)))
    assert bytes_of(ours) == bytes_of(theirs)


def test_an_offset_is_a_byte_where_a_cell_has_up_to_256_elements():
    group, plan = build(make_values(0, (100, 300)), (50, 50), copy=True)
    for factors in plan.levels:
        dtypes = {name: array.dtype.name for name, array in group[f"{factors[0]}x{factors[1]}"].arrays()}
        assert dtypes.pop("extreme") == dtypes.pop("mean", "float32") == "float32"
        n = np.prod(factors)
        assert dtypes.get("offset") == (None if n == 1 else "uint8" if n <= 256 else "uint16")
        assert dtypes.get("nonfinite", "uint8") == ("uint8" if n < 256 else "uint16")


def test_counts_are_stored_of_all_tiles_or_of_none_also_as_columns_come():
    values = np.random.default_rng(0).normal(size=(130, 97)).astype(np.float32)
    counts = lambda group: {name: level["nonfinite"][...] for name, level in group.groups() if "nonfinite" in level}
    group, _ = build(values[:, :40], (130, 3))
    assert counts(group) == {}
    assert group.attrs["nonfinite"] == 0
    values[3, 60:62] = np.nan, np.inf
    for width in (97, 90, 97):  # the second one is made from nothing, the third goes on
        old = None if width == 90 else group
        group, plan = build(values[:, :width], (130, 3), old, append=True)
        assert group.attrs["nonfinite"] == 2
        assert_levels(group, plan, values[:, :width], np.arange(130), np.arange(width))
        assert set(counts(group)) == set(group.group_keys())
    matrix = open_levels(group, values)
    assert rasterise(matrix, None, (9, 9)).nonfinite.sum() == 2


def test_levels_that_were_laid_out_in_another_way_are_not_looked_at():
    group, _ = build(make_values(0, (100, 100)), (50, 50))
    assert open_levels(group, np.zeros((100, 100))).levels
    group.update_attributes({"version": 1})
    assert open_levels(group, np.zeros((100, 100))).levels == {}


def test_what_was_not_finished_has_no_levels():
    group, _ = build(make_values(0, (100, 100)), (50, 50))
    group.update_attributes({"complete": False})
    assert open_levels(group, np.zeros((100, 100))).levels == {}
