"""The model as a whole over its depth: where and when (`overview`), vanishing or exploding (`flow`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np

from actigrad.metrics import METRICS
from actigrad.pictures.palette import DIVERGING, MAGNITUDE, NOT_FINITE
from actigrad.storage.store import read_samples
from actigrad.views.places import Row, rows_of
from actigrad.views.reading import (
    QUANTITIES,
    Store,
    count_neurons,
    describe_quantity,
    find_step,
    open_tree,
    read_places,
    require,
    summaries,
)
from actigrad.views.style import dress, ticks, told

LOGARITHMIC = ("rms", "std")
SLANTED = 26
"""The most characters of a slanted tick: the first of them leans over the picture's left edge."""
OF_A, OF_B = "#123a63", "#d55e00"
SIGNED = ("mean", "min", "max", "extreme")


def overview(
    store: Store, *, quantity: str = "activation", reduction: str = "rms", sites: str | Sequence[str] = "**",
    rows: int = 60,
) -> hv.Rectangles:  # fmt: skip
    """One cell a place and recorded step; sites and layers in forward order from the top.

    The colour is the median over the place's neurons of the reduction, for `rms` and `std` as log10; of `nonfinite` it
    is the sum. Bright green: some value there is not finite. Where the model has more places than rows, a row is a part
    of the module tree, and its cell the value of largest magnitude in it. Hover gives the value, the place that it is
    of, and its number of neurons and of values that are not finite.

    Args:
        store: a store, or the path of one.
        quantity: activation or gradient.
        reduction: one of `metrics.METRICS`.
        sites: patterns of the sites to show.
        rows: the most rows.
    """
    tree = open_tree(store)
    require("quantity", quantity, QUANTITIES)
    require("reduction", reduction, METRICS)
    places = read_places(tree, quantity, sites)
    shown, steps = rows_of(places, rows), read_samples(tree)["step"].values
    cells = _cells(places, summaries(tree, places, quantity), reduction, shown, steps.tolist())
    logarithmic, signed = reduction in LOGARITHMIC, reduction in SIGNED
    colours = colour_of([cell[4] for cell in cells], logarithmic, [cell[5] for cell in cells])
    name, how = f"{'log10 ' * logarithmic}{reduction}", "sum" if reduction == "nonfinite" else "median"
    labels = {"shown": name, "value": reduction, "broken": "not finite", "row": "row", "step": "step",
              "site": "value of", "neurons": "neurons"}  # fmt: skip
    element = hv.Rectangles(
        [(*cell[:4], colour, *cell[4:]) for cell, colour in zip(cells, colours, strict=True)],
        vdims=[hv.Dimension(key, label=label) for key, label in labels.items()],
    )
    return dress(
        element, height=max(240, 24 * len(shown) + 130), color=hv.dim("shown"), line_width=0,
        title=[describe_quantity(tree, quantity), f"colour: {name}, {how} over a site's neurons{_gathered(shown)}"],
        cmap=DIVERGING if signed else MAGNITUDE, colorbar=True, clabel=name, clim=symmetric(colours, signed),
        clipping_colors={"NaN": NOT_FINITE}, tools=["hover"], invert_yaxis=True,
        xlim=(-0.5, len(steps) - 0.5), ylim=(-0.5, len(shown) - 0.5), xlabel="step (training updates)", ylabel="",
        xticks=ticks(steps.tolist(), 20), yticks=ticks([row.name for row in shown], 60),
    )  # fmt: skip


def flow(
    store: Store, other: Store | None = None, *, quantity: str = "gradient", step: int | None = None,
    other_step: int | None = None, reduction: str = "rms", sites: str | Sequence[str] = "**",
) -> hv.Overlay:  # fmt: skip
    """Depth from left to right, log10 of the neurons' rms upward: does the gradient vanish or explode on its way back?

    The line is the median over the place's neurons, the ribbons hold 50 % and 90 % of them. Every layer of a loop is a
    place of its own. Neurons with an rms of zero are left out and counted in the hover; a place that has no other
    neurons, as where the gradient is zero or not finite throughout, has a red triangle at the bottom. Of another run,
    or of another step of this one, a dashed line shows the median at the same places.

    Args:
        store: a store, or the path of one.
        other: B, of which the median is shown as well; with `other_step` alone it is the same store.
        quantity: activation or gradient.
        step: a recorded step; the last by default.
        other_step: of B; the last by default.
        reduction: rms or std.
        sites: patterns of the sites to show.
    """
    tree = open_tree(store)
    require("quantity", quantity, QUANTITIES)
    require("reduction", reduction, LOGARITHMIC, ", which are never negative")
    index, places = find_step(tree, step), read_places(tree, quantity, sites)
    label, row_of = f"log10 {quantity} {reduction}", {place.name: i for i, place in enumerate(places)}
    spreads = _spread(tree, places, quantity, reduction, index)
    depth, q = np.arange(len(places)), np.array([spread.quantiles for spread in spreads]).reshape(-1, 5)
    ribbon = lambda low, high, colour: dress(
        hv.Area((depth, q[:, low], q[:, high]), "site", [label, f"up to {high}"]), color=colour, line_alpha=0
    )
    counts = ["path", "neurons", hv.Dimension("zeros", label=f"{reduction} is zero")]
    marks = lambda spreads, at=None: hv.Points(
        [(row_of[one.path], one.quantiles[2] if at is None else at, one.path, one.neurons, one.zeros)
         for one in spreads], ["site", label], counts,
    )  # fmt: skip
    dots, bottom = marks(spreads), float(np.nanmin(q)) if np.isfinite(q).any() else 0.0
    gone: Any = marks([one for one in spreads if np.isnan(one.quantiles[2])], bottom)
    hover = {"tools": ["hover"], "hover_tooltips": [(label, f"@{{{label}}}"), *told(dots)]}
    size = 7 if len(spreads) <= 80 else 3
    view = (
        ribbon(0, 4, "#9ec5e8") * ribbon(1, 3, "#5b9bd5")
        * dress(hv.Curve((depth, q[:, 2]), "site", label), color=OF_A, line_width=2)
        * dress(dots, color=OF_A, size=size, **hover)
    )  # fmt: skip
    shown = read_samples(tree)["step"].values[index]
    title = [
        f"{describe_quantity(tree, quantity)} at step {shown}",
        "line: median neuron; ribbons: 50 % and 90 % of neurons; sites in forward order",
    ]
    if other is not None or other_step is not None:
        b = tree if other is None else open_tree(other)
        at = find_step(b, other_step)
        both = [place for place in read_places(b, quantity, sites) if place.name in row_of]
        theirs = marks(_spread(b, both, quantity, reduction, at))
        curve = hv.Curve((theirs.dimension_values("site"), theirs.dimension_values(label)), "site", label).sort()
        view *= dress(curve, color=OF_B, line_width=2, line_dash="dashed") * dress(
            theirs, color=OF_B, size=size, **hover
        )
        title.append(f"blue: A; orange, dashed: B at step {read_samples(b)['step'].values[at]}, of {len(both)} sites")
    if len(gone):
        title.append(f"red: no neuron has a finite {reduction} above zero ({len(gone)} of {len(spreads)})")
    return dress(
        view * dress(gone, color="#c62f1d", marker="v", size=9, **hover),
        height=440, xticks=ticks([place.name for place in places], 40, SLANTED), xrotation=60, xlabel="", ylabel=label,
        title=title, show_grid=True, xlim=(-0.5, len(places) - 0.5), show_legend=False,
    )  # fmt: skip


class Spread(NamedTuple):
    """How the neurons of a place lie: five quantiles of log10 of those above zero, and how many there are."""

    path: str
    quantiles: np.ndarray
    neurons: int
    zeros: int


def _spread(tree, places: Sequence[Any], quantity: str, reduction: str, index: int) -> list[Spread]:
    spreads = []
    for place, summary in zip(places, summaries(tree, places, quantity), strict=True):
        size = summary[index, METRICS.index(reduction)]
        live = size[np.isfinite(size) & (size > 0)]
        quantiles = np.quantile(np.log10(live), [0.05, 0.25, 0.5, 0.75, 0.95]) if live.size else np.full(5, np.nan)
        spreads.append(Spread(place.name, quantiles, int(size.size), int((size == 0).sum())))
    return spreads


def _cells(places, read: list[np.ndarray], reduction: str, rows: Sequence[Row], steps: list[int]) -> list[tuple]:
    """Of each row and step: the corners, the value, the count of what is not finite, and what hover tells."""
    value = {place: reduce_neurons(one, reduction) for place, one in zip(places, read, strict=True)}
    broken = {place: reduce_neurons(one, "nonfinite") for place, one in zip(places, read, strict=True)}
    cells = []
    for i, row in enumerate(rows):
        for j, step in enumerate(steps):
            best = strongest(row, {place: value[place][j] for place in row.places})
            loud = sum(broken[place][j] for place in row.places)
            about = (row.name, str(step), best.name, count_neurons(best.site))
            cells.append((j - 0.5, i - 0.5, j + 0.5, i + 0.5, value[best][j], loud, *about))
    return cells


def reduce_neurons(summary: np.ndarray, reduction: str) -> np.ndarray:
    """(step,) of (step, metric, neuron): the median over neurons that have one; the sum where values are counted."""
    values = summary[:, METRICS.index(reduction)].astype(np.float64)
    if reduction == "nonfinite":
        return np.nansum(values, axis=1)
    known = ~np.isnan(values)
    out = np.full(len(values), np.nan)
    some = known.any(axis=1)
    out[some] = np.nanmedian(values[some], axis=1)
    return out


def strongest(row: Row, value: dict) -> Any:
    """The place of a row whose value has the largest magnitude; the last one where none has any."""
    known = [place for place in row.places if np.isfinite(value[place])]
    return max(known, key=lambda place: abs(value[place])) if known else row.places[-1]


def colour_of(values: Sequence[float], logarithmic: bool, broken: Sequence[float]) -> np.ndarray:
    """What a cell is coloured by: the value or its log10, zero a decade below the rest; NaN where not all is finite."""
    shown = np.array(values, float)
    if logarithmic:
        some = np.isfinite(shown) & (shown > 0)
        floor = np.log10(shown[some].min()) - 1 if some.any() else 0.0
        shown = np.where(some, np.log10(np.where(some, shown, 1.0)), np.where(shown == 0, floor, np.nan))
    return np.where(np.array(broken, float) > 0, np.nan, shown)


def symmetric(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """The ends of a colour scale: about zero for what has a sign; NaN leaves them to the data."""
    known = np.abs(values[np.isfinite(values)])
    limit = float(known.max()) if known.size and known.max() else 1.0
    return (-limit, limit) if signed else (np.nan, np.nan)


def _gathered(rows: Sequence[Row]) -> str:
    gathered = sum(len(row.places) > 1 for row in rows)
    return f"; {gathered} of {len(rows)} rows gather several sites: the largest" if gathered else ""
