"""Scribe: a thread that copies, finishes and writes what was measured, so that a training never waits for a disk.

    scribe = Scribe(write)                   # write([(step, taken), …]) does the work, for several moments at once
    scribe.offer(step, taken)                # False when the disk is so slow that memory would fill
    scribe.finish()                          # what is left is written
    scribe.failure                           # what went wrong; nothing is written after it

The first moment is written at once. After it, the more a write costs the rarer it is: at most one part in fifty of the
time, and every fifteen seconds at best.
"""

import queue
import threading
import time
from collections.abc import Callable

from actigrad.runs.measure import Taken

EVERY_SECONDS, PAUSE = 15.0, 50.0
"""Between two writes: so long, and so many times as long as the last one took."""
PENDING_BYTES, QUEUE_BYTES = 2**26, 2**29
"""What is written at once, and what is taken in at most."""

Moment = tuple[int, Taken]


class Scribe:
    """The thread; it does not keep a process alive."""

    def __init__(self, write: Callable[[list[Moment]], None]):
        self._write = write
        self._queue: queue.SimpleQueue[Moment | None] = queue.SimpleQueue()
        self._waiting, self._written = 0, 0
        self._due = 0.0
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="actigrad-scribe", daemon=True)
        self._thread.start()

    def offer(self, step: int, taken: Taken) -> bool:
        """Hand over one moment; whether there was room for it."""
        held = self._waiting - self._written
        if held and held + taken.nbytes > QUEUE_BYTES:
            return False
        self._waiting += taken.nbytes
        self._queue.put((step, taken))
        return True

    def finish(self) -> None:
        """Write what is left, and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        pending: list[Moment] = []
        try:
            while self._gather(pending):
                if pending:
                    self._flush(pending)
            if pending:
                self._flush(pending)
        except Exception as error:
            self.failure = error

    def _gather(self, pending: list[Moment]) -> bool:
        """Take in moments until it is time to write; False at the end."""
        size = 0
        while size < PENDING_BYTES:
            patience = max(0.0, self._due - time.monotonic()) if pending else None
            try:
                moment = self._queue.get(timeout=patience)
            except queue.Empty:
                return True
            if moment is None:
                return False
            step, taken = moment
            pending.append((step, taken.on_host()))
            size += taken.nbytes
        return True

    def _flush(self, pending: list[Moment]) -> None:
        began = time.monotonic()
        self._write(pending)
        self._written += sum(taken.nbytes for _, taken in pending)
        pending.clear()
        self._due = time.monotonic() + max(EVERY_SECONDS, PAUSE * (time.monotonic() - began))
