"""Stored: levels as they lie in a store, written and read.

    <group>/<fy>x<fx>/{extreme, offset, mean, nonfinite}    (y, x)

Integers take as few bytes as hold them, and of a matrix without NaN or infinities `nonfinite` is not stored. The
group's attributes speak the vocabulary of https://github.com/zarr-conventions/multiscales, and tell whether the levels
are complete, in which tiles they were made, and how many values are not finite.
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
from actigrad.pictures.offsets import Known, from_offsets, offset_dtype, to_offsets
from actigrad.pictures.raster import Span
from actigrad.pictures.ripmap import Plan, Source
from actigrad.storage.create import CODECS
from actigrad.storage.plain import find_layout, iter_files

LONG_NAMES = {
    "extreme": "finite value of largest magnitude in the cell",
    "offset": "elements of the cell that come before it, row by row",
    "mean": "mean of the finite values in the cell",
    "nonfinite": "number of values in the cell that are NaN or infinite",
}
VERSION = 2
"""Of the layout; levels of another one are not looked at, and made again when levels are asked for."""
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
        arrays: Any = dict(group[level_name(factors)].arrays())  # type: ignore[union-attr]
        for array in arrays.values():
            array.resize(shape)
        return {name: Target(array) for name, array in arrays.items()}
    chunks = plan.chunks(factors)
    level = group.create_group(level_name(factors))
    return {
        name: Target(level.create_array(
            name, shape=shape, chunks=(min(chunks[0], shape[0]), chunks[1]), dtype=dtype,
            dimension_names=("y", "x"),
            attributes={"long_name": LONG_NAMES[name]},
            compressors=CODECS["plain"](),
            fill_value=np.nan if dtype == "float32" else 0, config={"write_empty_chunks": True},
        ))
        for name, dtype in dtypes.items()
    }  # fmt: skip


def has_room(group: zarr.Group, source: Source, plan: Plan) -> bool:
    """Whether the levels that are there can be gone on with: their arrays are those that would be made now."""
    for factors in plan.levels:
        for name, dtype in _dtypes(source, plan, factors).items():
            array: Any = group.get(f"{level_name(factors)}/{name}")
            missing = name == "nonfinite" and not group.attrs["nonfinite"]
            if not missing and (array is None or array.dtype != dtype):
                return False
    return True


def _dtypes(source: Source, plan: Plan, factors: Factors) -> dict[str, str]:
    """The arrays of a level."""
    if factors == (1, 1) and source.count == 1:
        return {"extreme": "float32"}
    offset = {"offset": offset_dtype(factors)} if math.prod(factors) > 1 else {}
    bad = np.min_scalar_type(math.prod(factors) * source.count).name
    return {"extreme": "float32", "mean": "float32", "nonfinite": bad} | offset


def write_level(arrays: Mapping[str, Target], factors: Factors, cells: Any, start: tuple[int, int],
                places: Known) -> None:  # fmt: skip
    """Cells, or for 1x1 the values alone, into a level's arrays; counts that are all zero are left out.

    Args:
        arrays: of the level.
        factors: of the level.
        cells: a part of it.
        start: the first place in the matrix of the first cell along (y, x).
        places: of the ids in the cells, as `invert` gives them.
    """
    known: dict[str, np.ndarray] = {"extreme": cells}
    if isinstance(cells, Cells):
        known = {"extreme": cells.extreme, "mean": cells.mean}
        if "offset" in arrays:
            known["offset"] = to_offsets(cells, factors, start, places)
        if "nonfinite" in arrays and cells.nonfinite.any():
            known["nonfinite"] = cells.nonfinite
    region = _region(factors, start, known["extreme"].shape)
    for name, values in known.items():
        arrays[name][region] = values


def write_no_counts(arrays: Mapping[str, Target], factors: Factors, start: tuple[int, int], shape: tuple[int, int]
                    ) -> None:  # fmt: skip
    """What `write_level` left out of a part of so many elements, where other parts have counts."""
    if "nonfinite" in arrays:
        cells = -(-shape[0] // factors[0]), -(-shape[1] // factors[1])
        arrays["nonfinite"][_region(factors, start, cells)] = np.zeros(cells, arrays["nonfinite"].array.dtype)


def _region(factors: Factors, start: tuple[int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    y, x = (slice(at // f, at // f + n) for at, f, n in zip(start, factors, shape, strict=True))
    return y, x


def drop_counts(group: zarr.Group, plan: Plan) -> None:
    """Take out the arrays of a matrix that is finite everywhere."""
    for name in (f"{level_name(factors)}/nonfinite" for factors in plan.levels):
        if name in group:
            del group[name]


def describe_levels(group: zarr.Group, source: Source, plan: Plan) -> dict[str, Any]:
    """The attributes of a group whose levels are all written."""
    counts: Any = group.get(f"{level_name(plan.levels[-1])}/nonfinite") if plan.levels else None
    bad = 0 if counts is None else int(counts[...].sum(dtype=np.int64))
    return {
        **source.attrs, "complete": True, "version": VERSION, "shape": list(plan.shape),
        "values_per_element": source.count, "finest": level_name(plan.base),
        "nonfinite": bad, "tile": list(plan.tile), "written_by_tiles": [level_name(f) for f in plan.direct],
        "zarr_conventions": [CONVENTION], "multiscales": {"layout": [_entry(f, plan) for f in plan.levels]},
    }  # fmt: skip


def read_plan(group: zarr.Group) -> Plan | None:
    """The plan that a finished group was written by; None where it is not finished, or laid out in another way."""
    attrs: Any = group.attrs
    if not attrs.get("complete") or attrs.get("version") != VERSION:
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
        """Its cells from one to another along both axes; each array is read once."""
        region = slice(*rows), slice(*columns)
        extreme, mean = (np.asarray(self.arrays[name][region]) for name in ("extreme", "mean"))
        nonfinite = np.zeros(extreme.shape, np.int64)
        if "nonfinite" in self.arrays:
            nonfinite = np.asarray(self.arrays["nonfinite"][region], np.int64)
        offset = self.arrays["offset"][region] if "offset" in self.arrays else np.zeros(extreme.shape, np.uint8)
        start = rows[0] * self.factors[0], columns[0] * self.factors[1]
        row, column = from_offsets(extreme, offset, self.factors, start, (self.rows, self.columns))
        high, wide = (self._covered(axis, span) for axis, span in ((0, rows), (1, columns)))
        finite = high[:, None] * wide[None, :] * self.attrs["values_per_element"] - nonfinite
        total = np.where(finite > 0, mean.astype(np.float64) * finite, 0.0)
        return Cells(extreme, row, column, total, finite, nonfinite)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """By name."""
        names = ["extreme", "mean", *["nonfinite"] * (self.attrs["nonfinite"] > 0)]
        names += ["offset"] * (math.prod(self.factors) > 1)
        return {name: self.group[f"{level_name(self.factors)}/{name}"] for name in names}

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
