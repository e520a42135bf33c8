"""Paper: a report's pictures as PDF, PNG or SVG by Matplotlib, at a width in millimetres, fonts embedded.

    save_figures(report, Path("figures"), "svg", 85, advance)             # 85 mm is one column, 170 mm two

Letters are 7 points high at every width, as journals ask; titles are wrapped to the axes. A PDF holds TrueType fonts
(type 42), an SVG has its letters as outlines.
"""

import re
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import holoviews as hv
import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from actigrad.errors import ViewError
from actigrad.report.parts import Report, drawn

KINDS = ("pdf", "png", "svg")
WIDTHS = (40, 400)
POINTS, MARGIN, INCH, MANY = 7, 0.03, 25.4, 3
FONTS: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "actigrad"}
COMMON = ("title", "cmap", "clim", "colorbar", "xlabel", "ylabel", "invert_yaxis", "xticks", "ylim")
"""Options that Bokeh and Matplotlib call the same."""


def save_figures(
    report: Report, path: Path, kind: str, width: float | int, advance: Callable[[int, int], None]
) -> Path:
    """Write every picture; returns `path`."""
    if kind not in KINDS:
        raise ViewError(f"there are no figures of kind {kind!r}; expected {', '.join(KINDS)}.")
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise ViewError(f"a width of {width:g} mm is out of range; expected {WIDTHS[0]} to {WIDTHS[1]} mm.")
    with mpl.rc_context(FONTS):
        figures = _figures(report, width / INCH, advance)
        if kind == "pdf":
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"Title": report.title, "Creator": "actigrad", "CreationDate": None}
            with PdfPages(path, metadata=about) as file:  # pyright: ignore[reportArgumentType]
                for _, figure, box in figures:
                    file.savefig(figure, bbox_inches=box)
        else:
            path.mkdir(parents=True, exist_ok=True)
            about = {"Date": None} if kind == "svg" else {}
            for i, (name, figure, box) in enumerate(figures, start=1):
                figure.savefig(path / f"{i:02d}-{name}.{kind}", dpi=300, bbox_inches=box, metadata=about)
    return path


def read_width(text: str) -> float:
    """Millimetres of a text such as 85mm, 17cm or 3.3in.

    >>> read_width("85mm"), read_width("17 cm")
    (85.0, 170.0)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|in)\s*", text)
    if not parts:
        raise ViewError(f"a width is {text!r}; expected a number and mm, cm or in, as in 85mm.")
    return float(parts[1]) * {"mm": 1, "cm": 10, "in": INCH}[parts[2]]


def _figures(report: Report, width: float, advance: Callable[[int, int], None]) -> Iterator[tuple[str, Figure, Bbox]]:
    pictures = [picture for part in report.parts for picture in part.pictures]
    for done, (picture, view) in enumerate(drawn(pictures), start=1):
        figure: Any = hv.render(view.map(_for_paper, [hv.Image, hv.Labels]), backend="matplotlib")
        yield picture.name, figure, fit(figure, width)
        pyplot.close(figure)
        advance(done, len(pictures))
    advance(len(pictures), len(pictures))


def fit(figure: Figure, width: float) -> Bbox:
    """Give a figure its final width; returns what of it is to be saved, `width` inches wide.

    Titles, ticks and labels are `POINTS` high, so what stands around the axes keeps its size and the axes take what is
    left. Words within the picture, and everything in a figure of many small axes, shrink with it.
    """
    old, height = figure.get_size_inches()
    shrink = min(1.0, width / old)
    figure.set_size_inches(width, min(max(height * width / old, 0.5 * width), 1.3 * width))
    inside = {text for axes in figure.axes for text in axes.texts}
    for text in figure.findobj(Text):
        size = float(text.get_fontsize())
        text.set_fontsize(size * shrink if text in inside or len(figure.axes) > MANY else min(POINTS, size))
    if len(figure.axes) <= MANY:
        _wrap_titles(figure, width)
    for _ in range(3):
        figure.canvas.draw()
        box = figure.get_tightbbox()
        figure.set_figwidth(max(0.4 * width, figure.get_figwidth() + width - 2 * MARGIN - box.width))
    for axes in figure.axes:
        _thin(axes.xaxis, 0)
        _thin(axes.yaxis, 1)
    box = figure.get_tightbbox()
    middle = (box.x0 + box.x1) / 2
    return Bbox.from_extents(middle - width / 2, box.y0 - MARGIN, middle + width / 2, box.y1 + MARGIN)


def _wrap_titles(figure: Figure, width: float) -> None:
    for axes in figure.axes:
        characters = int(axes.get_position().width * width * 72 / (0.51 * POINTS))
        lines = [part for line in axes.get_title().splitlines() for part in textwrap.wrap(line, characters)]
        axes.set_title("\n".join(lines), fontsize=POINTS)


def _thin(axis: Any, along: int) -> None:
    """Leave out labels evenly until none touches the next; the ticks stay."""
    labels = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
    if any(label.get_rotation() % 90 for label in labels):
        return  # slanted labels may overlap in their boxes and not on paper
    every = 1
    for every in range(1, len(labels) + 1):
        boxes = [label.get_window_extent() for label in labels[::every]]
        spans = sorted((box.x0, box.x1) if along == 0 else (box.y0, box.y1) for box in boxes)
        if all(a[1] <= b[0] + (along and 2) for a, b in pairwise(spans)):
            break
    kept = set(map(id, labels[::every]))
    for label in labels:
        label.set_visible(id(label) in kept)


def _for_paper(element: Any) -> Any:
    """The element with Matplotlib's options, where its view has them for Bokeh alone."""
    if hv.Store.lookup_options("matplotlib", element, "plot").kwargs.get("title"):
        return element
    known: dict[str, Any] = {}
    for group in ("plot", "style"):
        known |= hv.Store.lookup_options("bokeh", element, group).kwargs
    options = {name: known[name] for name in COMMON if name in known}
    if not isinstance(element, hv.Image) or not options.get("title"):
        return element
    return element.opts(**options, aspect=2.2, fig_inches=(9, 4), backend="matplotlib")
