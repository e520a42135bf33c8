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
    CustomJSHover,
    HoverTool,
    LinearAxis,
    LinearColorMapper,
    PanTool,
    ResetTool,
    WheelZoomTool,
)  # fmt: skip

from actigrad.explorer.cells import IDS, hit, image_columns, tooltips
from actigrad.explorer.figures import (
    INKS,
    make_figure,
    make_source,
    mark_positions,
    name_positions,
    number_positions,
    paint,
    put,
)  # fmt: skip
from actigrad.explorer.matrix import Matrix, Window
from actigrad.explorer.view import View

CHOSEN = "#d97706"
CELLS = (320, 900)
"""Cells (down, across) until the browser has told its size."""
WOBBLE = 8
"""Pixels by which the size changes with the width of the labels; no reason to read anew."""
ORDERS = {"score": "rms"}
"""What the order is called, where that is not its name."""


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    view: View
    matrix: Matrix
    cells: Any
    columns: dict[str, list]
    window: Window


class Heatmap:
    """The pane.

    Attributes:
        is_new: whether what was shown last is another picture, that the browser has still to paint.
        wanted: the view that is asked for; what the browser says of the picture of another site is late.
    """

    name = "heatmap"

    def __init__(self, change: Any):
        self._change, self._shown = change, None
        self._window: Window | None = None
        self.is_new = False
        self.wanted: View | None = None
        self._size = {"inner_height": CELLS[0], "inner_width": CELLS[1]}
        # The wheel is told to this server when Bokeh thinks that it has come to rest, half a second later by default.
        made = self.figure = make_figure(tools="", x_range=(-0.5, 0.5), y_range=(0.5, -0.5), lod_timeout=5)
        self.cells = make_source("image", *IDS, "x", "y", "dw", "dh", name="heatmap")
        self.colours = LinearColorMapper(palette="Greys256")
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
        mark_positions(self.labels, {})
        made.add_layout(self.labels, "above")
        self.bar = ColorBar(color_mapper=self.colours, width=10, label_standoff=6, padding=4, margin=0,
                            background_fill_alpha=0)  # fmt: skip
        made.add_layout(self.bar, "right")
        known = CustomJSHover(code="return value < 0 ? 'several' : String(value)")
        formatters: Any = {"@neuron": known, "@column": known}
        self.hover = HoverTool(renderers=[self.drawn], tooltips=None, attachment="horizontal", formatters=formatters)
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
        from actigrad.explorer.reading import read_matrix  # the server listens before what reads arrays is imported

        matrix = read_matrix(view)
        down, across = matrix.shape
        window = view.state.window or (-0.5, across - 0.5, -0.5, down - 0.5)
        cells = matrix.look(window, self.pixels())
        return Picture(view, matrix, cells, image_columns(matrix, cells), window)

    def show(self, picture: Picture) -> dict[str, Any]:
        """Draw; the legend is returned."""
        from actigrad.pictures.palette import NOT_FINITE

        before, self._shown = self._shown, picture
        matrix, cells, state = picture.matrix, picture.cells, picture.view.state
        scale, across = matrix.scale, matrix.shape[1]
        self.colours.update(palette=scale.colours, nan_color=NOT_FINITE, low=scale.low, high=scale.high)
        self.is_new = not _same_cells(before, picture)
        if self.is_new:
            self.cells.data = picture.columns
        self.hover.tooltips = tooltips(matrix, cells)
        self._set_ranges(picture.window)
        rows = [state.rows] if state.rows else []
        put(self.rows, {
            "left": [-0.5] * len(rows), "right": [across - 0.5] * len(rows),
            "top": [first - 0.5 for first, _ in rows], "bottom": [stop - 0.5 for _, stop in rows],
        })  # fmt: skip
        found = matrix.place(state.neuron)
        place = [] if found is None else [found]
        put(self.place, {"x": [picture.window[0]] * len(place), "y": place})
        put(self.edges, {"x": [start - 0.5 for _, start, _ in matrix.groups[1:]]})
        middles = {(start + stop - 1) / 2: str(label) for label, start, stop in matrix.groups}
        mark_positions(self.labels, middles)
        self.labels.visible = bool(middles)
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
        if new and new > 20 and abs(self._size[attr] - new) > WOBBLE:
            self._size[attr] = int(new)
            self._change()

    def _set_ranges(self, window: Window) -> None:
        if window != self._window:  # else the browser has it, and may have moved on meanwhile
            left, right, top, bottom = self._window = window
            self.figure.x_range.update(start=left, end=right)
            self.figure.y_range.update(start=bottom, end=top)

    def _moved(self, event: Any) -> None:
        if self._is_late() or None in (event.x0, event.x1, event.y0, event.y1):
            return
        window = self._window = (float(event.x0), float(event.x1), float(event.y1), float(event.y0))
        if window[0] < window[1] and window[2] < window[3] and self._shown and window != self._shown.window:
            self._change(window=window)

    def _is_late(self) -> bool:
        named = lambda view: (view.snapshot.name, view.state.site, view.state.x, view.state.neurons)
        return self._shown is None or (self.wanted is not None and named(self.wanted) != named(self._shown.view))

    def _row(self, y: float) -> int | None:
        row = round(y)
        return row if self._shown is not None and 0 <= row < self._shown.matrix.shape[0] else None

    def _tapped(self, event: Any) -> None:
        row = self._row(event.y) if event.y is not None else None
        if row is None or self._shown is None or self._is_late():
            return
        neuron = hit(self._shown.cells, row, round(event.x) if event.x is not None else 0)
        self._change(neuron=int(self._shown.matrix.neurons[row]) if neuron is None else neuron)

    def _boxed(self, event: Any) -> None:
        if self._shown is None or self._is_late() or not event.final or event.geometry.get("type") != "rect":
            return
        low, high = sorted((event.geometry["y0"], event.geometry["y1"]))
        n = self._shown.matrix.shape[0]
        first, stop = max(0, round(low)), min(n, round(high) + 1)
        if first < stop:
            self._change(rows=(first, stop))


def _same_cells(before: Picture | None, after: Picture) -> bool:
    """Whether the cells that are drawn are these already."""
    if before is None or before.matrix is not after.matrix:
        return False
    a, b = before.cells, after.cells
    return (a.factors, a.start, a.extreme.shape) == (b.factors, b.start, b.extreme.shape)


def legend(picture: Picture) -> str:
    """What a cell is, and what the colours are."""
    (fy, fx), matrix, view = picture.cells.factors, picture.matrix, picture.view
    plural = lambda n, name: f"{n} {name}{'s' * (n > 1)}"
    cell = "a cell is one value"
    if max(fy, fx) > 1:
        cell = f"a cell is the signed extreme of {plural(fy, 'neuron')} × {plural(fx, matrix.x)}"
        cell += ", the finest that was kept" if fy == matrix.drawn.finest[0] > 1 else ""
    at = "" if matrix.x == "step" else f" at step {view.step}"
    minus = f", minus step {view.versus_step}" if view.versus_step is not None else ""
    minus = f", minus {view.other.name}" if view.other else minus
    order = "" if (named := view.state.neurons) == "natural" else f"; neurons by {ORDERS.get(named, named)}"
    slow = "; each look reads the disk: `actigrad levels` makes it quick" if matrix.is_slow else ""
    return f"{view.state.quantity}{at}{minus}; {cell}{order}; {matrix.scale.text()}{slow}"
