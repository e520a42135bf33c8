"""Template: a whole store without values, and what collects its arrays.

arrays = Arrays(segment=4096)
arrays.add("samples/loss", {"sample": 4096}, step=(0, 100), attrs={"long_name": "loss of the sample"})
Template({}, arrays.specs, arrays.values, 4096)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actigrad.storage.grid import inner_rows, step_rows


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: everything but its values.

    Attributes:
        path: inside the store (`sites/head/0/full/activation`).
        dims, shape: one entry an axis.
        chunks: what one write owns: a chunk, or a shard of several.
        inner: the chunks in a shard, what one read decompresses; None where the write is one chunk.
        dtype: on disk.
        attrs: as xarray shows them.
        codec: `plain` (checksum only), `sparse` (zstd; many zeros), `rounded` (lz4 with byte shuffle; bfloat16 values).
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str = "float32"
    attrs: Mapping[str, Any] = field(default_factory=dict)
    codec: str = "plain"
    inner: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes before compression."""
        return math.prod(self.shape) * item_size(self.dtype)


@dataclass(frozen=True)
class Template:
    """A whole store without values.

    Attributes:
        groups: attributes by path.
        arrays: specs by path.
        coords: the values of coordinates, which are known beforehand.
        segment: samples between two commits, whole blocks of every array.
    """

    groups: dict[str, dict[str, Any]]
    arrays: dict[str, ArraySpec]
    coords: dict[str, Any]
    segment: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays before compression."""
        return sum(spec.nbytes for spec in self.arrays.values())


def with_codecs(template: Template, sparse: set[str]) -> Template:
    """The template with the arrays in `sparse` compressed for many zeros."""
    arrays = {p: replace(spec, codec="sparse") if p in sparse else spec for p, spec in template.arrays.items()}
    return replace(template, arrays=arrays)


class Arrays:
    """Collects specs; the coords that an array needs come with it."""

    def __init__(self, segment: int):
        self.segment = segment
        self.specs: dict[str, ArraySpec] = {}
        self.values: dict[str, Any] = {}

    def coord(self, path: str, dims: tuple[str, ...], values: Any, attrs: dict[str, Any]) -> None:
        """A coordinate, unless it is there."""
        if path not in self.specs:
            dtype = "string" if isinstance(values[0], str) else "float64" if isinstance(values[0], float) else "int64"
            self.specs[path] = ArraySpec(path, dims, (len(values),), (len(values),), dtype, attrs)
            self.values[path] = values

    def add(self, path: str, dims: Mapping[str, int], *, step: Sequence[int], attrs: Mapping[str, Any],
            chunks: Mapping[str, int] | None = None, dtype="float32", codec="plain") -> None:  # fmt: skip
        """An array along the steps and these dims, with the steps beside it.

        Args:
            path: inside the store.
            dims: sizes by name; those of samples are cut into segments.
            step: the recorded steps.
            attrs: as xarray shows them.
            chunks: what one write owns along a dim, where that is less; the write is then a shard.
            dtype: as `ArraySpec` has it.
            codec: likewise.
        """
        group = path.rpartition("/")[0]
        self.coord(f"{group}/step", ("step",), step, {"long_name": "training updates done", "units": "1"})
        sizes = {"step": len(step), **dims}
        together = 1 if "sample" in dims else min(len(step), step_rows(item_size(dtype) * math.prod(dims.values())))
        chunk = {"step": together, "sample": min(self.segment, dims.get("sample", 1)), **(chunks or {})}
        shape = {dim: max(1, chunk.get(dim, size)) for dim, size in sizes.items()}
        if together > 1:  # what is not full yet is mostly fill values, which compress to nothing
            codec = "sparse"
        inner = inner_rows(shape["sample"], math.prod(shape.values()) // shape["sample"] * 4) if chunks else None
        self.specs[path] = ArraySpec(
            path, tuple(sizes), tuple(sizes.values()), tuple(shape.values()), dtype, attrs, codec,
            tuple((shape | {"sample": inner}).values()) if inner else None,
        )  # fmt: skip


def item_size(dtype: str) -> int:
    """Bytes of a value; about, for a string."""
    return {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "int8": 1}.get(dtype, 8)
