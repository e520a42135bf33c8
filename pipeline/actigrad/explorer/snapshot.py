"""Snapshot: what a store held at one moment, as all viewers share it, and the cache of what was read of it.

    snapshot.steps, snapshot.metric(site, "gradient", "rms")

A snapshot never changes: what is read through it is kept in it, and goes with it when a commit makes a new one. Arrays
of a store that is being written have room for steps that are not in yet; a snapshot has only those that the journal
says are whole. `opening` makes it; this module knows no Zarr and no xarray, which take longer to import than the
server may take to start.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.sites import Site

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
        sites: by path, in forward order.
        groups: the group of each site in the tree.
        samples: a Dataset of samples and steps: coordinates, labels, loss.
        recorded: the steps that the store has room for.
        steps: those of them that are whole.
        kept: of each site and quantity, the recorded steps at which it was kept of each sample: whole, or by blocks.
    """

    name: str
    path: Path
    tree: Any
    marks: Hashable
    sites: Mapping[str, Site]
    groups: Mapping[str, str]
    samples: Any
    recorded: tuple[int, ...]
    steps: tuple[int, ...]
    kept: Mapping[tuple[str, str], tuple[int, ...]]
    cache: Cache = field(default_factory=Cache)

    @property
    def complete(self) -> bool:
        """Whether the run has ended."""
        return bool(self.tree.attrs["complete"])

    def summary(self, path: str) -> Any:
        """The summaries of a site, if it has any."""
        return self._group(path, "summary")

    def orders(self, path: str) -> Mapping[str, Any]:
        """The orders of a site's neurons that are stored, by name."""
        group = self._group(path, "orders")
        return {} if group is None else {str(name): array for name, array in group.data_vars.items()}

    def position(self, step: int) -> int:
        """Where a step stands among the recorded ones."""
        return self.recorded.index(step)

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

    def _read_metric(self, array: Any, metric: str) -> np.ndarray:
        here = [self.position(step) for step in self.steps]
        values = array.isel(metric=METRICS.index(metric), step=here).values
        return strongest(values.reshape(len(here), -1, values.shape[-1]), 1)

    def _group(self, path: str, name: str) -> Any:
        try:
            return self.tree[f"{self.groups[path]}/{name}"]
        except KeyError:
            return None


def strongest(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude along an axis."""
    high, low = values.max(axis=axis), values.min(axis=axis)
    return np.where(np.abs(low) > np.abs(high), low, high)
