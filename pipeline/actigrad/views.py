"""Views: HoloViews elements of a store. A view's docstring is its legend: what a pixel is, which reduction, which unit.

    store = actigrad.open_store("runs/digits/digits.zarr")
    views.overview(store) + views.flow(store)
    views.heatmap(store, "head/hidden")             # a DynamicMap: zooming re-reads the store at the new resolution

Nothing here imports JAX. Names of the arguments are the same everywhere: `quantity` (activation, gradient), `metric`
(see `metrics.METRICS`), `step` (a recorded step, the last by default), `order`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import xarray
from holoviews.operation.datashader import rasterize
from holoviews.streams import PlotSize, RangeXY

from actigrad.errors import ViewError, nearest
from actigrad.metrics import METRICS
from actigrad.order import label_order, natural_order, score_order
from actigrad.palette import DIVERGING, MAGNITUDE, NOT_FINITE, Scale, make_scale
from actigrad.raster import Aggregate, rasterise
from actigrad.schema import site_group
from actigrad.sites import Site
from actigrad.store import open_store, read_samples, read_sites

Store = xarray.DataTree | str | Path
WIDTH = 920
FONTS = {"title": "11pt", "labels": "10pt", "xticks": "9pt", "yticks": "9pt"}
FINE = {"activation": "activation", "gradient": "gradient (of each sample's loss)"}


def overview(store: Store, *, quantity: str = "activation", metric: str = "rms") -> hv.Element:
    """One cell a site and recorded step; sites in forward order from the top.

    The colour is the median over the site's neurons of the metric, for `rms` and `std` as log10. Hover gives the value
    and the number of neurons.
    """
    tree, logarithmic = _open(store), metric in ("rms", "std")
    sites = [site for site in read_sites(tree) if quantity in _summary(tree, site)]
    rows = []
    for site in sites:
        values = _metric(tree, site, quantity, metric)
        rows.append(np.nanmedian(values.reshape(values.shape[0], -1), axis=1))
    steps = read_samples(tree)["step"].values
    shown = np.log10(np.maximum(np.array(rows), 1e-45)) if logarithmic else np.array(rows)
    cells = [
        (str(step), site.path, shown[i, j], rows[i][j], _neurons(site))
        for i, site in enumerate(sites)
        for j, step in enumerate(steps)
    ]
    name = f"log10 {metric}" if logarithmic else metric
    element: Any = hv.HeatMap(
        cells, ["step", "site"], [hv.Dimension("shown", label=name), hv.Dimension("value", label=metric), "neurons"]
    )
    return element.opts(
        **_frame(height=max(220, 24 * len(sites) + 90)), cmap=MAGNITUDE, colorbar=True, invert_yaxis=True,
        xrotation=0 if len(steps) <= 25 else 60, xlabel="step (training updates)", ylabel="", tools=["hover"],
        clipping_colors={"NaN": NOT_FINITE},
        title=f"{FINE[quantity]}\ncolour: {name}, median over the site's neurons", backend="bokeh",
    )  # fmt: skip


def structure(store: Store, *, step: int | None = None) -> hv.Overlay:
    """The model's sites from first to last, indented by module; arcs on the left are the data flow between them.

    Each row has three cells: log10 rms of the activation, log10 rms of the gradient (medians over neurons), and the
    share of dead neurons (zero for every sample). Each column has its own colour scale; hover gives the values.
    """
    tree = _open(store)
    sites, index = read_sites(tree), _step_index(tree, step)
    position = {site.path: i for i, site in enumerate(sites)}
    columns = [_column(tree, sites, index, what) for what in ("activation", "gradient", "dead")]
    names = ("activation rms", "gradient rms", "dead")
    cells = hv.Overlay(
        [
            _cells(5.3 + 1.25 * c, column, sites, name, cmap)
            for c, (column, name, cmap) in enumerate(zip(columns, names, (MAGNITUDE, MAGNITUDE, _REDS), strict=True))
        ]
    )
    numbers = _numbers(
        [
            (5.9 + 1.25 * c, i, text, value, column)
            for c, column in enumerate(columns)
            for i, (value, text) in enumerate(column)
        ]
    )
    names = [(1.5 + 0.28 * site.path.count("/"), i, f"{site.path}  {_shape(site)}") for i, site in enumerate(sites)]
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
        **_frame(height=max(260, 27 * (len(sites) + 3))), xaxis=None, yaxis=None, invert_yaxis=True, xlim=(0, 9.2),
        ylim=(-1.8, len(sites) + 0.7), title=f"structure and values at step {shown}", show_legend=False,
        backend="bokeh",
    )  # fmt: skip


def heatmap(
    store: Store, site: str, *, quantity: str = "activation", x: str = "sample", step: int | None = None,
    order: str | None = None, neurons: str = "natural", dynamic: bool = True, pixels: tuple[int, int] = (400, 800),
) -> Any:  # fmt: skip
    """Neurons from the top down, samples or steps from left to right.

    A cell is the signed extreme (the value of largest magnitude) over the elements that it covers and, at
    sites with positions or loops, over those. Where any of them is not finite the cell is loudly green. The title tells
    how many elements a cell covers. Hover gives the neuron and the sample that the value belongs to.

    Args:
        store: a store, or the path of one.
        site: a site's path.
        quantity: activation or gradient.
        x: "sample" (needs `keep: full`) or "step" (from the summaries).
        step: which recorded step, for x="sample"; the last by default.
        order: of the samples: "label" (grouped, the default where there are labels) or "natural".
        neurons: "natural", or "score": by rms, dead ones last.
        dynamic: a DynamicMap that aggregates anew on zoom, or one static element of at most `pixels` cells.
        pixels: (along y, along x) of the static element, and until the plot's size is known.
    """
    tree = _open(store)
    chosen = _site(tree, site)
    matrix, columns, groups, index = _matrix(tree, chosen, quantity, x, step, order)
    rows = _neuron_order(tree, chosen, quantity, index, neurons, matrix.shape[0])
    matrix = matrix[rows] if neurons != "natural" else matrix
    colours = _scale(tree, chosen, quantity, index)
    known = _known(tree, chosen, x, columns, rows)
    what = f"{chosen.path} · {FINE[quantity]}" + (
        "" if x == "step" else f" at step {read_samples(tree)['step'].values[index]}"
    )

    def draw(x_range=None, y_range=None, width=None, height=None, scale=None):  # noqa: ARG001 - PlotSize gives it
        window = None
        if x_range and y_range and all(v is not None for v in (*x_range, *y_range)):
            window = (_whole(sorted(y_range)), _whole(sorted(x_range)))
        view = rasterise(matrix, window, (int(height or pixels[0]), int(width or pixels[1])))
        return _image(view, known, colours, x, what)

    lines = _group_marks(groups, matrix.shape[0])
    if not dynamic:
        return draw() * lines if lines is not None else draw()
    streams = [RangeXY(x_range=(-0.5, matrix.shape[1] - 0.5), y_range=(-0.5, matrix.shape[0] - 0.5)), PlotSize()]
    live = hv.DynamicMap(draw, streams=streams)
    return live * lines if lines is not None else live


def flow(store: Store, *, quantity: str = "gradient", step: int | None = None) -> hv.Overlay:
    """Depth from left to right, log10 of the neurons' rms upward: does the gradient vanish or explode on its way back?

    The line is the median over the site's neurons, the ribbons hold 50 % and 90 % of them. Neurons with an rms of zero
    are left out and counted in the hover.
    """
    tree = _open(store)
    index, sites = _step_index(tree, step), [s for s in read_sites(tree) if quantity in _summary(tree, s)]
    points = []
    for site in sites:
        rms = _metric(tree, site, quantity, "rms")[index].ravel()
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
        **_frame(height=330), xticks=[(i, site.path) for i, site in enumerate(sites)], xrotation=40, xlabel="",
        title=f"{FINE[quantity]} at step {shown}\nline: median neuron; ribbons: 50 % and 90 % of neurons; sites in "
        "forward order", ylabel=label, show_grid=True, xlim=(-0.5, len(sites) - 0.5), backend="bokeh",
    )  # fmt: skip


def saliency(store: Store, *, samples: Sequence[int] | None = None, name: str | None = None) -> hv.Layout:
    """Inputs in the upper row, the gradient of each sample's loss with respect to them below.

    Grey is the input's value. Blue and red: raising this pixel lowers or raises the loss; the scale is each sample's
    own and symmetric, its limit stands in the title, as gradients of well and badly classified samples differ by
    orders of magnitude. By default one sample a label: the one with the largest loss.
    """
    tree = _open(store)
    name, inputs = _input(tree, name)
    value, gradient = inputs["value"], inputs["gradient"]
    if value.sizes.get("neuron", 0) != 1 or "y" not in value.dims:
        raise ViewError(f"saliency shows images of one channel; input {name!r} has dims {dict(value.sizes)}.")
    chosen = list(samples) if samples is not None else _hardest(tree)
    upper, lower = [], []
    for sample in chosen:
        picture = value.isel(step=-1, sample=sample, neuron=0).values
        slope = gradient.isel(step=-1, sample=sample, neuron=0).values
        upper.append(_tile(picture, "gray_r", (0.0, float(picture.max()) or 1.0), _sample_title(tree, sample), "value"))
        limit = float(np.abs(slope).max()) or 1.0
        lower.append(_tile(slope, DIVERGING, (-limit, limit), f"±{limit:.2g}", "gradient"))
    layout: Any = hv.Layout([*upper, *lower])
    return layout.cols(len(chosen)).opts(shared_axes=False, toolbar=None, backend="bokeh")


def traces(store: Store, site: str, *, quantity: str = "activation", metric: str = "rms") -> Any:
    """All neurons of a site over the recorded steps, drawn by Datashader: the darker, the more neurons pass there."""
    tree = _open(store)
    values = _metric(tree, _site(tree, site), quantity, metric)
    steps, values = read_samples(tree)["step"].values, values.reshape(values.shape[0], -1)
    lines = hv.Path([np.column_stack([steps, values[:, i]]) for i in range(values.shape[1])], ["step", metric])
    counted = rasterize(lines, aggregator="count", dynamic=True)
    return counted.opts(
        **_frame(height=300), cmap=list(reversed(MAGNITUDE)), cnorm="log", colorbar=True,
        clipping_colors={"min": "#ffffff00"},
        title=f"{site} · {FINE[quantity]}: {metric} of every neuron", backend="bokeh",
    )  # fmt: skip


_REDS = ["#f4f6f8", "#fde0c8", "#f8a97a", "#e5622f", "#a02a0a"]


def _cells(left: float, column: list[tuple[float, str]], sites: Sequence[Site], name: str, cmap: Any) -> hv.Rectangles:
    """One column of the structure: a cell a site."""
    rows = [
        (left, i - 0.42, left + 1.2, i + 0.42, value, text, sites[i].path) for i, (value, text) in enumerate(column)
    ]
    cells: Any = hv.Rectangles(rows, vdims=[f"{name} colour", hv.Dimension(f"{name} value", label=name), "site"])
    return cells.opts(
        color=f"{name} colour", cmap=cmap, line_color="#ffffff", tools=["hover"], clipping_colors={"NaN": "#eef0f3"},
        backend="bokeh",
    )  # fmt: skip


def _open(store: Store) -> xarray.DataTree:
    return store if isinstance(store, xarray.DataTree) else open_store(store)


def _site(tree: xarray.DataTree, path: str) -> Site:
    sites = {site.path: site for site in read_sites(tree)}
    if path not in sites:
        near = ", ".join(nearest(path, sites) or list(sites)[:8])
        raise ViewError(f"the store has no site {path!r}. The nearest: {near}.")
    return sites[path]


def _group(tree: xarray.DataTree, path: str) -> Any:
    try:
        return tree[path]
    except KeyError:
        return {}


def _summary(tree: xarray.DataTree, site: Site) -> Any:
    return _group(tree, f"{site_group(site.path)}/summary")


def _metric(tree: xarray.DataTree, site: Site, quantity: str, metric: str) -> np.ndarray:
    """(step, …, neuron) of one statistic."""
    if metric not in METRICS:
        raise ViewError(f"there is no metric {metric!r}; a store has {', '.join(METRICS)}.")
    group = _summary(tree, site)
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} has no {quantity} in this store; {site.missing or 'the config did not ask for it'}."
        )
    return group[quantity].isel(metric=METRICS.index(metric)).values


def _step_index(tree: xarray.DataTree, step: int | None) -> int:
    steps = read_samples(tree)["step"].values.tolist()
    if step is None:
        return len(steps) - 1
    if step not in steps:
        raise ViewError(f"step {step} was not recorded; the store has {steps}.")
    return steps.index(step)


def _matrix(tree, site: Site, quantity: str, x: str, step: int | None, order: str | None):
    """(neuron, sample or step), the columns' ids, label groups, and the index of the step."""
    if x == "step":
        values = _metric(tree, site, quantity, "extreme")
        values = _signed_extreme(values.reshape(values.shape[0], -1, values.shape[-1]), 1)
        return values.T, read_samples(tree)["step"].values, [], len(values) - 1
    if x != "sample":
        raise ViewError(f"x is {x!r}; a heatmap has 'sample' or 'step' from left to right.")
    group = _group(tree, f"{site_group(site.path)}/full")
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} was not kept whole; capture its {quantity} with keep: full, or look at x='step'."
        )
    index = _step_index(tree, step)
    kept, shown = group["step"].values.tolist(), int(read_samples(tree)["step"].values[index])
    if shown not in kept:
        raise ViewError(f"site {site.path!r} was kept whole at steps {kept}, not at {shown}.")
    array = group[quantity].isel(step=kept.index(shown)).transpose("sample", ..., "neuron")
    others = [dim for dim in array.dims if dim not in ("sample", "neuron")]
    flat = _signed_extreme(array.data.reshape(array.shape[0], -1, array.shape[-1]), 1) if others else array.data
    labels = read_samples(tree)["label"].values if "label" in read_samples(tree) else None
    if order == "label" and labels is None:
        raise ViewError("order is 'label', and this store's samples have no label; use order='natural'.")
    if order not in (None, "natural", "label"):
        raise ViewError(f"order is {order!r}; samples can be in 'natural' or 'label' order.")
    columns, groups = (
        label_order(labels) if labels is not None and order != "natural" else (natural_order(flat.shape[0]), [])
    )
    return np.asarray(flat)[columns].T, columns, groups, index


def _signed_extreme(values: Any, axis: int) -> Any:
    high, low = values.max(axis=axis), values.min(axis=axis)
    return np.where(abs(low) > abs(high), low, high)


def _neuron_order(tree, site: Site, quantity: str, index: int, neurons: str, n: int) -> np.ndarray:
    if neurons == "natural":
        return natural_order(n)
    if neurons != "score":
        raise ViewError(f"neurons is {neurons!r}; they can be in 'natural' or 'score' order.")
    rms = _metric(tree, site, quantity, "rms")[index].reshape(-1, n).max(0)
    return score_order(rms, rms == 0)


def _scale(tree, site: Site, quantity: str, index: int) -> Scale:
    group = _summary(tree, site)
    counts = group[f"{quantity}_histogram"].isel(step=index).values
    zeros = group[f"{quantity}_special"].isel(step=index, special=0).values
    counts = counts.reshape(-1, counts.shape[-1]).sum(0)
    extremes = _metric(tree, site, quantity, "extreme")[index].ravel()
    return make_scale(counts, int(zeros.sum()), group["bin_left"].values, group["bin_right"].values, extremes)


def _known(tree, site: Site, x: str, columns: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """What hover can tell of a row and a column."""
    known: dict[str, Any] = {"neuron": rows, x: columns}
    if x == "sample" and "label" in read_samples(tree):
        known["label"] = read_samples(tree)["label"].values[columns]
    return known


def _image(view: Aggregate, known: dict[str, Any], scale: Scale, x: str, what: str) -> hv.Image:
    loud = np.where(view.nonfinite > 0, np.nan, view.extreme)
    layers: dict[str, np.ndarray] = {"value": loud.astype(np.float32)}
    for name, ids in known.items():
        place = view.row if name == "neuron" else view.column
        layers[f"its {name}"] = np.where(place >= 0, np.asarray(ids)[np.maximum(place, 0)], -1).astype(np.int32)
    if max(view.factors) > 1:
        layers |= {"mean of the cell": view.mean}
    if view.nonfinite.any():
        layers |= {"not finite": view.nonfinite.astype(np.int32)}
    fy, fx = view.factors
    cell = (
        "a cell is one value"
        if fx == fy == 1
        else f"a cell is the signed extreme of {fy} neuron{'s' * (fy > 1)} × {fx} {x}s"
    )
    data = {x: view.centres(1), "neuron": view.centres(0), **layers}
    image: Any = hv.Image(data, [x, "neuron"], list(layers), datatype=["grid"])
    n = len(known["neuron"])
    return image.opts(
        **_frame(height=int(np.clip(7 * n + 100, 230, 430))), cmap=scale.colours, clim=(scale.low, scale.high),
        colorbar=True, tools=["hover"], invert_yaxis=True, clipping_colors={"NaN": NOT_FINITE}, axiswise=True,
        title=f"{what}\n{cell}; {scale.text()}", ylim=(-0.5 - (0.09 * n if "label" in known else 0), n - 0.5),
        xlabel=_x_label(known, x), **_step_ticks(known, x), backend="bokeh",
    )  # fmt: skip


def _bounds(view: Aggregate) -> tuple[float, float, float, float]:
    (top, left), (fy, fx), (h, w) = view.start, view.factors, view.extreme.shape
    return left - 0.5, top - 0.5, left + fx * w - 0.5, top + fy * h - 0.5


def _step_ticks(known: dict[str, Any], x: str) -> dict[str, Any]:
    if x != "step":
        return {}
    every = max(1, len(known["step"]) // 20)
    return {"xticks": [(i, str(step)) for i, step in enumerate(known["step"]) if i % every == 0]}


def _x_label(known: dict[str, Any], x: str) -> str:
    return "step (training updates)" if x == "step" else "sample, grouped by label" if "label" in known else "sample"


def _group_marks(groups: list[tuple[int, int, int]], n: int) -> hv.Overlay | None:
    if not groups:
        return None
    lines: Any = hv.VLines([start - 0.5 for _, start, _ in groups[1:]]).opts(
        color="#16181d", line_width=1, alpha=0.55, backend="bokeh"
    )
    names = hv.Labels(
        [((start + stop) / 2, -0.5 - 0.045 * n, str(label)) for label, start, stop in groups],
        ["sample", "neuron"],
        "text",
    )
    return lines * names.opts(text_font_size="9pt", text_font_style="bold", text_color="#16181d", backend="bokeh")


def _whole(span: Any) -> tuple[int, int]:
    """Elements that a range of positions touches; element i covers i - 0.5 to i + 0.5."""
    return int(np.floor(span[0] + 0.5)), int(np.ceil(span[1] + 0.5))


def _column(tree, sites, index: int, what: str) -> list[tuple[float, str]]:
    """A colour value and a text for each site."""
    out = []
    for site in sites:
        quantity = "activation" if what == "dead" else what
        if quantity not in _summary(tree, site):
            out.append((np.nan, ""))
        elif what == "dead":
            share = float(np.mean(_metric(tree, site, quantity, "zero_fraction")[index] == 1))
            out.append((share, f"{share:.0%}"))
        else:
            rms = float(np.nanmedian(_metric(tree, site, quantity, "rms")[index]))
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


def _shape(site: Site) -> str:
    return f"{site.kind} {'×'.join(map(str, site.sample_shape)) or 'scalar'}".strip()


def _neurons(site: Site) -> int:
    return site.shape[-1] if "neuron" in site.dims else 1


def _input(tree, name: str | None):
    inputs = (
        {node.path.split("/")[-2]: node for node in _group(tree, "inputs").subtree if "gradient" in node}
        if "inputs" in tree
        else {}
    )
    if not inputs or (name is not None and name not in inputs):
        raise ViewError(
            f"the store holds no input {name or ''!r} with its gradient (it has {list(inputs)}); set "
            "inputs: {keep: full}."
        )
    name = name or next(iter(inputs))
    return name, inputs[name]


def _hardest(tree) -> list[int]:
    """For each label the sample with the largest loss at the last step; without labels the ten largest."""
    loss = read_samples(tree)["loss"].isel(step=-1).values
    if "label" not in read_samples(tree):
        return np.argsort(-loss)[:10].tolist()
    labels = read_samples(tree)["label"].values
    return [int(np.flatnonzero(labels == one)[loss[labels == one].argmax()]) for one in np.unique(labels)[:10]]


def _sample_title(tree, sample: int) -> str:
    samples = read_samples(tree)
    parts = [str(samples["label"].values[sample])] if "label" in samples else [f"#{sample}"]
    if "prediction" in samples:
        parts.append(f"→ {samples['prediction'].isel(step=-1).values[sample]}")
    return " ".join(parts)


def _tile(picture: np.ndarray, cmap: Any, clim: tuple[float, float], title: str, name: str) -> hv.Image:
    h, w = picture.shape
    image: Any = hv.Image(picture[::-1], bounds=(-0.5, -0.5, w - 0.5, h - 0.5), kdims=["x", "y"], vdims=name)
    return image.opts(
        frame_width=76, frame_height=int(76 * h / w), border=4, xaxis=None, yaxis=None, cmap=cmap, clim=clim,
        title=title,
        tools=["hover"], toolbar=None, fontsize={"title": "9pt"}, clipping_colors={"NaN": NOT_FINITE}, backend="bokeh",
    )  # fmt: skip


def _frame(height: int) -> dict[str, Any]:
    return {"width": WIDTH, "height": height, "fontsize": FONTS, "toolbar": "above"}
