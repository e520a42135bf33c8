"""The few things that a store and its journal need of the place where they are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from zarr.abc.store import Store

Content = bytes | bytearray | memoryview
THREADS = 16


@runtime_checkable
class Lock(Protocol):
    """Held by one process at a time."""

    def check(self) -> None:
        """Raise StoreError unless it is still held."""

    def release(self) -> None:
        """Let others have it."""


class Place(ABC):
    """Where a store or its journal is. Names inside are relative and have `/` between their parts.

    Whatever goes wrong with the place itself raises an OSError.
    """

    @abstractmethod
    def __str__(self) -> str:
        """As the user wrote it."""

    @abstractmethod
    def beside(self, suffix: str) -> "Place":
        """The place of the same name with a suffix."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing is there."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, name: str, *content: Content) -> None:
        """Make a file of the pieces, or replace it: whole or not at all; when this returns it outlasts a power cut."""

    def write_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write many files, the last one after all others; `settle` makes them outlast a power cut."""
        *most, last = files
        with ThreadPoolExecutor(THREADS, "actigrad-create") as pool:
            list(pool.map(lambda one: self.write(*one), most))
        self.write(*last)

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    @abstractmethod
    def clear(self) -> None:
        """Delete everything."""

    @abstractmethod
    def files(self, folder: str = "") -> dict[str, int]:
        """The bytes of each file below a folder, by name; what was being written when a process died is left out."""

    def names(self) -> Iterable[str]:
        """The names alone of `files`, which can cost much less."""
        return self.files()

    @abstractmethod
    def to_zarr(self, *, durable: bool = False, read_only: bool = False) -> Store:
        """The place as Zarr takes it; `durable`: a chunk outlasts a power cut as soon as it is written."""

    @abstractmethod
    def lock(self) -> Lock:
        """Lock it against other processes.

        Raises:
            StoreError: when another process holds it.
        """

    def settle(self) -> None:
        """Make all that was written outlast a power cut."""
        return

    def free_bytes(self) -> int | None:
        """How much more fits; None where nobody knows."""
        return None
