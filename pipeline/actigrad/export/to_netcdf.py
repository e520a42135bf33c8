"""netCDF: everything that a store holds, in groups as in the store, for xarray, Panoply, MATLAB, R and others.

    xarray.open_datatree("digits.nc", engine="h5netcdf")["sites/head/relu/full"]

Group by group and chunk by chunk. What netCDF has no attribute type for (nested configs, null) is JSON text.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dask.config
import h5netcdf  # noqa: F401 - the engine; here, so that its absence is told by its name
import numpy as np
import xarray

COMPRESSION = {"zlib": True, "complevel": 1, "shuffle": True}


def write(tree: xarray.DataTree, path: Path, advance: Callable[[int, int], None]) -> None:
    """One file; floats are compressed, values are the same bits."""
    nodes = list(tree.subtree)
    with dask.config.set(scheduler="single-threaded"):  # HDF5 writes one chunk at a time; more would wait in memory
        for done, node in enumerate(nodes):
            advance(done, len(nodes))
            data = _plain(node.to_dataset(inherit=False))
            encoding = {str(name): COMPRESSION for name, array in data.data_vars.items() if array.dtype.kind in "fi"}
            group = node.path.strip("/") or None
            data.to_netcdf(path, mode="a" if done else "w", group=group, engine="h5netcdf", encoding=encoding)
    advance(len(nodes), len(nodes))


def _plain(data: xarray.Dataset) -> xarray.Dataset:
    """The same without Zarr's encodings, with attributes and texts as netCDF has them."""
    data = data.drop_encoding()
    for name in data.variables:
        variable = data[name]
        if variable.dtype.kind == "T":
            data[name] = variable.astype(object)
        data[name].attrs = _attributes(variable.attrs)
    data.attrs = _attributes(data.attrs)
    return data


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _attribute(value) for name, value in attrs.items()}


def _attribute(value: Any) -> Any:
    if isinstance(value, bool):
        return np.int8(value)
    if isinstance(value, str | int | float):
        return value
    if (
        isinstance(value, list)
        and value
        and len({type(one) for one in value}) == 1
        and type(value[0]) in (int, float, str)
    ):
        return value
    return json.dumps(value)
