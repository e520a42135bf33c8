"""The overview: one cell a site and recorded step, sites in forward order from the top. A tap chooses both.

The colour is the median of the statistic over the site's neurons, for rms and std as log10. With two stores it is the
difference of what is shown: A - B, so for rms the decades between them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import ColorBar, HoverTool, LinearColorMapper

from actigrad.explorer.figures import INKS, make_figure, make_source, name_positions, paint
from actigrad.explorer.snapshot import Snapshot
from actigrad.explorer.view import View

LOGARITHMIC = ("rms", "std")


@dataclass(frozen=True)
class Picture:
    """What is drawn: (site, step) of colours, and where the chosen ones are."""

    sites: list[str]
    steps: list[int]
    shown: np.ndarray
    values: np.ndarray
    difference: bool
    legend: str
    chosen: tuple[int, int]


class Overview:
    """The pane."""

    name = "overview"

    def __init__(self, change: Any):
        self.figure = make_figure(tools="", x_range=(-0.5, 0.5), y_range=(0.5, -0.5))
        self.cells = make_source("image", "value", "x", "y", "dw", "dh")
        self.colours = LinearColorMapper(palette="Greys256")
        drawn = self.figure.image("image", "x", "y", "dw", "dh", source=self.cells, color_mapper=self.colours)
        self.chosen = make_source("x", "y")
        self.mark = self.figure.rect(
            "x", "y", 1, 1, source=self.chosen, fill_alpha=0, line_width=3, line_color="#ffffff"
        )
        self.inner = self.figure.rect(
            "x", "y", 1, 1, source=self.chosen, fill_alpha=0, line_width=1.5, line_color="#16181d"
        )
        self.figure.add_tools(
            HoverTool(renderers=[drawn], tooltips=[("value", "@value{0.[0000]e}")], attachment="below")
        )
        self.figure.grid.visible = False
        self.figure.xaxis.axis_label = "step"
        self.bar = ColorBar(
            color_mapper=self.colours, width=10, label_standoff=6, padding=4, margin=0, background_fill_alpha=0
        )
        self.figure.add_layout(self.bar, "right")
        self.figure.on_event(Tap, self._tapped)
        self._change, self._shown, self._room = change, None, 8
        self.figure.on_change("inner_height", self._resized)

    def needs(self, view: View) -> tuple:
        """What of a view it depends on."""
        s = view.state
        other = (view.other.name, view.other.marks) if view.other else None
        return view.snapshot.name, view.snapshot.marks, s.site, view.step, s.quantity, s.metric, other

    def read(self, view: View) -> Picture:
        """Read the medians; they stay in the snapshot."""
        s, steps = view.state, list(view.snapshot.steps)
        values = medians(view.snapshot, s.quantity, s.metric)
        sites, rows = list(values), np.array([values[path] for path in values])
        shown = _shown(rows, s.metric)
        what = f"log10 {s.metric}" if s.metric in LOGARITHMIC else s.metric
        if view.other is not None:
            others, known = medians(view.other, s.quantity, s.metric), {x: i for i, x in enumerate(view.other.steps)}
            missing = np.full(len(view.other.steps), np.nan)
            theirs = _shown(np.array([others.get(path, missing) for path in sites]), s.metric)
            picked = [known.get(step) for step in steps]
            theirs = np.stack([theirs[:, i] if i is not None else np.full(len(sites), np.nan) for i in picked], 1)
            shown, what = shown - theirs, f"{what}, {view.snapshot.name} - {view.other.name}"
        chosen = sites.index(s.site) if s.site in values else -1
        legend = f"{s.quantity}: {what}, median over the site's neurons"
        return Picture(sites, steps, shown, rows, view.other is not None, legend, (chosen, steps.index(view.step)))

    def show(self, picture: Picture) -> dict[str, Any]:
        """Draw; what the page writes around it is returned."""
        from actigrad.pictures.palette import DIVERGING, MAGNITUDE, NOT_FINITE

        self._shown = picture
        n, m = picture.shown.shape
        low, high = _limits(picture.shown, picture.difference)
        palette = DIVERGING if picture.difference else MAGNITUDE
        self.colours.update(palette=palette, nan_color=NOT_FINITE, low=low, high=high)
        column = lambda values: [np.ascontiguousarray(values, np.float32)]
        self.cells.data = {
            "image": column(picture.shown), "value": column(picture.values),
            "x": [-0.5], "y": [-0.5], "dw": [m], "dh": [n],
        }  # fmt: skip
        site, step = picture.chosen
        self.chosen.data = {"x": [step] * (site >= 0), "y": [site] * (site >= 0)}
        self.figure.x_range.update(start=-0.5, end=m - 0.5)
        self.figure.y_range.update(start=n - 0.5, end=-0.5)
        name_positions(self.figure.yaxis[0], picture.sites, room=self._room)
        name_positions(self.figure.xaxis[0], [str(step) for step in picture.steps], room=20)
        return {"legend": picture.legend}

    def paint(self, dark: bool) -> None:
        """Light or dark."""
        paint(self.figure, dark)
        self.bar.major_label_text_color = INKS[dark]["soft"]

    def _resized(self, attr: str, old: Any, new: Any) -> None:
        self._room = max(2, int(new or 0) // 15)
        if self._shown is not None:
            name_positions(self.figure.yaxis[0], self._shown.sites, room=self._room)

    def _tapped(self, event: Any) -> None:
        if self._shown is not None and event.x is not None and event.y is not None:
            site, step = round(event.y), round(event.x)
            if 0 <= site < len(self._shown.sites) and 0 <= step < len(self._shown.steps):
                self._change(site=self._shown.sites[site], step=self._shown.steps[step])


def medians(snapshot: Snapshot, quantity: str, metric: str) -> dict[str, np.ndarray]:
    """For each site that has it, (step,) of the median over neurons."""
    found = {}
    for path in snapshot.sites:
        group = snapshot.summary(path)
        if group is not None and quantity in group:
            found[path] = snapshot.cache.get(
                ("median", path, quantity, metric), lambda p=path: _median(snapshot.metric(p, quantity, metric))
            )
    return found


def _median(values: np.ndarray) -> np.ndarray:
    some = np.where(np.isnan(values).all(1, keepdims=True), 0, values)
    return np.where(np.isnan(values).all(1), np.nan, np.nanmedian(some, axis=1))


def _shown(rows: np.ndarray, metric: str) -> np.ndarray:
    return np.log10(np.maximum(rows, 1e-45)) if metric in LOGARITHMIC else rows


def _limits(shown: np.ndarray, difference: bool) -> tuple[float, float]:
    finite = shown[np.isfinite(shown)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if difference:
        limit = max(abs(low), abs(high)) or 1.0
        return -limit, limit
    return (low, high) if low < high else (low - 0.5, low + 0.5)
