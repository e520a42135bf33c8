"""Opening: what a data factory returns, or a path holds, to a source.

    open_source(lambda: {"x": x, "label": label}, key="data.factory", samples=None, batch_size=256)

Libraries are told by the object's own module, so none is imported for what it did not make.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from actigrad.sources.base import Source, reading, refuse
from actigrad.sources.streams import Stream
from actigrad.sources.tables import ArrayTable, SampleTable, Table

EXPECTED = (
    "a dict of arrays, an iterable of such dicts (a generator, a list, a Grain DataLoader, MapDataset or IterDataset, "
    "any data loader), an xarray.Dataset, a datasets.Dataset, a pyarrow.Table, a Zarr group"
)
TELL_SAMPLES = "how many samples to read: a stream does not tell its length (data.samples: 4096)"


def open_source(make: Callable[[], Any], *, key: str, samples: Any, batch_size: int) -> Source:
    """The source of what `make` returns.

    Args:
        make: called once; where it returns an iterator, which can be used up, again for each pass.
        key: of the config, for messages.
        samples: `data.samples`.
        batch_size: of the run.

    Raises:
        ConfigError: when it is nothing that holds samples, or a stream whose length is not known.
        DataError: when the first samples cannot be read.
    """
    data = make()
    source = _open_table(data, key, batch_size)
    if source is None:
        source = _open_stream(data, make, key, samples, batch_size)
    if not source.fields or (isinstance(source, Table) and not len(source)):
        raise refuse(key, "one without samples", "at least one sample")
    return source


def _open_table(data: Any, key: str, batch_size: int) -> Source | None:
    if isinstance(data, Source):
        return data
    if _is_of(data, "xarray", "Dataset"):
        return ArrayTable(_of_xarray(data, key), key, batch_size)
    if _is_of(data, "zarr", "Group"):
        return ArrayTable(of_zarr(data, key), key, batch_size)
    if _is_of(data, "pyarrow", "Table"):
        from actigrad.sources.arrow import ArrowTable, table_part

        return ArrowTable([table_part(data)], key, batch_size)
    if _is_of(data, "datasets", "DatasetDict"):
        raise refuse(key, f"the splits {', '.join(data)}", "one of them", "as in datasets.load_dataset(...)['test']")
    if _is_of(data, "datasets", "Dataset"):
        from actigrad.sources.arrow import HuggingFaceTable

        return HuggingFaceTable(data, key, batch_size)
    if isinstance(data, Mapping):
        arrays = {str(name): v if _is_of(v, "zarr", "Array") else np.asarray(v) for name, v in data.items()}
        return ArrayTable(arrays, key, batch_size)
    if _has_length(data) and hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
        with reading(f"sample 0 of {key}"):
            first = data[0] if len(data) else None
        if isinstance(first, Mapping) and any(np.ndim(value) == 0 for value in first.values()):
            return SampleTable(data, key, batch_size)
    return None


def _open_stream(data: Any, make: Callable[[], Any], key: str, samples: Any, batch_size: int) -> Source:
    is_iterable = isinstance(data, Iterable) or hasattr(data, "__getitem__")
    if not is_iterable or isinstance(data, str | bytes | np.ndarray):
        raise refuse(key, f"one that returned a {type(data).__name__}", EXPECTED)
    if isinstance(samples, list | tuple):
        hint = "Give the first so many (data.samples: 4096), or a source that can be asked for any sample."
        raise refuse("data.samples", str(samples), "a number, as a stream only has first samples", hint)
    if samples is None and not _has_length(data):
        raise refuse("data.samples", "null", TELL_SAMPLES)
    if _is_of(data, "datasets", "IterableDataset"):
        rows: Any = data  # as Arrow: its own rows are Python's numbers, without their dtypes
        return Stream(lambda: rows.with_format("arrow").iter(batch_size), samples, key, batch_size)
    is_used_up = iter(data) is data
    firsts = [data]  # what the first call returned serves the first pass
    again = lambda: firsts.pop() if firsts else make()
    return Stream(again if is_used_up else lambda: data, samples, key, batch_size)


def _has_length(data: Any) -> bool:
    """Whether it tells how long it is; what repeats for ever says `sys.maxsize`."""
    try:
        return len(data) < sys.maxsize
    except (TypeError, OverflowError, NotImplementedError):
        return False


def _is_of(value: Any, package: str, name: str) -> bool:
    """Whether the value is of a class of this name in a package, without importing it."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == package for c in type(value).__mro__)


def _of_xarray(dataset: Any, key: str) -> dict[str, Any]:
    """The variables along the samples, sample first, still lazy; the index of the samples is their `id`."""
    dims = [variable.dims[:1] for variable in dataset.data_vars.values()]
    sample = "sample" if "sample" in dataset.dims else dims[0][0] if dims and dims[0] and len({*dims}) == 1 else None
    if sample is None:
        found = {name: variable.dims for name, variable in dataset.data_vars.items()}
        raise refuse(key, f"one with the dims {found}", "variables along a dim called 'sample', or along one first dim")
    along = chain(dataset.data_vars.items(), dataset.coords.items())
    return {
        "id" if name == sample else str(name): variable.variable.transpose(sample, ...)
        for name, variable in along
        if sample in variable.dims
    }


def of_zarr(group: Any, key: str) -> dict[str, Any]:
    """The arrays of a Zarr group, still on the disk; one with named dims is read as xarray would."""
    import zarr

    arrays = {name: member for name, member in group.members() if isinstance(member, zarr.Array)}
    named = [getattr(a.metadata, "dimension_names", None) or a.attrs.get("_ARRAY_DIMENSIONS") for a in arrays.values()]
    if arrays and all(named):
        import xarray

        return _of_xarray(xarray.open_zarr(group.store, group=group.path or None, chunks=None, consolidated=False), key)
    return arrays
