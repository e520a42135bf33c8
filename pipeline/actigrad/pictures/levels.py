"""Levels: a rip-map over a matrix, so that any window of it is one small read.

    build_levels(group, Source(values))              # of a lazy matrix: one pass, a few tiles in memory
    matrix = open_levels(group, values)              # for `raster.rasterise`

A mip-map shrinks both axes at once; a matrix of 200,000 neurons by 5,000 steps seen from far needs one axis shrunk by
300 and the other by 6. So level (fy, fx) exists for every pair of powers of four, from 16 elements a cell until an axis
has at most 1,024 cells. What a cell keeps: `cells`. The 1x1 entry is the matrix itself; it is stored only where the
matrix cannot be read by windows (it is reordered, or its chunks are long strips) or an element is several values.

Bit-equal however the matrix is chunked: tiles are cut on the grid of the coarsest cells, so that no cell of any level
is in two tiles, and each level is reduced from a certain finer one. Fine levels are written by the tiles, which own
whole chunks of them; coarse ones, where a tile's part would be a crumb, are gathered and written at the end. When
columns are appended, only the last partial tiles are read and written again.

On disk, in the vocabulary of https://github.com/zarr-conventions/multiscales:
    <group>/<fy>x<fx>/{extreme, neuron, column, mean, nonfinite}    (y, x)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from dask.base import compute
from dask.delayed import delayed

from actigrad.pictures.cells import Cells, Factors, join_summaries, read_block, reduce_cells, reduce_values, stack
from actigrad.pictures.raster import Matrix, Span
from actigrad.pictures.tiles import as_lazy, choose_tile, delayed_tiles
from actigrad.storage.create import CODECS

FACTOR, FINEST, COARSEST = 4, 16, 1024
CHUNK = 512
GATHERED = 2**20
"""Cells that a level may have to be gathered in memory; more where the matrix has more than 4,096 times as many."""
FIELDS = {"extreme": "float32", "neuron": "int32", "column": "int32", "mean": "float32", "nonfinite": "int64"}
LONG_NAMES = {
    "extreme": "finite value of largest magnitude in the cell",
    "neuron": "the neuron that it belongs to; -1 where there is none",
    "column": "position of the column that it belongs to; -1 where there is none",
    "mean": "mean of the finite values in the cell",
    "nonfinite": "number of values in the cell that are NaN or infinite",
}
CONVENTION = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}


@dataclass(frozen=True)
class Source:
    """A matrix that levels are built of.

    Attributes:
        values: lazy (row, column) or (row, column, value): elements of one or several values, of any real dtype. With
            `statistics`, (row, column, loop, 3): extreme, mean and non-finite count of the values of an element.
        rows, columns: ids; None where they are the places.
        statistics: how many values each statistic is of; 0 where values are values.
        copy: whether 1x1 is stored although the matrix could be read.
        attrs: provenance, for the group.
    """

    values: Any
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    statistics: int = 0
    copy: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def count(self) -> int:
        """Values of an element."""
        return max(1, self.statistics) * (self.values.shape[2] if self.values.ndim > 2 else 1)


@dataclass(frozen=True)
class Plan:
    """Which levels a matrix has, and how they are written.

    Attributes:
        shape: of the matrix.
        tile: rows and columns.
        gathered, direct: the levels written at the end, and those written by the tiles.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    gathered: tuple[Factors, ...]
    direct: tuple[Factors, ...]

    @property
    def levels(self) -> tuple[Factors, ...]:
        """All, each after the one that it is reduced from."""
        return tuple(sorted({*self.gathered, *self.direct}, key=lambda f: (math.prod(f), f)))

    def chunks(self, factors: Factors) -> tuple[int, int]:
        """Of a level's arrays."""
        part = tuple(t // f for t, f in zip(self.tile, factors, strict=True))
        return (CHUNK, CHUNK) if factors in self.gathered else (min(CHUNK, part[0]), min(CHUNK, part[1]))


def choose_levels(shape: tuple[int, int], *, finest: int = FINEST, coarsest: int = COARSEST) -> list[Factors]:
    """The levels of a matrix, 1x1 excluded, each after the one that it is reduced from.

    >>> choose_levels((70_000, 2000))
    [(4, 4), (16, 1), (16, 4), (64, 1), (64, 4), (256, 1), (256, 4)]
    """
    axes = [[1], [1]]
    for axis, size in zip(axes, shape, strict=True):
        while size > coarsest * axis[-1]:
            axis.append(FACTOR * axis[-1])
    levels = [(fy, fx) for fy in axes[0] for fx in axes[1] if fy * fx >= max(2, finest)]
    return sorted(levels, key=lambda f: (math.prod(f), f))


def make_plan(source: Source, *, finest: int = FINEST, coarsest: int = COARSEST) -> Plan:
    """Levels, tiles, and who writes what."""
    levels = choose_levels(source.shape, finest=finest, coarsest=coarsest)
    if source.copy or source.count > 1:
        levels = [(1, 1), *levels]
    unit = tuple(max([f[axis] for f in levels], default=1) for axis in (0, 1))
    lazy = as_lazy(source.values)
    tile = choose_tile(lazy.shape, lazy.chunksize, unit)
    cells = lambda f: math.prod(-(-n // one) for n, one in zip(source.shape, f, strict=True))
    most = max(GATHERED, math.prod(source.shape) // 4096)
    gathered = tuple(f for f in levels if cells(f) <= most)
    return Plan(source.shape, tile, gathered, tuple(f for f in levels if f not in gathered))


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
    start, there = 0, _there(group)
    if append and there and there.levels == plan.levels and there.shape[0] == plan.shape[0]:
        plan = Plan(plan.shape, there.tile, there.gathered, there.direct)
        start = there.shape[1] // plan.tile[1] * plan.tile[1]
    group.update_attributes({"complete": False})
    for name in [] if start else list(group.group_keys()):
        del group[name]
    arrays = {factors: _create_level(group, source, plan, factors, keep=start > 0) for factors in plan.levels}
    lazy = as_lazy(source.values)[:, start:]
    build = delayed(_build_tile, pure=False)
    tiles = [
        [
            build(
                block, _ids(source.rows, rows), _ids(source.columns, (start + columns[0], start + columns[1])),
                source.statistics, plan, {f: arrays[f] for f in plan.direct}, (rows[0], start + columns[0]),
            )
            for rows, columns, block in line
        ]
        for line in delayed_tiles(lazy, plan.tile)
    ]  # fmt: skip
    parts = compute(tiles)[0]
    for factors in plan.gathered:
        _write(arrays[factors], _join([[part[factors] for part in line] for line in parts]), (0, start // factors[1]))
    group.update_attributes(_attributes(group, source, plan))
    return plan


def open_levels(group: zarr.Group, values: Any = None, rows: Any = None, columns: Any = None) -> Matrix:
    """The matrix of a group of levels, for `rasterise`.

    Args:
        group: what `build_levels` wrote to.
        values: the matrix itself; not needed where the group has a 1x1 level.
        rows: ids, as the source had them.
        columns: likewise.
    """
    plan, attrs, levels = _there(group), group.attrs, {}
    for factors in plan.levels if plan else ():
        if factors != (1, 1) or attrs["values_per_element"] != 1:
            levels[factors] = StoredLevel(group, factors, plan.shape, dict(attrs), rows, columns)  # type: ignore[arg-type]
    if plan and (1, 1) in plan.levels:
        values = group[f"{_name((1, 1))}/extreme"]
    return Matrix(values, rows, columns, levels)


@dataclass(frozen=True)
class StoredLevel:
    """One level on disk; its arrays are opened when they are first read."""

    group: zarr.Group
    factors: Factors
    shape: tuple[int, int]
    attrs: Mapping[str, Any]
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def read(self, rows: Span, columns: Span) -> Cells:
        """Its cells from one to another along both axes; each array is read once, the count only if there is any."""
        region = slice(*rows), slice(*columns)
        extreme, mean = (np.asarray(self.arrays[name][region]) for name in ("extreme", "mean"))
        nonfinite = np.zeros(extreme.shape, np.int64)
        if self.attrs["nonfinite"]:
            nonfinite = np.asarray(self.arrays["nonfinite"][region])
        if "neuron" in self.arrays:
            row, column = (np.asarray(self.arrays[name][region]) for name in ("neuron", "column"))
        else:
            some = np.isfinite(extreme)
            row = np.where(some, _ids(self.rows, rows)[:, None], np.int32(-1))
            column = np.where(some, _ids(self.columns, columns)[None, :], np.int32(-1))
        high, wide = (self._covered(axis, span) for axis, span in ((0, rows), (1, columns)))
        finite = high[:, None] * wide[None, :] * self.attrs["values_per_element"] - nonfinite
        total = np.where(finite > 0, mean.astype(np.float64) * finite, 0.0)
        return Cells(extreme, row, column, total, finite, nonfinite)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """By name."""
        names = FIELDS if self.factors != (1, 1) else ("extreme", "mean", "nonfinite")
        return {name: self.group[f"{_name(self.factors)}/{name}"] for name in names}

    def _covered(self, axis: int, span: Span) -> np.ndarray:
        """How many rows or columns each cell covers: the last has what is left."""
        starts = np.arange(*span, dtype=np.int64) * self.factors[axis]
        return np.minimum(self.factors[axis], self.shape[axis] - starts)


def _build_tile(block: np.ndarray, rows: np.ndarray, columns: np.ndarray, statistics: int, plan: Plan,
                arrays: Mapping[Factors, Mapping[str, Any]], at: tuple[int, int]) -> dict[Factors, Any]:  # fmt: skip
    """Reduce a tile to all levels, write those that are its own, return the others."""
    values = np.asarray(block, np.float32)
    joined = None
    if statistics:
        joined = join_summaries(values[..., 0], values[..., 1], values[..., 2], rows, columns, statistics)
    made: dict[Factors, Any] = {}
    for factors in plan.levels:
        finer = _finer(factors, plan)
        if finer is not None:
            made[factors] = reduce_cells(made[finer], (factors[0] // finer[0], factors[1] // finer[1]))
        elif joined is not None:
            made[factors] = reduce_cells(joined, factors)
        elif factors == (1, 1) and values.ndim == 2:
            made[factors] = values
        else:
            made[factors] = reduce_values(read_block(values), factors, rows, columns)
        if factors in arrays:
            _write(arrays[factors], made[factors], (at[0] // factors[0], at[1] // factors[1]))
    return {factors: made[factors] for factors in plan.gathered}


def _finer(factors: Factors, plan: Plan) -> Factors | None:
    """The level that one is reduced from, always the same; None for the matrix itself."""
    finer = (factors[0] // FACTOR, factors[1]) if factors[0] > 1 else (1, factors[1] // FACTOR)
    return finer if finer in plan.levels and finer != (1, 1) else None


def _join(parts: Sequence[Sequence[Any]]) -> Any:
    return stack(parts) if isinstance(parts[0][0], Cells) else np.block([list(line) for line in parts])


def _write(arrays: Mapping[str, Any], cells: Any, at: tuple[int, int]) -> None:
    known = {"extreme": cells} if isinstance(cells, np.ndarray) else {
        "extreme": cells.extreme, "neuron": cells.row, "column": cells.column, "mean": cells.mean,
        "nonfinite": cells.nonfinite,
    }  # fmt: skip
    region = tuple(slice(a, a + n) for a, n in zip(at, known["extreme"].shape, strict=True))
    for name, array in arrays.items():
        array[region] = known[name]


def _create_level(group: zarr.Group, source: Source, plan: Plan, factors: Factors, *, keep: bool) -> dict[str, Any]:
    """The arrays of a level, empty, or as they are but for the columns that are new."""
    shape = tuple(-(-n // f) for n, f in zip(plan.shape, factors, strict=True))
    names = list(FIELDS)
    if factors == (1, 1):
        names = ["extreme"] if source.count == 1 else ["extreme", "mean", "nonfinite"]
    if keep:
        arrays = {name: group[f"{_name(factors)}/{name}"] for name in names}
        for array in arrays.values():
            array.resize(shape)  # type: ignore[union-attr]
        return arrays
    chunks = plan.chunks(factors)
    level = group.create_group(_name(factors))
    return {
        name: level.create_array(
            name, shape=shape, chunks=(min(chunks[0], shape[0]), chunks[1]), dtype=FIELDS[name],
            dimension_names=("y", "x"),
            attributes={"long_name": LONG_NAMES[name]},
            compressors=CODECS["sparse" if name == "nonfinite" else "plain"](),
            fill_value=np.nan if FIELDS[name] == "float32" else -1, config={"write_empty_chunks": True},
        )
        for name in names
    }  # fmt: skip


def _attributes(group: zarr.Group, source: Source, plan: Plan) -> dict[str, Any]:
    coarsest = [f for f in plan.levels if f != (1, 1) or source.count > 1][-1:]
    bad = sum(int(np.asarray(group[f"{_name(f)}/nonfinite"][...]).sum()) for f in coarsest)  # type: ignore[index]
    return {
        **source.attrs, "complete": True, "shape": list(plan.shape), "values_per_element": source.count,
        "nonfinite": bad, "tile": list(plan.tile), "written_by_tiles": [_name(f) for f in plan.direct],
        "zarr_conventions": [CONVENTION], "multiscales": {"layout": [_entry(f, plan) for f in plan.levels]},
    }  # fmt: skip


def _entry(factors: Factors, plan: Plan) -> dict[str, Any]:
    """Of the convention's layout: scale and translation from the level that it was reduced from."""
    entry: dict[str, Any] = {"asset": _name(factors), "resampling_method": "signed extreme"}
    finer = _finer(factors, plan) or ((1, 1) if (1, 1) in plan.levels and factors != (1, 1) else None)
    base = finer or (1, 1)
    scale = [a / b for a, b in zip(factors, base, strict=True)]
    if finer:
        entry["derived_from"] = _name(finer)
    return entry | {"transform": {"scale": scale, "translation": [(s - 1) / 2 for s in scale]}}


def _there(group: zarr.Group) -> Plan | None:
    """The plan that a finished group was written by."""
    attrs: Any = group.attrs
    if not attrs.get("complete"):
        return None
    levels = [_factors(entry["asset"]) for entry in attrs["multiscales"]["layout"]]
    direct = tuple(_factors(name) for name in attrs["written_by_tiles"])
    gathered = tuple(f for f in levels if f not in direct)
    return Plan(tuple(attrs["shape"]), tuple(attrs["tile"]), gathered, direct)


def _name(factors: Factors) -> str:
    return f"{factors[0]}x{factors[1]}"


def _factors(name: str) -> Factors:
    high, _, wide = name.partition("x")
    return int(high), int(wide)


def _ids(known: np.ndarray | None, span: Span) -> np.ndarray:
    return np.arange(*span, dtype=np.int32) if known is None else np.asarray(known[slice(*span)], np.int32)
