"""Writer: blocks to disk by several threads, journaled, so that a killed run loses nothing that was committed.

    with Journal("run.zarr") as journal, Writer("run.zarr", journal) as writer:
        writer.put("sites/head/0/full/activation", region, block)   # returns at once; waits when much is queued
        writer.commit(20, 4096)                                     # returns at once; journaled when all is on the disk

A block is whole chunks or refused. Each chunk outlasts a power cut before its commit is journaled. Neither `put` nor
`commit` waits for the disk before `QUEUE_BYTES` or a second commit are waiting for it, so the device goes on; what goes
wrong there is raised by the next call, and by `close`.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.grid import Region, validate_region
from actigrad.storage.journal import Journal
from actigrad.storage.places import Where, find_place
from actigrad.storage.plain import find_layout, iter_files
from actigrad.storage.steps import OpenSteps
from actigrad.storage.store import owned

THREADS = 4
"""On two cores too: threads that wait for the disk need none, and syncs of small files are shared between them."""
QUEUE_BYTES = 2**28
"""A segment: what comes at once when the blocks of all arrays become whole together."""


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
        self._failure: StoreError | None = None
        self._gap = False
        self.bytes_written = 0

    def __enter__(self) -> "Writer":
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let queued writes and commits end; their failure is raised unless something else is under way.

        After Ctrl-C what is queued is dropped: who wants it on the disk flushes first.
        """
        self.close(silent=kind is not None, drop=kind is not None and issubclass(kind, KeyboardInterrupt))

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
            self._raise()
            self._queued += block.nbytes
        before = self._latest.get(array)
        self._latest[array] = self._pool.submit(self._write, target, region, block, before)
        self._pending.append(self._latest[array])

    def commit(self, step: int, rows: int, state: Callable[[], bytes] | None = None) -> None:
        """Journal, once everything put so far is on the disk, that the first `rows` samples of `step` are in.

        Waits while the commit before is not journaled, so that the states of two at most are held.

        Args:
            step: the step.
            rows: how many samples of it.
            state: gives what goes on from there, for the journal; called by another thread.

        Raises:
            StoreError: when an earlier write failed; it and all that come later are not journaled.
        """
        _done([self._last] if self._last else [])
        self._raise()
        pending, self._pending = self._pending, []
        self._last = self._commits.submit(self._commit, pending, step, rows, state)

    def flush(self) -> None:
        """Wait until everything put so far is on the disk, and every commit is journaled.

        Raises:
            StoreError: when any write failed; the first failure is told.
        """
        _done([*self._pending, *([self._last] if self._last else [])])
        self._raise()

    def chunks(self, array: str) -> tuple[int, ...]:
        """What one write owns of an array."""
        return owned(self._array(array))

    def shape(self, array: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self._array(array).shape

    def close(self, *, silent: bool = False, drop: bool = False) -> None:
        """Let queued writes and commits end, or `drop` those that have not begun."""
        self._pool.shutdown(wait=True, cancel_futures=drop)
        self._commits.shutdown(wait=True, cancel_futures=drop)
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
            layout = find_layout(target)
            if layout is None:
                target[tuple(slice(*span) for span in region)] = block
            else:
                for name, part in iter_files(target, region, block):
                    self.path.write(name, *layout.encode(part))
        except BaseException as error:
            spans = ", ".join(f"{start}:{stop}" for start, stop in region)
            self._fail(error, f"writing {target.path} [{spans}]")
            raise
        finally:
            with self._room:
                self._queued -= block.nbytes
                self.bytes_written += block.nbytes
                self._room.notify_all()

    def _commit(self, pending: list[Future[None]], step: int, rows: int, state: Callable[[], bytes] | None) -> None:
        """One after another, in the order of `commit`; after one that could not be journaled none is."""
        self._gap = self._gap or not _done(pending)
        if self._gap:
            return
        try:
            self.journal.commit(step, rows, state and state())
        except BaseException as error:
            self._gap = True
            self._fail(error, f"the commit of {rows} samples of step {step}")

    def _fail(self, error: BaseException, doing: str) -> None:
        """Keep the first failure, in words."""
        if self._failure is None:
            told = error.strerror or error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self._failure = StoreError(
                f"{doing} to {self.path} failed: {told}. What was committed before is safe; make room or mend what "
                "failed, then run again with --resume."
            )
            self._failure.__cause__ = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure


def _done(futures: Sequence[Future[Any]]) -> bool:
    """Wait until all have ended; whether each did its work."""
    try:
        failures = [future.exception() for future in futures]
    except CancelledError:  # `concurrent.futures.wait` would wait for what was dropped for ever
        return False
    return not any(failures)
