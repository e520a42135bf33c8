"""Repair: the damaged parts of a store captured again, and nothing else written.

    repaired = repair("run.zarr")                # or repair(path, job), when references resolve only from elsewhere
    repaired.regions                             # what was written

A store holds the config that made it. The model, the data and the weights must be the same as then (the fingerprint
tells); training is repeated up to the steps that are needed. Chunks that were whole are not touched. The new chunks
hold the bytes that were lost where the machine computes as it did then. Orders and levels that are damaged are taken
out, as they can be made again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from actigrad.config.records import Config
from actigrad.errors import StoreError
from actigrad.runs.job import Job, load
from actigrad.runs.record import StepCapture
from actigrad.storage.create import finalize_store, forget, restore_metadata, write_coordinate
from actigrad.storage.grid import Region, chunk_indices
from actigrad.storage.journal import Journal
from actigrad.storage.places import Place, Where, find_place
from actigrad.storage.store import check_version, is_derived, read_consolidated
from actigrad.storage.template import ArraySpec, Template
from actigrad.storage.verification import Damage, verify
from actigrad.storage.writer import Writer

Chunks = dict[str, set[tuple[int, ...]]]


@dataclass(frozen=True)
class Repaired:
    """What was done.

    Attributes:
        damages: what was found before.
        regions: chunks that were written anew.
        steps: the recorded steps that were captured for it.
    """

    damages: tuple[Damage, ...]
    regions: int
    steps: tuple[int, ...]


def repair(where: Where, job: Job | None = None, *, told: Callable[[str], Any] = lambda what: None) -> Repaired:
    """Find what is missing or damaged, and write it again.

    Args:
        where: the store.
        job: the run that made it; by default loaded from the config that the store holds.
        told: given a line about what is done next.

    Raises:
        StoreError: when another process writes to the store, or it was made by another run than `job` is now.
        ConfigError: when the config's references do not resolve here.
    """
    path = find_place(where)
    with Journal(path) as journal:
        told("reading every chunk")
        found = verify(path)
        if not found.damages:
            return Repaired((), 0, ())
        attrs = check_version(path, writing=True)
        derived = _drop_derived(path, found.damages, told)
        if derived and not (found := verify(path)).damages:
            return Repaired(derived, 0, ())
        if job is None and "model" not in attrs["config"]:
            raise StoreError(
                f"{path} was recorded inside a training loop of someone's own, so its {len(found.damages)} damaged "
                f"parts (the first: {found.damages[0].array}) cannot be captured again. What is whole can be read."
            )
        job = job or load(Config.model_validate(attrs["config"], strict=False), "the store's config")
        _check_fingerprint(path, attrs["fingerprint"], job)
        capture = StepCapture(job)
        broken = [damage.array for damage in found.damages if damage.region is None]
        for name in broken:
            restore_metadata(path, name, capture.template)
        # Chunks of an array whose metadata were broken could not be read before.
        damages = verify(path).damages if broken else found.damages
        wanted = _wanted(damages, capture.template)
        committed = lambda step: len(job.rows) if found.complete else found.committed.get(step, 0)
        needed = _needed(wanted, capture.template, job, committed)
        with Writer(path, journal) as writer:
            sink = _Only(writer, wanted, _coming(wanted, capture.template, job, committed))
            for array in wanted:
                if array in capture.template.coords:
                    write_coordinate(path, capture.template.arrays[array], capture.template.coords[array])
            for step, before, params in job.recorded() if needed else ():
                if step in needed:
                    told(f"capturing step {step} again")
                    start, stop = needed[step]
                    capture.record(sink, step, before, params, done=start, until=stop)
                if step >= max(needed):
                    break
    left = verify(path).damages
    if left:
        raise StoreError(f"{path}: {len(left)} parts are still damaged; the first, {left[0].array}, is {left[0].what}.")
    if found.complete:
        finalize_store(path)
    return Repaired(derived + found.damages, sum(map(len, wanted.values())), tuple(sorted(needed)))


def _drop_derived(place: Place, damages: Iterable[Damage], told: Callable[[str], Any]) -> tuple[Damage, ...]:
    """Take out orders and levels that are damaged, and tell how they are made again; the damages that this was."""
    known = read_consolidated(place)
    derived = [name for name, metadata in known.items() if is_derived(metadata)]
    inside = lambda damage, name: damage.array == name or damage.array.startswith(f"{name}/")
    found = tuple(damage for damage in damages if any(inside(damage, name) for name in derived))
    root = zarr.open_group(place.to_zarr(), mode="r+", use_consolidated=False)
    for name in derived:
        if any(inside(damage, name) for damage in found):
            forget(place, name)
            del root[name]
            cure = "`actigrad levels` makes it again, or save_order if it was your own"
            told(f"{name} is damaged and was taken out; {cure}")
    return found


def _check_fingerprint(path: Place, theirs: dict[str, str], job: Job) -> None:
    ours = job.fingerprint()
    differs = [part for part in ours if theirs.get(part) != ours[part]]
    if differs:
        raise StoreError(
            f"{path} was made by a run that differs from what its config gives now in its {', '.join(differs)}, so "
            "nothing can be captured again as it was. Restore that, or make the store again."
        )


def _wanted(damages: Iterable[Damage], template: Template) -> Chunks:
    """The chunks to write, by array."""
    wanted: Chunks = {}
    for damage in damages:
        assert damage.region is not None
        chunks = chunk_indices(damage.region, template.arrays[damage.array].chunks)
        wanted.setdefault(damage.array, set()).update(chunks)
    return wanted


def _coming(
    wanted: Chunks, template: Template, job: Job, committed: Callable[[int], int]
) -> dict[tuple[str, tuple[int, ...]], list[int]]:
    """The offsets of the steps that each wanted chunk is made of."""
    return {
        (array, index): _steps_in(template.arrays[array], index, job.config.steps, committed)
        for array, chunks in wanted.items()
        for index in chunks
    }


def _needed(
    wanted: Chunks, template: Template, job: Job, committed: Callable[[int], int]
) -> dict[int, tuple[int, int]]:
    """The samples to capture by step: whole segments, or all where an array is of all samples together."""
    n, segment = len(job.rows), template.segment
    needed: dict[int, tuple[int, int]] = {}
    for array, chunks in wanted.items():
        spec = template.arrays[array]
        if array in template.coords:
            continue
        for index in chunks:
            start, stop = 0, n
            if "sample" in spec.dims:
                axis = spec.dims.index("sample")
                start = index[axis] * spec.chunks[axis] // segment * segment
                stop = min(n, -(-(index[axis] + 1) * spec.chunks[axis] // segment) * segment)
            for at in _steps_in(spec, index, job.config.steps, committed):
                step = _step_at(spec, at, job.config.steps)
                before = needed.get(step, (start, stop))
                needed[step] = min(start, before[0]), max(stop, before[1])
    return needed


def _step_at(spec: ArraySpec, at: int, steps: Sequence[int]) -> int:
    return steps[at] if spec.shape[0] == len(steps) else steps[-1]


def _steps_in(
    spec: ArraySpec, index: tuple[int, ...], steps: Sequence[int], committed: Callable[[int], int]
) -> list[int]:
    """The offsets along a chunk's step axis at which anything was committed."""
    chunk = spec.chunks[0]
    inside = range(index[0] * chunk, min(spec.shape[0], (index[0] + 1) * chunk))
    return [at for at in inside if committed(_step_at(spec, at, steps))]


class _Only:
    """A sink that lets the wanted chunks through; one of several steps when the last of them has come.

    Args:
        writer: where they go.
        wanted: the chunks.
        steps: the offsets of the steps that will come, by array and chunk.
    """

    def __init__(self, writer: Writer, wanted: Chunks, steps: Mapping[tuple[str, tuple[int, ...]], Iterable[int]]):
        self.writer, self.wanted = writer, wanted
        self.coming = {key: set(offsets) for key, offsets in steps.items()}
        self.gathered: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        """Queue what was wanted of it."""
        chunks, shape = self.writer.chunks(array), self.writer.shape(array)
        for index in self.wanted.get(array, set()) & set(chunk_indices(region, chunks)):
            whole = [(i * c, min(size, (i + 1) * c)) for i, c, size in zip(index, chunks, shape, strict=True)]
            part = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(whole, region, strict=True)]
            inside = (slice(a - start, b - start) for (a, b), (start, _) in zip(part, region, strict=True))
            values = np.ascontiguousarray(block[tuple(inside)])
            if part == whole:
                self.writer.put(array, part, values)
            else:
                self._gather(array, index, whole, part[0], values)

    def commit(self, step: int, rows: int, state: Callable[[], bytes] | None) -> None:
        """The journal knows it from before."""
        self.writer.flush()

    def _gather(
        self, array: str, index: tuple[int, ...], whole: Region, steps: tuple[int, int], values: np.ndarray
    ) -> None:
        key, fill = (array, index), np.nan if values.dtype.kind == "f" else -1
        if key not in self.gathered:
            self.gathered[key] = np.full([stop - start for start, stop in whole], fill, values.dtype)
        self.gathered[key][steps[0] - whole[0][0] : steps[1] - whole[0][0]] = values
        self.coming[key] -= set(range(*steps))
        if not self.coming[key]:
            self.writer.put(array, whole, self.gathered.pop(key))
