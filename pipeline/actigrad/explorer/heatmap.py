"""The heatmap of the chosen site: neurons from the top down, samples or steps from left to right.

A cell is the signed extreme of what it covers, with the neuron and the column that the value belongs to in the hover;
not finite is loudly green. The browser tells the window and how many pixels there are, and gets at most that many
cells, on a grid that does not move with the window. A tap chooses a neuron, a box chooses rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.events import RangesUpdate, Reset, SelectionGeometry, Tap
from bokeh.models import (
    BoxSelectTool,
    BoxZoomTool,
    ColorBar,
    CrosshairTool,
    HoverTool,
    LinearAxis,
    LinearColorMapper,
    PanTool,
    ResetTool,
    WheelZoomTool,
)  # fmt: skip

from actigrad.explorer.figures import INKS, make_figure, make_source, name_positions, number_positions, paint
from actigrad.explorer.matrix import Matrix, Window, read_matrix
from actigrad.explorer.view import View
from actigrad.pictures.palette import DIVERGING, NOT_FINITE
from actigrad.pictures.raster import Aggregate

CHOSEN = "#d97706"
CELLS = (320, 900)
"""Cells (down, across) until the browser has told its size."""


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    view: View
    matrix: Matrix
    cells: Aggregate
    window: Window


class Heatmap:
    """The pane."""

    name = "heatmap"

    def __init__(self, change: Any):
        self._change, self._shown = change, None
        self._size = {"inner_height": CELLS[0], "inner_width": CELLS[1]}
        made = self.figure = make_figure(tools="", x_range=(-0.5, 0.5), y_range=(0.5, -0.5))
        ids = ("neuron", "column", "label", "mean")
        self.cells = make_source("image", *ids, "x", "y", "dw", "dh", name="heatmap")
        self.colours = LinearColorMapper(palette=DIVERGING, nan_color=NOT_FINITE)
        self.drawn = made.image("image", "x", "y", "dw", "dh", source=self.cells, color_mapper=self.colours)
        self.rows = make_source("left", "right", "top", "bottom")
        self.box = made.quad("left", "right", "top", "bottom", source=self.rows, fill_alpha=0, line_width=2)
        self.place = make_source("x", "y")
        self.pin = made.scatter("x", "y", source=self.place, marker="triangle", angle=-np.pi / 2, size=13, line_width=1)
        self.edges = make_source("x")
        self.lines = made.vspan("x", source=self.edges, line_width=1, line_alpha=0.5)
        self.labels: Any = LinearAxis(
            axis_line_color=None, major_tick_line_color=None, minor_tick_line_color=None,
            major_label_standoff=0, major_label_text_font_size="11px",
        )  # fmt: skip
        self.labels.ticker = []
        made.add_layout(self.labels, "above")
        self.bar = ColorBar(color_mapper=self.colours, width=10, label_standoff=6, padding=4, margin=0,
                            background_fill_alpha=0)  # fmt: skip
        made.add_layout(self.bar, "right")
        self.hover = HoverTool(renderers=[self.drawn], tooltips=None, attachment="horizontal")
        self.tools = {
            "pan": PanTool(),
            "zoom": BoxZoomTool(),
            "select": BoxSelectTool(renderers=[], dimensions="height"),
        }
        made.add_tools(*self.tools.values(), WheelZoomTool(), ResetTool(), self.hover, CrosshairTool(line_alpha=0.25))
        made.toolbar.active_scroll = made.select_one({"type": WheelZoomTool})
        made.grid.visible = False
        made.left[0].axis_label = "neuron"
        number_positions(made.left[0])
        for side in self._size:
            made.on_change(side, self._resized)
        made.on_event(RangesUpdate, self._moved)
        made.on_event(Reset, lambda _: self._change(window=None))
        made.on_event(Tap, self._tapped)
        made.on_event(SelectionGeometry, self._boxed)

    def needs(self, view: View) -> tuple:
        """What of a view it depends on."""
        s = view.state
        other = (view.other.name, view.other.marks) if view.other else None
        chosen = (s.site, s.quantity, s.x, view.step, s.group, s.order, s.neurons)
        return (
            view.snapshot.name,
            view.snapshot.marks,
            *chosen,
            view.versus_step,
            other,
            s.window,
            s.rows,
            s.neuron,
            self.pixels(),
        )

    def pixels(self) -> tuple[int, int]:
        """Cells (down, across) that can be seen."""
        return self._size["inner_height"], self._size["inner_width"]

    def read(self, view: View) -> Picture:
        """Read and aggregate."""
        matrix = read_matrix(view)
        down, across = matrix.values.shape
        window = view.state.window or (-0.5, across - 0.5, -0.5, down - 0.5)
        return Picture(view, matrix, matrix.look(window, self.pixels()), window)

    def show(self, picture: Picture) -> dict[str, Any]:
        """Draw; the legend is returned."""
        self._shown = picture
        matrix, cells, state = picture.matrix, picture.cells, picture.view.state
        self.colours.update(palette=matrix.scale.colours, low=matrix.scale.low, high=matrix.scale.high)
        self.cells.data = image_columns(matrix, cells)
        self.hover.tooltips = tooltips(matrix, cells)
        self._set_ranges(picture.window)
        across = matrix.values.shape[1]
        rows = [state.rows] if state.rows else []
        self.rows.data = {
            "left": [-0.5] * len(rows), "right": [across - 0.5] * len(rows),
            "top": [first - 0.5 for first, _ in rows], "bottom": [stop - 0.5 for _, stop in rows],
        }  # fmt: skip
        place = [matrix.places[state.neuron]] if state.neuron in matrix.places else []
        self.place.data = {"x": [picture.window[0]] * len(place), "y": place}
        self.edges.data = {"x": [start - 0.5 for _, start, _ in matrix.groups[1:]]}
        middles = {(start + stop - 1) / 2: str(label) for label, start, stop in matrix.groups}
        self.labels.update(ticker=list(middles), major_label_overrides=middles, visible=bool(middles))
        axis = self.figure.below[0]
        if matrix.x == "step":
            name_positions(axis, [str(step) for step in matrix.columns], room=20)
            axis.axis_label = "step"
        else:
            number_positions(axis)
            axis.axis_label = "sample, grouped by label" if matrix.groups else "sample"
        return {"legend": legend(picture)}

    def paint(self, dark: bool) -> None:
        """Light or dark."""
        inks = INKS[dark]
        paint(self.figure, dark)
        self.bar.major_label_text_color = inks["soft"]
        self.labels.update(axis_line_color=None, major_tick_line_color=None)
        self.lines.glyph.line_color = inks["mark"]
        self.box.glyph.line_color = self.pin.glyph.fill_color = CHOSEN
        self.pin.glyph.line_color = inks["card"]

    def use(self, tool: str) -> None:
        """What dragging does: pan, zoom or select."""
        self.figure.toolbar.active_drag = self.tools[tool]

    def _resized(self, attr: str, old: Any, new: Any) -> None:
        if new and new > 20 and self._size[attr] != new:
            self._size[attr] = int(new)
            self._change()

    def _set_ranges(self, window: Window) -> None:
        left, right, top, bottom = window
        x, y = self.figure.x_range, self.figure.y_range
        if (x.start, x.end, y.start, y.end) != (left, right, bottom, top):
            x.update(start=left, end=right)
            y.update(start=bottom, end=top)

    def _moved(self, event: Any) -> None:
        if self._shown is None or None in (event.x0, event.x1, event.y0, event.y1):
            return
        window = (float(event.x0), float(event.x1), float(event.y1), float(event.y0))
        if window[0] < window[1] and window[2] < window[3] and window != self._shown.window:
            self._change(window=window)

    def _row(self, y: float) -> int | None:
        row = round(y)
        return row if self._shown is not None and 0 <= row < self._shown.matrix.values.shape[0] else None

    def _tapped(self, event: Any) -> None:
        row = self._row(event.y) if event.y is not None else None
        if row is None or self._shown is None:
            return
        cell = hit(self._shown.cells, row, round(event.x) if event.x is not None else 0)
        self._change(neuron=int(self._shown.matrix.neurons[row if cell is None else cell]))

    def _boxed(self, event: Any) -> None:
        if self._shown is None or not event.final or event.geometry.get("type") != "rect":
            return
        low, high = sorted((event.geometry["y0"], event.geometry["y1"]))
        n = self._shown.matrix.values.shape[0]
        first, stop = max(0, round(low)), min(n, round(high) + 1)
        if first < stop:
            self._change(rows=(first, stop))


def hit(cells: Aggregate, row: int, column: int) -> int | None:
    """The row of the extreme of the cell at a place: what the hover tells there, and so what a tap means."""
    i, j = (row - cells.start[0]) // cells.factors[0], (column - cells.start[1]) // cells.factors[1]
    inside = 0 <= i < cells.row.shape[0] and 0 <= j < cells.row.shape[1]
    return int(cells.row[i, j]) if inside and cells.row[i, j] >= 0 else None


def image_columns(matrix: Matrix, cells: Aggregate) -> dict[str, list]:
    """The source of the image: values, and for the hover the ids that they belong to."""
    (top, left), (fy, fx), (h, w) = cells.start, cells.factors, cells.extreme.shape
    known = cells.row >= 0
    row, column = np.maximum(cells.row, 0), np.maximum(cells.column, 0)
    ids = lambda values, at: (
        [np.where(known, values[at], -1).astype(np.int32)] if values.size else [known.astype(np.int32)]
    )
    loud = np.where(cells.nonfinite > 0, np.nan, cells.extreme).astype(np.float32)
    return {
        "image": [loud], "neuron": ids(matrix.neurons, row), "column": ids(matrix.columns, column),
        "label": ids(matrix.labels, column) if matrix.labels is not None else [np.zeros((1, 1), np.int32)],
        "mean": [cells.mean] if max(fy, fx) > 1 else [np.zeros((1, 1), np.float32)],
        "x": [left - 0.5], "y": [top - 0.5], "dw": [w * fx], "dh": [h * fy],
    }  # fmt: skip


def tooltips(matrix: Matrix, cells: Aggregate) -> list[tuple[str, str]]:
    """Neuron, step or sample, value; the mean where a cell covers more than one."""
    told = [("neuron", "@neuron"), (matrix.x, "@column"), ("value", "@image{0.0000e}")]
    if matrix.labels is not None:
        told.insert(2, ("label", "@label"))
    return [*told, ("mean of the cell", "@mean{0.0000e}")] if max(cells.factors) > 1 else told


def legend(picture: Picture) -> str:
    """What a cell is, and what the colours are."""
    (fy, fx), matrix, view = picture.cells.factors, picture.matrix, picture.view
    plural = lambda n, name: f"{n} {name}{'s' * (n > 1)}"
    cell = (
        "a cell is one value"
        if fy == fx == 1
        else f"a cell is the signed extreme of {plural(fy, 'neuron')} × {plural(fx, matrix.x)}"
    )
    at = "" if matrix.x == "step" else f" at step {view.step}"
    minus = (
        f", minus {view.other.name}"
        if view.other
        else f", minus step {view.versus_step}"
        if view.versus_step is not None
        else ""
    )
    return f"{view.state.quantity}{at}{minus}; {cell}; {matrix.scale.text()}"
