"""Figures: how all pictures of the page look, in light and dark. Names from a store are text, never markup.

Bokeh reads `$$…$$` in a text as TeX, so a site of that name would run through a typesetter; `plain` prevents it.

What is drawn again and again is changed in place: where a change brings a new model, a ticker or a text, Bokeh looks
through all models of the page, which takes longer than the picture.
"""

import re
from typing import Any

from bokeh.models import AdaptiveTicker, BasicTickFormatter, ColumnDataSource, FixedTicker
from bokeh.models.text import PlainText
from bokeh.plotting import figure

INKS = {
    False: {
        "ink": "#16181d",
        "soft": "#565d68",
        "line": "#dde1e7",
        "card": "#ffffff",
        "accent": "#1f5fa8",
        "mark": "#16181d",
    },
    True: {
        "ink": "#e6e8ec",
        "soft": "#a3abb8",
        "line": "#333a45",
        "card": "#1b1f26",
        "accent": "#7db4f0",
        "mark": "#16181d",
    },
}
"""Colours by darkness; `mark` lies on a map, which is light at zero in both."""
TEX = re.compile(r"\$\$|\\[\[(]")
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"


def make_figure(**options: Any) -> Any:
    """A figure that fills its place; tools are chosen by the page's own buttons."""
    made = figure(sizing_mode="stretch_both", toolbar_location=None, output_backend="canvas", **options)
    made.toolbar.logo = None
    made.min_border_left, made.min_border_right, made.min_border_top = 56, 12, 6
    made.axis.axis_label_text_font_style = "normal"
    made.axis.axis_label_text_font_size, made.axis.major_label_text_font_size = "12px", "11px"
    made.axis.axis_label_text_font = made.axis.major_label_text_font = FONT
    made.axis.major_tick_in, made.axis.minor_tick_line_color = 0, None
    # The page's own colour shows through: a canvas that is painted anew keeps a seam of the old colour at its edge.
    made.outline_line_color = made.background_fill_color = made.border_fill_color = None
    return made


def make_source(*columns: str, name: str | None = None) -> Any:
    """A source of empty columns."""
    return ColumnDataSource({column: [] for column in columns}, name=name)


def paint(made: Any, dark: bool) -> None:
    """Light or dark."""
    inks = INKS[dark]
    made.styles = {"background": inks["card"]}
    made.axis.axis_label_text_color = made.axis.major_label_text_color = inks["soft"]
    made.axis.axis_line_color = made.axis.major_tick_line_color = inks["line"]
    made.grid.grid_line_color = inks["line"]
    for legend in made.legend:
        legend.label_text_color, legend.background_fill_color = inks["ink"], inks["card"]
        legend.border_line_color, legend.background_fill_alpha = None, 0.8


def put(source: Any, columns: dict[str, list]) -> None:
    """New data for a source of lists; the same again would only be sent and drawn anew."""
    if source.data != columns:
        source.data = columns


def plain(text: str, longest: int = 40) -> str | PlainText:
    """A name as it stands, its middle left out where it is too long."""
    keep = (longest - 1) // 2
    text = text if len(text) <= longest else f"{text[:keep]}…{text[-keep:]}"
    return PlainText(text=text) if TEX.search(text) else text


def name_positions(axis: Any, names: list[str], room: int) -> None:
    """Positions 0, 1, … of an axis by name, as many as there is room for."""
    every = max(1, -(-len(names) // max(1, room)))
    mark_positions(axis, {i: plain(names[i]) for i in range(0, len(names), every)})


def mark_positions(axis: Any, texts: dict[Any, Any]) -> None:
    """These positions alone, with these texts."""
    if isinstance(axis.ticker, FixedTicker):
        axis.ticker.ticks = list(texts)
    else:
        axis.ticker = FixedTicker(ticks=list(texts))
    axis.major_label_overrides = texts


def number_positions(axis: Any) -> None:
    """Positions by number."""
    if not isinstance(axis.ticker, AdaptiveTicker) or axis.ticker.min_interval != 1.0:
        axis.ticker = AdaptiveTicker(mantissas=[1, 2, 5], min_interval=1.0)
        axis.formatter = BasicTickFormatter(use_scientific=False)
    axis.major_label_overrides = {}
