"""Reading: the matrix of a view out of the store, by its levels where it has any.

What is looked at without a difference is opened as the views open it (`pictures.matrices`): small ones are read whole,
large ones by windows of their levels. Some samples alone, steps of a run that is going on, and differences have no
levels: they are held in memory up to `HELD` values, and beyond that read in pieces at each look.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray

from actigrad.errors import ViewError
from actigrad.explorer.matrix import Matrix
from actigrad.explorer.snapshot import Snapshot, strongest
from actigrad.explorer.view import View
from actigrad.pictures import raster
from actigrad.pictures.lazy import read_group, sample_source
from actigrad.pictures.matrices import open_matrix
from actigrad.pictures.order import natural_order, score_order
from actigrad.pictures.palette import DIVERGING, Scale
from actigrad.pictures.scales import read_scale
from actigrad.storage.names import blocks_group

HELD = 2**25
SCALED = 64
"""Columns that tell the colours of a difference that is not held."""


def read_matrix(view: View) -> Matrix:
    """The matrix of a state, from the snapshot's cache where it was asked for before.

    Raises:
        ViewError: when the store does not hold it; the message says what to capture or to choose.
    """
    s, other = view.state, view.other
    depends = s.x == "sample" or s.neurons == "score" or view.versus_step is not None
    key = ("matrix", s.site, s.quantity, s.x, view.step if depends else None, s.group, s.order, s.neurons)
    versus = (view.versus_step, other.name if other else "", other.marks if other else None)
    return view.snapshot.cache.get((*key, *versus), lambda: _make(view))


def _make(view: View) -> Matrix:
    rows = _order_neurons(view)
    if view.versus_step is not None or view.other is not None:
        return _subtract(view, rows)
    s, snapshot = view.state, view.snapshot
    tree, ids = _part(view, snapshot)
    shown = open_matrix(
        tree, snapshot.sites[s.site], s.quantity, columns=s.x, step=None if s.x == "step" else view.step,
        order=s.neurons, rows=rows, samples=_sample_order(view),
    )  # fmt: skip
    neurons = natural_order(shown.matrix.shape[0]) if rows is None else rows
    at = None if s.x == "step" else snapshot.position(view.step)
    scale = read_scale(snapshot.summary(s.site), s.quantity, at)
    return Matrix(_hold(shown.matrix), neurons, ids[shown.columns], ids, _labels(view), shown.groups, scale, s.x)


def _order_neurons(view: View) -> np.ndarray | None:
    """Neurons as they are shown; None in their own order."""
    s, snapshot = view.state, view.snapshot
    stored = snapshot.orders(s.site)
    if s.neurons in stored:
        return np.asarray(stored[s.neurons].values)
    if s.neurons == "natural":
        return None
    rms = snapshot.metric(s.site, s.quantity, "rms")[snapshot.steps.index(view.step)]
    return score_order(rms, rms == 0)


def _sample_order(view: View) -> str:
    return "natural" if view.state.order == "natural" else "label"


def _labels(view: View) -> np.ndarray | None:
    samples = view.snapshot.samples
    return samples["label"].values if view.state.x == "sample" and "label" in samples else None


def _part(view: View, snapshot: Snapshot) -> tuple[Any, np.ndarray]:
    """A tree of what is shown, and which samples or steps of the store its columns are."""
    s = view.state
    if s.x == "step":
        steps = np.array(snapshot.steps)
        return (snapshot.tree if snapshot.steps == snapshot.recorded else _cut(snapshot, s.site, step=steps)), steps
    n = snapshot.samples.sizes["sample"]
    if not s.group:
        return snapshot.tree, natural_order(n)
    name, _, value = s.group.partition(":")
    picked = np.flatnonzero(snapshot.samples[name].values == int(value))
    return _cut(snapshot, s.site, sample=picked), picked


def _cut(snapshot: Snapshot, site: str, step: np.ndarray | None = None, sample: np.ndarray | None = None) -> Any:
    """One site alone, with some of its steps or samples; without levels, which are of all."""
    nodes = {"samples": snapshot.samples}
    names = [f"{snapshot.groups[site]}/{name}" for name in ("summary", "full")]
    for name in (*names, *(blocks_group(site, quantity) for quantity in ("activation", "gradient"))):
        if group := read_group(snapshot.tree, name):
            nodes[name] = group.to_dataset()
    if sample is not None:
        nodes = {name: data.isel(sample=sample, missing_dims="ignore") for name, data in nodes.items()}
    if step is not None:
        nodes = {name: data.isel(step=np.isin(data["step"].values, step)) for name, data in nodes.items()}
    return xarray.DataTree.from_dict(nodes)


def _hold(matrix: raster.Matrix) -> raster.Matrix:
    """Read it now, unless it is large or has levels."""
    if matrix.levels or isinstance(matrix.values, np.ndarray) or matrix.values.size > HELD:
        return matrix
    return replace(matrix, values=np.asarray(matrix.values))


def _subtract(view: View, rows: np.ndarray | None) -> Matrix:
    """A difference of two steps, or of two stores at one."""
    s = view.state
    values, ids, columns, groups = _by_step(view) if s.x == "step" else _by_sample(view)
    neurons = natural_order(values.shape[0]) if rows is None else rows
    columns_at = None if s.x == "step" else np.asarray(columns, np.int32)
    drawn = raster.Matrix(values if rows is None else values[rows], np.asarray(neurons, np.int32), columns_at)
    drawn = _hold(drawn)
    scale = _difference_scale(drawn.values)
    return Matrix(drawn, neurons, ids[columns], ids, _labels(view), groups, scale, s.x)


def _by_step(view: View):
    """(neuron, step) of the extremes, less those of a step or of the other store."""
    s, steps, other = view.state, list(view.snapshot.steps), view.other
    values = view.snapshot.metric(s.site, s.quantity, "extreme").T
    if other is None:
        assert view.versus_step is not None
        theirs = values[:, [steps.index(view.versus_step)]]
    else:
        found, known = other.metric(s.site, s.quantity, "extreme").T, {step: i for i, step in enumerate(other.steps)}
        missing = np.full(found.shape[0], np.nan, found.dtype)
        theirs = np.stack([found[:, known[step]] if step in known else missing for step in steps], 1)
    _require_same(view, values.shape[0], theirs.shape[0])
    return values - theirs, np.array(steps), natural_order(len(steps)), []


def _by_sample(view: View):
    """(neuron, sample) of the values, less those at the other step or in the other store."""
    s, snapshot, other = view.state, view.snapshot, view.other or view.snapshot
    step = view.step if view.other else view.versus_step
    if step not in other.steps:
        raise ViewError(f"{other.name} has no step {step}; it has {', '.join(map(str, other.steps))}.")
    tree, ids = _part(view, snapshot)
    mine, groups, _ = sample_source(tree, snapshot.sites[s.site], s.quantity, view.step, _sample_order(view))
    theirs, _, _ = sample_source(other.tree, other.sites[s.site], s.quantity, step, "natural")
    _require_same(view, mine.shape[0], theirs.shape[0])
    columns = natural_order(len(ids)) if mine.columns is None else mine.columns
    picked = ids[columns]
    if picked.max(initial=-1) >= theirs.shape[1]:
        raise ViewError(f"{other.name} holds {theirs.shape[1]} samples; sample {picked.max()} is not among them.")
    values = _one_each(mine.values) - _one_each(theirs.values)[:, picked]
    return values, ids, columns, groups


def _require_same(view: View, mine: int, theirs: int) -> None:
    if mine != theirs:
        other = view.other.name if view.other else ""
        raise ViewError(f"{view.state.site} has {mine} neurons here and {theirs} in {other}: no difference.")


def _one_each(values: Any) -> Any:
    """(row, column), lazily: of positions and loops the value of largest magnitude."""
    return values if values.ndim == 2 else strongest(values, 2)


def _difference_scale(values: Any) -> Scale:
    """Symmetric; 99.9 % of the differences lie within."""
    if not isinstance(values, np.ndarray):
        values = np.asarray(values[:, np.unique(np.linspace(0, values.shape[1] - 1, SCALED).astype(int))])
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, 0.999)) if finite.size else 0.0
    limit = limit or (float(finite.max(initial=0.0)) or 1.0)
    return Scale(-limit, limit, DIVERGING, float((finite > limit).mean()) if finite.size else 0.0)
