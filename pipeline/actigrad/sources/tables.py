"""Tables: samples at random. Only what is asked for is read, so a table on the disk stays there.

    ArrayTable({"x": np.load("x.npy", mmap_mode="r")}, "data.factory", 256).take(np.array([7, 3]))

The fingerprint is exact for a table in memory, or of at most `EXACT_BYTES`. Of a larger one on the disk it is made of
names, dtypes, shapes, the number of samples, all that is one a sample (ids, labels), and the values of `SPACED` samples
evenly spaced from the first to the last: another dataset is noticed, one changed sample of many may not be.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actigrad.sources.base import Batch, Block, Source, as_array, check_batch, field_of, reading, refuse
from actigrad.sources.digests import Digest

EXACT_BYTES = 2**28
SPACED = 256
READ_BYTES = 2**24
TRAINING_BYTES = 2**30


class Table(Source):
    """Samples of known number, at random; `in_memory` where reading costs nothing."""

    in_memory = False

    @abstractmethod
    def get(self, rows: np.ndarray, names: Sequence[str]) -> Batch:
        """These fields of these samples."""

    def take(self, rows: np.ndarray) -> Batch:
        """The numbers of these samples."""
        return self._checked(rows, self.numbers, "the data")

    def read(self, rows: np.ndarray, blocks: Iterable[Block]) -> Iterator[tuple[Block, Batch]]:
        """See `Source`."""
        for start, stop in blocks:
            where = f"batch {start // self.batch_size} of {self.key} (samples {start} to {stop})"
            yield (start, stop), self._checked(rows[start:stop], self.numbers, where)

    def known(self, rows: np.ndarray) -> Batch:
        """See `Source`."""
        return self._checked(rows, self.beside, f"{self.key}: ids and labels") if self.beside else {}

    def digest(self) -> str:
        """See the module's docstring."""
        n, names = len(self), tuple(self.fields)
        if self.in_memory or n * self.sample_bytes <= EXACT_BYTES:
            return self._digest(np.arange(n), names).hexdigest()
        spaced = np.unique(np.linspace(0, n - 1, SPACED).astype(np.int64))
        beside = self._digest(np.arange(n), self.beside).hexdigest() if self.beside else ""
        return self._digest(spaced, names, note=f"{n} samples, evenly spaced, {beside}").hexdigest()

    def for_training(self) -> Any:
        """A dict of arrays where it is in memory or of at most `TRAINING_BYTES`, else the table itself."""
        if self.in_memory or len(self) * self.sample_bytes <= TRAINING_BYTES:
            return self.take(np.arange(len(self)))
        return self

    def _checked(self, rows: np.ndarray, names: Sequence[str], where: str) -> Batch:
        with reading(where):
            batch = {name: as_array(values, f"{where}, {name!r},") for name, values in self.get(rows, names).items()}
        check_batch(batch, {name: self.fields[name] for name in names}, where)
        return batch

    def _digest(self, rows: np.ndarray, names: Sequence[str], note: str = "") -> Digest:
        fields = {name: self.fields[name] for name in names}
        digest = Digest(fields, note)
        size = max(1, READ_BYTES // max(1, sum(field.nbytes for field in fields.values())))
        for start in range(0, len(rows), size):
            digest.update(self._checked(rows[start : start + size], names, f"{self.key}: its samples from {start} on"))
        return digest


class ArrayTable(Table):
    """Arrays of any library whose first axis is the sample: NumPy's, in memory or mapped, Zarr's, xarray's."""

    def __init__(self, arrays: Mapping[str, Any], key: str, batch_size: int):
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        expected = "a dict of arrays whose first axes, the samples, have one length"
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            raise refuse(key, f"one that returned shapes {shapes}" if shapes else "one that returned nothing", expected)
        self.arrays = dict(arrays)
        self.in_memory = all(_is_in_memory(array) for array in arrays.values())
        heads = {
            name: as_array(_rows_of(a, np.arange(min(1, a.shape[0]))), f"{key}: {name!r}") for name, a in arrays.items()
        }
        super().__init__(key, batch_size, {name: field_of(head) for name, head in heads.items()})

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    def get(self, rows: np.ndarray, names: Sequence[str]) -> Batch:
        """See `Table`."""
        return {name: _rows_of(self.arrays[name], rows) for name in names}

    def for_training(self) -> Any:
        """The very arrays that the factory returned, where they are in memory."""
        return {name: self.arrays[name] for name in self.numbers} if self.in_memory else super().for_training()


class SampleTable(Table):
    """Anything with a length whose entries are single samples: a `grain.MapDataset`, a dataset of PyTorch's kind."""

    def __init__(self, samples: Any, key: str, batch_size: int):
        self.samples = samples
        head = {name: as_array(value, f"{key}: {name!r}") for name, value in samples[0].items()}
        super().__init__(key, batch_size, {name: field_of(value[None]) for name, value in head.items()})

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, rows: np.ndarray, names: Sequence[str]) -> Batch:
        """See `Table`."""
        found = [self.samples[int(row)] for row in rows]
        for row, one in zip(rows, found, strict=True):
            if not isinstance(one, Mapping) or not set(names) <= set(one):
                held = f"a dict of {', '.join(one)}" if isinstance(one, Mapping) else f"a {type(one).__name__}"
                raise ValueError(f"sample {row} is {held}; expected a dict of {', '.join(self.fields)}")
        return {name: np.stack([np.asarray(one[name]) for one in found]) for name in names}


def _rows_of(array: Any, rows: np.ndarray) -> np.ndarray:
    """These rows, read and not only referred to: what waits for the device is nobody else's."""
    if is_run(rows):
        part = array[slice(*span(rows))]
    else:
        part = array.oindex[rows] if hasattr(array, "oindex") else array[rows]
    return np.array(part) if isinstance(part, np.ndarray) else np.asarray(part)


def is_run(rows: np.ndarray) -> bool:
    """Whether rows follow one another: a slice is read much faster than a list."""
    return len(rows) > 0 and bool((np.diff(rows) == 1).all())


def span(rows: np.ndarray) -> tuple[int, int]:
    """Where rows that follow one another start and stop."""
    return int(rows[0]), int(rows[-1]) + 1


def _is_in_memory(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return False
        if array.base is None or not isinstance(array.base, np.ndarray):
            return True
        array = array.base
    return False
