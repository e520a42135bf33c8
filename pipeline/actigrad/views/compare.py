"""What changed: one run less another, or one step less another, under one order (`compare`)."""

from typing import Any

import numpy as np

from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.pictures.order import label_order, natural_order, score_order
from actigrad.storage.store import read_samples
from actigrad.views.matrix import PIXELS, about_zero, matrix
from actigrad.views.places import Place
from actigrad.views.reading import (
    QUANTITIES,
    Store,
    describe_quantity,
    find_step,
    neuron_ids,
    neuron_rows,
    open_tree,
    read_full,
    read_metric,
    read_place,
    require,
)
from actigrad.views.style import ticks

ORDERS = ("natural", "score")


def compare(
    store: Store, site: str, other: Store | None = None, *, quantity: str = "activation", x: str = "step",
    step: int | None = None, other_step: int | None = None, order: str = "natural", reduction: str = "rms",
    dynamic: bool = True, pixels: tuple[int, int] = PIXELS,
) -> Any:  # fmt: skip
    """A − B: red where A is larger, blue where it is smaller, white where nothing changed.

    Neurons from the top down, both sides in one order. By x="step" a cell is the difference of the reduction: with
    another run at the same step in both, without one from the step `other_step` of this run (by default the first). By
    x="sample" it is the difference of the values, positions and layers reduced to the largest magnitude on each side,
    grouped by label; both must hold the same samples. The scale is symmetric, up to the largest difference.

    Args:
        store: A, a store or the path of one.
        site: a site's path; inside a loop all layers together, or one of them as `path[3]`.
        other: B; by default A itself, at another step.
        quantity: activation or gradient.
        x: "step" (from the summaries) or "sample" (needs `keep: full`, at both steps).
        step: of A, for x="sample"; the last by default.
        other_step: of B: for x="sample" the same as `step` in another run; in the same run the first by default.
        order: of the neurons: natural, or score (by A's rms at `step`, largest first).
        reduction: for x="step": one of `metrics.METRICS`.
        dynamic: a DynamicMap that aggregates anew on zoom, or one static image.
        pixels: (along y, along x) of the static image, and until the plot's size is known.
    """
    a, b = open_tree(store), open_tree(store if other is None else other)
    require("x", x, ("step", "sample"))
    require("order", order, ORDERS)
    require("quantity", quantity, QUANTITIES)
    place, theirs = read_place(a, site), read_place(b, site)
    if neuron_ids(place)["neuron"].shape != neuron_ids(theirs)["neuron"].shape:
        raise ViewError(f"site {site!r} is {place.site.shape} in A and {theirs.site.shape} in B; they do not compare.")
    if x == "step":
        values, ids, options, what = _by_step(a, b, place, quantity, reduction, other is None, other_step)
    else:
        values, ids, options, what = _by_sample(a, b, place, quantity, step, other_step, other is None)
    neurons = neuron_ids(place)
    if order == "score":
        rms = neuron_rows(read_metric(a, place.site, quantity, "rms"), place)[find_step(a, step)]
        rows = score_order(rms, rms == 0)
    else:
        rows = natural_order(len(values))
    known = values[np.isfinite(values)]
    return matrix(
        values[rows], ("neuron", x), ({name: one[rows] for name, one in neurons.items()}, ids),
        scale=about_zero(float(np.abs(known).max()) if known.size else 1.0),
        title=[f"{site} · {describe_quantity(a, quantity)}: {what}, {order} order"],
        dynamic=dynamic, pixels=pixels, **options,
    )  # fmt: skip


def _by_step(a, b, place: Place, quantity: str, reduction: str, same: bool, other_step: int | None):
    """(neuron, step) of differences, with what hover tells, options, and words for the title."""
    require("reduction", reduction, METRICS)
    steps, theirs = (read_samples(tree)["step"].values.tolist() for tree in (a, b))
    ours = neuron_rows(read_metric(a, place.site, quantity, reduction), place).astype(np.float64)
    base = neuron_rows(read_metric(b, place.site, quantity, reduction), place).astype(np.float64)
    if same or other_step is not None:
        at = 0 if other_step is None else find_step(b, other_step)
        base, shown = base[at : at + 1], steps
        what = f"{reduction} at each step less that at step {theirs[at]}{' of B' * (not same)}"
    else:
        shown = [step for step in steps if step in theirs]
        if not shown:
            raise ViewError(f"A has steps {steps} and B has {theirs}; none is in both. Give other_step.")
        ours, base = ours[[steps.index(s) for s in shown]], base[[theirs.index(s) for s in shown]]
        what = f"{reduction} of A less that of B at the same step"
    options = {"xticks": ticks(shown, 20), "xlabel": "step (training updates)"}
    return (ours - base).T, {"step": np.array(shown)}, options, what


def _by_sample(a, b, place: Place, quantity: str, step: int | None, other_step: int | None, same: bool):
    """(neuron, sample) of differences, with what hover tells, options, and words for the title."""
    steps = read_samples(a)["step"].values.tolist()
    now = steps[find_step(a, step)]
    then = other_step if other_step is not None else steps[0] if same else now
    one, two = read_samples(a), read_samples(b)
    if one["id"].shape != two["id"].shape or (one["id"].values != two["id"].values).any():
        raise ViewError(f"A holds {one['id'].size} samples and B {two['id'].size}, and they are not the same ones.")
    values = _a_sample(read_full(a, place, quantity, now)) - _a_sample(read_full(b, place, quantity, then))
    labels = one["label"].values if "label" in one else None
    columns = natural_order(values.shape[1]) if labels is None else label_order(labels)[0]
    ids = {"sample": columns} | ({} if labels is None else {"label": labels[columns]})
    options = {"xlabel": "sample" if labels is None else "sample, grouped by label"}
    what = f"step {now} less step {then}" if same else f"A at step {now} less B at step {then}"
    return values[:, columns], ids, options, what


def _a_sample(array) -> np.ndarray:
    """(neuron, sample): over positions the value of largest magnitude; the neurons of layers one after another."""
    loops = [dim for dim in array.dims if dim.startswith(("layer", "shard"))]
    rest = [dim for dim in array.dims if dim not in (*loops, "sample", "neuron")]
    if "neuron" not in array.dims:
        array = array.expand_dims("neuron")
    values = array.transpose(*loops, "neuron", "sample", *rest).values.astype(np.float64)
    flat = values.reshape(-1, array.sizes["sample"], int(np.prod([array.sizes[dim] for dim in rest], dtype=int)))
    best = np.where(np.isfinite(flat), np.abs(flat), np.inf).argmax(-1)
    return np.take_along_axis(flat, best[..., None], -1)[..., 0]
