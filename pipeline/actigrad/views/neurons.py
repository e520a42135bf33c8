"""One site's neurons: all of them as lines over the steps (`traces`), or everything about one (`neuron`)."""

from contextlib import suppress
from typing import Any

import datashader.transfer_functions as shading
import holoviews as hv
import numpy as np

from actigrad.errors import ViewError
from actigrad.storage.store import read_samples
from actigrad.views.images import sample_pictures, sample_title
from actigrad.views.places import Place
from actigrad.views.reading import (
    Store,
    describe_quantity,
    find_step,
    neuron_ids,
    neuron_rows,
    open_tree,
    read_full,
    read_metric,
    read_place,
)
from actigrad.views.shading import (
    NOT_COMPARABLE,
    PIXELS,
    count_image,
    count_options,
    live,
    padded,
    shade_labels,
    shade_lines,
)
from actigrad.views.style import INK, arrange, dress

LABELS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0"]
PART = 455
"""The width of half a layout."""
EXAMPLES = 6


def traces(
    store: Store, site: str, *, quantity: str = "activation", reduction: str = "rms", equalise: bool = False,
    dynamic: bool = True, pixels: tuple[int, int] = PIXELS,
) -> Any:  # fmt: skip
    """All neurons of a site over the recorded steps, a line each: the darker, the more of them pass there.

    Datashader counts the lines of each pixel, on a logarithmic scale: typical neurons are a dark band, rogue ones pale
    lines apart. Hover tells how many pass, and which of them reaches the largest magnitude at any step.

    Args:
        store: a store, or the path of one.
        site: a site's path; inside a loop all layers together, or one of them as `path[3]`.
        quantity: activation or gradient.
        reduction: one of `metrics.METRICS`.
        equalise: colour by rank (`eq_hist`), which does not compare between pictures.
        dynamic: a DynamicMap that counts anew on zoom, or one static image.
        pixels: (along y, along x) of the static image, and until the plot's size is known.
    """
    tree = open_tree(store)
    place = read_place(tree, site)
    lines = neuron_rows(read_metric(tree, place.site, quantity, reduction), place).T.astype(np.float64)
    steps = read_samples(tree)["step"].values
    if len(steps) < 2:
        raise ViewError(f"the store has one recorded step, {steps[0]}; a line needs two. See heatmap or distribution.")
    peak = np.where(np.isfinite(lines), np.abs(lines), -1).max(1)
    window, ids = (padded(steps.astype(float), 0.01), padded(lines)), neuron_ids(place)
    title = [f"{site} · {describe_quantity(tree, quantity)}: {reduction} of each of {len(lines):,} neurons",
             *[NOT_COMPARABLE] * equalise]  # fmt: skip

    def draw(seen, size):
        shaded = shade_lines(steps, lines, peak, seen, (size[0] // 2, size[1] // 2))  # lines two pixels thick
        image = count_image(shaded, ("step", reduction), "neurons", ids, {"largest magnitude": peak})
        return dress(image, height=340, title=title, clabel="neurons", xlabel="step (training updates)",
                     **count_options(equalise=equalise))  # fmt: skip

    return live(draw, window, dynamic=dynamic, pixels=pixels)


def neuron(
    store: Store, site: str, neuron: int, *, quantity: str = "activation", step: int | None = None,
    reduction: str = "mean",
) -> hv.Layout:  # fmt: skip
    """One neuron: its trace, its values, the samples that it answers most and least, and its gradient for each.

    Above: its reduction over the recorded steps (line) between its smallest and largest value (band), and a histogram
    of its value for each sample at one step, where positions are reduced to the value of largest magnitude. Below: each
    sample as a point, value from left to right and gradient upward, counted by Datashader and coloured by its label
    (blended where several meet); and the samples of the largest and smallest values, as pictures where the input is
    images. The lower pictures and the histogram need `keep: full`.

    Args:
        store: a store, or the path of one.
        site: a site's path; inside a loop one layer of it, as `path[3]` (the last by default).
        neuron: which one, from 0.
        quantity: activation or gradient; what the trace, the histogram and the samples are of.
        step: which recorded step; the last by default.
        reduction: one of `metrics.METRICS`, of the line.
    """
    tree = open_tree(store)
    place = read_place(tree, site).narrowed()
    name, count = f"neuron {neuron} of {place.name}", neuron_ids(place)["neuron"].size
    if not 0 <= neuron < count:
        raise ViewError(f"neuron is {neuron}; site {site!r} has {count}, 0 to {count - 1}.")
    parts = [_trace(tree, place, neuron, quantity, reduction, name)]
    try:
        values = _one_a_sample(tree, place, neuron, quantity, step)
    except ViewError:
        return arrange(parts, 1)
    parts.append(_values(values, quantity, int(read_samples(tree)["step"].values[find_step(tree, step)])))
    other = "gradient" if quantity == "activation" else "activation"
    with suppress(ViewError):  # where the other quantity was not kept whole there is nothing to set it against
        parts.append(_points(tree, values, _one_a_sample(tree, place, neuron, other, step), quantity, other))
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    parts.append(_examples(tree, order[::-1][:EXAMPLES], order[:EXAMPLES], values))
    return arrange(parts, 2)


def _trace(tree, place: Place, neuron: int, quantity: str, reduction: str, name: str) -> Any:
    steps = read_samples(tree)["step"].values
    metric = lambda one: neuron_rows(read_metric(tree, place.site, quantity, one), place)[:, neuron].astype(float)
    band = hv.Area((steps, metric("min"), metric("max")), "step", ["value", "up to"])
    line = hv.Curve((steps, metric(reduction)), "step", "value")
    dots = hv.Points((steps, metric(reduction)), ["step", "value"])
    return dress(
        dress(band, color="#c9dcee", line_alpha=0) * dress(line, color="#123a63", line_width=2)
        * dress(dots, color="#123a63", size=5, tools=["hover"]),
        width=PART, height=300, xlabel="step (training updates)", ylabel=quantity, show_legend=False, show_grid=True,
        title=[name, f"{describe_quantity(tree, quantity)}: {reduction}, between the smallest and the largest"],
    )  # fmt: skip


def _values(values: np.ndarray, quantity: str, step: int) -> Any:
    known = values[np.isfinite(values)]
    counts, edges = np.histogram(known, bins=min(40, max(5, int(np.sqrt(known.size)))))
    return dress(
        hv.Histogram((edges, counts), kdims=quantity, vdims="samples"), width=PART, height=300, color="#9ec5e8",
        line_color="#5b9bd5", tools=["hover"],
        title=[f"values at step {step}: {known.size:,} samples, {int((values == 0).sum()):,} of them zero"
               + f", {values.size - known.size:,} not finite" * bool(values.size - known.size)],
    )  # fmt: skip


def _points(tree, x: np.ndarray, y: np.ndarray, quantity: str, other: str) -> Any:
    """Samples by value and gradient, blended by label where several meet in a pixel."""
    samples = read_samples(tree)
    labels = samples["label"].values if "label" in samples else np.zeros(len(x), int)
    window, known = (padded(x), padded(y)), np.unique(labels)
    colours = {label: LABELS[i % len(LABELS)] for i, label in enumerate(known)}
    coarse = 1 if len(x) > 20_000 else 3
    counts = shade_labels(x, y, labels, window, (240 // coarse, 400 // coarse))
    shaded = shading.spread(shading.shade(counts, color_key=colours, how="log", min_alpha=150), px=1)
    image = hv.RGB(np.asarray(shaded.to_pil().convert("RGBA")), bounds=_bounds(window), kdims=[quantity, other])
    keys = {label: hv.Points([(np.nan, np.nan)], [quantity, other], label=str(label)) for label in known[:20]}
    many = len(known) > 1
    parts = [image, *(dress(key, color=colours[label], size=7) for label, key in keys.items())] if many else [image]
    return dress(
        hv.Overlay(parts), width=PART, height=300, show_legend=many, legend_position="right", show_grid=True,
        title=[f"samples by {quantity} and {other}{', coloured by label' * many}"],
    )  # fmt: skip


def _bounds(window) -> tuple[float, float, float, float]:
    (left, right), (low, high) = window
    return left, low, right, high


def _examples(tree, largest: np.ndarray, smallest: np.ndarray, values: np.ndarray) -> Any:
    """Samples side by side: as pictures where the inputs are images, with label, prediction and the neuron's value."""
    parts, texts = [], []
    for row, chosen in enumerate((largest, smallest)):
        down = 1.9 * row
        for j, one in enumerate(sample_pictures(tree, chosen) or ()):
            parts.append(one.clone(bounds=(j - 0.45, -down - 0.45, j + 0.45, -down + 0.45)))
        names = [f"{sample_title(tree, int(i))}\n{values[i]:.3g}" for i in chosen]
        texts += [(j, -down - 0.8, name) for j, name in enumerate(names)]
    text = dress(hv.Labels(texts, ["x", "y"], "text"), text_color=INK, text_font_size="9pt")
    return dress(
        hv.Overlay([*parts, text]), width=PART, height=300, xlim=(-0.6, EXAMPLES - 0.4), ylim=(-3.1, 0.6),
        xaxis=None, yaxis=None, show_legend=False,
        title=["samples of the largest values (above) and of the smallest"],
    )  # fmt: skip


def _one_a_sample(tree, place: Place, neuron: int, quantity: str, step: int | None) -> np.ndarray:
    """(sample,) the neuron's value; over positions, the one of largest magnitude."""
    array = read_full(tree, place, quantity, step)
    if "neuron" in array.dims:
        array = array.isel(neuron=neuron)
    values = array.transpose("sample", ...).values.astype(np.float64)
    flat = values.reshape(values.shape[0], -1)
    best = np.where(np.isfinite(flat), np.abs(flat), -1).argmax(1)
    return np.where(np.isfinite(flat).all(1), np.take_along_axis(flat, best[:, None], 1)[:, 0], np.nan)
