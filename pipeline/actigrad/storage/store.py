"""Store: one Zarr v3 group that `xarray.open_datatree` opens; created from a template, read back lazily.

    create_store("run.zarr", template, attrs)        # metadata and coordinates; nothing else yet
    tree = open_store("run.zarr")                    # an xarray.DataTree, chunks read when they are looked at
    read_sites(tree)                                 # the Sites that it holds

Writing the values is `writer`'s work. Guarantees: an existing store is never touched without being told to; checksums
are on, so a flipped bit is an error and not a wrong picture; every value that a complete store does not hold is an
error as well, never a fill value.
"""

import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from actigrad.errors import StoreError
from actigrad.sites import Site, Work
from actigrad.storage.journal import journal_path
from actigrad.storage.schema import SCHEMA_VERSION, ArraySpec, Template

CODECS = {
    "plain": lambda: [Crc32cCodec()],
    "sparse": lambda: [ZstdCodec(level=1, checksum=True)],
    "rounded": lambda: [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
}
"""bytes-to-bytes codecs by kind of array; measured in docs/store.md."""


def create_store(path: str | Path, template: Template, attrs: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Create all groups and arrays of the template, and write its coordinates; the journal is the caller's.

    Raises:
        StoreError: when something is there already, the directory cannot be written, or the disk is too small.
    """
    path = Path(path)
    check_absent(path, overwrite=overwrite)
    check_space(path, template.nbytes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        root = zarr.create_group(path, zarr_format=3, attributes=_json({**attrs, "complete": False}))
        for name in template.groups:
            root.require_group(name).update_attributes(_json(template.groups[name]))
        for spec in template.arrays.values():
            _create_array(root, spec, template.coords.get(spec.path))
    except OSError as error:
        raise StoreError(
            f"cannot create the store {path}: {error.strerror or error}. Choose another store.path."
        ) from error


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Raise when something stands at `path` that must not be replaced."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not is_store(path) and not journal_path(path).exists():
        raise StoreError(f"{path} exists and is not an actigrad store; it is left alone. Choose another store.path.")
    if not overwrite:
        state = (
            "complete"
            if zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("complete")
            else "incomplete"
        )
        cure = "--overwrite replaces it" + ("" if state == "complete" else ", --resume finishes it")
        raise StoreError(
            f"the store {path} exists ({state}); nothing was changed. {cure}, or choose another store.path."
        )


def check_space(path: Path, nbytes: int) -> None:
    """Raise when the disk has less room than `nbytes`, an upper bound: compression is not counted."""
    free = free_space(path)
    if nbytes > free:
        raise StoreError(
            f"the store {path} needs up to {nbytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free. Keep fewer "
            "sites whole (keep: summary), fewer samples (data.samples), or choose another store.path."
        )


def free_space(path: Path) -> int:
    """Bytes free where `path` is or would be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def is_store(path: str | Path) -> bool:
    """Whether an actigrad store stands at `path`."""
    try:
        return "actigrad_schema" in zarr.open_group(path, mode="r", use_consolidated=False).attrs
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_attributes(path: str | Path) -> dict[str, Any]:
    """The attributes of a store's root, as they are now and not as they were consolidated."""
    return dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)


def open_store(path: str | Path) -> xarray.DataTree:
    """The whole store as a lazy DataTree; an incomplete one opens too, with `attrs["complete"]` false.

    Raises:
        StoreError: when nothing is there, it is of another version, or chunks of a complete store are gone.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"there is no store at {path}. `actigrad run CONFIG` makes one at the config's store.path.")
    if not is_store(path):
        raise StoreError(f"{path} is not an actigrad store: it has no attribute 'actigrad_schema'.")
    attrs = read_attributes(path)
    version = attrs["actigrad_schema"]
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema {version}; this version of actigrad reads schema {SCHEMA_VERSION}.")
    if attrs["complete"]:
        validate_store(path)
    # The store of a Recorder has consolidated metadata from its first steps on, and they alone tell which are whole.
    consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
    return xarray.open_datatree(path, engine="zarr", chunks={}, consolidated=consolidated, create_default_indexes=True)


def validate_store(path: str | Path) -> None:
    """Raise when chunks of a complete store are gone: Zarr would read the fill value in their place.

    Counts files and reads none; a damaged chunk is found by its checksum when it is read.
    """
    for name, array in zarr.open_group(path, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array):
            expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
            found = sum(len(names) for _, _, names in os.walk(Path(path) / name / "c"))
            if found != expected:
                raise StoreError(
                    f"{path} is damaged: {name} has {found} of its {expected} chunks. Make it again with --overwrite."
                )


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


def describe(path: str | Path) -> dict[str, Any]:
    """What `actigrad info` prints: state, sizes, versions, by name."""
    tree = open_store(path)
    samples, sites = read_samples(tree), read_sites(tree)
    last = samples["loss"].isel(step=-1).values
    return {
        "store": str(path),
        "complete": bool(tree.attrs["complete"]),
        "created": tree.attrs["created"],
        "sites": len(sites),
        "kept whole": sum("full" in tree[node.path].children for node in _site_nodes(tree)),
        "neurons": sum(site.shape[-1] if "neuron" in site.dims else 1 for site in sites),
        "samples": samples.sizes["sample"],
        "steps": [int(step) for step in samples["step"].values],
        "mean loss at the last step": float(np.mean(last)),
        "bytes on disk": disk_usage(path),
        "versions": dict(tree.attrs["versions"]),
    }


def _site_nodes(tree: xarray.DataTree):
    return [node for node in tree["sites"].subtree if "feeds" in node.attrs] if "sites" in tree else []


def disk_usage(path: str | Path) -> int:
    """Bytes of all files of a store."""
    return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)


def finalize_store(path: str | Path) -> None:
    """Mark the store complete; the consolidated metadata come last, because they are a copy."""
    zarr.open_group(path, mode="r+", use_consolidated=False).update_attributes({"complete": True})
    consolidate(path)


def consolidate(path: str | Path) -> None:
    """Copy all metadata to the root, where one read finds them."""
    with (
        warnings.catch_warnings()
    ):  # Zarr 3 has no text on it yet; a reader that does not know the copy reads the originals
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def restore_metadata(path: str | Path, name: str, template: Template) -> None:
    """Write the metadata of one array or group of a store as the template has them; no chunk is touched."""
    with tempfile.TemporaryDirectory() as folder:
        root = zarr.create_group(folder, zarr_format=3)
        if name in template.arrays:
            _create_array(root, template.arrays[name], None)
        else:
            root.require_group(name).update_attributes(_json(template.groups.get(name, {})))
        target = Path(path) / name / "zarr.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / name / "zarr.json", target)


def write_coordinate(path: str | Path, spec: ArraySpec, values: Any) -> None:
    """Write the values of one coordinate of a store again."""
    array = zarr.open_group(path, mode="r+", use_consolidated=False)[spec.path]
    array[...] = np.asarray(values, _numpy_dtype(spec))  # type: ignore[index]


def _numpy_dtype(spec: ArraySpec) -> np.dtype:
    return np.dtypes.StringDType() if spec.dtype == "string" else np.dtype(spec.dtype)


def _create_array(root: zarr.Group, spec: ArraySpec, values: Any) -> None:
    dtype = _numpy_dtype(spec)
    array = root.create_array(
        spec.path,
        shape=spec.shape,
        chunks=spec.chunks,
        dtype=dtype,
        dimension_names=spec.dims,
        attributes=_json(spec.attrs),
        fill_value="" if spec.dtype == "string" else np.nan if dtype.kind == "f" else -1,
        compressors=CODECS[spec.codec]() if spec.dtype != "string" else [ZstdCodec(level=1, checksum=True)],
        config={"write_empty_chunks": True},
    )
    if values is not None:
        array[...] = np.asarray(values, dtype)


def _json(value: Any) -> Any:
    """Plain JSON: tuples as lists, NumPy scalars as numbers, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_json(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
