"""The same samples in every form in which a source can have them: what the tests of sources and jobs share."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

N = 11


def samples(n: int = N) -> dict[str, np.ndarray]:
    """x float32, image float32 of rank 3, label int32, flag bool, name text."""
    random = np.random.default_rng(0)
    return {
        "x": random.normal(size=(n, 4)).astype(np.float32),
        "image": random.normal(size=(n, 2, 3)).astype(np.float32),
        "label": (np.arange(n) % 3).astype(np.int32),
        "flag": np.arange(n) % 2 == 0,
        "name": np.array([f"n{'é' * (i % 3)}{i}" for i in range(n)]),
    }


def cut(data: dict[str, Any], *sizes: int) -> list[dict[str, Any]]:
    """Batches of these sizes; the last one holds the rest."""
    ends = [0, *np.cumsum(sizes), len(data["x"])]
    return [{name: values[a:b] for name, values in data.items()} for a, b in pairwise(ends) if b > a]


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict a sample."""
    return [{name: values[i] for name, values in data.items()} for i in range(len(data["x"]))]


class Rows:
    """A dataset of PyTorch's kind."""

    def __init__(self, data: dict[str, Any]):
        self.rows = rows(data)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def xarray_of(data: dict[str, Any], *, text: bool = True) -> Any:
    """A Dataset along `sample`, one variable with its samples last, and one that has none."""
    import xarray

    dims = {1: ("sample",), 2: ("sample", "d"), 3: ("sample", "y", "d2")}
    variables = {k: (dims[v.ndim], v) for k, v in data.items() if text or v.dtype.kind != "U"}
    variables["x"] = (("d", "sample"), data["x"].T)
    return xarray.Dataset({**variables, "weights": ("y", np.ones(2))})


def arrow_of(data: dict[str, Any]) -> Any:
    """An Arrow table: x a list, image a tensor, name a dictionary."""
    import pyarrow as pa

    image = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(data["image"]))
    columns = {
        "x": pa.array(list(data["x"]), pa.list_(pa.float32())),
        "image": image,
        "label": pa.array(data["label"]),
        "flag": pa.array(data["flag"]),
        "name": pa.array(data["name"].tolist()).dictionary_encode(),
    }
    return pa.table(columns)


def _grain_table(data: dict[str, Any]) -> Any:
    import grain

    return grain.MapDataset.source(Rows(data))


def _grain_loader(data: dict[str, Any]) -> Any:
    import grain

    sampler = grain.samplers.SequentialSampler(len(data["x"]), grain.sharding.NoSharding())
    return grain.DataLoader(data_source=Rows(data), sampler=sampler, operations=[grain.transforms.Batch(3)])


def hugging_face_of(data: dict[str, Any]) -> Any:
    """A `datasets.Dataset` with the dtypes of the data."""
    import datasets

    kinds = {"x": datasets.List(datasets.Value("float32")), "image": datasets.Array2D((2, 3), "float32")}
    kinds |= {"label": datasets.Value("int32"), "flag": datasets.Value("bool"), "name": datasets.Value("string")}
    return datasets.Dataset.from_dict({k: v.tolist() for k, v in data.items()}, features=datasets.Features(kinds))


# What a factory may return; those that are asked for their first `N` samples are streams that do not tell their length.
FACTORIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": lambda data: data,
    "list of batches": lambda data: cut(data, 2, 7),
    "generator": lambda data: iter(cut(data, 5, 1, 1)),
    "samples": lambda data: iter(rows(data)),
    "dataset of samples": Rows,
    "xarray": xarray_of,
    "arrow": arrow_of,
    "hugging face": hugging_face_of,
    "hugging face stream": lambda data: hugging_face_of(data).to_iterable_dataset(),
    "grain table": _grain_table,
    "grain table of batches": lambda data: _grain_table(data).batch(4),
    "grain stream": lambda data: _grain_table(data).to_iter_dataset().batch(3),
    "grain loader": _grain_loader,
}
UNTOLD = {"generator", "samples", "hugging face stream", "grain stream", "grain loader"}


def _npy_folder(data: dict[str, Any], folder: Path) -> Path:
    path = folder / "arrays"
    path.mkdir()
    for name, values in data.items():
        np.save(path / f"{name}.npy", values)
    return path


def _saved(name: str, write: Callable[[dict[str, Any], Path], Any]) -> Callable[[dict[str, Any], Path], Path]:
    def save(data: dict[str, Any], folder: Path) -> Path:
        write(data, folder / name)
        return folder / name

    return save


def _parquet(data: dict[str, Any], path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(arrow_of(data), path, row_group_size=4)


def _ipc(data: dict[str, Any], path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, arrow_of(data).schema) as writer:
        writer.write_table(arrow_of(data), max_chunksize=4)


def _ipc_stream(data: dict[str, Any], path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, arrow_of(data).schema) as writer:
        writer.write_table(arrow_of(data), max_chunksize=4)


def _feather(data: dict[str, Any], path: Path) -> None:
    from pyarrow import feather

    feather.write_feather(arrow_of(data), str(path), chunksize=5)


def _zarr(data: dict[str, Any], path: Path) -> None:
    import zarr

    group = zarr.create_group(path)
    for name, values in data.items():
        dtype = np.dtypes.StringDType() if values.dtype.kind == "U" else values.dtype
        array = group.create_array(name, shape=values.shape, dtype=dtype, chunks=(3, *values.shape[1:]))
        array[...] = values.astype(dtype)


def _hugging_face(data: dict[str, Any], path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    hugging_face_of(data).save_to_disk(path)


# What a path may hold.
PATHS: dict[str, Callable[[dict[str, Any], Path], Path]] = {
    "folder of npy": _npy_folder,
    "npz": _saved("a.npz", lambda data, path: np.savez(path, **data)),
    "compressed npz": _saved("a.npz", lambda data, path: np.savez_compressed(path, **data)),
    "zarr": _saved("a.zarr", _zarr),
    "zarr by xarray": _saved(
        "a.zarr", lambda data, path: xarray_of(data, text=False).to_zarr(path, consolidated=False)
    ),
    "netcdf": _saved("a.nc", lambda data, path: xarray_of(data).to_netcdf(path, engine="h5netcdf")),
    "parquet": _saved("a.parquet", _parquet),
    "arrow": _saved("a.arrow", _ipc),
    "arrow stream": _saved("a.arrow", _ipc_stream),
    "feather": _saved("a.feather", _feather),
    "saved hugging face": _saved("hf", _hugging_face),
}
