"""Levels: a rip-map over a matrix, so that any window of it is one small read.

    build_levels(group, Source(values))              # of a lazy matrix: one pass, a few tiles in memory
    matrix = open_levels(group, values)              # for `raster.rasterise`

Which levels there are, and why: `ripmap`. What a cell keeps: `cells`. How they lie in a store: `stored`. The 1x1 entry
is the matrix itself; it is stored only where the matrix cannot be read by windows (it is reordered, or its chunks are
long strips) or an element is several values.

Bit-equal however the matrix is chunked: no cell of any level is in two tiles, and each level is reduced from a certain
finer one. When columns are appended, only the last partial tiles are read and written again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import zarr
from dask.base import compute
from dask.delayed import delayed

from actigrad.pictures.cells import (
    MANY,
    Cells,
    Factors,
    join_summaries,
    read_block,
    read_cells,
    reduce_cells,
    reduce_values,
    stack,
)
from actigrad.pictures.offsets import from_offsets, invert
from actigrad.pictures.raster import Matrix
from actigrad.pictures.ripmap import COARSEST, FINEST, Plan, Source, make_plan
from actigrad.pictures.stored import (
    StoredLevel,
    Target,
    create_level,
    describe_levels,
    drop_counts,
    has_room,
    ids_of,
    level_name,
    read_plan,
    write_level,
    write_no_counts,
)
from actigrad.pictures.tiles import as_lazy, delayed_tiles


def build_levels(group: zarr.Group, source: Source, *, append: bool = False, finest: int = FINEST,
                 coarsest: int = COARSEST) -> Plan:  # fmt: skip
    """Write the levels of a matrix into a group; what was in it is replaced, or gone on with.

    Args:
        group: of a store that is open for writing, given to these levels alone.
        source: the matrix.
        append: the first columns are in the group already; only the partial tiles at their end, and what is new, are
            read and written. Where the matrix has grown so much that it has other levels, everything is.
        finest: elements a cell of the finest level has at least.
        coarsest: cells that an axis has at most in the coarsest.
    """
    plan = make_plan(source, finest=finest, coarsest=coarsest)
    start, there = 0, read_plan(group)
    if append and there and there.levels == plan.levels and there.shape[0] == plan.shape[0]:
        grown = replace(there, shape=plan.shape)
        if has_room(group, source, grown):
            plan, start = grown, there.shape[1] // there.tile[1] * there.tile[1]
    group.update_attributes({"complete": False})
    for name in [] if start else list(group.group_keys()):
        del group[name]
    arrays = {factors: create_level(group, source, plan, factors, keep=start > 0) for factors in plan.levels}
    lazy = as_lazy(source.values)[:, start:]
    places = invert(source.rows), invert(source.columns)
    direct = {factors: partial(write_level, arrays[factors], factors, places=places) for factors in plan.direct}
    # Bound, not passed: of each argument Dask looks at every part, which took as long as all the rest.
    build = delayed(partial(_build_tile, read=_reader(source), plan=plan, write=direct), pure=False)
    tiles = [
        [
            build(
                block, ids_of(source.rows, rows), ids_of(source.columns, (start + columns[0], start + columns[1])),
                (rows[0] * source.block, start + columns[0]),
            )
            for rows, columns, block in line
        ]
        for line in delayed_tiles(lazy, (plan.tile[0] // source.block, plan.tile[1]))
    ]  # fmt: skip
    parts: list[list[_Tile]] = compute(tiles)[0]
    if start and not group.attrs["nonfinite"] and any(tile.broken for line in parts for tile in line):
        return build_levels(group, source, finest=finest, coarsest=coarsest)  # all need counts now
    for factors in plan.gathered:
        cells = _join([[tile.made[factors] for tile in line] for line in parts])
        write_level(arrays[factors], factors, cells, (0, start), places)
    _finish_counts(group, plan, arrays, parts, start)
    group.update_attributes(describe_levels(group, source, plan))
    return plan


@dataclass(frozen=True)
class _Tile:
    """What a tile gives back: where it is, its part of the levels that are gathered, whether a value is not finite."""

    start: tuple[int, int]
    shape: tuple[int, int]
    made: dict[Factors, Any]
    broken: bool


def _finish_counts(group: zarr.Group, plan: Plan, arrays: Mapping[Factors, Mapping[str, Target]],
                   parts: Sequence[Sequence[_Tile]], start: int) -> None:  # fmt: skip
    """Zeros where a tile is finite and others are not; where all are, no counts."""
    whole = [tile for line in parts for tile in line]
    broken = any(tile.broken for tile in whole)
    if not broken and not (start and group.attrs["nonfinite"]):
        drop_counts(group, plan)
        return
    for factors in plan.direct:
        for tile in whole:
            if not tile.broken:
                write_no_counts(arrays[factors], factors, tile.start, tile.shape)
    for factors in plan.gathered if not broken else ():
        write_no_counts(arrays[factors], factors, (0, start), (plan.shape[0], plan.shape[1] - start))


def open_levels(group: zarr.Group, values: Any = None, rows: Any = None, columns: Any = None) -> Matrix:
    """The matrix of a group of levels, for `rasterise`.

    Args:
        group: what `build_levels` wrote to.
        values: the matrix itself; not needed where the group has a 1x1 level.
        rows: ids, as the source had them.
        columns: likewise.
    """
    plan, attrs, levels = read_plan(group), group.attrs, {}
    for factors in plan.levels if plan else ():
        if factors != (1, 1) or attrs["values_per_element"] != 1:
            levels[factors] = StoredLevel(group, factors, plan.shape, dict(attrs), rows, columns)  # type: ignore[arg-type]
    if plan and (1, 1) in plan.levels:
        values = group[f"{level_name((1, 1))}/extreme"]
    return Matrix(values, rows, columns, levels, plan.shape if plan else None)


def _reader(source: Source) -> Callable[..., Cells] | None:
    """What makes cells of a tile of which no values are known: (block, rows, columns) -> those of the base."""

    def join(block: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int = source.statistics) -> Cells:
        extreme, mean, nonfinite = np.moveaxis(np.asarray(block, np.float32), -1, 0)
        return join_summaries(extreme, mean, nonfinite, rows, columns, count)

    if source.cells:
        return lambda block, rows, columns: read_cells(np.asarray(block), columns)
    return join if source.statistics else None


def _build_tile(
    block: np.ndarray, rows: np.ndarray, columns: np.ndarray, at: tuple[int, int], *, read: Callable[..., Cells] | None,
    plan: Plan, write: Mapping[Factors, Callable[[Any, tuple[int, int]], None]],
) -> _Tile:  # fmt: skip
    """Reduce a tile to all levels, write those that are its own, return the others."""
    joined = read(block, rows, columns) if read else None
    values = np.asarray(block, np.float32) if joined is None else np.empty(0)
    made: dict[Factors, Any] = {}
    for factors in plan.levels:
        finer = plan.finer(factors)
        if finer is not None:
            made[factors] = reduce_cells(made[finer], (factors[0] // finer[0], factors[1] // finer[1]))
        elif joined is not None:
            made[factors] = reduce_cells(joined, (factors[0] // plan.base[0], factors[1]))
        elif factors == (1, 1) and values.ndim == 2:
            made[factors] = values
        else:
            made[factors] = reduce_values(read_block(values), factors, rows, columns)
        if factors in write:
            write[factors](made[factors], at)
    counted = [one for one in made.values() if isinstance(one, Cells)][-1:]
    broken = any(bool(cells.nonfinite.any()) for cells in counted)
    shape = min(len(rows) * plan.base[0], plan.shape[0] - at[0]), len(columns)
    return _Tile(at, shape, {factors: made[factors] for factors in plan.gathered}, broken)


def _join(parts: Sequence[Sequence[Any]]) -> Any:
    return stack(parts) if isinstance(parts[0][0], Cells) else np.block([list(line) for line in parts])


def preload() -> None:
    """Load what Numba compiled for the look at a window; else each loop takes 0.1 s when one first needs it."""
    places = np.arange(MANY, dtype=np.int32)
    for height in (1, MANY):
        cells = reduce_values(np.zeros((MANY, 2, 1), np.float32), (height, 1), places, places[:2])
    reduce_cells(cells, (1, 2))
    for dtype in (np.uint8, np.uint16):
        from_offsets(cells.extreme, np.zeros(cells.shape, dtype), (MANY, 1), (0, 0), (None, None))
