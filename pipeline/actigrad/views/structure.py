"""Where in the architecture: the module tree with its data flow, and values beside it (`structure`)."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
from holoviews.streams import Stream, Tap

from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.pictures.palette import DIVERGING, MAGNITUDE, NOT_FINITE
from actigrad.storage.names import site_group
from actigrad.storage.store import read_samples
from actigrad.views.heatmap import heatmap
from actigrad.views.model import LOGARITHMIC, SIGNED, colour_of, reduce_neurons, strongest, symmetric
from actigrad.views.places import Place, Row, edges_of, rows_of
from actigrad.views.reading import (
    Store,
    describe_shape,
    find_group,
    find_step,
    find_summary,
    open_tree,
    read_places,
    require,
)
from actigrad.views.reading import summaries as read_summaries
from actigrad.views.style import INK, PALE, arrange, dress, elide

REDS = ["#f4f6f8", "#fde0c8", "#f8a97a", "#e5622f", "#a02a0a"]
COLUMNS = ("activation", "gradient", "dead")
NAMES, CELLS, WIDE = 1.5, 5.6, 1.15
"""Where names and cells begin, and how wide a cell is, in the picture's units; it is 9.2 wide."""
Segments = tuple[str, ...]
Opened: Any = Stream.define("Opened", parts=(), site=None)


def structure(
    store: Store, *, step: int | None = None, reduction: str = "rms", sites: str | Sequence[str] = "**", rows: int = 40,
    opened: Sequence[Segments] = (), dynamic: bool = False,
) -> Any:  # fmt: skip
    """The model's sites from first to last, indented by module; arcs on the left are the data flow between them.

    Each row has three cells: the reduction of the activation and of the gradient (medians over neurons; `rms` and `std`
    as log10), and the share of dead neurons (zero for every sample). Each column has its own colour scale; bright green
    where a value is not finite. Hover gives the values, and what the site is: parameters, FLOPs of one sample's forward
    pass, and the operations on the way there. Every layer of a loop is a place of its own. A row marked ▸ is a part of
    the module tree that is closed: its cells show the largest value in it, and hover tells of which site.

    Args:
        store: a store, or the path of one.
        step: a recorded step; the last by default.
        reduction: one of `metrics.METRICS`.
        sites: patterns of the sites to show.
        rows: the most rows; the tree is closed from the bottom up until it fits.
        opened: parts of the tree to show open, as tuples of path segments.
        dynamic: with the heatmap of one site below. Tapping a row opens a closed part, and shows the heatmap of
            any other; tapping outside closes all that was opened.
    """
    tree = open_tree(store)
    require("reduction", reduction, METRICS)
    places, index = read_places(tree, None, sites), find_step(tree, step)
    values = _read_values(tree, places, index, reduction)
    draw = lambda parts: _draw(tree, places, values, index, reduction, rows_of(places, rows, parts))
    if not dynamic:
        return draw(tuple(opened))
    state: Any = Opened(parts=tuple(opened), site=_first_whole(tree, places))
    diagram = hv.DynamicMap(lambda parts, site: draw(parts), streams=[state])
    tap = Tap(source=diagram)
    tap.add_subscriber(lambda x, y: state.event(**_tapped(y, rows_of(places, rows, state.parts), state.contents)))
    below = hv.DynamicMap(lambda parts, site: _heatmap(tree, site, step), streams=[state])
    return arrange([diagram, below], 1)


def _tapped(y: float | None, rows: Sequence[Row], now: dict[str, Any]) -> dict[str, Any]:
    """What is open, and whose heatmap is shown, after a tap at a height of the diagram."""
    i = -1 if y is None else round(y)
    if not 0 <= i < len(rows):
        return now | {"parts": ()}
    row = rows[i]
    if len(row.places) > 1:
        return now | {"parts": (*now["parts"], row.segments)}
    return now | {"site": row.name}


def _heatmap(tree, site: str, step: int | None) -> Any:
    """The samples of a site where they were kept, its steps otherwise."""
    try:
        return heatmap(tree, site, step=step, dynamic=False)
    except ViewError:
        return heatmap(tree, site, x="step", dynamic=False)


def _first_whole(tree, places: Sequence[Place]) -> str:
    """The last site that was kept whole; the last of all where none was."""
    whole = [place for place in places if len(find_group(tree, f"{site_group(place.site.path)}/full"))]
    return (whole or places)[-1].name


def _read_values(tree, places: Sequence[Place], index: int, reduction: str) -> dict[str, dict[Place, tuple]]:
    """Of each column and place: the value and the number of values that are not finite."""
    out: dict[str, dict[Place, tuple]] = {name: {} for name in COLUMNS}
    for quantity in ("activation", "gradient"):
        held = [place for place in places if quantity in find_summary(tree, place.site)]
        for place, summary in zip(held, read_summaries(tree, held, quantity), strict=True):
            one = summary[index : index + 1]
            loud = float(reduce_neurons(one, "nonfinite")[0])
            out[quantity][place] = float(reduce_neurons(one, reduction)[0]), loud
            if quantity == "activation":
                out["dead"][place] = float(np.mean(one[0, METRICS.index("zero_fraction")] == 1)), 0.0
    return out


def _draw(tree, places, values, index: int, reduction: str, rows: Sequence[Row]) -> hv.Overlay:
    heads = [f"{name}\n{'log10 ' * (reduction in LOGARITHMIC)}{reduction}" for name in COLUMNS[:2]] + ["dead\nneurons"]
    parts: list[Any] = [dress(hv.Path(list(_arcs(places, rows))), color=PALE, line_width=1.4)]
    for c, column in enumerate(COLUMNS):
        logarithmic = column != "dead" and reduction in LOGARITHMIC
        parts += _column(CELLS + 1.2 * c, rows, values[column], column, reduction, logarithmic)
    names = [(NAMES + 0.16 * min(8, len(row.segments) - 1), i, _label(row)) for i, row in enumerate(rows)]
    text: dict[str, Any] = {"text_color": INK, "text_align": "left", "text_font_size": "9pt"}
    above = [(CELLS + 1.2 * c + WIDE / 2, -1.1, head) for c, head in enumerate(heads)]
    parts += [
        dress(hv.Labels(names, ["x", "y"], "text"), **text),
        dress(hv.Labels([(NAMES, len(rows), "loss")], ["x", "y"], "text"), text_font_style="bold", **text),
        dress(hv.Labels(above, ["x", "y"], "text"), text_font_size="8pt", text_font_style="bold", text_color="#40464f"),
    ]
    shown, closed = read_samples(tree)["step"].values[index], sum(len(row.places) > 1 for row in rows)
    return dress(
        hv.Overlay(parts), height=max(280, 25 * (len(rows) + 4)), xaxis=None, yaxis=None, invert_yaxis=True,
        xlim=(0, 9.2), ylim=(-1.9, len(rows) + 0.7), show_legend=False,
        title=[f"structure and values at step {shown}: {len(places)} places"
               + f"; {closed} closed parts (▸) show their largest value" * bool(closed)],
    )  # fmt: skip


def _label(row: Row) -> str:
    own, many = row.own, len(row.places)
    what = describe_shape(row.places[0].site) if many == 1 else f"{own.site.kind if own else ''} ({many} sites)"
    mark, room = "▸ " * (many > 1), 46 - 2 * min(8, len(row.segments) - 1)
    what = elide(what.strip(), room - 16)  # else a long kind runs into the cells
    return f"{mark}{elide(row.name, max(16, room - len(what)))}  {what}"


def _column(left: float, rows: Sequence[Row], values, column: str, reduction: str, logarithmic: bool) -> list[Any]:
    """The cells of one column, and the numbers in them."""
    best = [strongest(row, {place: values.get(place, (np.nan, 0))[0] for place in row.places}) for row in rows]
    read = [values.get(place, (np.nan, 0.0)) for place in best]
    loud = [sum(values.get(place, (0, 0.0))[1] for place in row.places) for row in rows]
    colours = colour_of([value for value, _ in read], logarithmic, loud)
    name = column if column == "dead" else f"{column} {reduction}"
    about = ["not finite", "site", "module", "parameters", "FLOPs", "operations"]
    dims = [f"{name} colour", hv.Dimension(f"{name} value", label=name), *about]
    held = [i for i, place in enumerate(best) if place in values]
    data = [(left, i - 0.42, left + WIDE, i + 0.42, colours[i], read[i][0], loud[i], best[i].name, *_about(best[i]))
            for i in held]  # fmt: skip
    signed = column != "dead" and reduction in SIGNED
    ends = (0.0, 1.0) if column == "dead" else symmetric(colours, signed)
    cmap = REDS if column == "dead" else DIVERGING if signed else MAGNITUDE
    cells = dress(
        hv.Rectangles(data, vdims=dims), color=hv.dim(f"{name} colour"), cmap=cmap, line_color="#ffffff", clim=ends,
        tools=["hover"], clipping_colors={"NaN": NOT_FINITE},
    )  # fmt: skip
    return [cells, *_numbers(left + WIDE / 2, held, read, colours, column, logarithmic, signed)]


def _numbers(x: float, held, read, colours, column: str, logarithmic: bool, signed: bool) -> list[Any]:
    """The values in the cells, light where the cell is dark: a magnitude's low end, a dead share's high one."""
    known = colours[np.isfinite(colours)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    middle = 0.5 if column == "dead" else (low + high) / 2
    shades: dict[bool, list[tuple[float, int, str]]] = {True: [], False: []}
    for i in held:
        value = read[i][0]
        dark = value > middle if column == "dead" else not signed and low < high and colours[i] < middle
        if column == "dead":
            text = f"{value:.0%}"
        elif logarithmic:
            text = f"{round(np.log10(value), 1) + 0.0:.1f}" if value > 0 else "0" if value == 0 else "–"
        else:
            text = f"{value:.2g}" if np.isfinite(value) else "–"
        shades[bool(dark)].append((x, i, text))
    return [
        dress(hv.Labels(texts, ["x", "y"], "text"), text_font_size="9pt", text_color="#ffffff" if light else INK)
        for light, texts in shades.items() if texts
    ]  # fmt: skip


def _about(place: Place) -> tuple[str, str, str, str]:
    """What the hover tells of a site; FLOPs are those of one sample."""
    site, work = place.site, place.site.work
    samples = dict(zip(site.dims, site.shape, strict=True)).get("sample", 1)
    operations = ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in work.operations)
    return site.kind, f"{work.parameters:,}", f"{work.flops / samples:,.0f}", operations or "none of its own"


def _arcs(places: Sequence[Place], rows: Sequence[Row]) -> list[np.ndarray]:
    """Half ellipses between rows, bulging left with the distance."""
    row_of = {place: i for i, row in enumerate(rows) for place in row.places}
    ends = {(row_of[a], len(rows) if b is None else row_of[b]) for a, b in edges_of(places)}
    t, x = np.linspace(0, np.pi, 24), NAMES - 0.15
    return [
        np.column_stack(
            [x - min(1.25, 0.2 + 0.14 * (abs(b - a) - 1)) * np.sin(t), a + (b - a) * (1 - np.cos(t)) / 2]
        )
        for a, b in sorted(ends) if a != b
    ]  # fmt: skip
