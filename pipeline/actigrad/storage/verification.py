"""Verification: every chunk of a store read, against its checksum and the journal.

    found = verify("run.zarr")
    found.damages                    # arrays and regions that are missing or damaged; empty when all is well

What should be there: everything, in a complete store, and in one whose steps grow, of which the consolidated metadata
tell what is in; in another one coordinates, and what the journal says was committed. What is found damaged,
`actigrad repair` captures again. Cost: one read of the whole store, in threads.
"""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.grid import chunk_indices
from actigrad.storage.journal import read_commits
from actigrad.storage.store import is_store, read_attributes

THREADS = 4


@dataclass(frozen=True)
class Damage:
    """A part of an array that cannot be read as it was written.

    Attributes:
        array: its path in the store.
        region: (start, stop) along each axis, one chunk; None for the array's metadata.
        what: missing, or how reading it failed.
    """

    array: str
    region: tuple[tuple[int, int], ...] | None
    what: str


@dataclass(frozen=True)
class Verification:
    """What was read, and what was wrong.

    Attributes:
        complete: whether the store says that it is.
        chunks, bytes: how many were read, and their size in memory.
        committed: samples that the journal says are in, by step.
        damages: in the order of the arrays.
    """

    complete: bool
    chunks: int
    bytes: int
    committed: dict[int, int]
    damages: tuple[Damage, ...]


def verify(path: str | Path, advance: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Read everything that should be there.

    Args:
        path: the store.
        advance: told after each chunk how many are done, and of how many.

    Raises:
        StoreError: when there is no store, or nothing in it can be read.
    """
    path = Path(path)
    if not path.exists() or not is_store(path):
        raise StoreError(f"{path} is not an actigrad store, or its zarr.json at the root cannot be read.")
    complete, committed = bool(read_attributes(path).get("complete")), read_commits(path)
    consolidated = _consolidated(path)
    damages = list(_broken_metadata(path, consolidated, complete))
    arrays = _arrays(path, {damage.array for damage in damages})
    known = None if complete or consolidated or "samples/sample" not in arrays else committed
    samples = arrays["samples/sample"].shape[0] if known is not None else 0
    expected = [
        (name, array, index)
        for name, array in arrays.items()
        for index in _expected_chunks(array, _steps_of(array, name, arrays), known, samples)
    ]
    with ThreadPoolExecutor(THREADS, "actigrad-verify") as pool:
        found = pool.map(lambda one: _read(path, *one), expected)
        size = 0
        for done, (damage, nbytes) in enumerate(found, start=1):
            size += nbytes
            if damage:
                damages.append(damage)
            advance(done, len(expected))
    return Verification(complete, len(expected), size, committed, tuple(damages))


def _consolidated(path: Path) -> dict[str, Any]:
    """The metadata of arrays and groups that were copied to the root, by path."""
    try:
        root = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path / 'zarr.json'} cannot be read: {error}") from error
    return (root.get("consolidated_metadata") or {}).get("metadata", {})


def _broken_metadata(path: Path, known: dict[str, Any], complete: bool) -> Iterator[Damage]:
    """Arrays and groups whose zarr.json is gone, is no JSON, or is not what was consolidated."""
    # While steps are added, an array's own metadata tell an earlier size.
    extra = {"consolidated_metadata"} if complete else {"consolidated_metadata", "shape"}
    bare = lambda metadata: {key: value for key, value in metadata.items() if key not in extra}
    there = {str(file.parent.relative_to(path)) for file in path.rglob("zarr.json")} - {"."}
    there |= {str(folder.parent.relative_to(path)) for folder in path.rglob("c") if folder.is_dir()}
    for name in sorted(there | set(known)):
        try:
            metadata = json.loads((path / name / "zarr.json").read_bytes())
        except FileNotFoundError:
            yield Damage(name, None, "missing")
            continue
        except ValueError as error:
            yield Damage(name, None, f"damaged: {error}")
            continue
        if name in known and bare(metadata) != bare(known[name]):
            yield Damage(name, None, "damaged: it is not what was consolidated")


def _arrays(path: Path, broken: set[str]) -> dict[str, zarr.Array]:
    """Every array whose metadata are whole, by its path."""
    names = sorted(str(file.parent.relative_to(path)) for file in path.rglob("zarr.json"))
    found, root = {}, zarr.open_group(path, mode="r")
    for name in names:
        if name != "." and name not in broken:
            node = root[name]
            if isinstance(node, zarr.Array):
                found[name] = node
    return found


def _steps_of(array: zarr.Array, name: str, arrays: dict[str, zarr.Array]) -> list[int] | None:
    """The recorded step at each index of the step axis; None where there is none, or it cannot be read."""
    if "step" not in _dims(array) or array.ndim == 1:
        return None
    try:
        return [int(step) for step in np.asarray(arrays[f"{name.rpartition('/')[0]}/step"][...])]
    except Exception:  # the damage is told where it is read
        return None


def _expected_chunks(
    array: zarr.Array, steps: list[int] | None, committed: dict[int, int] | None, samples: int
) -> Iterator[tuple[int, ...]]:
    """Every chunk, or those that the journal says are in."""
    everything = chunk_indices([(0, size) for size in array.shape], array.chunks)
    if committed is None or steps is None:
        yield from everything
        return
    dims = _dims(array)
    step_axis = dims.index("step")
    for index in everything:
        needed = samples
        if "sample" in dims:
            axis = dims.index("sample")
            needed = min(samples, (index[axis] + 1) * array.chunks[axis])
        if needed <= committed.get(steps[index[step_axis]], 0):
            yield index


def _dims(array: zarr.Array) -> tuple[str | None, ...]:
    """The names of its axes."""
    return tuple(array.metadata.dimension_names or ())  # pyright: ignore[reportAttributeAccessIssue]


def _read(path: Path, name: str, array: zarr.Array, index: tuple[int, ...]) -> tuple[Damage | None, int]:
    """What is wrong with a chunk, and its size."""
    spans = zip(index, array.chunks, array.shape, strict=True)
    region = tuple((i * chunk, min(size, (i + 1) * chunk)) for i, chunk, size in spans)
    nbytes = math.prod(stop - start for start, stop in region) * array.dtype.itemsize
    if not path.joinpath(name, "c", *map(str, index)).exists():
        return Damage(name, region, "missing"), nbytes
    try:
        array[tuple(slice(*span) for span in region)]
    except Exception as error:  # whatever a codec raises
        return Damage(name, region, f"damaged: {type(error).__name__}: {str(error).splitlines()[0][:100]}"), nbytes
    return None, nbytes
