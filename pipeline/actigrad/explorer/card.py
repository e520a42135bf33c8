"""The neuron card: one neuron over the steps, its values over the samples, and what the chosen rows do.

Lines: the chosen neuron (and the same in the other store), up to 40 of the chosen rows, and behind them the site's
median with the half of the neurons around it. Bars: how often the neuron has which value over the samples, where they
were kept. Tables: its statistics at the step, and the samples that it answers to most and least.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import HoverTool

from actigrad.errors import ViewError
from actigrad.explorer.figures import INKS, make_figure, make_source, paint
from actigrad.explorer.matrix import Matrix
from actigrad.explorer.view import View
from actigrad.metrics import METRICS

LINES, ENDS, BINS, LISTED = 40, 6, 30, 300


@dataclass(frozen=True)
class Picture:
    """What is drawn and written."""

    steps: list[int]
    band: np.ndarray
    lines: dict[str, list]
    chosen: np.ndarray | None
    theirs: tuple[list[int], np.ndarray] | None
    counts: tuple[np.ndarray, np.ndarray] | None
    card: dict[str, Any]
    metric: str


class Card:
    """The pane: two figures and what the page writes beside them."""

    name = "card"

    def __init__(self):
        self.figure = self._make_traces()
        self.bars = make_figure(tools="", x_range=(0, 1), y_range=(0, 1))
        self.bins = make_source("top", "left", "right")
        self.quads = self.bars.quad(top="top", bottom=0, left="left", right="right", source=self.bins, line_width=1)
        self.bars.add_tools(HoverTool(tooltips=[("values", "@left{0.000e} to @right{0.000e}"), ("samples", "@top{0}")]))
        self.bars.xaxis.axis_label, self.bars.yaxis.axis_label = "value", "samples"
        self.bars.xgrid.visible = False
        self.bars.xaxis.ticker.desired_num_ticks = 3

    def _make_traces(self) -> Any:
        made = make_figure(tools="", x_range=(0, 1), y_range=(0, 1))
        names = {"band": ("step", "low", "high"), "middle": ("step", "value"), "many": ("xs", "ys", "neuron"),
                 "one": ("step", "value"), "other": ("step", "value")}  # fmt: skip
        self.sources = {name: make_source(*columns) for name, columns in names.items()}
        self.area = made.varea("step", "low", "high", source=self.sources["band"], fill_alpha=0.18)
        self.median = made.line("step", "value", source=self.sources["middle"], line_width=1.5, line_dash="dotted")
        self.many = made.multi_line("xs", "ys", source=self.sources["many"], line_width=1, line_alpha=0.55)
        self.theirs = made.line("step", "value", source=self.sources["other"], line_width=2, line_dash="dashed")
        self.line = made.line("step", "value", source=self.sources["one"], line_width=2.5)
        self.dots = made.scatter("step", "value", source=self.sources["one"], size=5)
        hover = [("step", "@step"), ("value", "@value{0.0000e}")]
        made.add_tools(
            HoverTool(renderers=[self.dots], tooltips=hover),
            HoverTool(renderers=[self.many], tooltips=[("neuron", "@neuron")]),
        )
        made.xaxis.axis_label = "step"
        made.xaxis.ticker.desired_num_ticks = 4
        return made

    def needs(self, view: View) -> tuple:
        """What of a view it depends on."""
        s = view.state
        other = (view.other.name, view.other.marks) if view.other else None
        chosen = (s.site, s.quantity, s.metric, s.x, view.step, s.group, s.order, s.neurons, s.neuron, s.rows)
        return view.snapshot.name, view.snapshot.marks, *chosen, view.versus_step, other

    def read(self, view: View) -> Picture:
        """Read the statistics of all neurons, and the chosen one's values."""
        from actigrad.explorer.reading import read_matrix  # the server listens before what reads arrays is imported

        s, snapshot = view.state, view.snapshot
        values = snapshot.metric(s.site, s.quantity, s.metric)
        matrix = read_matrix(view)
        band = snapshot.cache.get(("band", s.site, s.quantity, s.metric), lambda: _quartiles(values))
        listed = matrix.neurons[slice(*s.rows)] if s.rows else np.empty(0, int)
        drawn = listed[:: max(1, -(-len(listed) // LINES))]
        lines = {
            "xs": [list(snapshot.steps)] * len(drawn), "ys": [values[:, i] for i in drawn], "neuron": drawn.tolist(),
        }  # fmt: skip
        card = {"list": _list(view, listed, values), "of": len(listed)}
        if s.neuron is None:
            return Picture(list(snapshot.steps), band, lines, None, None, None, card, s.metric)
        theirs = None
        if view.other is not None:
            other = view.other.metric(s.site, s.quantity, s.metric)
            theirs = (list(view.other.steps), other[:, s.neuron]) if s.neuron < other.shape[1] else None
        card |= {"neuron": s.neuron, "site": s.site, "step": view.step, "statistics": _statistics(view)}
        row = _row(matrix, s.neuron)
        card |= _ends(matrix, row) if row is not None else {"top": [], "bottom": [], "ends": matrix.x}
        counts = _count(row) if matrix.x == "sample" and row is not None else None
        return Picture(list(snapshot.steps), band, lines, values[:, s.neuron], theirs, counts, card, s.metric)

    def show(self, picture: Picture) -> dict[str, Any]:
        """Draw; the tables are returned for the page to write."""
        steps, (low, middle, high) = picture.steps, picture.band
        self.sources["band"].data = {"step": steps, "low": low, "high": high}
        self.sources["middle"].data = {"step": steps, "value": middle}
        self.sources["many"].data = picture.lines
        none = {"step": [], "value": []}
        self.sources["one"].data = none if picture.chosen is None else {"step": steps, "value": picture.chosen}
        theirs = picture.theirs
        self.sources["other"].data = none if theirs is None else {"step": theirs[0], "value": theirs[1]}
        self.figure.yaxis.axis_label = picture.metric
        counts, edges = picture.counts if picture.counts is not None else (np.empty(0), np.empty(1))
        self.bins.data = {"top": counts, "left": edges[:-1], "right": edges[1:]}
        _frame(self.bars.x_range, [edges], 0.0)
        self.bars.y_range.end = 1.05 * float(counts.max(initial=1))
        _frame(self.figure.x_range, [np.array(steps, float), *([np.array(theirs[0], float)] if theirs else [])], 0.02)
        drawn = [
            picture.band,
            *picture.lines["ys"],
            *(one for one in (picture.chosen, theirs and theirs[1]) if one is not None),
        ]
        _frame(self.figure.y_range, drawn, 0.06)
        return picture.card | {"bars": picture.counts is not None}

    def paint(self, dark: bool) -> None:
        """Light or dark."""
        inks = INKS[dark]
        paint(self.figure, dark)
        paint(self.bars, dark)
        self.area.glyph.fill_color = self.median.glyph.line_color = inks["soft"]
        self.many.glyph.line_color = "#d97706"
        self.quads.glyph.fill_color, self.quads.glyph.line_color = inks["accent"], inks["card"]
        for drawn in (self.line, self.theirs):
            drawn.glyph.line_color = inks["accent"]
        self.dots.glyph.fill_color = self.dots.glyph.line_color = inks["accent"]


def _frame(span: Any, values: list, margin: float) -> None:
    """Let an axis hold all finite values."""
    finite = [one[np.isfinite(one)] for one in map(np.asarray, values)]
    low = min((float(one.min()) for one in finite if one.size), default=0.0)
    high = max((float(one.max()) for one in finite if one.size), default=1.0)
    room = margin * (high - low) if high > low else 0.5
    span.update(start=low - room, end=high + room)


def number(value: float) -> str:
    """A number as a person reads it."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _quartiles(values: np.ndarray) -> np.ndarray:
    """(3, step): the middle half of the neurons, and their median."""
    some = ~np.isnan(values).all(1)
    found = np.full((3, values.shape[0]), np.nan)
    if some.any():
        found[:, some] = np.nanquantile(values[some], [0.25, 0.5, 0.75], axis=1)
    return found


def _statistics(view: View) -> list[tuple[str, str, str]]:
    """For each statistic its value at the step, for both quantities."""
    s, at, rows = view.state, view.snapshot.steps.index(view.step), []
    for metric in METRICS:
        told = []
        for quantity in ("activation", "gradient"):
            try:
                told.append(number(float(view.snapshot.metric(s.site, quantity, metric)[at, s.neuron])))
            except ViewError:
                told.append("–")
        rows.append((metric.replace("_", " "), *told))
    return rows


def _list(view: View, listed: np.ndarray, values: np.ndarray) -> list[tuple[int, str]]:
    at = view.snapshot.steps.index(view.step)
    return [(int(i), number(float(values[at, i]))) for i in listed[:LISTED]]


def _row(matrix: Matrix, neuron: int) -> np.ndarray | None:
    """(column,) of one neuron, as shown; None where no single neurons were kept."""
    place = matrix.place(neuron)
    if place is None or matrix.drawn.values is None:
        return None
    return matrix.read(slice(place, place + 1))[0]


def _ends(matrix: Matrix, row: np.ndarray) -> dict[str, Any]:
    """The columns with the largest and the smallest values of a neuron."""
    order = np.argsort(np.where(np.isfinite(row), row, 0), kind="stable")
    order = order[np.isfinite(row)[order]]
    tell = lambda i: (
        int(matrix.columns[i]),
        None if matrix.labels is None else int(matrix.labels[matrix.columns[i]]),
        number(float(row[i])),
    )
    return {"top": [tell(i) for i in order[::-1][:ENDS]], "bottom": [tell(i) for i in order[:ENDS]], "ends": matrix.x}


def _count(row: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A histogram of one neuron over the samples that are shown."""
    row = row[np.isfinite(row)]
    return np.histogram(row, BINS) if row.size else None
