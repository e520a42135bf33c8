"""Stored: levels as they lie in a store, written and read.

    <group>/<fy>x<fx>/{extreme, neuron, column, mean, nonfinite}    (y, x)

What is known of a cell from its place is not stored: no neuron where fy is 1, no column where fx is 1. Integers take as
few bytes as hold them. The group's attributes speak the vocabulary of https://github.com/zarr-conventions/multiscales,
and tell whether the levels are complete, in which tiles they were made, and how many values are not finite.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from actigrad.pictures.cells import Cells, Factors
from actigrad.pictures.raster import Span
from actigrad.pictures.ripmap import Plan, Source
from actigrad.storage.create import CODECS
from actigrad.storage.plain import find_layout, iter_files

ID_OF = ("neuron", "column")
"""Which array tells the row, and which the column, of an extreme."""
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


class Target:
    """An array to be written: whole chunks go straight into their files.

    Zarr's own way costs twice as much as all that levels are made of. Files are not synced, and not made in one rename:
    levels that are not finished are not looked at.
    """

    def __init__(self, array: zarr.Array):
        self.array, self.layout = array, find_layout(array)

    def __setitem__(self, region: tuple[slice, slice], values: np.ndarray) -> None:
        spans = [(part.start, part.stop) for part in region]
        ends = zip(spans, self.array.shape, self.array.chunks, strict=True)
        whole = all(low % chunk == 0 and (high % chunk == 0 or high == size) for (low, high), size, chunk in ends)
        store = self.array.store
        if not whole or self.layout is None or not isinstance(store, LocalStore):
            self.array[region] = values
            return
        for name, part in iter_files(self.array, spans, values):
            file = store.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                opened.writelines(self.layout.encode(part))


def create_level(group: zarr.Group, source: Source, plan: Plan, factors: Factors, *, keep: bool) -> dict[str, Target]:
    """The arrays of a level, empty, or as they are but for the columns that are new."""
    shape = tuple(-(-n // f) for n, f in zip(plan.shape, factors, strict=True))
    dtypes = _dtypes(source, plan, factors)
    if keep:
        arrays = {name: group[f"{level_name(factors)}/{name}"] for name in dtypes}
        for array in arrays.values():
            array.resize(shape)  # type: ignore[union-attr]
        return {name: Target(array) for name, array in arrays.items()}  # type: ignore[arg-type]
    chunks = plan.chunks(factors)
    level = group.create_group(level_name(factors))
    return {
        name: Target(level.create_array(
            name, shape=shape, chunks=(min(chunks[0], shape[0]), chunks[1]), dtype=dtype,
            dimension_names=("y", "x"),
            attributes={"long_name": LONG_NAMES[name]},
            compressors=CODECS["plain"](),
            fill_value=np.nan if dtype == "float32" else -1, config={"write_empty_chunks": True},
        ))
        for name, dtype in dtypes.items()
    }  # fmt: skip


def has_room(group: zarr.Group, source: Source, plan: Plan) -> bool:
    """Whether the levels that are there can be gone on with: their arrays are those that would be made now."""
    for factors in plan.levels:
        for name, dtype in _dtypes(source, plan, factors).items():
            array: Any = group.get(f"{level_name(factors)}/{name}")
            if array is None or array.dtype != dtype:
                return False
    return True


def _dtypes(source: Source, plan: Plan, factors: Factors) -> dict[str, str]:
    """The arrays of a level."""
    if factors == (1, 1) and source.count == 1:
        return {"extreme": "float32"}
    integers = {"nonfinite": math.prod(factors) * source.count}
    if factors[0] > 1:
        integers["neuron"] = plan.shape[0]
    if factors[1] > 1:
        integers["column"] = plan.shape[1]
    return {"extreme": "float32", "mean": "float32"} | {name: _integer(n) for name, n in integers.items()}


def _integer(most: int) -> str:
    """The smallest dtype that holds so many, and -1."""
    return next(name for name in ("int8", "int16", "int32", "int64") if most <= np.iinfo(name).max)


def write_level(arrays: Mapping[str, Target], cells: Any, at: tuple[int, int]) -> None:
    """Cells, or for 1x1 the values alone, into a level's arrays."""
    known = {"extreme": cells} if isinstance(cells, np.ndarray) else {
        "extreme": cells.extreme, "neuron": cells.row, "column": cells.column, "mean": cells.mean,
        "nonfinite": cells.nonfinite,
    }  # fmt: skip
    high, wide = known["extreme"].shape
    region = slice(at[0], at[0] + high), slice(at[1], at[1] + wide)
    for name, array in arrays.items():
        array[region] = known[name]


def describe_levels(group: zarr.Group, source: Source, plan: Plan) -> dict[str, Any]:
    """The attributes of a group whose levels are all written."""
    coarsest = [f for f in plan.levels if f != (1, 1) or source.count > 1][-1:]
    bad = sum(int(np.asarray(group[f"{level_name(f)}/nonfinite"][...]).sum()) for f in coarsest)  # type: ignore[index]
    return {
        **source.attrs, "complete": True, "shape": list(plan.shape), "values_per_element": source.count,
        "finest": level_name(plan.base),
        "nonfinite": bad, "tile": list(plan.tile), "written_by_tiles": [level_name(f) for f in plan.direct],
        "zarr_conventions": [CONVENTION], "multiscales": {"layout": [_entry(f, plan) for f in plan.levels]},
    }  # fmt: skip


def read_plan(group: zarr.Group) -> Plan | None:
    """The plan that a finished group was written by."""
    attrs: Any = group.attrs
    if not attrs.get("complete"):
        return None
    levels = [_factors(entry["asset"]) for entry in attrs["multiscales"]["layout"]]
    direct = tuple(_factors(name) for name in attrs["written_by_tiles"])
    gathered = tuple(f for f in levels if f not in direct)
    base = _factors(attrs.get("finest", "1x1"))
    return Plan(tuple(attrs["shape"]), tuple(attrs["tile"]), gathered, direct, base)


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
            nonfinite = np.asarray(self.arrays["nonfinite"][region], np.int64)
        row, column = (self._ids(axis, region, extreme) for axis in (0, 1))
        high, wide = (self._covered(axis, span) for axis, span in ((0, rows), (1, columns)))
        finite = high[:, None] * wide[None, :] * self.attrs["values_per_element"] - nonfinite
        total = np.where(finite > 0, mean.astype(np.float64) * finite, 0.0)
        return Cells(extreme, row, column, total, finite, nonfinite)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """By name."""
        names = ["extreme", "mean", "nonfinite", *(ID_OF[axis] for axis in (0, 1) if self.factors[axis] > 1)]
        return {name: self.group[f"{level_name(self.factors)}/{name}"] for name in names}

    def _ids(self, axis: int, region: tuple[slice, slice], extreme: np.ndarray) -> np.ndarray:
        """Which row or column the extremes stand at: stored, or known from the cells' place."""
        if self.factors[axis] > 1:
            return np.asarray(self.arrays[ID_OF[axis]][region], np.int32)
        ids = ids_of((self.rows, self.columns)[axis], (region[axis].start, region[axis].stop))
        return np.where(np.isfinite(extreme), ids[:, None] if axis == 0 else ids[None, :], np.int32(-1))

    def _covered(self, axis: int, span: Span) -> np.ndarray:
        """How many rows or columns each cell covers: the last has what is left."""
        starts = np.arange(*span, dtype=np.int64) * self.factors[axis]
        return np.minimum(self.factors[axis], self.shape[axis] - starts)


def _entry(factors: Factors, plan: Plan) -> dict[str, Any]:
    """Of the convention's layout: scale and translation from the level that it was reduced from."""
    entry: dict[str, Any] = {"asset": level_name(factors), "resampling_method": "signed extreme"}
    finer = plan.finer(factors) or (plan.base if plan.base in plan.levels and factors != plan.base else None)
    base = finer or (1, 1)
    scale = [a / b for a, b in zip(factors, base, strict=True)]
    if finer:
        entry["derived_from"] = level_name(finer)
    return entry | {"transform": {"scale": scale, "translation": [(s - 1) / 2 for s in scale]}}


def level_name(factors: Factors) -> str:
    """Of its group."""
    return f"{factors[0]}x{factors[1]}"


def _factors(name: str) -> Factors:
    high, _, wide = name.partition("x")
    return int(high), int(wide)


def ids_of(known: np.ndarray | None, span: Span) -> np.ndarray:
    """What is shown from one place to another; the places themselves where nothing else is known."""
    return np.arange(*span, dtype=np.int32) if known is None else np.asarray(known[slice(*span)], np.int32)
