"""Scribe: a thread that copies, finishes and writes what was measured, so that a training never waits for a disk.

    scribe = Scribe(write)                   # write([(step, taken), …]) does the work, for several moments at once
    scribe.offer(step, taken)                # False when the disk is so slow that memory would fill
    scribe.flush()                           # what was offered so far is written
    scribe.finish()                          # and that is all
    scribe.failure                           # what went wrong; nothing is written after it
    scribe.writes, scribe.seconds            # how often it wrote, and how long that took

The first moment is written at once. After it, the more a write costs the rarer it is: within 0.7 % of the time, and
every half a minute at best.
"""

import queue
import threading
import time
from collections.abc import Callable

from actigrad.runs.measure import Taken

EVERY_SECONDS, PAUSE = 30.0, 150.0
"""Between two writes: so long, and so many times as long as the last one took."""
PENDING_BYTES, QUEUE_BYTES = 2**26, 2**29
"""What is written at once, and what is taken in at most."""

Moment = tuple[int, Taken]


class Scribe:
    """The thread; it does not keep a process alive."""

    def __init__(self, write: Callable[[list[Moment]], None]):
        self._write = write
        self._queue: queue.SimpleQueue[Moment | threading.Event | None] = queue.SimpleQueue()
        self._waiting, self._written = 0, 0
        self._due = 0.0
        self.failure: Exception | None = None
        self.writes, self.seconds = 0, 0.0
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

    def flush(self) -> None:
        """Write what was offered so far, and wait for it; at a failure, no longer."""
        done = threading.Event()
        self._queue.put(done)
        while self._thread.is_alive() and not done.wait(0.05):
            pass

    def finish(self) -> None:
        """Write what is left, and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            going = True
            while going:
                moments, going, done = self._gather()
                if moments:
                    self._put(moments)
                if done:
                    done.set()
        except Exception as error:
            self.failure = error

    def _gather(self) -> tuple[list[Moment], bool, threading.Event | None]:
        """Moments until it is time to write them, whether more may come, and who waits for it."""
        moments: list[Moment] = []
        size = 0
        while size < PENDING_BYTES:
            patience = max(0.0, self._due - time.monotonic()) if moments else None
            try:
                item = self._queue.get(timeout=patience)
            except queue.Empty:
                break
            if item is None or isinstance(item, threading.Event):
                return moments, item is not None, item
            step, taken = item
            moments.append((step, taken.on_host()))
            size += taken.nbytes
        return moments, True, None

    def _put(self, moments: list[Moment]) -> None:
        began = time.monotonic()
        self._write(moments)
        took = time.monotonic() - began
        self.writes, self.seconds = self.writes + 1, self.seconds + took
        self._written += sum(taken.nbytes for _, taken in moments)
        self._due = time.monotonic() + pause_after(took)


def pause_after(seconds: float) -> float:
    """Seconds until the next write, after one that took so long."""
    return max(EVERY_SECONDS, PAUSE * seconds)
