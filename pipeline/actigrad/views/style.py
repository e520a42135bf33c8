"""Style: one set of options for both backends, and titles and labels that are never cut.

    dress(hv.Curve(points), height=300, title=["loss", "one line a run"], color=INK, line_width=2)

Options have Bokeh's names; what Matplotlib calls otherwise is translated, what it has none of is left out. A dressed
element carries both sets, so the same object is shown by `hv.extension("bokeh")`, by `hv.extension("matplotlib")` and
by `save`.
"""

import html
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import holoviews.plotting.mpl
from bokeh.embed import components
from bokeh.resources import Resources

from actigrad.errors import ViewError

WIDTH = 920
INK, PALE = "#16181d", "#7a8699"
FONTS = {"title": "11pt", "labels": "10pt", "xticks": "9pt", "yticks": "9pt"}
CHARACTER = 9
"""Pixels of a title's character, on average; a title begins where the picture's frame does, 70 to 90 pixels in."""
LABEL = 44
"""The most characters of a tick."""
DOTS = 96
"""Pixels an inch: a picture has the same proportions in both backends."""
CELLS = (hv.Image, hv.Rectangles)
IMAGES = {".png", ".svg", ".pdf"}
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><script>{bokeh}</script></head>
<body>{div}{script}</body></html>
"""
_BOKEH_ALONE = {"tools", "toolbar", "border", "line_alpha", "hover_tooltips", "shared_axes"}
_NAMES = {
    "line_width": "linewidth", "fill_alpha": "alpha", "text_align": "horizontalalignment", "text_color": "color",
    "text_font_size": "size", "text_font_style": "weight", "text_baseline": "verticalalignment",
    "line_dash": "linestyle", "line_color": "edgecolor",
}  # fmt: skip
_WORDS = {"middle": "center"}


def dress(element: Any, *, title: Iterable[str] = (), width: int = WIDTH, height: int | None = None,
          **options: Any) -> Any:  # fmt: skip
    """The element with options for both backends.

    Args:
        element: an element, an overlay or a DynamicMap of these.
        title: lines; long ones are wrapped.
        width: of the whole figure, in pixels.
        height: of the whole figure, in pixels; None for a part of another figure.
        options: by Bokeh's names.
    """
    if text := wrap(title, width):
        options["title"] = text
    bokeh, other = dict(options), _translate(element, options)
    if "hover" in options.get("tools", ()) and type(element) in CELLS:
        bokeh["hover_tooltips"] = told(element)
    if height:
        bokeh = frame(height, width) | bokeh
        sizes = {key: float(size.removesuffix("pt")) for key, size in FONTS.items()}
        other = {
            "fig_inches": (width / DOTS, height / DOTS),
            "aspect": round(width / height, 2),
            "fontsize": sizes,
        } | other
    return element.opts(**bokeh, backend="bokeh").opts(**other, backend="matplotlib")


def told(element: Any) -> list[tuple[str, str]]:
    """What hover tells of a cell: its values. Where it lies on the axes is a place in the picture, and no one's id.

    A value called `its neuron` is told as `neuron`, which is an axis' name; one called `… colour` is for the eye alone.
    """
    labels = [dim.label for dim in element.vdims if not dim.label.endswith(" colour")]
    return [(label.removeprefix("its "), f"@{{{label}}}") for label in labels]


def frame(height: int, width: int = WIDTH) -> dict[str, Any]:
    """What all pictures of Bokeh share; tools stand where a long title does not hide them."""
    return {"width": width, "height": height, "fontsize": FONTS, "toolbar": "right"}


def wrap(title: Iterable[str], width: int = WIDTH) -> str:
    """The lines of a title, the long ones wrapped for a figure so many pixels wide."""
    return "\n".join(part for line in title for part in textwrap.wrap(line, (width - 90) // CHARACTER) or [""])


def _translate(element: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Matplotlib's options of Bokeh's."""
    out = {}
    for name, value in options.items():
        if name in _BOKEH_ALONE or (name == "line_color" and not isinstance(element, hv.Rectangles)):
            continue
        if name == "color" and isinstance(element, hv.Area | hv.Histogram):
            # A default for any of them would win over the others.
            out |= {"color": value, "facecolor": value, "edgecolor": value, "linewidth": 0.5}
        elif name == "size":
            out["s"] = value**2
        elif name == "text_font_size":
            out["size"] = float(value.removesuffix("pt"))
        else:
            out[_NAMES.get(name, name)] = _WORDS.get(value, value) if isinstance(value, str) else value
    return out


def arrange(parts: Sequence[Any], columns: int) -> hv.Layout:
    """Pictures side by side, each with its own axes."""
    layout: Any = hv.Layout(list(parts)).cols(columns)
    layout = layout.opts(shared_axes=False, backend="bokeh")
    return layout.opts(sublabel_format="", shared_axes=False, tight=True, vspace=0.45, hspace=0.3, backend="matplotlib")


def elide(name: str, most: int = LABEL) -> str:
    """The name, its middle left out where it is too long for a label.

    >>> elide("encoder/layers/11/attention/self/query", 20)
    'encoder/l…self/query'
    """
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def ticks(names: Sequence[Any], most: int, label: int = LABEL) -> list[tuple[int, str]]:
    """At most so many ticks at 0, 1, 2, …, evenly spread, each with its name, of at most `label` characters.

    >>> ticks(["a", "b", "c", "d", "e"], 3)
    [(0, 'a'), (2, 'c'), (4, 'e')]
    """
    every = max(1, -(-len(names) // most))
    return [(i, elide(str(name), label)) for i, name in enumerate(names) if i % every == 0]


def save(view: Any, path: str | Path) -> Path:
    """Write a view to a file: .png, .svg and .pdf by Matplotlib, .html (which zooms and tells on hover) by Bokeh.

    Raises:
        ViewError: for any other suffix.
    """
    path = Path(path)
    if path.suffix not in {*IMAGES, ".html"}:
        raise ViewError(f"{path} ends in {path.suffix!r}; a view is saved as .html, {', '.join(sorted(IMAGES))}.")
    view = view.map(lambda live: live[()], [hv.DynamicMap])  # as it is now: a file has nobody to ask for more
    if path.suffix == ".html":
        # Not `file_html`: once Panel is imported, that links to files of Panel's server.
        script, div = components(hv.render(view, backend="bokeh"))
        bokeh = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
        page = PAGE.format(title=html.escape(path.stem), bokeh=bokeh, div=div, script=script)
        path.write_text(page, encoding="utf-8")
    else:
        hv.render(view, backend="matplotlib").savefig(path, bbox_inches="tight", pad_inches=0.1, dpi=2 * DOTS)
    return path
