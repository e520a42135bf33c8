"""A lease: a lock where there is no kernel to take it back from a process that died.

A holder makes the object `lock N` (create only: of many who try, one succeeds) and writes it anew every `BEAT` seconds.
One that was not written for `LEASE` seconds is stale, and its holder is dead: whoever wants the lock makes `lock N+1`
and deletes it. Ages are differences between times that the server gave to two objects, so that no clock of a client
matters, jump as it may.

Limits: a holder that was cut off for longer than `LEASE` notices at its next `check`, before it commits; chunks that it
wrote in between were those of the same store. Delays of `LEASE` between two servers' clocks are beyond it.
"""

import json
import os
import socket
import threading
import time
import uuid
from abc import abstractmethod
from datetime import datetime

from actigrad.errors import StoreError
from actigrad.storage.places.base import Lock, Place

LEASE, BEAT = 60.0, 15.0


class Remote(Place):
    """A place that is shared with other machines."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Make a file; False when it is there already, and only one of many who try gets True."""

    @abstractmethod
    def modified(self, name: str) -> datetime:
        """When a file was last written, by the clock of the server."""

    def lock(self) -> "Lease":
        return Lease(self)


class Lease(Lock):
    """Held from construction until `release`, or until this process dies and `LEASE` seconds pass.

    Raises:
        StoreError: when another process holds it, telling which and since when it was silent.
    """

    def __init__(self, place: Remote):
        self.place = place
        self.content = json.dumps({
            "host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex
        }).encode()  # fmt: skip
        self.name = f"lock {max(self._locks().values(), default=0) + 1}"
        if not place.create(self.name, self.content):
            raise StoreError("another process is taking it at this moment")
        self._refuse_or_replace({*self._locks()} - {self.name})  # as they are now that ours is there to be seen
        self._lost, self._ended, self._beaten = False, threading.Event(), time.monotonic()
        self._beat = threading.Thread(target=self._keep_beating, name="actigrad-lease", daemon=True)
        self._beat.start()

    def check(self) -> None:
        """Raise StoreError when it was lost: another process took this one for dead."""
        if not self._lost:
            self._lost = not self._is_mine() or time.monotonic() - self._beaten > LEASE
        if self._lost:
            raise StoreError(
                f"{self.place}: the lock was lost, because this process could not be heard for {LEASE:.0f} s and "
                "another may write now. What was committed before is safe; run again with --resume."
            )

    def release(self) -> None:
        """Let others have it."""
        self._ended.set()
        self._beat.join()
        if not self._lost and self._is_mine():
            self.place.delete(self.name)

    def _locks(self) -> dict[str, int]:
        names = [name for name in self.place.files() if name.startswith("lock ")]
        return {name: int(name.partition(" ")[2]) for name in names}

    def _refuse_or_replace(self, others: set[str]) -> None:
        now = self.place.modified(self.name)
        for other in others:
            try:
                silent = (now - self.place.modified(other)).total_seconds()
                holder = json.loads(self.place.read(other))
            except FileNotFoundError:  # released in between
                continue
            if silent < LEASE:
                self.place.delete(self.name)
                raise StoreError(
                    f"process {holder['process']} of {holder['host']} holds it and was heard {silent:.0f} s ago; if it "
                    f"is dead, try again in {LEASE - silent:.0f} s"
                )
        for other in others:
            self.place.delete(other)

    def _is_mine(self) -> bool:
        try:
            return self.place.read(self.name) == self.content
        except FileNotFoundError:
            return False

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self._is_mine():
                    self._lost = True
                    return
                self.place.write(self.name, self.content)
                self._beaten = time.monotonic()
            except OSError:
                continue  # heard again in time or lost: `check` tells
