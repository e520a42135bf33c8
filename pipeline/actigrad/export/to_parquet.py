"""Parquet: the summaries as one tidy table, a row a number, which DuckDB, pandas, Polars and Arrow read.

    duckdb.sql("select site, step, avg(value) from 'digits.parquet' where metric = 'rms' group by all")

Columns: `site` (or the path of a parameter), `quantity`, `step`, `metric`, `layer` (the iteration of a loop;
null outside loops), `neuron`, `value`. At most `ROWS` rows are in memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray

from actigrad.export.series import Series, list_series
from actigrad.metrics import METRICS

ROWS = 1 << 17
SCHEMA = pa.schema(
    {
        "site": pa.string(), "quantity": pa.string(), "step": pa.int64(), "metric": pa.string(), "layer": pa.int32(),
        "neuron": pa.int32(), "value": pa.float32(),
    }
)  # fmt: skip


def write(tree: xarray.DataTree, path: Path, advance: Callable[[int, int], None]) -> None:
    """One file; its metadata hold the run's title and when it was made."""
    found, waiting = list_series(tree), []
    about = {name: str(tree.attrs[name]) for name in ("title", "created", "gradients_of")}
    with pq.ParquetWriter(path, SCHEMA.with_metadata(about), compression="zstd") as file:
        for done, series in enumerate(found):
            advance(done, len(found))
            for table in _tables(series):
                waiting.append(table)
                if sum(part.num_rows for part in waiting) >= ROWS:
                    file.write_table(pa.concat_tables(waiting).replace_schema_metadata(about))
                    waiting = []
        if waiting:
            file.write_table(pa.concat_tables(waiting).replace_schema_metadata(about))
    advance(len(found), len(found))


def _tables(series: Series) -> Iterator[pa.Table]:
    """Tables of at most `ROWS` rows."""
    for index, step in enumerate(series.steps):
        values = series.read(index)
        loops = len(values.shape) > 2
        values = values.reshape(len(METRICS), -1, values.shape[-1])
        for start in range(0, values.size, ROWS):
            flat = np.arange(start, min(start + ROWS, values.size))
            metric, layer, neuron = np.unravel_index(flat, values.shape)
            columns: list[Any] = [
                pa.repeat(series.place, len(flat)),
                pa.repeat(series.quantity, len(flat)),
                pa.repeat(pa.scalar(step, pa.int64()), len(flat)),
                pa.DictionaryArray.from_arrays(metric.astype(np.int32), METRICS).cast(pa.string()),
                pa.array(layer.astype(np.int32)) if loops else pa.nulls(len(flat), pa.int32()),
                neuron.astype(np.int32),
                values.reshape(-1)[flat],
            ]
            yield pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)
