"""One site's values as a whole: how they are spread (`distribution`), who is dead (`activity`)."""

from typing import Any

import holoviews as hv
import numpy as np

from actigrad.errors import ViewError
from actigrad.metrics import METRICS, SPECIAL
from actigrad.pictures.palette import NOT_FINITE
from actigrad.storage.store import read_samples
from actigrad.views.places import Place
from actigrad.views.reading import (
    QUANTITIES,
    Store,
    describe_quantity,
    find_step,
    find_summary,
    neuron_ids,
    neuron_rows,
    open_tree,
    read_place,
    read_summary,
    require,
)
from actigrad.views.shading import (
    NOT_COMPARABLE,
    PIXELS,
    count_image,
    count_options,
    live,
    padded,
    shade_points,
)
from actigrad.views.style import dress, ticks


def distribution(store: Store, site: str, *, quantity: str = "activation") -> Any:
    """Bins of values from negative at the bottom to positive at the top, recorded steps from left to right.

    The colour is the number of values in the bin, over all samples, positions and neurons, on a logarithmic scale.
    Bins are those of the store, four a decade, so they are the same at every step and in every run; decades that hold
    nothing between the smallest value and zero are left out. The row at 0 counts zeros and values below 1e-12. Bright
    green rows on top count NaN and infinities, where there are any. Hover gives the bin, its count and its share.

    Args:
        store: a store, or the path of one.
        site: a site's path; inside a loop all layers together, or one of them as `path[3]`.
        quantity: activation or gradient.
    """
    tree = open_tree(store)
    place = read_place(tree, site)
    counts, special, edges, middle = _read_bins(tree, place, quantity)
    kept, steps = _occupied(counts.sum(0), middle), read_samples(tree)["step"].values.tolist()
    shown = counts[:, kept].T.astype(np.float64)
    total = np.maximum(1, counts.sum(1) + sum(special.values()))
    ends = {name: np.broadcast_to(side[kept][:, None], shown.shape) for name, side in edges.items()}
    layers = {"count": np.where(shown > 0, shown, np.nan), "share": shown / total, **ends}
    layers["its step"] = np.broadcast_to(steps, shown.shape)
    data = {"step": np.arange(len(steps)), "bin": np.arange(len(kept)), **layers}
    bounds = -0.5, -0.5, len(steps) - 0.5, len(kept) - 0.5  # of one step alone nobody could tell how wide it is
    image = hv.Image(data, ["step", "bin"], list(layers), bounds=bounds, datatype=["grid"])
    picture = dress(image, **count_options(equalise=False), clabel="values in the bin")
    loud = [(name, counts) for name, counts in special.items() if counts.any()]
    if loud:
        cells = [(j - 0.5, len(kept) + i - 0.5, j + 0.5, len(kept) + i + 0.5, name, int(count), steps[j])
                 for i, (name, counts) in enumerate(loud) for j, count in enumerate(counts) if count]  # fmt: skip
        picture *= dress(hv.Rectangles(cells, vdims=["kind", "count", "its step"]), color=NOT_FINITE, tools=["hover"])
    missing = sum(int(counts.sum()) for _, counts in loud)
    return dress(
        picture, height=420, xticks=ticks(steps, 20), xlabel="step (training updates)", ylabel=quantity,
        yticks=_bin_ticks(edges["from"], kept, middle) + [(len(kept) + i, name) for i, (name, _) in enumerate(loud)],
        xlim=(-0.5, len(steps) - 0.5), ylim=(-0.5, len(kept) + len(loud) - 0.5), show_legend=False,
        title=[f"{site} · {describe_quantity(tree, quantity)}: values a bin, four bins a decade"
               + f"; {missing:,} values are not finite" * bool(missing)],
    )  # fmt: skip


def activity(
    store: Store, site: str, *, step: int | None = None, equalise: bool = False, dynamic: bool = True,
    pixels: tuple[int, int] = PIXELS,
) -> Any:  # fmt: skip
    """One point a neuron: the share of its values that are not zero, and log10 of its gradient's rms.

    On the left stand dead neurons (zero for every sample and position), on the right those that always answer. High up
    they are pushed, low down they are not; a gradient of exactly zero stands on the bottom line. Datashader counts the
    points of each pixel, on a logarithmic scale; hover tells how many there are, and the neuron of the largest gradient
    among them. The title counts the dead.

    Args:
        store: a store, or the path of one.
        site: a site's path; inside a loop all layers together, or one of them as `path[3]`.
        step: a recorded step; the last by default.
        equalise: colour by rank (`eq_hist`), which does not compare between pictures.
        dynamic: a DynamicMap that counts anew on zoom, or one static image.
        pixels: (along y, along x) of the static image, and until the plot's size is known.
    """
    tree = open_tree(store)
    place, index = read_place(tree, site), find_step(tree, step)
    active = 1 - _read_step(tree, place, "activation", "zero_fraction", index)
    slope = _read_step(tree, place, "gradient", "rms", index)
    if active.shape != slope.shape:
        raise ViewError(f"site {site!r} has {active.size} neurons and {slope.size} gradients; they do not match.")
    pushed = np.isfinite(slope) & (slope > 0)
    height = np.full(slope.shape, np.nan)
    height[pushed] = np.log10(slope[pushed])
    low, high = padded(height)
    height[slope == 0] = low = low - 0.1 * (high - low)
    window = (-0.03, 1.03), (low - 0.05 * (high - low), high)
    dead = active == 0
    ids, more = neuron_ids(place), {"share of active values": active, "gradient rms": slope}
    shown = read_samples(tree)["step"].values[index]
    title = [
        f"{site} · {active.size:,} neurons at step {shown}: {int(dead.sum()):,} dead, "
        f"{int((dead & (slope == 0)).sum()):,} of these without gradient; gradient of {tree.attrs['gradients_of']}",
        *[NOT_COMPARABLE] * equalise,
    ]
    names = "share of values that are not zero", "log10 gradient rms"

    def draw(seen, size):
        image = count_image(shade_points(active, height, slope, seen, size), names, "neurons", ids, more)
        return dress(image, height=400, title=title, clabel="neurons", **count_options(equalise=equalise))

    # A point is a pixel: where there are few, pixels are made larger, so that they are seen at all.
    coarse = int(np.clip(np.sqrt(np.prod(pixels) / (120 * max(1, active.size))), 1, 6))
    sized = lambda seen, size: draw(seen, (size[0] // coarse, size[1] // coarse))
    return live(sized, window, dynamic=dynamic, pixels=pixels)


def _read_step(tree, place: Place, quantity: str, metric: str, index: int) -> np.ndarray:
    """(neuron,) of one statistic at one step; no other step is read."""
    group = find_summary(tree, place.site)
    if quantity not in group:
        read_summary(tree, place.site, quantity)  # tells why
    values = group[quantity].isel(step=slice(index, index + 1), metric=METRICS.index(metric)).values
    return neuron_rows(values, place)[0]


def _read_bins(tree, place: Place, quantity: str):
    """Counts (step, bin) with zeros in the middle bin, counts (step,) of what is not finite, the edges, the middle."""
    require("quantity", quantity, QUANTITIES)
    group = find_summary(tree, place.site)
    if f"{quantity}_histogram" not in group:
        read_summary(tree, place.site, quantity)  # tells why
        raise ViewError(f"site {place.site.path!r} has no histogram of its {quantity} in this store.")
    counts, special = (_over_loops(group[f"{quantity}_{name}"].values, place.at) for name in ("histogram", "special"))
    edges = {"from": group["bin_left"].values, "to": group["bin_right"].values}
    middle = int(np.flatnonzero((edges["from"] < 0) & (edges["to"] > 0))[0])
    counts[:, middle] += special[:, SPECIAL.index("zero")]
    return counts, {n: special[:, i] for i, n in enumerate(SPECIAL) if n != "zero"}, edges, middle


def _over_loops(values: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """(step, bin) of one iteration, or of all together."""
    values = values[(slice(None), *at)]
    return values.reshape(values.shape[0], -1, values.shape[-1]).sum(1)


def _occupied(counts: np.ndarray, middle: int) -> np.ndarray:
    """The bins to show: on each side those from the smallest to the largest magnitude that occurs, and zero."""
    found = np.flatnonzero(counts)
    sides = [found[found < middle], found[found > middle]]
    spans = [np.arange(side.min(), side.max() + 1) if side.size else side for side in sides]
    return np.concatenate([spans[0], [middle], spans[1]]).astype(int)


def _bin_ticks(left: np.ndarray, kept: np.ndarray, middle: int) -> list[tuple[float, str]]:
    """A tick at each decade that begins a bin, at most about twelve of them, and one at zero."""
    marks = []
    for i, b in enumerate(kept):
        if b != middle and np.isfinite(left[b]):
            power = float(np.log10(abs(left[b])))
            if abs(power - round(power)) < 1e-6:
                marks.append((i - 0.5, f"{'−' * bool(left[b] < 0)}1e{round(power)}"))
    every = max(1, -(-len(marks) // 12))
    zero = int(np.flatnonzero(kept == middle)[0])
    apart = [mark for mark in marks[::every] if abs(mark[0] - zero) > 1]
    return [*apart, (float(zero), "0")]
