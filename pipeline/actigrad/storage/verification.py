"""Verification: every chunk of a store read, against its checksum and the journal.

    found = verify("run.zarr")
    found.damages                    # arrays and regions that are missing or damaged; empty when all is well

What should be there: everything, in a complete store, and in one whose steps grow, of which the consolidated metadata
tell what is in; in another one coordinates, and what the journal says was committed. What is found damaged,
`actigrad repair` captures again. Cost: one read of the whole store, in threads.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.grid import chunk_indices
from actigrad.storage.journal import read_commits
from actigrad.storage.places import Place, Where, find_place
from actigrad.storage.store import CHUNK, check_version, owned, read_consolidated

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


def verify(where: Where, advance: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Read everything that should be there.

    Args:
        where: the store.
        advance: told after each chunk how many are done, and of how many.

    Raises:
        StoreError: when there is no store, or nothing in it can be read.
    """
    place = find_place(where)
    attrs = check_version(place)
    try:
        files = place.files()
    except OSError as error:
        raise StoreError(f"{place} cannot be listed: {error}. Verify it where it can.") from error
    complete, committed = bool(attrs.get("complete")), read_commits(place)
    consolidated = read_consolidated(place)
    if complete:
        files = {name: size for name, size in files.items() if not _is_being_made(name, consolidated)}
    damages = list(_broken_metadata(place, files, consolidated, complete))
    arrays = _arrays(place, files, {damage.array for damage in damages})
    known = None if complete or consolidated or "samples/sample" not in arrays else committed
    samples = arrays["samples/sample"].shape[0] if known is not None else 0
    expected = [
        (name, array, index)
        for name, array in arrays.items()
        for index in _expected_chunks(array, _steps_of(array, name, arrays), known, samples)
    ]
    with ThreadPoolExecutor(THREADS, "actigrad-verify") as pool:
        found = pool.map(lambda one: _read(files, *one), expected)
        size = 0
        for done, (damage, nbytes) in enumerate(found, start=1):
            size += nbytes
            if damage:
                damages.append(damage)
            advance(done, len(expected))
    return Verification(complete, len(expected), size, committed, tuple(damages))


def _is_being_made(file: str, known: Mapping[str, Any]) -> bool:
    """Whether a file is of orders or levels that were not finished: the consolidated metadata do not know them."""
    match = CHUNK.fullmatch(file)
    return ("/levels" in file or "/orders" in file) and (
        match[1] if match else file.removesuffix("/zarr.json")
    ) not in known


def whole_steps(where: Where) -> set[int]:
    """The recorded steps of which every chunk is there and can be read: what is known of a store without its journal.

    Cost: one read of the store.
    """
    place = find_place(where)
    files = place.files()
    if "samples/loss/zarr.json" not in files or any(_broken_metadata(place, files, {}, True)):
        return set()
    arrays = _arrays(place, files, set())
    whole = set(_steps_of(arrays["samples/loss"], "samples/loss", arrays) or ())
    for name, array in arrays.items():
        steps = _steps_of(array, name, arrays) or []
        for index in _expected_chunks(array, steps, None, 0) if steps else ():
            start = index[0] * owned(array)[0]
            inside = steps[start : start + owned(array)[0]]
            whole -= set(inside) - _steps_written(files, name, array, index, inside)
    return whole


def _steps_written(
    files: Mapping[str, int], name: str, array: zarr.Array, index: tuple[int, ...], steps: list[int]
) -> set[int]:
    """Which of the steps that share a chunk are in it: the others are nothing but the fill value.

    No summary is that, because it counts what is not finite.
    """
    if _read(files, name, array, index)[0]:
        return set()
    if len(steps) == 1:
        return set(steps)
    block = np.asarray(array[tuple(slice(*span) for span in _region(array, index))])
    unset = np.full_like(block[0], array.fill_value)
    return {
        step for step, values in zip(steps, block, strict=True) if not np.array_equal(values, unset, equal_nan=True)
    }


def _broken_metadata(
    place: Place, files: Mapping[str, int], known: Mapping[str, Any], complete: bool
) -> Iterator[Damage]:
    """Arrays and groups whose zarr.json is gone, is no JSON, or is not what was consolidated."""
    # While steps are added, an array's own metadata tell an earlier size.
    extra = {"consolidated_metadata"} if complete else {"consolidated_metadata", "shape"}
    bare = lambda metadata: {key: value for key, value in metadata.items() if key not in extra}
    there = {name.removesuffix("/zarr.json") for name in files if name.endswith("/zarr.json")}
    there |= {match[1] for name in files if (match := CHUNK.fullmatch(name))}
    for name in sorted(there | set(known)):
        try:
            metadata = json.loads(place.read(f"{name}/zarr.json"))
        except FileNotFoundError:
            yield Damage(name, None, "missing")
            continue
        except ValueError as error:
            yield Damage(name, None, f"damaged: {error}")
            continue
        if name in known and bare(metadata) != bare(known[name]):
            yield Damage(name, None, "damaged: it is not what was consolidated")


def _arrays(place: Place, files: Mapping[str, int], broken: set[str]) -> dict[str, zarr.Array]:
    """Every array whose metadata are whole, by its path."""
    root = zarr.open_group(place.to_zarr(read_only=True), mode="r")
    names = sorted(name.removesuffix("/zarr.json") for name in files if name.endswith("/zarr.json"))
    nodes = {name: root[name] for name in names if name not in broken}
    return {name: node for name, node in nodes.items() if isinstance(node, zarr.Array)}


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
    everything = chunk_indices([(0, size) for size in array.shape], owned(array))
    if committed is None or steps is None:
        yield from everything
        return
    dims = _dims(array)
    step_axis = dims.index("step")
    chunk = owned(array)[step_axis]
    for index in everything:
        needed = samples
        if "sample" in dims:
            axis = dims.index("sample")
            needed = min(samples, (index[axis] + 1) * owned(array)[axis])
        inside = steps[index[step_axis] * chunk : (index[step_axis] + 1) * chunk]
        if any(needed <= committed.get(step, 0) for step in inside):
            yield index


def _dims(array: zarr.Array) -> tuple[str | None, ...]:
    """The names of its axes."""
    return tuple(array.metadata.dimension_names or ())  # pyright: ignore[reportAttributeAccessIssue]


def _read(files: Mapping[str, int], name: str, array: zarr.Array, index: tuple[int, ...]) -> tuple[Damage | None, int]:
    """What is wrong with what one write wrote, and its size."""
    region = _region(array, index)
    nbytes = math.prod(stop - start for start, stop in region) * array.dtype.itemsize
    if "/".join([name, "c", *map(str, index)]) not in files:
        return Damage(name, region, "missing"), nbytes
    try:
        array[tuple(slice(*span) for span in region)]
    except Exception as error:  # whatever a codec raises
        return Damage(name, region, f"damaged: {type(error).__name__}: {str(error).splitlines()[0][:100]}"), nbytes
    return None, nbytes


def _region(array: zarr.Array, index: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """What one write owns, in offsets."""
    spans = zip(index, owned(array), array.shape, strict=True)
    return tuple((i * chunk, min(size, (i + 1) * chunk)) for i, chunk, size in spans)
