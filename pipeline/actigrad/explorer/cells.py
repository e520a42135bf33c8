"""Cells: what the browser gets of an aggregate, and what a place in it means.

source.data = image_columns(matrix, cells)
hover.tooltips = tooltips(matrix, cells)
hit(cells, row, column)                       # the neuron that a tap means
"""

from typing import Any

import numpy as np

from actigrad.explorer.matrix import Matrix

IDS = ("neuron", "column", "label", "mean", "nonfinite")
"""What the hover tells of a cell, beside its value."""


def hit(cells: Any, row: int, column: int) -> int | None:
    """The neuron of the extreme of the cell at a place: what the hover tells there, and so what a tap means."""
    i, j = (row - cells.start[0]) // cells.factors[0], (column - cells.start[1]) // cells.factors[1]
    inside = 0 <= i < cells.row.shape[0] and 0 <= j < cells.row.shape[1]
    return int(cells.row[i, j]) if inside and cells.row[i, j] >= 0 else None


def image_columns(matrix: Matrix, cells: Any) -> dict[str, list]:
    """The source of the image: values, and for the hover the ids that they belong to."""
    (top, left), (fy, fx), (h, w) = cells.start, cells.factors, cells.extreme.shape
    if not cells.extreme.size:  # a window beside the matrix; Bokeh cannot draw an image of nothing
        return {name: [] for name in ("image", *IDS, "x", "y", "dw", "dh")}
    neuron, at = cells.row, np.where(cells.row >= 0, cells.column, -1)
    if fy == 1:  # of a value that is not finite, too, which neuron it is is known
        neuron = np.broadcast_to(matrix.neurons[top : top + h, None], (h, w))
    column = np.where(at >= 0, matrix.ids[at], -1) if matrix.ids.size else at
    if fx == 1:
        column = np.broadcast_to(matrix.columns[left : left + w], (h, w))
    label = one = np.zeros((1, 1), np.int32)
    if matrix.labels is not None:
        label = np.where(column >= 0, matrix.labels[column], -1)
    loud = np.where(cells.nonfinite > 0, np.nan, cells.extreme).astype(np.float32)
    whole = lambda values: [np.ascontiguousarray(values, _smallest(values))]
    return {
        "image": [loud], "neuron": whole(neuron), "column": whole(column), "label": whole(label),
        "mean": [cells.mean if max(fy, fx) > 1 else one.astype(np.float32)],
        "nonfinite": whole(cells.nonfinite if cells.nonfinite.any() else one),
        "x": [left - 0.5], "y": [top - 0.5], "dw": [w * fx], "dh": [h * fy],
    }  # fmt: skip


def _smallest(values: np.ndarray) -> type[np.integer]:
    """The narrowest integers that hold them: every zoom sends three ids a cell."""
    peak = int(np.abs(values).max(initial=0))
    return np.int8 if peak < 2**7 else np.int16 if peak < 2**15 else np.int32


def tooltips(matrix: Matrix, cells: Any) -> list[tuple[str, str]]:
    """Neuron, step or sample, value; the mean where a cell covers more than one, and how many are not finite."""
    told = [("neuron", "@neuron{custom}"), (matrix.x, "@column{custom}"), ("value", "@image{0.0000e}")]
    if matrix.labels is not None:
        told.insert(2, ("label", "@label"))
    if max(cells.factors) > 1:
        told.append(("mean of the cell", "@mean{0.0000e}"))
    return [*told, ("not finite", "@nonfinite")] if cells.nonfinite.any() else told
