"""Journal: which parts of a store are on the disk, so that a run that was killed goes on from there.

    with Journal("run.zarr") as journal:              # locked: a second writer is refused
        journal.begin(fingerprint)                    # the store is made; nothing is in it
        journal.commit(20, 4096, state)               # the first 4,096 samples of step 20 are in
        journal.rows(20)                              # 4096

It stands beside the store, in the folder `run.zarr.journal`; inside, Zarr would take it for damage. A commit is an
empty file whose name says it all, so that it is there or not, never half there. Between two commits of one step, the
statistics of the samples so far stand in a state file. The files of a commit are synced before `commit` returns, and
the writer syncs chunks before it calls it: after a power cut the journal never says more than the disk holds.

The lock is the kernel's (`flock`): it ends with the process that holds it, however that ends.
"""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from actigrad.errors import StoreError

COMMIT = re.compile(r"step=(-?\d+) rows=(\d+)")


def journal_path(store: str | Path) -> Path:
    """The journal of a store."""
    return Path(f"{store}.journal")


class Journal:
    """The journal of a store, locked while it is open.

    Raises:
        StoreError: when another process holds it, or it cannot be written.
    """

    def __init__(self, store: str | Path):
        self.store, self.folder = Path(store), journal_path(store)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("ab")
        except OSError as error:
            told = f"cannot create the store {store}: {error.strerror or error}. Choose another store.path."
            raise StoreError(told) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            told = f"another process is writing to {store}. Wait for it, or choose another store.path."
            raise StoreError(told) from error
        self._rows = read_commits(store)

    def __enter__(self) -> "Journal":
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock."""
        self._lock.close()

    @property
    def begun(self) -> bool:
        """Whether the store was made to its end."""
        return (self.folder / "run.json").exists()

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """Forget everything: the store is new."""
        for file in self.folder.iterdir():
            if file.name != "lock":
                file.unlink()
        self._rows = {}
        self._put("run.json", json.dumps(dict(fingerprint)).encode())

    def fingerprint(self) -> dict[str, str]:
        """What the store was begun with, by part."""
        return json.loads((self.folder / "run.json").read_bytes())

    def rows(self, step: int) -> int:
        """How many samples of a step are in, from the first on."""
        return self._rows.get(step, 0)

    def commit(self, step: int, rows: int, state: bytes | None = None) -> None:
        """The first `rows` samples of `step` are on the disk; `state` is what goes on from there.

        Raises:
            StoreError: when it cannot be written.
        """
        try:
            if state is not None:
                self._put(f"state step={step} rows={rows}", state)
            self._put(f"step={step} rows={rows}", b"")
        except OSError as error:
            raise StoreError(
                f"the journal of {self.store} cannot be written: {error.strerror or error}. Make room, then run again "
                "with --resume."
            ) from error
        self._rows[step] = rows
        for file in self.folder.glob("state *"):
            if file.name != f"state step={step} rows={rows}":
                file.unlink()

    def state(self, step: int) -> bytes | None:
        """What was handed to the last commit of a step."""
        file = self.folder / f"state step={step} rows={self.rows(step)}"
        return file.read_bytes() if file.exists() else None

    def _put(self, name: str, content: bytes) -> None:
        """A file that is there whole, or not at all, after a power cut too."""
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / name)
            sync(self.folder)
        finally:
            partial.unlink(missing_ok=True)


def read_commits(store: str | Path) -> dict[int, int]:
    """How many samples of each step are in a store, without locking its journal; empty when it has none."""
    found: dict[int, int] = {}
    folder = journal_path(store)
    for name in os.listdir(folder) if folder.is_dir() else []:
        if match := COMMIT.fullmatch(name):
            step, rows = map(int, match.groups())
            found[step] = max(rows, found.get(step, 0))
    return found


def sync(path: Path) -> None:
    """Make the disk hold what is known of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
