"""Files: a path to what a data factory would return for it, still on the disk where the format allows that.

    open_path("digits.npz")                            # {"image": ..., "label": ...}

| path | fields |
|---|---|
| `x.npy` | one, `x`, mapped into memory |
| `samples.npz` | its members; mapped if saved uncompressed, else read |
| a folder of `.npy` | one a file, mapped |
| a Zarr group or array | its arrays, or those along `sample` where dims are named |
| `.nc`, `.h5` of netCDF | the variables along `sample`, or along their one first dim |
| `.parquet`, or a folder of them | the columns; a row group at a time |
| `.arrow`, `.feather`, or a folder of them | the columns; a record batch at a time, mapped |
| a folder that `save_to_disk` wrote | the columns of the Hugging Face dataset, mapped |
| `.pkl`, `.pt`, arrays of objects | refused, unless the config says `data.trust: pickle` |
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actigrad.pickles import check_trust, load_pickle
from actigrad.sources.base import reading, refuse
from actigrad.sources.opening import of_zarr

KEY = "data.path"
EXPECTED = (
    "a .npy, .npz, .nc, .parquet, .arrow or .feather file, a folder of one of these, a Zarr group or array, "
    "or a folder that datasets.Dataset.save_to_disk wrote"
)


def open_path(path: str | Path, *, batch_size: int, trust: str | None = None) -> Any:
    """What the path holds, as a factory would return it.

    Raises:
        ConfigError: when nothing is there, it is none of these, a library lacks, or only pickle could read it.
        DataError: when it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise refuse(KEY, repr(str(path)), EXPECTED, "There is nothing at that path; is it relative to another folder?")
    opener = _folder_opener(path) if path.is_dir() else FILES.get(path.suffix.lower())
    if opener is None:
        raise refuse(KEY, repr(str(path)), EXPECTED)
    with reading(f"{KEY} {path}"), _installed():
        return opener(path, trust=trust, batch_size=batch_size)


def _folder_opener(path: Path) -> Callable[..., Any] | None:
    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise refuse(KEY, repr(str(path)), "one split", f"It holds {', '.join(splits)}: as in {path / splits[0]}.")
    if (path / "state.json").exists() and (path / "dataset_info.json").exists():
        return _hugging_face
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return _zarr
    for suffix in (".npy", ".parquet", ".arrow", ".feather"):
        if any(path.glob(f"*{suffix}")):
            return partial(FILES[suffix], suffix=suffix)
    return None


def _npy(path: Path, *, trust: str | None, suffix: str = ".npy", **_: Any) -> dict[str, np.ndarray]:
    files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
    return {file.stem: _map_npy(file, trust) for file in files}


def _map_npy(path: Path, trust: str | None) -> np.ndarray:
    with path.open("rb") as file:
        _, _, dtype = _npy_header(file)
    if dtype.hasobject:
        check_trust(KEY, path, "an array of objects", trust)
        return np.load(path, allow_pickle=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npz(path: Path, *, trust: str | None, **_: Any) -> dict[str, np.ndarray]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                shape, fortran, dtype = _npy_header(file)
                offset = file.tell()
            if dtype.hasobject:
                check_trust(KEY, path, f"an array of objects, {name!r}", trust)
                found[name] = np.load(path, allow_pickle=True)[name]
            elif member.compress_type == zipfile.ZIP_STORED and all(shape):
                at = _data_offset(path, member) + offset
                found[name] = np.memmap(path, dtype, "r", at, shape, "F" if fortran else "C")
            else:
                found[name] = np.load(path, allow_pickle=False)[name]
    return found


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype; the file stands at the values then."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose two last numbers are lengths of what follows it."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra


def _zarr(path: Path, **_: Any) -> dict[str, Any]:
    import zarr

    opened = zarr.open(path, mode="r")
    return {path.stem: opened} if isinstance(opened, zarr.Array) else of_zarr(opened, KEY)


def _netcdf(path: Path, **_: Any) -> Any:
    import xarray

    return xarray.open_dataset(path)


def _parquet(path: Path, *, batch_size: int, suffix: str = ".parquet", **_: Any) -> Any:
    from actigrad.sources.arrow import ArrowTable, parquet_parts

    return ArrowTable(list(parquet_parts(_files(path, suffix))), KEY, batch_size)


def _arrow(path: Path, *, batch_size: int, suffix: str = ".arrow", **_: Any) -> Any:
    from actigrad.sources.arrow import ArrowTable, ipc_parts

    return ArrowTable(list(ipc_parts(_files(path, suffix))), KEY, batch_size)


def _files(path: Path, suffix: str) -> list[Path]:
    return sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]


def _hugging_face(path: Path, **_: Any) -> Any:
    import datasets

    return datasets.load_from_disk(str(path))


def _pickle(path: Path, *, trust: str | None, **_: Any) -> Any:
    return load_pickle(KEY, path, trust)


@contextmanager
def _installed() -> Iterator[None]:
    """A library that lacks is told with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "export" if error.name in ("h5netcdf", "h5py") else "data"
        cure = f"pip install 'actigrad[{extra}]'"
        raise refuse(KEY, "a file whose library is missing", f"the package {error.name}", cure) from error


FILES: dict[str, Callable[..., Any]] = {
    ".npy": _npy, ".npz": _npz, ".nc": _netcdf, ".nc4": _netcdf, ".h5": _netcdf, ".parquet": _parquet, ".pq": _parquet,
    ".arrow": _arrow, ".feather": _arrow, ".ipc": _arrow,
    ".pkl": _pickle, ".pickle": _pickle, ".pt": _pickle, ".pth": _pickle,
}  # fmt: skip
