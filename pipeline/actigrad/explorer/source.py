"""Source: one store as all viewers share it: opened once, read once, followed while it is still being written.

    source = Source("digits", Path("runs/digits/digits.zarr"))
    source.follow()                    # True when there is something new; called every second
    snapshot = source.snapshot()       # what is committed now, or StoreError in words for the page
    snapshot.steps, snapshot.metric(site, "gradient", "rms")

A snapshot never changes: what is read through it is kept in it, and goes with it when a commit makes a new one. Arrays
of a store that is being written have room for steps that are not in yet; a snapshot has only those that the journal
says are whole.
"""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from actigrad.errors import StoreError, ViewError
from actigrad.metrics import METRICS
from actigrad.sites import Site
from actigrad.storage.journal import read_commits
from actigrad.storage.schema import site_group
from actigrad.storage.store import open_store, read_attributes, read_samples, read_sites

CACHE_BYTES = 512 * 2**20


class Cache:
    """Arrays that were read or computed, by key; the longest unused go when they take more than `limit` bytes.

    Two that ask for one key at once wait for one computation.
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(
        self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int] = lambda value: value.nbytes
    ) -> Any:
        """The value of a key, made if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            making = self._locks.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            value = make()
            with self._lock:
                self._kept[key], self._sizes[key] = value, size(value)
                self._locks.pop(key, None)
                while sum(self._sizes.values()) > self.limit and len(self._kept) > 1:
                    old, _ = self._kept.popitem(last=False)
                    del self._sizes[old]
            return value


@dataclass(frozen=True)
class Snapshot:
    """What a store held at one moment.

    Attributes:
        name: what the page calls the store.
        path: where it is.
        tree: its lazy DataTree.
        marks: what was committed; another snapshot of the same marks shows the same.
    """

    name: str
    path: Path
    tree: xarray.DataTree
    marks: Hashable
    cache: Cache = field(default_factory=Cache)

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sites by path, in forward order."""
        return {site.path: site for site in read_sites(self.tree)}

    @cached_property
    def samples(self) -> xarray.Dataset:
        """Samples and steps: coordinates, labels, loss."""
        return read_samples(self.tree)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps that are whole."""
        recorded = tuple(int(step) for step in self.samples["step"].values)
        if self.complete or self.grows:
            return recorded
        rows, n = read_commits(self.path), self.samples.sizes["sample"]
        return tuple(step for step in recorded if rows.get(step, 0) >= n)

    @property
    def grows(self) -> bool:
        """Whether it is a Recorder's, whose steps stand in the consolidated metadata when they are whole."""
        return is_consolidated(self.path)

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return bool(self.tree.attrs["complete"])

    def summary(self, path: str) -> Any:
        """The summaries of a site, if it has any."""
        return self._group(f"{site_group(path)}/summary")

    def full(self, path: str) -> Any:
        """The whole arrays of a site, if any were kept."""
        return self._group(f"{site_group(path)}/full")

    def position(self, step: int) -> int:
        """Where a step stands among the recorded ones."""
        return self.samples["step"].values.tolist().index(step)

    def metric(self, path: str, quantity: str, metric: str) -> np.ndarray:
        """(whole step, neuron) of a statistic; where a loop has several layers, the value of largest magnitude.

        Raises:
            ViewError: when the store has no summary of it.
        """
        group = self.summary(path)
        if group is None or quantity not in group:
            why = self.sites[path].missing or "the config did not ask for it"
            raise ViewError(f"site {path!r} has no {quantity} in this store: {why}.")
        return self.cache.get(("metric", path, quantity, metric), lambda: self._read_metric(group[quantity], metric))

    def _read_metric(self, array: xarray.DataArray, metric: str) -> np.ndarray:
        here = [self.position(step) for step in self.steps]
        values = array.isel(metric=METRICS.index(metric), step=here).values
        return strongest(values.reshape(len(here), -1, values.shape[-1]), 1)

    def _group(self, path: str) -> Any:
        try:
            return self.tree[path]
        except KeyError:
            return None


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
        with self._lock:
            marks = self._look()
            if marks == self._marks and (self._snapshot or self._error):
                return False
            self._open(marks)
            return True

    def _look(self) -> Hashable:
        """What tells one state of a store from another, without reading arrays."""
        try:
            inode, attrs = os.stat(self.path).st_ino, read_attributes(self.path)
            written = os.stat(self.path / "zarr.json").st_mtime_ns
        except (OSError, ValueError, KeyError, TypeError, StoreError):
            return None
        commits = () if attrs.get("complete") else tuple(sorted(read_commits(self.path).items()))
        return inode, written, bool(attrs.get("complete")), commits

    def _open(self, marks: Hashable) -> None:
        try:
            refuse_links(self.path)
            snapshot = Snapshot(self.name, self.path, open_store(self.path), marks)
            if not snapshot.sites:
                raise StoreError(f"{self.path} holds no site; `actigrad sites CONFIG` lists what can be captured.")
            self._snapshot, self._error = snapshot, None
        except Exception as error:  # a damaged store fails in any way; the page tells it and waits
            told = error if isinstance(error, StoreError) else StoreError(_unreadable(self.path, error))
            self._error, self._snapshot = told, None
        self._marks = marks


def refuse_links(path: Path) -> None:
    """Raise when a file of a store stands elsewhere: a page must not show what it was not given.

    Raises:
        StoreError: naming the link.
    """
    inside = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            one = Path(folder) / name
            if one.is_symlink() and not one.resolve().is_relative_to(inside):
                raise StoreError(f"{one} is a link to a file outside the store; it is not followed. Copy the file.")


def is_consolidated(path: Path) -> bool:
    """Whether the root holds a copy of all metadata."""
    return "consolidated_metadata" in json.loads((path / "zarr.json").read_bytes())


def strongest(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude along an axis."""
    high, low = values.max(axis=axis), values.min(axis=axis)
    return np.where(np.abs(low) > np.abs(high), low, high)


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({type(error).__name__}: {error}). `actigrad verify {path}` tells what is damaged."
