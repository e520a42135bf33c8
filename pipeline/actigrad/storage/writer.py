"""Writer: blocks to disk by several threads, journaled, so that a killed run loses nothing that was committed.

    with Journal("run.zarr") as journal, Writer("run.zarr", journal) as writer:
        writer.put("sites/head/0/full/activation", region, block)   # returns at once; waits when much is queued
        writer.commit(20, 4096)                                     # returns at once; journaled when all is on the disk

A block is whole chunks or refused. Each chunk outlasts a power cut before its commit is journaled. Neither `put` nor
`commit` waits for the disk, so the device goes on; what goes wrong there is raised by the next call, and by `close`.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.grid import Region, validate_region
from actigrad.storage.journal import Journal
from actigrad.storage.places import Where, find_place
from actigrad.storage.steps import OpenSteps
from actigrad.storage.store import owned

THREADS = max(1, min(4, (os.cpu_count() or 2) // 2))
QUEUE_BYTES = 2**29


class Writer:
    """The one writer of a store; the journal is open as long as it writes."""

    def __init__(self, path: Where, journal: Journal):
        self.path, self.journal = find_place(path), journal
        self._root = zarr.open_group(self.path.to_zarr(durable=True), mode="r+", use_consolidated=False)
        self._arrays: dict[str, zarr.Array] = {}
        self._pool = ThreadPoolExecutor(THREADS, "actigrad-writer")
        self._commits = ThreadPoolExecutor(1, "actigrad-commit")
        self._steps, self._latest = OpenSteps(), dict[str, Future[None]]()
        self._pending: list[Future[None]] = []
        self._last: Future[None] | None = None
        self._room = threading.Condition()
        self._queued = 0
        self._failure: BaseException | None = None
        self.bytes_written = 0

    def __enter__(self) -> "Writer":
        """The writer itself."""
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Let queued writes and commits end; their failure is raised unless something else is under way."""
        self.close(silent=kind is not None)

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        """Queue one block; waits while more than `QUEUE_BYTES` are queued. The block must not change afterwards.

        Raises:
            StoreError: when the region shares a chunk with another write, or an earlier write failed.
        """
        target = self._array(array)
        region, block = self._steps.widen(target, region, block)
        validate_region(region, target.shape, owned(target), array)
        with self._room:
            self._room.wait_for(lambda: self._queued == 0 or self._queued + block.nbytes <= QUEUE_BYTES)
            self._queued += block.nbytes
        self._raise()
        before = self._latest.get(array)
        self._latest[array] = self._pool.submit(self._write, target, region, block, before)
        self._pending.append(self._latest[array])

    def commit(self, step: int, rows: int, state: bytes | None = None) -> None:
        """Journal, once everything put so far is on the disk, that the first `rows` samples of `step` are in.

        Raises:
            StoreError: when an earlier write failed; it and all that come later are not journaled.
        """
        self._raise()
        pending, self._pending = self._pending, []
        self._last = self._commits.submit(self._commit, pending, step, rows, state)

    def flush(self) -> None:
        """Wait until everything put so far is on the disk, and every commit is journaled.

        Raises:
            StoreError: when any write failed; the first failure is told.
        """
        for future in [*self._pending, *([self._last] if self._last else [])]:
            future.exception()
        self._raise()

    def chunks(self, array: str) -> tuple[int, ...]:
        """What one write owns of an array."""
        return owned(self._array(array))

    def shape(self, array: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self._array(array).shape

    def close(self, *, silent: bool = False) -> None:
        """Let queued writes and commits end."""
        self._pool.shutdown(wait=True)
        self._commits.shutdown(wait=True)
        if not silent:
            self._raise()

    def _array(self, name: str) -> zarr.Array:
        if name not in self._arrays:
            found: Any = self._root[name]
            # An array that is opened forgets that blocks of nothing but the fill value, NaN, are to be written as well.
            written = zarr.AsyncArray(found.metadata, found.store_path, {"write_empty_chunks": True})
            self._arrays[name] = zarr.Array(written)
        return self._arrays[name]

    def _write(self, target: zarr.Array, region: Region, block: np.ndarray, before: Future[None] | None) -> None:
        try:
            if before is not None:  # the same chunk may be written twice, and the later one must stay
                before.exception()
            target[tuple(slice(*span) for span in region)] = block
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            with self._room:
                self._queued -= block.nbytes
                self.bytes_written += block.nbytes
                self._room.notify_all()

    def _commit(self, pending: list[Future[None]], step: int, rows: int, state: bytes | None) -> None:
        """One after another, in the order of `commit`; nothing after the first failure."""
        for future in pending:
            future.exception()
        if self._failure is None:
            try:
                self.journal.commit(step, rows, state)
            except BaseException as error:
                self._failure = error

    def _raise(self) -> None:
        error = self._failure
        if isinstance(error, OSError):
            raise StoreError(
                f"writing to {self.path} failed: {error.strerror or error}. What was committed before is safe; make "
                "room or repair the disk, then run again with --resume."
            ) from error
        if error is not None:
            raise error
