"""Page: a report as one HTML file, with everything that it needs in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import jinja2
from bokeh.embed import components
from bokeh.models import InlineStyleSheet, Toolbar
from bokeh.resources import Resources

from actigrad.report.parts import Picture, Report, drawn

LIMIT = 15_000_000
RESERVE = 300_000
"""Bytes kept for what is not known before the page is put together."""


@dataclass(frozen=True)
class Figure:
    """A picture as HTML; `script` and `div` are empty where there was no room for it."""

    picture: Picture
    div: str = ""
    script: str = ""


def write_page(report: Report, advance: Callable[[int, int], None]) -> str:
    """The HTML of a report, at most `LIMIT` bytes."""
    bokeh = _bokeh()
    render = lambda sections: _template().render(
        report=report, sections=[pair for pair in sections if pair[1] or pair[0].id == "sites" or pair[0].findings],
        bokeh=bokeh,
    )  # fmt: skip
    bare = [(part, [Figure(picture) for picture in part.pictures]) for part in report.parts]
    room = LIMIT - RESERVE - len(render(bare).encode())
    total, done, sections = sum(len(part.pictures) for part in report.parts), 0, []
    for part in report.parts:
        figures = []
        for picture, view in drawn(part.pictures):
            figure = _embed(picture, view)
            size = len(figure.script.encode())
            figures.append(figure if size <= room else Figure(picture))
            room -= size if size <= room else 0
        done += len(part.pictures)
        advance(done, total)
        sections.append((part, figures))
    return render(sections)


def _embed(picture: Picture, view: Any) -> Figure:
    model: Any = hv.render(view, backend="bokeh")
    for toolbar in model.select({"type": Toolbar}):
        toolbar.stylesheets = [InlineStyleSheet(css="@media print { :host { visibility: hidden } }")]
    script, div = components(model, wrap_script=True)
    return Figure(picture, div, script)


def _bokeh() -> str:
    """BokehJS, and only that: the full set of resources would add widgets, and a request for one of Panel's scripts."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("actigrad", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")
