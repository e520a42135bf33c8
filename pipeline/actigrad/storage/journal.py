"""Journal: which parts of a store are on the disk, so that a run that was killed goes on from there.

    with Journal("run.zarr") as journal:              # locked: a second writer is refused
        journal.begin(fingerprint)                    # the store is made; nothing is in it
        journal.commit(20, 4096, state)               # the first 4,096 samples of step 20 are in
        journal.rows(20)                              # 4096

It stands beside the store, at `run.zarr.journal`; inside, Zarr would take it for damage. A commit is an empty file
whose name says it all, so that it is there or not, never half there. Between two commits of one step, the statistics of
the samples so far stand in a state file. The files of a commit outlast a power cut when `commit` returns, and the
writer's chunks do before it calls it: the journal never says more than the disk holds.

The lock is the kernel's in a folder (`places.folder`), a lease in an object store (`places.lease`): either ends with
the process that holds it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from actigrad.errors import StoreError
from actigrad.storage.places import Where, find_place

COMMIT = re.compile(r"step=(-?\d+) rows=(\d+)")


def journal_path(store: str | Path) -> Path:
    """The journal of a store in a folder."""
    return Path(f"{store}.journal")


class Journal:
    """The journal of a store, locked while it is open.

    Raises:
        StoreError: when another process holds it, or it cannot be written.
    """

    def __init__(self, store: Where):
        self.store = find_place(store)
        self.place = self.store.beside(".journal")
        try:
            self._lock = self.place.lock()
        except OSError as error:
            told = f"cannot create the store {self.store}: {error.strerror or error}. Choose another store.path."
            raise StoreError(told) from error
        except StoreError as error:
            told = f"another process is writing to {self.store}: {error}. Wait for it, or choose another store.path."
            raise StoreError(told) from error
        self._rows = read_commits(self.store)
        self._states = {name for name in self.place.files() if name.startswith("state ")}

    def __enter__(self) -> "Journal":
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock."""
        self._lock.release()

    @property
    def folder(self) -> Path:
        """Where it is, in a folder; what else belongs to a store can be kept there."""
        return journal_path(str(self.store))

    @property
    def begun(self) -> bool:
        """Whether the store was made to its end."""
        return "run.json" in self.place.files()

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """The store is new and made to its end; what was known before is forgotten."""
        self.clear()
        self.place.write("run.json", json.dumps(dict(fingerprint)).encode())

    def clear(self) -> None:
        """Forget everything, before a store is made anew: killed on the way, it is made anew again."""
        self.place.delete("run.json")  # first: without it nothing else counts
        for name in self.place.files():
            if not name.startswith("lock"):
                self.place.delete(name)
        self._rows, self._states = {}, set()

    def fingerprint(self) -> dict[str, str]:
        """What the store was begun with, by part."""
        return json.loads(self.place.read("run.json"))

    def rows(self, step: int) -> int:
        """How many samples of a step are in, from the first on."""
        return self._rows.get(step, 0)

    def commit(self, step: int, rows: int, state: bytes | None = None) -> None:
        """The first `rows` samples of `step` are on the disk; `state` is what goes on from there.

        Raises:
            StoreError: when it cannot be written, or another process has taken the lock.
        """
        self._lock.check()
        try:
            if state is not None:
                self.place.write(f"state step={step} rows={rows}", state)
            self.place.write(f"step={step} rows={rows}", b"")
        except OSError as error:
            raise StoreError(
                f"the journal of {self.store} cannot be written: {error.strerror or error}. Make room, then run again "
                "with --resume."
            ) from error
        self._rows[step] = rows
        for name in self._states - {f"state step={step} rows={rows}"}:
            self.place.delete(name)
        self._states = {f"state step={step} rows={rows}"} if state is not None else set()

    def state(self, step: int) -> bytes | None:
        """What was handed to the last commit of a step."""
        name = f"state step={step} rows={self.rows(step)}"
        return self.place.read(name) if name in self.place.files() else None


def read_commits(store: Where) -> dict[int, int]:
    """How many samples of each step are in a store, without locking its journal; empty when it has none."""
    found: dict[int, int] = {}
    for name in find_place(store).beside(".journal").files():
        if match := COMMIT.fullmatch(name):
            step, rows = map(int, match.groups())
            found[step] = max(rows, found.get(step, 0))
    return found
