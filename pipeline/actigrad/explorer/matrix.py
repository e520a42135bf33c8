"""Matrix: what the heatmap of a state shows, neurons × samples or steps, in the state's orders.

    matrix = read_matrix(view)
    matrix.look(window, pixels)         # the cells of a viewport: extreme, which neuron, which column

The same matrix is what a download holds, so the file and the picture agree.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actigrad.errors import ViewError
from actigrad.explorer.source import Snapshot, strongest
from actigrad.explorer.view import View
from actigrad.pictures.order import label_order, natural_order, score_order
from actigrad.pictures.palette import DIVERGING, Scale
from actigrad.pictures.raster import Aggregate, rasterise
from actigrad.pictures.scales import read_scale

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Matrix:
    """A matrix in the orders that are shown.

    Attributes:
        values: (row, column).
        neurons: (row,) which neuron a row is.
        columns: (column,) which sample or step a column is.
        labels: (column,) of samples that have one, else None.
        groups: runs of one label, as (label, start, stop).
        scale: of the run, or of the difference.
        x: sample or step.
    """

    values: np.ndarray
    neurons: np.ndarray
    columns: np.ndarray
    labels: np.ndarray | None
    groups: list[tuple[int, int, int]]
    scale: Scale
    x: str

    @property
    def nbytes(self) -> int:
        """Bytes of the values, for the cache."""
        return self.values.nbytes

    @cached_property
    def places(self) -> dict[int, int]:
        """The row of each neuron."""
        return {int(neuron): row for row, neuron in enumerate(self.neurons)}

    def look(self, window: Window | None, pixels: tuple[int, int]) -> Aggregate:
        """At most `pixels` (down, across) cells of a window (left, right, top, bottom) in positions."""
        spans = None
        if window is not None:
            left, right, top, bottom = window
            spans = (_elements(top, bottom), _elements(left, right))
        return rasterise(self.values, spans, pixels)


def read_matrix(view: View) -> Matrix:
    """The matrix of a state, from the snapshot's cache where it was asked for before.

    Raises:
        ViewError: when the store does not hold it; the message says what to capture or to choose.
    """
    s = view.state
    key = (
        "matrix",
        s.site,
        s.quantity,
        s.x,
        view.step if _depends_on_step(view) else None,
        s.group,
        s.order,
        s.neurons,
    )
    versus = (view.versus_step, view.other.name if view.other else "", view.other.marks if view.other else None)
    return view.snapshot.cache.get((*key, *versus), lambda: _make(view))


def _depends_on_step(view: View) -> bool:
    return view.state.x == "sample" or view.state.neurons != "natural" or view.versus_step is not None


def _make(view: View) -> Matrix:
    snapshot, s = view.snapshot, view.state
    if s.x == "step":
        columns, labels, groups = np.array(snapshot.steps), None, []
        values = snapshot.metric(s.site, s.quantity, "extreme").T
    else:
        picked, labels, groups = _pick_samples(snapshot, s.group, s.order)
        columns, values = picked, _read_samples(snapshot, s.site, s.quantity, view.step)[:, picked]
    scale = _run_scale(view)
    if view.versus_step is not None or view.other is not None:
        values = values - _subtrahend(view, columns, values.shape)
        scale = _difference_scale(values)
    rows = _order_neurons(view, values.shape[0])
    return Matrix(values[rows], rows, columns, labels, groups, scale, s.x)


def _read_samples(snapshot: Snapshot, site: str, quantity: str, step: int) -> np.ndarray:
    """(neuron, sample) of what was kept whole; positions and loops reduced to the value of largest magnitude."""
    return snapshot.cache.get(("samples", site, quantity, step), lambda: _load_samples(snapshot, site, quantity, step))


def _load_samples(snapshot: Snapshot, site: str, quantity: str, step: int) -> np.ndarray:
    group = snapshot.full(site)
    if group is None or quantity not in group:
        raise ViewError(
            f"The {quantity} of {site} was not kept whole. Look at steps from left to right, or capture it with "
            "keep: full."
        )
    kept = [int(one) for one in group["step"].values]
    if step not in kept:
        whole = [one for one in kept if one in snapshot.steps]
        told = f"at step {', '.join(map(str, whole))}" if whole else "at no step that is in yet"
        raise ViewError(f"{site} was kept whole {told}, not at {step}. Choose that step, or look at steps.")
    array = group[quantity].isel(step=kept.index(step)).transpose("sample", ..., "neuron")
    values = array.values.astype(np.float32, copy=False)
    return np.ascontiguousarray(strongest(values.reshape(values.shape[0], -1, values.shape[-1]), 1).T)


def _pick_samples(snapshot: Snapshot, group: str, order: str):
    """Which samples, their labels, and where each label begins."""
    samples = snapshot.samples
    chosen = natural_order(samples.sizes["sample"])
    if group:
        name, _, value = group.partition(":")
        chosen = np.flatnonzero(samples[name].values == int(value))
    if "label" not in samples or samples["label"].dtype.kind not in "iub":
        return chosen, None, []
    labels = samples["label"].values[chosen]
    if order == "natural":
        return chosen, labels, []
    by_label, groups = label_order(labels)
    return chosen[by_label], labels[by_label], groups


def _order_neurons(view: View, n: int) -> np.ndarray:
    if view.state.neurons == "natural":
        return natural_order(n)
    at = view.snapshot.steps.index(view.step)
    rms = view.snapshot.metric(view.state.site, view.state.quantity, "rms")[at]
    return score_order(rms, rms == 0)


def _subtrahend(view: View, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    s, other = view.state, view.other or view.snapshot
    if s.x == "step":
        values = other.metric(s.site, s.quantity, "extreme").T
        if view.other is None:
            assert view.versus_step is not None
            return values[:, [other.steps.index(view.versus_step)]]
        known = {step: i for i, step in enumerate(other.steps)}
        missing = np.full(values.shape[0], np.nan, values.dtype)
        values = np.stack([values[:, known[c]] if c in known else missing for c in columns.tolist()], 1)
    else:
        step = view.step if view.other else view.versus_step
        assert step is not None
        if step not in other.steps:
            raise ViewError(f"{other.name} has no step {step}; it has {', '.join(map(str, other.steps))}.")
        values = _read_samples(other, s.site, s.quantity, step)
        if columns.max(initial=-1) >= values.shape[1]:
            raise ViewError(f"{other.name} holds {values.shape[1]} samples; sample {columns.max()} is not among them.")
        values = values[:, columns]
    if values.shape[0] != shape[0]:
        raise ViewError(f"{s.site} has {shape[0]} neurons here and {values.shape[0]} in {other.name}: no difference.")
    return values


def _run_scale(view: View) -> Scale:
    snapshot, s = view.snapshot, view.state
    return read_scale(snapshot.summary(s.site), s.quantity, None if s.x == "step" else snapshot.position(view.step))


def _difference_scale(values: np.ndarray) -> Scale:
    """Symmetric; 99.9 % of the differences lie within."""
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, 0.999)) if finite.size else 0.0
    limit = limit or (float(finite.max(initial=0.0)) or 1.0)
    return Scale(-limit, limit, DIVERGING, float((finite > limit).mean()) if finite.size else 0.0)


def _elements(low: float, high: float) -> tuple[int, int]:
    """Elements that a range of positions touches; element i covers i - 0.5 to i + 0.5."""
    return int(np.floor(low + 0.5)), int(np.ceil(high + 0.5))
