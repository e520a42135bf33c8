"""Store: one Zarr v3 group that `xarray.open_datatree` opens, read back lazily.

    tree = open_store("run.zarr")                    # an xarray.DataTree, chunks read when they are looked at
    tree = open_store("s3://bucket/run.zarr")        # the same, wherever it is
    read_sites(tree)                                 # the Sites that it holds

`create` makes it, `writer` fills it. Guarantees: checksums are on, so a flipped bit is an error and not a wrong
picture; every value that a complete store does not hold is an error as well, never a fill value; of a store that is
being written only what was committed is shown.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray
import zarr

from actigrad.errors import StoreError
from actigrad.sites import Site, Work
from actigrad.storage.journal import read_commits
from actigrad.storage.names import READABLE, SCHEMA_VERSION
from actigrad.storage.places import Where, find_place

CHUNK = re.compile(r"(.*)/c(?:/\d+)*")
"""The name of a chunk's file, and in it the array's."""


def is_store(where: Where) -> bool:
    """Whether an actigrad store stands there."""
    try:
        return "actigrad_schema" in read_attributes(where)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_attributes(where: Where) -> dict[str, Any]:
    """The attributes of a store's root, as they are now and not as they were consolidated."""
    return dict(json.loads(find_place(where).read("zarr.json"))["attributes"])


def open_store(where: Where) -> xarray.DataTree:
    """The whole store as a lazy DataTree; an incomplete one opens too, with `attrs["complete"]` false.

    Of an incomplete store, what the journal does not tell of is NaN, and -1 among integers.

    Raises:
        StoreError: when nothing is there, it is of another version, or chunks of a complete store are gone.
    """
    place = find_place(where)
    attrs = check_version(place)
    if attrs["complete"]:
        validate_store(place)
    # The store of a Recorder has consolidated metadata from its first steps on, and they alone tell which are whole.
    consolidated = bool(read_consolidated(place))
    store: Any = place.to_zarr(read_only=True)
    # A tree is made once, of groups as they shall be: to change one of its nodes takes as long as to open it.
    groups = xarray.open_groups(
        store, engine="zarr", consolidated=consolidated, create_default_indexes=True, cache=False
    )
    tree = xarray.DataTree.from_dict({
        path: _chunked(group) if not consolidated or _is_of_samples(group) else group for path, group in groups.items()
    })  # fmt: skip
    tree = tree if consolidated else mask_uncommitted(tree, read_commits(place))
    tree.encoding["place"] = place  # where levels are, which are read without xarray
    return tree


def _is_of_samples(group: xarray.Dataset) -> bool:
    return any("sample" in array.dims for array in group.data_vars.values())


def _chunked(dataset: xarray.Dataset) -> xarray.Dataset:
    """By Dask, in what one write owned.

    Summaries stay as xarray reads them, lazily too: of thousands of sites, Dask would take longer than all the rest.
    """
    chunked = {}
    for name, array in dataset.data_vars.items():
        chunks = array.encoding.get("shards") or array.encoding.get("chunks")
        chunked[name] = array.chunk(dict(zip(array.dims, chunks, strict=True))) if chunks else array
    return dataset.assign(chunked)


def read_consolidated(where: Where) -> dict[str, Any]:
    """The metadata of all arrays and groups, by path, as they were copied to the root; empty until they are."""
    root = json.loads(find_place(where).read("zarr.json"))
    return (root.get("consolidated_metadata") or {}).get("metadata", {})


def is_derived(metadata: Mapping[str, Any]) -> bool:
    """Whether an array or group is an order or levels: made from the rest of the store, and not captured."""
    return bool(metadata.get("attributes", {}).get("derived"))


def check_version(where: Where, *, writing: bool = False) -> dict[str, Any]:
    """The attributes of the root of a store that this version can read, or write.

    Raises:
        StoreError: when no store is there, it cannot be reached, or it is of another version.
    """
    place = find_place(where)
    try:
        attrs = read_attributes(place)
        version = attrs["actigrad_schema"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError) and place.is_empty():
            told = f"there is no store at {place}. `actigrad run CONFIG` makes one at the config's store.path."
            raise StoreError(told) from error
        told = f"{place} is not an actigrad store: its zarr.json has no attribute 'actigrad_schema'"
        raise StoreError(f"{told} ({type(error).__name__}: {error}).") from error
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error}. Is the address right, and are you let in?") from error
    if version not in READABLE:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        cure = "Upgrade actigrad" if newer else "Open it with the version that its attribute `versions` names"
        raise StoreError(
            f"{place} has schema {version}; this version of actigrad reads schema "
            f"{' and '.join(map(str, READABLE))}. {cure}, or read it with xarray.open_datatree alone."
        )
    if writing and version != SCHEMA_VERSION:
        raise StoreError(
            f"{place} has schema {version}: it can be read, but this version of actigrad writes schema "
            f"{SCHEMA_VERSION}. Finish or repair it with the version that made it "
            f"(actigrad {attrs.get('versions', {}).get('actigrad', 'unknown')}), or start over: --overwrite."
        )
    return attrs


def mask_uncommitted(tree: xarray.DataTree, committed: Mapping[int, int]) -> xarray.DataTree:
    """The tree with all that the journal does not tell of as NaN, or -1 among integers; nothing is read."""
    n = tree["samples"].sizes["sample"] if "samples" in tree else 0
    return tree.map_over_datasets(lambda dataset: _mask_dataset(dataset, committed, n))


def _mask_dataset(dataset: xarray.Dataset, committed: Mapping[int, int], n: int) -> xarray.Dataset:
    if "step" not in dataset.coords or not dataset.data_vars:
        return dataset
    rows = xarray.DataArray([committed.get(int(step), 0) for step in dataset["step"].values], dims="step")
    masked = {}
    for name, array in dataset.data_vars.items():
        if "step" in array.dims:
            whole = "sample" not in array.dims
            known = rows >= n if whole else xarray.DataArray(np.arange(array.sizes["sample"]), dims="sample") < rows
            fill = np.nan if array.dtype.kind == "f" else -1
            masked[name] = xarray.where(known, array, np.asarray(fill, array.dtype), keep_attrs=False)
            masked[name] = masked[name].transpose(*array.dims).assign_attrs(array.attrs)
    return dataset.assign(masked)


def owned(array: zarr.Array) -> tuple[int, ...]:
    """What one write owns of an array: its shard, or its chunk where it has none."""
    return array.shards or array.chunks


def validate_store(where: Where) -> None:
    """Raise when chunks of a complete store are gone: Zarr would read the fill value in their place.

    Counts files and reads none; a damaged chunk is found by its checksum when it is read. Where nothing can be listed,
    as over HTTP, nothing is counted.
    """
    place = find_place(where)
    try:
        found = count_chunks(place.names())
    except OSError:
        return
    for name, metadata in read_consolidated(place).items():
        if metadata["node_type"] == "array":
            chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            expected = math.prod(-(-size // chunk) for size, chunk in zip(metadata["shape"], chunks, strict=True))
            if found.get(name, 0) != expected:
                raise StoreError(
                    f"{place} is damaged: {name} has {found.get(name, 0)} of its {expected} chunks. "
                    f"`actigrad repair {place}` captures them again."
                )


def count_chunks(files: Iterable[str]) -> dict[str, int]:
    """How many chunks of each array are among these files."""
    counts: dict[str, int] = {}
    for name in files:
        if match := CHUNK.fullmatch(name):
            counts[match[1]] = counts.get(match[1], 0) + 1
    return counts


def read_sites(tree: xarray.DataTree) -> tuple[Site, ...]:
    """The sites of a store, in forward order; shapes are for one sample, with a `sample` axis of the store's size."""
    found = [node.attrs for node in tree["sites"].subtree if "feeds" in node.attrs] if "sites" in tree else []
    n = read_samples(tree).sizes["sample"]
    sites = []
    for attrs in sorted(found, key=lambda attrs: attrs["index"]):
        dims, rest = tuple(attrs["dims"]), iter(attrs["sample_shape"])
        shape = tuple(n if dim == "sample" else next(rest) for dim in dims)
        operations = tuple((name, times) for name, times in attrs["operations"])
        work = Work(operations, round(attrs["flops_per_sample"] * n), attrs["parameters"])
        feeds = tuple(attrs["feeds"])
        sites.append(
            Site(attrs["path"], shape, attrs["dtype"], dims, attrs["kind"], feeds, attrs["missing"], work=work)
        )
    return tuple(sites)


def read_samples(tree: xarray.DataTree) -> xarray.Dataset:
    """What is known of each sample and step: coordinates, `label` and its like, loss, prediction."""
    return tree["samples"].to_dataset()


def describe(where: Where) -> dict[str, Any]:
    """What `actigrad info` prints: state, sizes, versions, by name."""
    tree = open_store(place := find_place(where))
    samples, sites = read_samples(tree), read_sites(tree)
    last = samples["loss"].isel(step=-1).values
    return {
        "store": str(place),
        "complete": bool(tree.attrs["complete"]),
        "created": tree.attrs["created"],
        "sites": len(sites),
        "kept whole": sum("full" in tree[node.path].children for node in _site_nodes(tree)),
        "neurons": sum(site.shape[-1] if "neuron" in site.dims else 1 for site in sites),
        "samples": samples.sizes["sample"],
        "steps": [int(step) for step in samples["step"].values],
        "mean loss at the last step": float(np.mean(last)),
        "bytes on disk": disk_usage(place),
        "versions": dict(tree.attrs["versions"]),
    }


def _site_nodes(tree: xarray.DataTree) -> list[xarray.DataTree]:
    return [node for node in tree["sites"].subtree if "feeds" in node.attrs] if "sites" in tree else []


def disk_usage(where: Where) -> int:
    """Bytes of all files of a store."""
    return sum(find_place(where).files().values())
