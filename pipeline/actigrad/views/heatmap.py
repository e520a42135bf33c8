"""One site's neurons, by sample or by step, as a zoomable matrix (`heatmap`)."""

from typing import Any

import holoviews as hv
import numpy as np
from holoviews.streams import PlotSize, RangeXY

from actigrad.errors import ViewError
from actigrad.pictures.order import label_order, natural_order, score_order
from actigrad.pictures.palette import NOT_FINITE, Scale, make_scale
from actigrad.pictures.raster import Aggregate, rasterise
from actigrad.sites import Site
from actigrad.storage.schema import site_group
from actigrad.storage.store import read_samples
from actigrad.views.reading import (
    Store,
    describe_quantity,
    find_group,
    find_site,
    find_step,
    find_summary,
    frame,
    open_tree,
    read_metric,
)


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
    tree = open_tree(store)
    chosen = find_site(tree, site)
    matrix, columns, groups, index = _matrix(tree, chosen, quantity, x, step, order)
    rows = _neuron_order(tree, chosen, quantity, index, neurons, matrix.shape[0])
    matrix = matrix[rows] if neurons != "natural" else matrix
    colours = _scale(tree, chosen, quantity, index)
    known = _known(tree, chosen, x, columns, rows)
    what = f"{chosen.path} · {describe_quantity(tree, quantity)}" + (
        "" if x == "step" else f" at step {read_samples(tree)['step'].values[index]}"
    )

    def draw(x_range=None, y_range=None, width=None, height=None, scale=None):
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


def _matrix(tree, site: Site, quantity: str, x: str, step: int | None, order: str | None):
    """(neuron, sample or step), the columns' ids, label groups, and the index of the step."""
    if x == "step":
        values = read_metric(tree, site, quantity, "extreme")
        values = _signed_extreme(values.reshape(values.shape[0], -1, values.shape[-1]), 1)
        return values.T, read_samples(tree)["step"].values, [], len(values) - 1
    if x != "sample":
        raise ViewError(f"x is {x!r}; a heatmap has 'sample' or 'step' from left to right.")
    group = find_group(tree, f"{site_group(site.path)}/full")
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} was not kept whole; capture its {quantity} with keep: full, or look at x='step'."
        )
    index = find_step(tree, step)
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
    rms = read_metric(tree, site, quantity, "rms")[index].reshape(-1, n).max(0)
    return score_order(rms, rms == 0)


def _scale(tree, site: Site, quantity: str, index: int) -> Scale:
    group = find_summary(tree, site)
    counts = group[f"{quantity}_histogram"].isel(step=index).values
    zeros = group[f"{quantity}_special"].isel(step=index, special=0).values
    counts = counts.reshape(-1, counts.shape[-1]).sum(0)
    extremes = read_metric(tree, site, quantity, "extreme")[index].ravel()
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
        **frame(height=int(np.clip(7 * n + 100, 230, 430))), cmap=scale.colours, clim=(scale.low, scale.high),
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
