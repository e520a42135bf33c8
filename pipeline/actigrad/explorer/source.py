"""Source: one store as all viewers share it: opened once, read once, followed while it is still being written.

    source = Source("digits", Path("runs/digits/digits.zarr"))
    source.follow()                    # True when there is something new; called every second
    snapshot = source.snapshot()       # what is committed now, or StoreError in words for the page

A store may vanish, come back and be damaged; none of it stops the server.
"""

import threading
from collections.abc import Hashable
from pathlib import Path

from actigrad.errors import StoreError
from actigrad.explorer.snapshot import Snapshot


class Source:
    """A store that may not be there yet, grow, vanish and come back."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, Path(path)
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._error: Exception | None = None
        self._marks: Hashable = None

    def snapshot(self) -> Snapshot:
        """What was there when `follow` last looked; never waits.

        Raises:
            StoreError: when nothing could be opened, or not yet.
        """
        snapshot, error = self._snapshot, self._error
        if snapshot is None:
            raise StoreError(str(error)) if error else StoreError(f"Opening {self.path} …")
        return snapshot

    def follow(self) -> bool:
        """Look for commits, an end, a loss or a return; True when the page should be drawn anew."""
        from actigrad.explorer import opening  # the server listens before Zarr and xarray are imported

        with self._lock:
            marks = opening.look(self.path)
            if marks == self._marks and (self._snapshot or self._error):
                return False
            try:
                self._snapshot, self._error = opening.open_snapshot(self.name, self.path, marks), None
            except StoreError as error:
                self._snapshot, self._error = None, error
            self._marks = marks
            return True
