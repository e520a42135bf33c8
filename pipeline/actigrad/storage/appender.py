"""Appender: a store whose steps grow, whole at every moment.

    create_growing("run.zarr", growing(template), attrs, [100], rows)   # appears with its first steps, or not at all
    appender = Appender("run.zarr")
    appender.append([200, 300], {"samples/loss": losses})               # every array that has steps, (step, ...)
    appender.close(complete=True)

Many arrays grow together, each with metadata of its own, and xarray refuses a group whose arrays disagree. So the
commit is one file: the consolidated metadata at the root, which xarray and Zarr read by default, replaced in one
rename after all chunks are on the disk. Before it a reader sees the steps before, after it the new ones, and nothing
in between, also when the process is killed or the power is cut.

A chunk holds several steps, or a long training would make a file a step and array. The last one is written again
until it is full; a chunk is replaced in one rename too, and the rows that a reader knows stay the same.

Limits: one writer (the caller holds the journal's lock); a local disk. The arrays' own metadata follow at `close`:
a reader that leaves the consolidated ones aside sees the steps as of then.
"""

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.create import consolidate, create_store
from actigrad.storage.grid import chunk_indices
from actigrad.storage.places.folder import sync, write_file
from actigrad.storage.store import is_derived
from actigrad.storage.template import ArraySpec, Template

CHUNK_BYTES, CHUNK_STEPS = 2**16, 64
"""Aims for a chunk of several steps: it is held in memory, for every array, until it is full."""


def growing(template: Template) -> Template:
    """The template without steps, in chunks of several."""
    arrays = dict(template.arrays)
    for path, spec in template.arrays.items():
        if spec.dims[0] == "step":
            fit = CHUNK_BYTES // max(1, spec.nbytes // spec.shape[0])
            steps = max(1, min(CHUNK_STEPS, fit))
            # What is not full yet is mostly fill values, which compress to nothing.
            codec = "sparse" if steps > 1 else spec.codec
            shape, chunks = (0, *spec.shape[1:]), (steps, *spec.chunks[1:])
            arrays[path] = replace(spec, shape=shape, chunks=chunks, codec=codec)
    coords = {path: values for path, values in template.coords.items() if arrays[path].dims[0] != "step"}
    return replace(template, arrays=arrays, coords=coords)


def create_growing(
    path: Path, template: Template, attrs: Mapping[str, Any], steps: Sequence[int], rows: Mapping[str, np.ndarray]
) -> None:
    """Create a store with its first steps.

    Args:
        path: where nothing stands.
        template: from `growing`.
        attrs: of the root.
        steps: training updates done, ascending.
        rows: as `Appender.append` takes them.

    Raises:
        OSError, StoreError: when it cannot be written; `path` is as before then.
    """
    new = path.with_name(f"{path.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        create_store(new, template, attrs)
        consolidate(new)
        Appender(new).append(steps, rows)
        if path.exists():  # an empty directory, which was looked at before
            path.rmdir()
        new.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class Appender:
    """An open store that grows."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._root = json.loads((self.path / "zarr.json").read_bytes())
        self._metadata = self._root["consolidated_metadata"]["metadata"]
        group = zarr.open_group(self.path, mode="r+")
        self._arrays: dict[str, Any] = {
            name: group[name]
            for name, metadata in self._metadata.items()
            if metadata["node_type"] == "array" and metadata["dimension_names"][0] == "step"
        }
        self.steps: list[int] = np.asarray(group["samples/step"]).tolist()  # type: ignore[arg-type]
        self._tails: dict[str, np.ndarray] = {}
        self._forget_uncommitted()

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the root."""
        return self._root["attributes"]

    def layout(self) -> dict[str, Any]:
        """What `layout_of` tells of each array; of orders and levels, which were made of the others, nothing."""
        derived = tuple(f"{name}/" for name, one in self._metadata.items() if is_derived(one))
        arrays = {
            name: one
            for name, one in self._metadata.items()
            if one["node_type"] == "array" and not f"{name}/".startswith(derived)
        }
        return {
            name: _without_steps(one["dimension_names"], one["shape"], one["attributes"])
            for name, one in arrays.items()
        }

    def append(self, steps: Sequence[int], rows: Mapping[str, np.ndarray]) -> None:
        """Add steps to every array that has them, in one commit.

        Args:
            steps: training updates done, ascending, above those that are there.
            rows: by array, (step, …); coordinates are not among them.

        Raises:
            StoreError: when steps do not ascend, or rows are missing or have another shape.
            OSError: when the disk is full or gone; the store is as before.
        """
        known = self.steps[-1:]
        if any(b <= a for a, b in zip([*known, *steps], [*known, *steps][1:], strict=False)):
            raise StoreError(f"steps {list(steps)} do not ascend from {known}, the last in {self.path}.")
        blocks = {}
        for name, array in self._arrays.items():
            values = np.asarray(steps) if name.endswith("/step") else rows.get(name)
            expected = (len(steps), *array.shape[1:])
            if values is None or values.shape != expected:
                found = "nothing" if values is None else f"rows of shape {values.shape}"
                raise StoreError(f"{self.path}: {name} got {found}, expected {expected}.")
            blocks[name] = values.astype(array.dtype, copy=False)
        asyncio.run(self._write(blocks))
        self.steps += [int(step) for step in steps]
        self._root["attributes"]["complete"] = False
        self._commit()

    def close(self, *, complete: bool) -> None:
        """Bring the arrays' own metadata up to date; `complete` is told to readers."""
        for name in self._arrays:
            write_file(self.path / name / "zarr.json", _json(self._metadata[name]))
        self._root["attributes"]["complete"] = complete
        self._commit()

    async def _write(self, blocks: Mapping[str, np.ndarray]) -> None:
        """All arrays at once: Zarr's way from one thread to another and back is most of what a small array costs."""
        await asyncio.gather(*(self._write_one(name, block) for name, block in blocks.items()))

    async def _write_one(self, name: str, block: np.ndarray) -> None:
        """Chunks from the last one on, which is written again with what it held."""
        array, n = self._arrays[name], len(self.steps)
        chunk, stop = array.chunks[0], n + len(block)
        first = n - n % chunk
        if name not in self._tails:
            self._tails[name] = np.asarray(await array.async_array.getitem(slice(first, n)))
        block = np.concatenate([self._tails[name], block])
        # The same array with more rows, of which only this process knows before the commit.
        metadata = array.metadata.update_shape((stop, *array.shape[1:]))
        longer = zarr.AsyncArray(metadata, array.store_path, {"write_empty_chunks": True})
        await longer.setitem(slice(first, stop), block)
        for index in chunk_indices([(first, stop), *((0, size) for size in array.shape[1:])], array.chunks):
            sync(self.path.joinpath(name, "c", *map(str, index)))
        self._tails[name] = block[stop - stop % chunk - first :]

    def _commit(self) -> None:
        for name in self._arrays:
            self._metadata[name]["shape"][0] = len(self.steps)
        write_file(self.path / "zarr.json", _json(self._root))

    def _forget_uncommitted(self) -> None:
        """A process that was killed may have left chunks that no step is in yet, and files under way."""
        for partial in self.path.rglob("*.partial"):
            partial.unlink()
        for name, array in self._arrays.items():
            chunks = self.path / name / "c"
            for entry in chunks.iterdir() if chunks.is_dir() else []:
                if int(entry.name) >= -(-len(self.steps) // array.chunks[0]):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def layout_of(spec: ArraySpec) -> Any:
    """What must be the same for a store to be continued: dims, sizes but for the steps', and rounding."""
    return _without_steps(spec.dims, spec.shape, spec.attrs)


def _without_steps(dims: Sequence[str], shape: Sequence[int], attrs: Mapping[str, Any]) -> Any:
    return [(dim, size) for dim, size in zip(dims, shape, strict=True) if dim != "step"], attrs.get("dtype")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
