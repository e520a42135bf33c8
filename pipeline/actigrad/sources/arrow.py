"""Arrow: tables of Arrow, Parquet, Feather, Hugging Face; one part (row group, record batch) in memory at a time.

    ArrowTable(parquet_parts([Path("samples.parquet")]), "data.path", 256)

Columns of lists are arrays where all lists have one length, tensors are what they are. A part is read when samples of
it are asked for, and kept until samples of another one are; so memory is that of the largest part, and samples that
are asked for in order are read once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from actigrad.errors import DataError
from actigrad.sources.base import Batch, as_array, field_of
from actigrad.sources.tables import Table, is_run, span


@dataclass(frozen=True)
class Part:
    """So many samples, and how to read them."""

    samples: int
    read: Callable[[], pa.Table]


class ArrowTable(Table):
    """Samples in parts."""

    def __init__(self, parts: Sequence[Part], key: str, batch_size: int):
        self.parts = [part for part in parts if part.samples]
        self.starts = np.cumsum([0, *(part.samples for part in self.parts)])
        self._held: tuple[int, pa.Table] | None = None
        head = {}
        if self.parts:
            first = self._part(0).slice(0, 1)
            head = {name: as_array(to_numpy(first[name], name), f"{key}: {name!r}") for name in first.column_names}
        super().__init__(key, batch_size, {name: field_of(values) for name, values in head.items()})

    def __len__(self) -> int:
        return int(self.starts[-1])

    def get(self, rows: np.ndarray, names: Sequence[str]) -> Batch:
        """See `Table`."""
        places = np.searchsorted(self.starts, rows, side="right") - 1
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        order = np.argsort(places, kind="stable")
        for place in np.unique(places):
            inside = pa.array(rows[order][places[order] == place] - self.starts[place])
            taken = self._part(int(place)).select(list(names)).take(inside)
            for name in names:
                found[name].append(to_numpy(taken[name], name))
        back = np.argsort(order, kind="stable")
        return {name: np.concatenate(parts)[back] for name, parts in found.items()}

    def _part(self, place: int) -> pa.Table:
        held = self._held
        if held is None or held[0] != place:
            self._held = held = None  # the one before is let go first
            held = self._held = place, self.parts[place].read()
        return held[1]


class HuggingFaceTable(Table):
    """A `datasets.Dataset`, memory-mapped as it is; read as Arrow, as its own NumPy format widens integers."""

    def __init__(self, dataset: Any, key: str, batch_size: int):
        self.dataset = dataset.with_format("arrow")
        self._selected: dict[tuple[str, ...], Any] = {}
        head = {name: as_array(v, f"{key}: {name!r}") for name, v in to_batch(self.dataset[:1]).items()}
        super().__init__(key, batch_size, {name: field_of(values) for name, values in head.items()})

    def __len__(self) -> int:
        return len(self.dataset)

    def get(self, rows: np.ndarray, names: Sequence[str]) -> Batch:
        """See `Table`."""
        key = tuple(names)
        if key not in self._selected:
            self._selected[key] = self.dataset.select_columns(list(names))
        return to_batch(self._selected[key][slice(*span(rows)) if is_run(rows) else rows.tolist()])


def parquet_parts(files: Sequence[Path]) -> Iterator[Part]:
    """The row groups of Parquet files."""
    from pyarrow import parquet

    for file in files:
        opened = parquet.ParquetFile(file, memory_map=True)
        for group in range(opened.num_row_groups):
            yield Part(opened.metadata.row_group(group).num_rows, partial(opened.read_row_group, group))


def ipc_parts(files: Sequence[Path]) -> Iterator[Part]:
    """The record batches of Arrow and Feather files, mapped into memory."""
    for file in files:
        mapped = pa.memory_map(str(file))
        try:
            opened = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:  # the format of streams, which Hugging Face's files have: mapped as well, in one part
            mapped.seek(0)
            table = pa.ipc.open_stream(mapped).read_all()
            yield table_part(table)
            continue
        for index in range(opened.num_record_batches):
            rows = opened.get_batch(index).num_rows
            yield Part(rows, lambda opened=opened, index=index: pa.Table.from_batches([opened.get_batch(index)]))


def table_part(table: pa.Table) -> Part:
    """A whole table as one part."""
    return Part(table.num_rows, lambda: table)


def to_batch(table: Any) -> Batch:
    """All columns of a table or record batch."""
    columns = zip(table.column_names, table.columns, strict=True)
    return {name: to_numpy(column, name) for name, column in columns}


def to_numpy(column: Any, name: str) -> np.ndarray:
    """The values of a column: (sample, …).

    Raises:
        DataError: when values are missing, or lists have different lengths.
    """
    array: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # of no chunks, or of an extension type
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if array.null_count:
        raise DataError(
            f"column {name!r} has no value at {array.null_count} of its samples; fill them or leave them out."
        )
    if isinstance(array.type, pa.FixedShapeTensorType):
        return array.to_numpy_ndarray()
    if isinstance(array, pa.ExtensionArray):
        return to_numpy(array.storage, name)
    if pa.types.is_dictionary(array.type):
        return to_numpy(array.dictionary_decode(), name)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        if len(set(lengths.tolist())) > 1:
            raise DataError(
                f"column {name!r} has lists of {lengths.min()} to {lengths.max()}; expected one length: pad them."
            )
        inner = to_numpy(array.flatten(), name)
        return inner.reshape(len(array), *lengths[:1].astype(int), *inner.shape[1:])
    return array.to_numpy(zero_copy_only=False)
