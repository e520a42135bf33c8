"""Streams: batches one after another, of any size, from what can only be iterated.

    stream = Stream(make, samples=4096, key="data.factory", batch_size=256)     # iter(make()) is one pass

Batches are cut and joined to the run's own. A pass is begun anew for each recorded step. Before a run the stream is
read through once, without computing: how many samples there are, their ids and labels, and an exact fingerprint come
from that, and every failure of the loader is met before anything is written. Later passes must give the same samples:
a loader that shuffles anew in each pass would put a sample's values beside another one's label, and is refused.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from actigrad.errors import DataError
from actigrad.sources.base import Batch, Block, Field, Source, as_array, check_batch, field_of, reading
from actigrad.sources.digests import Digest, batch_mark

END: Any = object()


@dataclass(frozen=True)
class Survey:
    """What the first pass told: how many samples, what stands beside each, a fingerprint, and a mark of each batch."""

    samples: int
    known: Batch
    digest: str
    marks: tuple[bytes, ...]


class Stream(Source):
    """Samples in the order in which they come; `samples` of them, or all where it is None."""

    def __init__(self, make: Callable[[], Iterable[Any]], samples: int | None, key: str, batch_size: int):
        self.make, self.samples, self.key = make, samples, key
        self.unit = "batch"
        with reading(f"batch 0 of {key}"):
            first = next(iter(make()), None)
        fields = {} if first is None else self._fields(first)
        super().__init__(key, batch_size, fields)

    def __len__(self) -> int:
        return self.samples if self.samples is not None else self.survey.samples

    def __iter__(self) -> Iterator[Batch]:
        """One pass: the stream's own batches, checked, without text."""
        for batch in self._batches():
            yield {name: batch[name] for name in self.numbers}

    def read(self, rows: np.ndarray, blocks: Iterable[Block]) -> Iterator[tuple[Block, Batch]]:
        """See `Source`; `rows` are the first samples in their order, as a stream has no others."""
        marks, last = self.__dict__.get("survey", Survey(0, {}, "", ())).marks, len(rows)
        for (start, stop), batch in self._cut(blocks):
            number, begins = divmod(start, self.batch_size)
            is_whole = begins == 0 and stop == min(start + self.batch_size, last)
            if is_whole and number < len(marks) and batch_mark(batch) != marks[number]:
                raise DataError(
                    f"batch {number} of {self.key} (samples {start} to {stop}) is not what it was in the first pass. A "
                    "stream must give the same samples in the same order each time: seed its shuffling in data.factory."
                )
            yield (start, stop), {name: batch[name] for name in self.numbers}

    def known(self, rows: np.ndarray) -> Batch:
        """See `Source`; reads the stream through once."""
        return self.survey.known

    def digest(self) -> str:
        """Of the samples that are captured, exact; reads the stream through once."""
        return self.survey.digest

    def for_training(self) -> "Stream":
        """The stream: each `iter` of it is a pass over all its batches."""
        return self

    @cached_property
    def survey(self) -> Survey:
        """The first pass."""
        digest, marks, parts, n = Digest(self.fields), [], [], 0
        for (_, stop), batch in self._cut(_blocks(self.samples, self.batch_size), to_its_end=self.samples is None):
            n = stop
            digest.update(batch)
            marks.append(batch_mark(batch))
            parts.append({name: batch[name] for name in self.beside})
        known = {name: np.concatenate([part[name] for part in parts]) for name in (self.beside if parts else ())}
        return Survey(n, known, digest.hexdigest(), tuple(marks))

    def _batches(self) -> Iterator[Batch]:
        """The stream's own batches, checked; an element that is one sample is a batch of one."""
        with reading(f"{self.unit} 0 of {self.key}"):
            elements = iter(self.make())
        for number in count():
            where = f"{self.unit} {number} of {self.key}"
            with reading(where):
                element = next(elements, END)
            if element is END:
                return
            batch = self._as_batch(element, where)
            check_batch(batch, self.fields, where)
            yield batch

    def _cut(self, blocks: Iterable[Block], *, to_its_end: bool = False) -> Iterator[tuple[Block, Batch]]:
        """The samples of each block; `to_its_end`, the last one may be short, and ends it."""
        batches, held, have = self._batches(), deque[tuple[int, Batch]](), 0
        for start, stop in blocks:
            while have < stop and (batch := next(batches, None)) is not None:
                # A loader may fill one buffer again and again: what is held is our own.
                held.append((have, {name: np.array(values) for name, values in batch.items()}))
                have += _length(batch)
            while held and held[0][0] + _length(held[0][1]) <= start:
                held.popleft()
            if have < stop and not to_its_end:
                raise self._ended(have, start, stop)
            if have > start:
                stop = min(stop, have)
                parts = [{k: v[max(0, start - at) : stop - at] for k, v in batch.items()} for at, batch in held]
                yield (start, stop), {name: np.concatenate([part[name] for part in parts]) for name in self.fields}
            elif to_its_end:
                return

    def _ended(self, have: int, start: int, stop: int) -> DataError:
        asked = f"data.samples asks for {self.samples}" if self.samples is not None else f"it had {len(self)} before"
        return DataError(
            f"{self.key} ended after {have} samples, in batch {start // self.batch_size} (samples {start} to {stop}); "
            f"{asked}. Let it give them all, or set data.samples to at most {have}."
        )

    def _fields(self, first: Any) -> dict[str, Field]:
        if isinstance(first, Mapping) and any(np.ndim(value) == 0 for value in first.values()):
            self.unit = "sample"
        batch = self._as_batch(first, f"{self.unit} 0 of {self.key}")
        fields = {name: field_of(values) for name, values in batch.items()}
        check_batch(batch, fields, f"{self.unit} 0 of {self.key}")
        return fields

    def _as_batch(self, element: Any, where: str) -> Batch:
        if type(element).__module__.startswith("pyarrow."):
            from actigrad.sources.arrow import to_batch

            element = to_batch(element)
        if not isinstance(element, Mapping) or not element:
            raise DataError(
                f"{where} is a {type(element).__name__}; expected a dict of arrays, samples along the first axis, like "
                '{"image": images, "label": labels}.'
            )
        batch = {str(name): as_array(value, f"{where}, {name!r},") for name, value in element.items()}
        return {name: value[None] for name, value in batch.items()} if self.unit == "sample" else batch


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _blocks(samples: int | None, size: int) -> Iterator[Block]:
    if samples is None:
        return ((start, start + size) for start in count(0, size))
    return ((start, min(start + size, samples)) for start in range(0, samples, size))
