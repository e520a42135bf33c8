"""Download: the values of the chosen rows as they are, not as they are aggregated for a screen.

    /download?format=csv&site=head/hidden&rows=0,10          the query is that of the page

CSV and Parquet have a column `neuron` and one a sample or step, `.npy` the bare (neuron, column) matrix in the shown
order. Nothing is written on this machine: the file is made in memory, up to `LARGEST` bytes.
"""

import io
from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np
from tornado.web import RequestHandler

from actigrad.errors import ActigradError, ViewError
from actigrad.explorer.matrix import Matrix
from actigrad.explorer.source import Source
from actigrad.explorer.state import read_query
from actigrad.explorer.view import fit

LARGEST = 1 << 30
TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet", "npy": "application/octet-stream"}


class Download(RequestHandler):
    """The file of a query."""

    def initialize(self, sources: Mapping[str, Source], pool: Executor) -> None:
        """What may be read."""
        self.sources, self.pool = sources, pool

    async def get(self) -> None:
        """The file, or a sentence on why there is none."""
        from tornado.ioloop import IOLoop

        kind = self.get_query_argument("format", "csv")
        try:
            content = await IOLoop.current().run_in_executor(
                self.pool, make_file, self.sources, self.request.query, kind
            )
        except ActigradError as error:
            self.set_status(400)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error))
            return
        self.set_header("Content-Type", TYPES[kind])
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Disposition", f'attachment; filename="neurons.{kind}"')
        self.finish(content)


def make_file(sources: Mapping[str, Source], query: str, kind: str) -> bytes:
    """The bytes of a file of the rows that a query chooses; of all rows when it chooses none.

    Raises:
        ViewError: when the format is not known, Arrow is not installed, or the file would be too large.
    """
    if kind not in TYPES:
        raise ViewError(f"format is {kind[:20]!r}; it can be {', '.join(TYPES)}.")
    from actigrad.explorer.reading import read_matrix  # as in the panes

    state, _ = read_query(query)
    view = fit(state, sources)
    matrix = read_matrix(view)
    rows = slice(*view.state.rows) if view.state.rows else slice(None)
    neurons = matrix.neurons[rows]
    nbytes = 4 * len(neurons) * matrix.shape[1]
    if nbytes > LARGEST:
        raise ViewError(f"These are {nbytes / 2**30:.1f} GiB; choose fewer rows, or read {view.snapshot.path} itself.")
    return {"csv": _csv, "parquet": _parquet, "npy": _npy}[kind](matrix, neurons, matrix.read(rows))


def _csv(matrix: Matrix, neurons: np.ndarray, values: np.ndarray) -> bytes:
    out = io.StringIO()
    out.write(",".join(["neuron", *(f"{matrix.x}_{column}" for column in matrix.columns.tolist())]) + "\n")
    for neuron, row in zip(neurons.tolist(), values, strict=True):
        out.write(f"{neuron},{','.join(map(repr, row.tolist()))}\n")
    return out.getvalue().encode()


def _npy(_: Matrix, __: np.ndarray, values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def _parquet(matrix: Matrix, neurons: np.ndarray, values: np.ndarray) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ViewError("Parquet needs Arrow: pip install 'actigrad[export]'. CSV and npy need nothing.") from error
    names = ["neuron", *(f"{matrix.x}_{column}" for column in matrix.columns.tolist())]
    arrays = [pyarrow.array(neurons), *(pyarrow.array(np.ascontiguousarray(column)) for column in values.T)]
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names), out)
    return out.getvalue()
