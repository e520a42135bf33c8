"""Matrix: what the heatmap of a state shows, neurons × samples or steps, in the state's orders.

    matrix = reading.read_matrix(view)
    matrix.look(window, pixels)         # the cells of a viewport: extreme, which neuron, which column
    matrix.read(slice(0, 10))           # the values of rows as they are

The same matrix is what a download holds, so the file and the picture agree. How it comes out of the store: `reading`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from actigrad.errors import ViewError
from actigrad.explorer.snapshot import strongest

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Matrix:
    """A matrix in the orders that are shown.

    Attributes:
        drawn: a `raster.Matrix`: read already where it is small, by its levels where it has any.
        neurons: (row,) which neuron a row is.
        columns: (column,) which sample or step a column is.
        ids: which sample or step the drawn matrix' column ids mean.
        labels: (sample,) of all samples of the store if they have one, else None.
        groups: runs of one label, as (label, start, stop).
        scale: the `Scale` of the run, or of the difference.
        x: sample or step.
    """

    drawn: Any
    neurons: np.ndarray
    columns: np.ndarray
    ids: np.ndarray
    labels: np.ndarray | None
    groups: list[tuple[int, int, int]]
    scale: Any
    x: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.neurons), len(self.columns)

    @property
    def is_slow(self) -> bool:
        """Whether every look reads the whole window from the disk."""
        return not self.drawn.levels and not isinstance(self.drawn.values, np.ndarray)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for the cache; a 1x1 level that is held keeps counts and places beside the values."""
        held = self.drawn.values.nbytes if isinstance(self.drawn.values, np.ndarray) else 0
        return self.neurons.nbytes + (9 if self.drawn.levels else 1) * held

    def place(self, neuron: int | None) -> int | None:
        """The row of a neuron."""
        found = np.flatnonzero(self.neurons == neuron) if neuron is not None else []
        return int(found[0]) if len(found) else None

    def look(self, window: Window | None, pixels: tuple[int, int]) -> Any:
        """At most `pixels` (down, across) cells of a window (left, right, top, bottom) in positions, an `Aggregate`."""
        from actigrad.pictures.raster import rasterise  # Dask and Numba are imported when something is drawn

        spans = None
        if window is not None:
            left, right, top, bottom = window
            spans = (_elements(top, bottom), _elements(left, right))
        return rasterise(self.drawn, spans, pixels)

    def read(self, rows: slice) -> np.ndarray:
        """(row, column) values; of an element of several, the one of largest magnitude, NaN where any is not finite.

        Raises:
            ViewError: where blocks of neurons were kept, and no neuron of its own.
        """
        if self.drawn.values is None:
            raise ViewError(
                f"Of each sample blocks of {self.drawn.finest[0]} neurons were kept (keep: levels), no single ones: "
                "they can be looked at and not read out. Capture the site with keep: full for that."
            )
        first, stop, _ = rows.indices(self.shape[0])
        if (1, 1) in self.drawn.levels:
            cells = self.look((-0.5, self.shape[1] - 0.5, first - 0.5, stop - 0.5), (stop - first, self.shape[1]))
            return np.where(cells.nonfinite > 0, np.float32(np.nan), cells.extreme)
        values = np.asarray(self.drawn.values[first:stop])
        return values if values.ndim == 2 else strongest(values, 2)


def _elements(low: float, high: float) -> tuple[int, int]:
    """Elements that a range of positions touches; element i covers i - 0.5 to i + 0.5."""
    return int(np.floor(low + 0.5)), int(np.ceil(high + 0.5))
