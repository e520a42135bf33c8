"""Stored: levels as they lie in a store, written and read.

    <group>/<fy>x<fx>/{extreme, neuron, column, mean, nonfinite}    (y, x)

The group's attributes speak the vocabulary of https://github.com/zarr-conventions/multiscales, and tell whether the
levels are complete, in which tiles they were made, and how many values are not finite. The 1x1 level holds what of it
is not known from its place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from actigrad.pictures.cells import Cells, Factors
from actigrad.pictures.raster import Span
from actigrad.pictures.ripmap import Plan, Source
from actigrad.storage.create import CODECS

FIELDS = {"extreme": "float32", "neuron": "int32", "column": "int32", "mean": "float32", "nonfinite": "int32"}
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


def create_level(group: zarr.Group, source: Source, plan: Plan, factors: Factors, *, keep: bool) -> dict[str, Any]:
    """The arrays of a level, empty, or as they are but for the columns that are new."""
    shape = tuple(-(-n // f) for n, f in zip(plan.shape, factors, strict=True))
    names = list(FIELDS)
    if factors == (1, 1):
        names = ["extreme"] if source.count == 1 else ["extreme", "mean", "nonfinite"]
    if keep:
        arrays = {name: group[f"{level_name(factors)}/{name}"] for name in names}
        for array in arrays.values():
            array.resize(shape)  # type: ignore[union-attr]
        return arrays
    chunks = plan.chunks(factors)
    dtypes = FIELDS | ({"nonfinite": "int64"} if math.prod(factors) * source.count >= 2**31 else {})
    level = group.create_group(level_name(factors))
    return {
        name: level.create_array(
            name, shape=shape, chunks=(min(chunks[0], shape[0]), chunks[1]), dtype=dtypes[name],
            dimension_names=("y", "x"),
            attributes={"long_name": LONG_NAMES[name]},
            compressors=CODECS["sparse" if name == "nonfinite" else "plain"](),
            fill_value=np.nan if dtypes[name] == "float32" else -1, config={"write_empty_chunks": True},
        )
        for name in names
    }  # fmt: skip


def write_level(arrays: Mapping[str, Any], cells: Any, at: tuple[int, int]) -> None:
    """Cells, or for 1x1 the values alone, into a level's arrays."""
    known = {"extreme": cells} if isinstance(cells, np.ndarray) else {
        "extreme": cells.extreme, "neuron": cells.row, "column": cells.column, "mean": cells.mean,
        "nonfinite": cells.nonfinite,
    }  # fmt: skip
    region = tuple(slice(a, a + n) for a, n in zip(at, known["extreme"].shape, strict=True))
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
        if "neuron" in self.arrays:
            row, column = (np.asarray(self.arrays[name][region]) for name in ("neuron", "column"))
        else:
            some = np.isfinite(extreme)
            row = np.where(some, ids_of(self.rows, rows)[:, None], np.int32(-1))
            column = np.where(some, ids_of(self.columns, columns)[None, :], np.int32(-1))
        high, wide = (self._covered(axis, span) for axis, span in ((0, rows), (1, columns)))
        finite = high[:, None] * wide[None, :] * self.attrs["values_per_element"] - nonfinite
        total = np.where(finite > 0, mean.astype(np.float64) * finite, 0.0)
        return Cells(extreme, row, column, total, finite, nonfinite)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """By name."""
        names = FIELDS if self.factors != (1, 1) else ("extreme", "mean", "nonfinite")
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
