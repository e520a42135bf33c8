"""A folder of this machine, or of a disk that it mounts.

A file appears whole or not at all, and its bytes are on the disk before its name is: what is replaced is never lost,
even when the power is. The lock is the kernel's (`flock`): it ends with the process that holds it, however that ends.
"""

import asyncio
import ctypes
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from actigrad.errors import StoreError
from actigrad.storage.places.base import Content, Lock, Place

PARTIAL = ".partial"


class Folder(Place):
    """A local folder."""

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def beside(self, suffix: str) -> "Folder":
        return Folder(self.path.with_name(self.path.name + suffix))

    def is_empty(self) -> bool:
        return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, *content: Content) -> None:
        write_file(self.path / name, *content)

    def write_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        made = set()
        for name, content in files:
            file = self.path / name
            if file.parent not in made:
                file.parent.mkdir(parents=True, exist_ok=True)
                made.add(file.parent)
            file.write_bytes(content)

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)

    def files(self, folder: str = "") -> dict[str, int]:
        return {name: os.stat(os.path.join(self.path, name)).st_size for name in self._walk(folder)}

    def names(self) -> Iterable[str]:
        return self._walk("")

    def _walk(self, folder: str) -> Iterator[str]:
        for path, _, names in os.walk(self.path / folder):
            within = os.path.relpath(path, self.path).replace(os.sep, "/")
            prefix = "" if within == "." else f"{within}/"
            yield from (prefix + name for name in names if not name.endswith(PARTIAL))

    def to_zarr(self, *, durable: bool = False, read_only: bool = False) -> Store:
        return (_DurableStore if durable else LocalStore)(self.path, read_only=read_only)

    def lock(self) -> Lock:
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise StoreError("another process holds it") from error
        return _Flock(file)

    def settle(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            if getattr(ctypes.CDLL(None), "syncfs", lambda handle: 1)(handle):
                os.sync()
        finally:
            os.close(handle)

    def free_bytes(self) -> int:
        there = self.path.absolute()
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free


class _Flock(Lock):
    def __init__(self, file: BinaryIO):
        self.file = file

    def check(self) -> None:
        """The kernel holds it as long as this process lives."""

    def release(self) -> None:
        self.file.close()


class _DurableStore(LocalStore):
    """Zarr's own store, but that it syncs: Zarr renames what may not be on the disk yet."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one file."""
        self._check_writable()
        write_file(self.root / key, memoryview(value.as_buffer_like()))


def write_file(path: Path, *content: Content) -> None:
    """A file of the pieces that is there whole, or not at all, after a power cut too."""
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for folder in (path.parent, *(folder.parent for folder in made)):
            sync(folder)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make the disk hold what is known of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
