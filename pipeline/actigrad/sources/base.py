"""What a source is: named fields of one length, read in blocks of samples; and what a field may hold.

Numbers go to the loss. Text does not, as no JAX function takes it. Integers, truth values and text that are one a
sample (ids, labels) stand beside each sample in the store. All else, dates or pictures as objects, is refused by name
before anything runs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from actigrad.errors import ActigradError, ConfigError, DataError, Problem

Batch = dict[str, np.ndarray]
Block = tuple[int, int]


@dataclass(frozen=True)
class Field:
    """What one sample holds under one name.

    Attributes:
        dtype: of NumPy, or `text`.
        shape: without the sample's axis.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_known(self) -> bool:
        """Whether it stands beside each sample in the store: one integer, truth value or text."""
        return self.shape == () and (self.dtype == "text" or np.dtype(self.dtype).kind in "iub")

    @property
    def nbytes(self) -> int:
        """Bytes of one sample; a text counts as 64."""
        return 64 if self.dtype == "text" else np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        """As in `float32[8, 8, 1]`."""
        return f"{self.dtype}{list(self.shape)}"


class Source(ABC):
    """Samples under names.

    Attributes:
        key: the key of the config that it came from, for messages.
        batch_size: samples in a batch of the run, by which messages count.
        fields: what a sample holds.
    """

    def __init__(self, key: str, batch_size: int, fields: Mapping[str, Field]):
        self.key, self.batch_size, self.fields = key, batch_size, dict(fields)

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def read(self, rows: np.ndarray, blocks: Iterable[Block]) -> Iterator[tuple[Block, Batch]]:
        """The numbers of the samples `rows[start:stop]` for each (start, stop); blocks are in order.

        Raises:
            DataError: when a batch cannot be read, or is not as the first one was; it names the batch.
        """

    @abstractmethod
    def known(self, rows: np.ndarray) -> Batch:
        """What stands beside each of these samples in the store."""

    @abstractmethod
    def digest(self) -> str:
        """A fingerprint of the samples; how exact it is, is told by the kind of source."""

    @abstractmethod
    def for_training(self) -> Any:
        """What `train.factory` is given."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The fields that go to the loss."""
        return tuple(name for name, field in self.fields.items() if field.dtype != "text")

    @property
    def beside(self) -> tuple[str, ...]:
        """The fields that stand beside each sample."""
        return tuple(name for name, field in self.fields.items() if field.is_known)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return sum(field.nbytes for field in self.fields.values())


def as_array(value: Any, where: str) -> np.ndarray:
    """Numbers or text as NumPy holds them.

    Raises:
        DataError: when it is neither; `where` names it.
    """
    array = np.asarray(value)
    if array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat):
        return array
    # ml_dtypes' bfloat16 and its like are of kind V, and have no fields
    if array.dtype.kind in "biufcUT" or (array.dtype.kind == "V" and array.dtype.isbuiltin == 2):
        return array
    held = f"objects, the first of type {type(next(array.flat)).__name__}" if array.dtype.kind == "O" else array.dtype
    raise DataError(
        f"{where} holds {held}; expected numbers, truth values or text, all samples of one shape. Convert it, or leave "
        "it out: data.factory may return any part of a dataset."
    )


def field_of(array: np.ndarray) -> Field:
    """What one sample of an array of samples holds."""
    return Field("text" if array.dtype.kind in "OUT" else array.dtype.name, array.shape[1:])


def check_batch(batch: Mapping[str, np.ndarray], fields: Mapping[str, Field], where: str) -> None:
    """Raise unless the batch holds the fields, all of one length."""
    found = {name: field_of(values) for name, values in batch.items() if values.ndim}
    if found == dict(fields) and len({len(values) for values in batch.values()}) == 1:
        return
    differs = [
        f"{name} {found.get(name, 'nothing')} where {fields.get(name, 'nothing')} was expected"
        for name in {**fields, **batch}
        if found.get(name) != fields.get(name)
    ]
    lengths = {name: len(values) for name, values in batch.items() if values.ndim}
    told = ", ".join(differs) or f"fields of different lengths: {lengths}"
    raise DataError(
        f"{where} has {told}. All batches need the same names, dtypes and shapes; only the last may be short."
    )


@contextmanager
def reading(where: str) -> Iterator[None]:
    """A failure of what is read is told as that of the place."""
    try:
        yield
    except ActigradError:
        raise
    except Exception as error:
        raise DataError(f"{where} could not be read: {type(error).__name__}: {error}") from error


def refuse(key: str, found: str, expected: str, hint: str = "") -> ConfigError:
    """A problem of the config's data."""
    return ConfigError(Problem(key, found, expected, "the config", hint))
