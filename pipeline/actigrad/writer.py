"""Writer: blocks to disk by several threads, journaled, so that a killed run loses nothing that was committed.

    with Writer("run.zarr", fingerprint) as writer:
        if not writer.is_done("step 20"):
            writer.put("sites/head/0/full/activation", region, block)   # returns at once; waits when much is queued
            writer.commit("step 20")                                    # it is on the disk, and the journal says so

A block is whole chunks or refused. Each chunk file is synced before its commit is journaled, and each journal line is
synced before `commit` returns: after a power cut the journal never says more than the disk holds. The journal is
locked while it is open: a second run on the same store is refused.
"""

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.grid import Region, chunk_indices, validate_region
from actigrad.store import open_journal

THREADS = max(1, min(4, (os.cpu_count() or 2) // 2))
QUEUE_BYTES = 2**29


class Writer:
    """The one writer of a store.

    Args:
        path: the store, created before.
        fingerprint: what makes this run this run, by part; a journal of another run is refused, naming the parts.

    Raises:
        StoreError: when another process writes here, or the journal is of another run.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, str]):
        self.path = Path(path)
        self._journal = open_journal(path)
        self._done: set[str] = set()
        try:
            self._read_journal(dict(fingerprint))
        except BaseException:
            self._journal.close()
            raise
        self._root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        self._arrays: dict[str, zarr.Array] = {}
        self._pool = ThreadPoolExecutor(THREADS, "actigrad-writer")
        self._pending: list[Future[None]] = []
        self._room = threading.Condition()
        self._queued = 0
        self.bytes_written = 0

    def __enter__(self) -> "Writer":
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is queued, and let go of the store."""
        self.close()

    def is_done(self, name: str) -> bool:
        """Whether the journal has a commit of this name."""
        return name in self._done

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        """Queue one block; waits while more than `QUEUE_BYTES` are queued. The block must not change afterwards.

        Raises:
            StoreError: when the region shares a chunk with another write, or an earlier write failed.
        """
        if array not in self._arrays:
            self._arrays[array] = self._root[array]  # type: ignore[assignment]
        target = self._arrays[array]
        validate_region(region, target.shape, target.chunks, array)
        with self._room:
            self._room.wait_for(lambda: self._queued == 0 or self._queued + block.nbytes <= QUEUE_BYTES)
            self._queued += block.nbytes
        self._pending.append(self._pool.submit(self._write, target, region, block))
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            self._raise(future)

    def commit(self, name: str) -> None:
        """Return when everything put so far is on the disk and the journal says that `name` is.

        Raises:
            StoreError: when any write failed; the first failure is told.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.exception()
        for future in pending:
            self._raise(future)
        self._append({"done": name})
        self._done.add(name)

    def close(self) -> None:
        """Let queued writes end, then unlock."""
        self._pool.shutdown(wait=True)
        self._journal.close()

    def _write(self, target: zarr.Array, region: Region, block: np.ndarray) -> None:
        try:
            target[tuple(slice(*span) for span in region)] = block
            folder = self.path / target.path
            for index in chunk_indices(region, target.chunks):
                _sync(folder.joinpath("c", *map(str, index)))
        finally:
            with self._room:
                self._queued -= block.nbytes
                self.bytes_written += block.nbytes
                self._room.notify_all()

    def _raise(self, future: Future[None]) -> None:
        error = future.exception()
        if isinstance(error, OSError):
            raise StoreError(
                f"writing to {self.path} failed: {error.strerror or error}. What was committed before is safe; make "
                "room or repair the disk, then run again with --resume."
            ) from error
        if error is not None:
            raise error

    def _read_journal(self, fingerprint: dict[str, str]) -> None:
        self._journal.seek(0)
        whole, _, torn = self._journal.read().rpartition(b"\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        if torn:  # a line that was being written when the power went
            self._journal.truncate(len(whole) + bool(whole))
        if not lines:
            self._append({"fingerprint": fingerprint})
            return
        theirs = lines[0]["fingerprint"]
        differs = [part for part in fingerprint if theirs.get(part) != fingerprint[part]]
        if differs:
            raise StoreError(
                f"the store {self.path} was begun by another run: its {', '.join(differs)} "
                f"differ{'s' * (len(differs) == 1)}. Resume with what it was begun with, or start over: --overwrite."
            )
        self._done = {line["done"] for line in lines[1:]}

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self._journal.seek(0, os.SEEK_END)
            self._journal.write(json.dumps(record).encode() + b"\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise StoreError(
                f"the journal of {self.path} cannot be written: {error.strerror}. Resume with --resume."
            ) from error


def _sync(path: Path) -> None:
    with contextlib.closing(os.fdopen(os.open(path, os.O_RDONLY))) as file:
        os.fsync(file.fileno())
