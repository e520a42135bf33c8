"""The model as a whole: where and when (`overview`), where in the architecture (`structure`), how deep (`flow`)."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np

from actigrad.pictures.palette import MAGNITUDE, NOT_FINITE
from actigrad.sites import Site
from actigrad.storage.store import read_samples, read_sites
from actigrad.views.reading import (
    Store,
    count_neurons,
    describe_quantity,
    describe_shape,
    find_step,
    find_summary,
    frame,
    open_tree,
    read_metric,
)

REDS = ["#f4f6f8", "#fde0c8", "#f8a97a", "#e5622f", "#a02a0a"]


def overview(store: Store, *, quantity: str = "activation", metric: str = "rms") -> hv.Element:
    """One cell a site and recorded step; sites in forward order from the top.

    The colour is the median over the site's neurons of the metric, for `rms` and `std` as log10. Hover gives the value
    and the number of neurons.
    """
    tree, logarithmic = open_tree(store), metric in ("rms", "std")
    sites = [site for site in read_sites(tree) if quantity in find_summary(tree, site)]
    rows = []
    for site in sites:
        values = read_metric(tree, site, quantity, metric)
        rows.append(np.nanmedian(values.reshape(values.shape[0], -1), axis=1))
    steps = read_samples(tree)["step"].values
    shown = np.log10(np.maximum(np.array(rows), 1e-45)) if logarithmic else np.array(rows)
    cells = [
        (str(step), site.path, shown[i, j], rows[i][j], count_neurons(site))
        for i, site in enumerate(sites)
        for j, step in enumerate(steps)
    ]
    name = f"log10 {metric}" if logarithmic else metric
    element: Any = hv.HeatMap(
        cells, ["step", "site"], [hv.Dimension("shown", label=name), hv.Dimension("value", label=metric), "neurons"]
    )
    return element.opts(
        **frame(height=max(220, 24 * len(sites) + 90)), cmap=MAGNITUDE, colorbar=True, invert_yaxis=True,
        xrotation=0 if len(steps) <= 25 else 60, xlabel="step (training updates)", ylabel="", tools=["hover"],
        clipping_colors={"NaN": NOT_FINITE},
        title=f"{describe_quantity(tree, quantity)}\ncolour: {name}, median over the site's neurons", backend="bokeh",
    )  # fmt: skip


def structure(store: Store, *, step: int | None = None) -> hv.Overlay:
    """The model's sites from first to last, indented by module; arcs on the left are the data flow between them.

    Each row has three cells: log10 rms of the activation, log10 rms of the gradient (medians over neurons), and the
    share of dead neurons (zero for every sample). Each column has its own colour scale; hover gives the values, and
    what the site is: parameters, FLOPs of one sample's forward pass, and the operations on the way there.
    """
    tree = open_tree(store)
    sites, index = read_sites(tree), find_step(tree, step)
    position = {site.path: i for i, site in enumerate(sites)}
    columns = [_column(tree, sites, index, what) for what in ("activation", "gradient", "dead")]
    names = ("activation rms", "gradient rms", "dead")
    cells = hv.Overlay(
        [
            _cells(5.3 + 1.25 * c, column, sites, name, cmap)
            for c, (column, name, cmap) in enumerate(zip(columns, names, (MAGNITUDE, MAGNITUDE, REDS), strict=True))
        ]
    )
    numbers = _numbers(
        [
            (5.9 + 1.25 * c, i, text, value, column)
            for c, column in enumerate(columns)
            for i, (value, text) in enumerate(column)
        ]
    )
    names = [
        (1.5 + 0.28 * site.path.count("/"), i, f"{site.path}  {describe_shape(site)}") for i, site in enumerate(sites)
    ]
    labels = hv.Labels(names, ["x", "y"], "text").opts(
        text_align="left", text_font_size="9pt", text_color="#16181d", backend="bokeh"
    )
    heads = hv.Labels(
        [
            (5.9 + 1.25 * c, -1.0, t)
            for c, t in enumerate(("activation\nlog10 rms", "gradient\nlog10 rms", "dead\nneurons"))
        ],
        ["x", "y"],
        "text",
    )
    arcs: Any = hv.Path(
        [
            _arc(position[s.path], position.get(t, len(sites)), 1.35)
            for s in sites
            for t in s.feeds
            if t in position or t == "loss"
        ]
    )
    loss = hv.Labels([(1.5, len(sites), "loss")], ["x", "y"], "text").opts(
        text_align="left", text_font_size="9pt", text_font_style="bold", text_color="#16181d", backend="bokeh"
    )
    shown = read_samples(tree)["step"].values[index]
    return (
        arcs.opts(color="#7a8699", line_width=1.6, backend="bokeh")
        * cells * numbers * labels * loss
        * heads.opts(text_font_size="8pt", text_font_style="bold", text_color="#40464f", backend="bokeh")
    ).opts(
        **frame(height=max(260, 27 * (len(sites) + 3))), xaxis=None, yaxis=None, invert_yaxis=True, xlim=(0, 9.2),
        ylim=(-1.8, len(sites) + 0.7), title=f"structure and values at step {shown}", show_legend=False,
        backend="bokeh",
    )  # fmt: skip


def flow(store: Store, *, quantity: str = "gradient", step: int | None = None) -> hv.Overlay:
    """Depth from left to right, log10 of the neurons' rms upward: does the gradient vanish or explode on its way back?

    The line is the median over the site's neurons, the ribbons hold 50 % and 90 % of them. Neurons with an rms of zero
    are left out and counted in the hover.
    """
    tree = open_tree(store)
    index, sites = find_step(tree, step), [s for s in read_sites(tree) if quantity in find_summary(tree, s)]
    points = []
    for site in sites:
        rms = read_metric(tree, site, quantity, "rms")[index].ravel()
        live = rms[np.isfinite(rms) & (rms > 0)]
        quantiles = np.quantile(np.log10(live), [0.05, 0.25, 0.5, 0.75, 0.95]) if live.size else np.full(5, np.nan)
        points.append((site.path, *quantiles, int(rms.size), int((rms == 0).sum())))
    depth = np.arange(len(sites))
    q = np.array([point[1:6] for point in points], float)
    label = f"log10 {quantity} rms"
    wide: Any = hv.Area((depth, q[:, 0], q[:, 4]), "site", [label, "q95"]).opts(
        color="#9ec5e8", line_alpha=0, backend="bokeh"
    )
    middle = hv.Area((depth, q[:, 1], q[:, 3]), "site", [label, "q75"]).opts(
        color="#5b9bd5", line_alpha=0, backend="bokeh"
    )
    line = hv.Curve((depth, q[:, 2]), "site", label).opts(color="#123a63", line_width=2, backend="bokeh")
    dots = hv.Points(
        [(i, point[3], point[0], point[6], point[7]) for i, point in enumerate(points)],
        ["site", label], ["path", "neurons", hv.Dimension("zeros", label="rms is zero")],
    ).opts(color="#123a63", size=7, tools=["hover"], backend="bokeh")  # fmt: skip
    shown = read_samples(tree)["step"].values[index]
    return (wide * middle * line * dots).opts(
        **frame(height=330), xticks=[(i, site.path) for i, site in enumerate(sites)], xrotation=40, xlabel="",
        title=f"{describe_quantity(tree, quantity)} at step {shown}\n"
        "line: median neuron; ribbons: 50 % and 90 % of neurons; sites in forward order",
        ylabel=label, show_grid=True, xlim=(-0.5, len(sites) - 0.5), backend="bokeh",
    )  # fmt: skip


def _cells(left: float, column: list[tuple[float, str]], sites: Sequence[Site], name: str, cmap: Any) -> hv.Rectangles:
    """One column of the structure: a cell a site."""
    rows = [
        (left, i - 0.42, left + 1.2, i + 0.42, value, text, *_describe_site(sites[i]))
        for i, (value, text) in enumerate(column)
    ]
    about = ["site", "module", "parameters", "FLOPs", "operations"]
    cells: Any = hv.Rectangles(rows, vdims=[f"{name} colour", hv.Dimension(f"{name} value", label=name), *about])
    return cells.opts(
        color=f"{name} colour", cmap=cmap, line_color="#ffffff", tools=["hover"], clipping_colors={"NaN": "#eef0f3"},
        backend="bokeh",
    )  # fmt: skip


def _describe_site(site: Site) -> tuple[str, str, str, str, str]:
    """What the hover tells of a site; FLOPs are those of one sample."""
    samples = dict(zip(site.dims, site.shape, strict=True)).get("sample", 1)
    operations = ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in site.work.operations)
    work = site.work
    return site.path, site.kind, f"{work.parameters:,}", f"{work.flops / samples:,.0f}", operations or "none of its own"


def _column(tree, sites, index: int, what: str) -> list[tuple[float, str]]:
    """A colour value and a text for each site."""
    out = []
    for site in sites:
        quantity = "activation" if what == "dead" else what
        if quantity not in find_summary(tree, site):
            out.append((np.nan, ""))
        elif what == "dead":
            share = float(np.mean(read_metric(tree, site, quantity, "zero_fraction")[index] == 1))
            out.append((share, f"{share:.0%}"))
        else:
            rms = float(np.nanmedian(read_metric(tree, site, quantity, "rms")[index]))
            out.append((np.log10(rms), f"{np.log10(rms):.1f}") if rms > 0 else (np.nan, "0"))
    return out


def _numbers(texts: list[tuple[float, int, str, float, list[tuple[float, str]]]]) -> hv.Overlay:
    """The values in the cells, light on the dark half of their column's scale and dark on the other."""
    shades: dict[bool, list[tuple[float, int, str]]] = {True: [], False: []}
    for x, y, text, value, column in texts:
        known = [v for v, _ in column if np.isfinite(v)]
        middle = (min(known) + max(known)) / 2 if known else 0.0
        dark_below = x < 7.5  # the magnitude map is dark at its low end, the map of dead shares at its high end
        if text:
            shades[bool((value < middle) == dark_below and len(set(known)) > 1)].append((x, y, text))
    return hv.Overlay([
        hv.Labels(rows, ["x", "y"], "text").opts(
            text_font_size="9pt", text_color="#ffffff" if light else "#16181d", text_align="center", backend="bokeh"
        )
        for light, rows in shades.items() if rows
    ])  # fmt: skip


def _arc(a: int, b: int, x: float) -> np.ndarray:
    """Half an ellipse from row a to row b, bulging left with the distance."""
    t = np.linspace(0, np.pi, 24)
    return np.column_stack(
        [x - min(1.2, 0.22 + 0.16 * (abs(b - a) - 1)) * np.sin(t), a + (b - a) * (1 - np.cos(t)) / 2]
    )
