"""Opening: a store to a snapshot, and what tells one state of it from another.

Everything that a viewer asks of a store before any array is read is read here, in a worker thread.
"""

import json
import os
from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path

import dask.threaded
import xarray

from actigrad.errors import StoreError
from actigrad.explorer.snapshot import Snapshot
from actigrad.pictures.lazy import read_group
from actigrad.storage.journal import read_commits
from actigrad.storage.names import blocks_group, site_group
from actigrad.storage.store import open_store, read_attributes, read_samples, read_sites


def look(path: Path) -> Hashable:
    """What tells one state of a store from another, without reading arrays; None where there is no store."""
    try:
        inode, written = os.stat(path).st_ino, os.stat(path / "zarr.json").st_mtime_ns
        complete = _is_complete(path, inode, written)
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return None
    commits = () if complete else tuple(sorted(read_commits(path).items()))
    return inode, written, complete, commits


@lru_cache(64)
def _is_complete(path: Path, inode: int, written: int) -> bool:
    """Read again when it was written alone: the metadata of a large store take milliseconds, at each second."""
    return bool(read_attributes(path).get("complete"))


def open_snapshot(name: str, path: Path, marks: Hashable) -> Snapshot:
    """What the store holds now.

    Raises:
        StoreError: in words for the page, whatever is wrong with it.
    """
    try:
        refuse_links(path)
        tree = open_store(path)
        sites, samples = {site.path: site for site in read_sites(tree)}, _read_labels(read_samples(tree))
        recorded = tuple(int(step) for step in samples["step"].values)
        steps = recorded if tree.attrs["complete"] or _is_consolidated(path) else _whole(path, samples, recorded)
    except StoreError:
        raise
    except Exception as error:  # a damaged store fails in any way
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}). `actigrad verify {path}` tells what is damaged."
        ) from error
    if not sites:
        raise StoreError(f"{path} holds no site; `actigrad sites CONFIG` lists what can be captured.")
    groups = {one: site_group(one) for one in sites}
    return Snapshot(name, path, tree, marks, sites, groups, samples, recorded, steps, _read_kept(tree, sites))


def _read_kept(tree: xarray.DataTree, sites: Iterable[str]) -> dict[tuple[str, str], tuple[int, ...]]:
    """At which steps what was kept of each sample."""
    kept = {}
    for site in sites:
        for quantity in ("activation", "gradient"):
            whole, blocks = read_group(tree, f"{site_group(site)}/full"), read_group(tree, blocks_group(site, quantity))
            found = [
                group["step"].values.tolist() for group, name in ((whole, quantity), (blocks, "mean")) if name in group
            ]
            if found:
                kept[site, quantity] = tuple(sorted({step for steps in found for step in steps}))
    return kept


def _read_labels(samples: xarray.Dataset) -> xarray.Dataset:
    """With what is known of each sample read: labels, splits."""
    known = [name for name, array in samples.data_vars.items() if array.dims == ("sample",)]
    return samples.assign(samples[known].compute(scheduler=dask.threaded.get).data_vars)


def refuse_links(path: Path) -> None:
    """Raise when a file of a store stands elsewhere: a page must not show what it was not given.

    Raises:
        StoreError: naming the link.
    """
    inside, folders = path.resolve(), [str(path)] if path.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                    raise StoreError(
                        f"{entry.path} is a link to a file outside the store; it is not followed. Copy the file."
                    )
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _is_consolidated(path: Path) -> bool:
    """Whether the root holds a copy of all metadata: then it is a Recorder's, whose steps stand there when whole."""
    return "consolidated_metadata" in json.loads((path / "zarr.json").read_bytes())


def _whole(path: Path, samples: xarray.Dataset, recorded: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of which the journal has every sample."""
    rows, n = read_commits(path), samples.sizes["sample"]
    return tuple(step for step in recorded if rows.get(step, 0) >= n)
