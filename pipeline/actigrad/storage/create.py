"""Create: a store from its template, before anything is captured; and its last stroke, when all is in.

    create_store("run.zarr", template, attrs)        # metadata and coordinates; nothing else yet
    finalize_store("run.zarr")                       # complete, and opened by one read of consolidated metadata

Shape first: what cannot fit is refused here, and what exists already is never touched without being told to. Checksums
are on, and blocks of zeros are written, so that they differ from what was never written.
"""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from actigrad.errors import StoreError
from actigrad.storage.costs import costliest
from actigrad.storage.places import Where, find_place
from actigrad.storage.store import is_store, read_attributes
from actigrad.storage.template import ArraySpec, Template

CODECS = {
    "plain": lambda: [Crc32cCodec()],
    "sparse": lambda: [ZstdCodec(level=1, checksum=True)],
    "rounded": lambda: [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec()],
}
"""bytes-to-bytes codecs by kind of array; measured in docs/store.md."""
SHARED = 1024
"""Coordinates up to this length are encoded once for all arrays that have the same."""


def create_store(where: Where, template: Template, attrs: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Create all groups and arrays of the template, and write its coordinates; the journal is the caller's.

    Raises:
        StoreError: when something is there already, it cannot be written, or the disk is too small.
    """
    place = find_place(where)
    check_absent(place, overwrite=overwrite)
    check_space(place, template)
    try:
        place.clear()
        place.write_many(_files(template, attrs))
        place.settle()
    except OSError as error:
        raise StoreError(
            f"cannot create the store {place}: {error.strerror or error}. Choose another store.path."
        ) from error


def check_absent(where: Where, *, overwrite: bool) -> None:
    """Raise when something stands there that must not be replaced."""
    place = find_place(where)
    try:
        if place.is_empty():
            return
    except OSError as error:
        raise StoreError(f"{place} cannot be looked at: {error}. Choose another store.path.") from error
    if not is_store(place) and not place.beside(".journal").files():
        raise StoreError(f"{place} exists and is not an actigrad store; it is left alone. Choose another store.path.")
    if not overwrite:
        complete = is_store(place) and read_attributes(place).get("complete")
        state, others = ("complete", "") if complete else ("incomplete", ", --resume finishes it")
        raise StoreError(
            f"the store {place} exists ({state}); nothing was changed. --overwrite replaces it{others}, or choose "
            "another store.path."
        )


def check_space(where: Where, template: Template) -> None:
    """Raise when there is less room than the template takes, naming what takes the most and how to make it less.

    That is an upper bound: compression is not counted.
    """
    place = find_place(where)
    free = place.free_bytes()
    if free is not None and template.nbytes > free:
        raise StoreError(
            f"the store {place} needs up to {template.nbytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free. "
            "What takes the most:\n"
            + "".join(f"  {cost}\n" for cost in costliest(template))
            + "Fewer samples (data.samples) shrink all of them; or choose another store.path."
        )


def compressed_share(spec: ArraySpec, block: np.ndarray) -> float:
    """What the codecs of an array leave of a block of it, (sample, …) or with other axes in front; from 0 to 1."""
    array = zarr.create_array(
        {}, shape=block.shape, chunks=block.shape, dtype=block.dtype, compressors=CODECS[spec.codec](),
        config={"write_empty_chunks": True},
    )  # fmt: skip
    before = array.nbytes_stored()
    array[...] = block
    return (array.nbytes_stored() - before) / max(1, block.nbytes)


def finalize_store(where: Where) -> None:
    """Mark the store complete; the consolidated metadata come last, because they are a copy."""
    store = find_place(where).to_zarr(durable=True)
    zarr.open_group(store, mode="r+", use_consolidated=False).update_attributes({"complete": True})
    consolidate(where)


def consolidate(where: Where) -> None:
    """Copy all metadata to the root, where one read finds them."""
    store = find_place(where).to_zarr(durable=True)
    with warnings.catch_warnings():  # Zarr 3 has no text on it yet; who does not know the copy reads the originals
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(store)


def forget(where: Where, group: str) -> None:
    """Take a group out of the copied metadata before it is changed, so that nobody looks for what it is to hold.

    For orders and levels, of a complete store: what is known there of `group` and below it is known again after
    `consolidate`.
    """
    place = find_place(where)
    root = json.loads(place.read("zarr.json"))
    known = root["consolidated_metadata"]["metadata"]
    left = {name: node for name, node in known.items() if name != group and not name.startswith(f"{group}/")}
    if len(left) < len(known):
        root["consolidated_metadata"]["metadata"] = left
        place.write("zarr.json", json.dumps(root, indent=2).encode())


def restore_metadata(where: Where, name: str, template: Template) -> None:
    """Write the metadata of one array or group of a store as the template has them; no chunk is touched."""
    made = _array_files(template.arrays[name], None) if name in template.arrays else _group_files(template, name)
    find_place(where).write(f"{name}/zarr.json", made["zarr.json"])


def write_coordinate(where: Where, spec: ArraySpec, values: Any) -> None:
    """Write the values of one coordinate of a store again."""
    place = find_place(where)
    for file, content in _array_files(spec, values).items():
        if file != "zarr.json":
            place.write(f"{spec.path}/{file}", content)


def _files(template: Template, attrs: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Every file of a new store; the root's comes last, because it makes it one."""
    groups = {"/".join(parts[:end]) for parts in map(_parts, template.arrays) for end in range(1, len(parts))}
    groups |= {"/".join(parts[:end]) for parts in map(_parts, template.groups) for end in range(1, len(parts) + 1)}
    for name in sorted(groups):
        yield f"{name}/zarr.json", _group_files(template, name)["zarr.json"]
    for name, spec in template.arrays.items():
        for file, content in _array_files(spec, template.coords.get(name)).items():
            yield f"{name}/{file}", content
    yield "zarr.json", _group_file({**attrs, "complete": False})


def _parts(name: str) -> list[str]:
    return name.split("/")


def _group_files(template: Template, name: str) -> dict[str, bytes]:
    return {"zarr.json": _group_file(template.groups.get(name, {}))}


def _group_file(attrs: Mapping[str, Any]) -> bytes:
    return json.dumps({"attributes": _json(attrs), "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def _array_files(spec: ArraySpec, values: Any) -> dict[str, bytes]:
    """The metadata and, of a coordinate, the chunks."""
    plain = (spec.dims, spec.shape, spec.chunks, spec.inner, spec.dtype, spec.codec)
    shared = values is None or len(values) <= SHARED
    files = dict((_encode if shared else _encode.__wrapped__)(*plain, None if values is None else tuple(values)))
    metadata = json.loads(files["zarr.json"]) | {"attributes": _json(spec.attrs)}
    return files | {"zarr.json": json.dumps(metadata, indent=2, allow_nan=False).encode()}


@lru_cache(maxsize=256)
def _encode(
    dims: tuple[str, ...], shape: tuple[int, ...], chunks: tuple[int, ...], inner: tuple[int, ...] | None, dtype: str,
    codec: str, values: tuple[Any, ...] | None,
) -> tuple[tuple[str, bytes], ...]:  # fmt: skip
    """The files of an array as Zarr makes them; thousands of sites share a few kinds of arrays."""
    kind = np.dtypes.StringDType() if dtype == "string" else np.dtype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(
            folder,
            shape=shape,
            chunks=inner or chunks,
            shards=chunks if inner else None,
            dtype=kind,
            dimension_names=dims,
            fill_value="" if dtype == "string" else np.nan if kind.kind == "f" else -1,
            compressors=CODECS[codec]() if dtype != "string" else [ZstdCodec(level=1, checksum=True)],
            config={"write_empty_chunks": True},
        )
        if values is not None:
            array[...] = np.asarray(values, kind)
        files = (file for file in Path(folder).rglob("*") if file.is_file())
        return tuple((file.relative_to(folder).as_posix(), file.read_bytes()) for file in files)


def _json(value: Any) -> Any:
    """Plain JSON: tuples as lists, NumPy scalars as numbers, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_json(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
