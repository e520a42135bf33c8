"""One site's neurons by sample, step or position, as a zoomable matrix (`heatmap`)."""

from typing import Any

import holoviews as hv
import holoviews.plotting.mpl
import numpy as np
from holoviews.streams import PlotSize, RangeXY

from actigrad.errors import ViewError
from actigrad.pictures.catalogue import find_order
from actigrad.pictures.matrices import open_matrix
from actigrad.pictures.order import is_permutation
from actigrad.pictures.palette import NOT_FINITE, SEQUENTIAL, Scale
from actigrad.pictures.raster import Aggregate, rasterise
from actigrad.pictures.scales import read_scale
from actigrad.sites import Site
from actigrad.storage.store import read_samples
from actigrad.views.reading import (
    Store,
    describe_quantity,
    find_site,
    find_step,
    find_summary,
    open_tree,
)
from actigrad.views.style import WIDTH, frame, told, wrap

DOTS = 72
"""HoloViews' own pixels an inch with Matplotlib: so a picture has pixels for all cells, and none is left out."""
REDUCTIONS = {
    "extreme": "the signed extreme",
    "mean": "the mean",
    "nonfinite": "the share of values that are not finite",
}


def heatmap(
    store: Store, site: str, *, quantity: str = "activation", x: str = "sample", step: int | None = None,
    order: Any = "natural", reduction: str = "extreme", samples: str = "label", sample: int | None = None,
    dynamic: bool = True, pixels: tuple[int, int] = (300, 580),
) -> Any:  # fmt: skip
    """Neurons from the top down; samples, steps or positions from left to right.

    A cell is the signed extreme (the value of largest magnitude) over the elements that it covers and, at sites with
    positions or loops, over those. Where any of them is not finite the cell is loudly green, and the hover counts them.
    The title tells how many elements a cell covers, the order, and the colours' limits, which are those of the run and
    not of what is seen. Hover gives the neuron and the sample that the value belongs to, whatever the order.

    Args:
        store: a store, or the path of one.
        site: a site's path.
        quantity: activation or gradient.
        x: "sample" (needs `keep: full`; or `keep: levels`, down to blocks of neurons), "position" (needs `keep: full`),
            or "step" (from the summaries).
        step: which recorded step, for x="sample" and "position"; the last by default.
        order: of the neurons: natural, score, score:METRIC, peak:step, peak:sample, selectivity, similarity, the name
            of a stored order, or a permutation. Neurons that are constant or dead come last.
        reduction: what a cell shows: "extreme", "mean" (of its finite values), or "nonfinite" (their share).
        samples: "label" (grouped by it, where there are labels) or "natural".
        sample: which sample's positions; by default the extreme over all samples.
        dynamic: a DynamicMap that aggregates anew on zoom, or one static element of at most `pixels` cells.
        pixels: (along y, along x) of the static element, and until the plot's size is known.

    Raises:
        ViewError: when the store does not hold it.
    """
    tree = open_tree(store)
    chosen = find_site(tree, site)
    if reduction not in REDUCTIONS:
        raise ViewError(f"reduction is {reduction!r}; a heatmap has {', '.join(REDUCTIONS)}.")
    named = isinstance(order, str)
    rows = find_order(tree, chosen, order, quantity=quantity, step=step) if named else _own_order(order, chosen)
    shown = open_matrix(
        tree, chosen, quantity, columns=x, step=step, order=order if named else "", rows=rows, samples=samples,
        sample=sample,
    )  # fmt: skip
    at = "" if x == "step" else f" at step {shown.step}"
    what = f"{chosen.path} · {describe_quantity(tree, quantity)}{at}"
    colours = _scale(tree, chosen, quantity, None if x == "step" else find_step(tree, shown.step), reduction)
    known, size = _known(tree, chosen, x), shown.matrix.shape
    ordered = f"neurons in {order if named else 'the given'} order"
    y = "neuron" if rows is None else "neurons, by their place in the order"

    def draw(x_range=None, y_range=None, width=None, height=None, scale=None):  # the size is scaled already
        window = None
        if x_range and y_range and all(v is not None for v in (*x_range, *y_range)):
            window = (_whole(sorted(y_range)), _whole(sorted(x_range)))
        view = rasterise(shown.matrix, window, (height or pixels[0], width or pixels[1]))
        kept = ", of neurons the finest that was kept" if view.factors[0] == shown.matrix.finest[0] > 1 else ""
        title = wrap([what, f"{_describe_cell(view, reduction, x)}{kept}; {ordered}; {colours.text()}"])
        image: Any = _dress(_image(view, known, x, reduction), colours, title, known, x, size[0])
        return image.opts(ylabel=y, backend="bokeh").opts(ylabel=y, backend="matplotlib")

    streams = [RangeXY(x_range=(-0.5, size[1] - 0.5), y_range=(-0.5, size[0] - 0.5)), PlotSize()]
    picture: Any = hv.DynamicMap(draw, streams=streams) if dynamic else draw()
    marks = _group_marks(shown.groups, size[0])
    return picture if marks is None else (picture * marks).opts(**_figure(size[0]), ylabel=y, backend="matplotlib")


def _own_order(order: Any, site: Site) -> np.ndarray:
    rows, n = np.asarray(order), site.shape[-1] if "neuron" in site.dims else 1
    if not is_permutation(rows, n):
        told = f"it has {rows.size} entries, {len(np.unique(rows))} of them different."
        raise ViewError(f"the order of site {site.path!r} must hold each of 0 … {n - 1} once; {told}")
    return rows


def _scale(tree, site: Site, quantity: str, index: int | None, reduction: str) -> Scale:
    """Of a step, or of all of them together."""
    if reduction == "nonfinite":
        return Scale(0.0, 1.0, SEQUENTIAL, 0.0)
    return read_scale(find_summary(tree, site), quantity, index, statistic=reduction)


def _known(tree, site: Site, x: str) -> dict[str, np.ndarray | None]:
    """What hover can tell of a column, by its id; None where it is the id itself."""
    if x == "step":
        return {"step": read_samples(tree)["step"].values}
    if x == "sample":
        labels = read_samples(tree)
        return {"sample": None} | ({"label": labels["label"].values} if "label" in labels else {})
    sizes = [(d, n) for d, n in zip(site.dims, site.shape, strict=True) if d not in ("sample", "neuron")]
    places = np.indices([n for _, n in sizes]).reshape(len(sizes), -1)
    return {name: place for (name, _), place in zip(sizes, places, strict=True)}


def _describe_cell(view: Aggregate, reduction: str, x: str) -> str:
    (fy, fx), what = view.factors, REDUCTIONS[reduction]
    if fx == fy == 1 and x == "step":
        return f"a cell is {what} of a neuron's values at a step"
    if fx == fy == 1:
        return "a cell is one element" if reduction == "extreme" else f"a cell is {what} of one element"
    return f"a cell is {what} of {fy} neuron{'s' * (fy > 1)} × {fx} {x}{'s' * (fx > 1)}"


def _image(view: Aggregate, known: dict[str, np.ndarray | None], x: str, reduction: str) -> hv.Image:
    """The aggregate with all that hover tells; ids are those of the store."""
    fy, fx = view.factors
    value = view.extreme if reduction == "extreme" else view.mean
    value = view.share if reduction == "nonfinite" else np.where(view.nonfinite > 0, np.nan, value)
    layers: dict[str, np.ndarray] = {"value": value.astype(np.float32), "its neuron": view.row.astype(np.int32)}
    for name, ids in known.items():
        its = view.column if ids is None else np.where(view.column >= 0, ids[np.maximum(view.column, 0)], -1)
        layers[f"its {name}"] = its.astype(np.int32)
    if reduction != "extreme":
        layers["extreme of the cell"] = view.extreme
    if max(fy, fx) > 1 and reduction != "mean":
        layers["mean of the cell"] = view.mean
    if view.nonfinite.any():
        layers["not finite"] = view.nonfinite.astype(np.int32)
    if not view.extreme.size:  # nothing of the matrix is in the window
        return hv.Image([], [x, "neuron"], list(layers))
    (top, left), (h, w) = view.start, view.extreme.shape
    bounds = left - 0.5, top - 0.5, left + fx * w - 0.5, top + fy * h - 0.5
    data = {x: view.centres(1), "neuron": view.centres(0), **layers}
    return hv.Image(data, [x, "neuron"], list(layers), bounds=bounds, datatype=["grid"])


def _dress(image: hv.Image, scale: Scale, title: str, known: dict[str, Any], x: str, n: int) -> Any:
    """Options for both backends."""
    common: dict[str, Any] = {
        "cmap": scale.colours, "clim": (scale.low, scale.high), "colorbar": True, "invert_yaxis": True,
        "axiswise": True, "clipping_colors": {"NaN": NOT_FINITE}, "title": title, "xlabel": _x_label(known, x),
        "ylim": (-0.5 - (0.09 * n if "label" in known else 0), n - 0.5), **_step_ticks(known, x),
    }  # fmt: skip
    bokeh: Any = image.opts(
        **frame(height=_height(n)), **common, tools=["hover"], hover_tooltips=told(image), backend="bokeh"
    )
    return bokeh.opts(**_figure(n), **common, backend="matplotlib")


def _height(n: int) -> int:
    """Of a picture of n neurons, in pixels."""
    return int(np.clip(7 * n + 100, 230, 430))


def _figure(n: int) -> dict[str, Any]:
    """The same proportions and letters for Matplotlib."""
    sizes = {"title": 15, "labels": 13, "xticks": 12, "yticks": 12}
    return {"fig_inches": (WIDTH / DOTS, _height(n) / DOTS), "aspect": WIDTH / _height(n), "fontsize": sizes}


def _step_ticks(known: dict[str, Any], x: str) -> dict[str, Any]:
    if x != "step":
        return {}
    every = max(1, len(known["step"]) // 20)
    return {"xticks": [(i, str(step)) for i, step in enumerate(known["step"]) if i % every == 0]}


def _x_label(known: dict[str, Any], x: str) -> str:
    if x == "sample":
        return "sample, grouped by label" if "label" in known else "sample"
    return "step (training updates)" if x == "step" else f"position ({', '.join(known)})"


def _group_marks(groups: list[tuple[int, int, int]], n: int) -> hv.Overlay | None:
    """Lines between the labels, and their names above."""
    if not groups:
        return None
    lines: Any = hv.VLines([start - 0.5 for _, start, _ in groups[1:]])
    lines = lines.opts(color="#16181d", line_width=1, alpha=0.55, backend="bokeh")
    lines = lines.opts(color="#16181d", linewidth=1, alpha=0.55, backend="matplotlib")
    places = [((start + stop) / 2, -0.5 - 0.045 * n, str(label)) for label, start, stop in groups]
    names: Any = hv.Labels(places, ["sample", "neuron"], "text")
    names = names.opts(text_font_size="9pt", text_font_style="bold", text_color="#16181d", backend="bokeh")
    return lines * names.opts(size=9, weight="bold", color="#16181d", backend="matplotlib")


def _whole(span: Any) -> tuple[int, int]:
    """Elements that a range of positions touches; element i covers i - 0.5 to i + 0.5."""
    return int(np.floor(span[0] + 0.5)), int(np.ceil(span[1] + 0.5))
