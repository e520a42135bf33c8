"""View: a state fitted to what the stores hold, so that no pane has to ask again.

    view = fit(state, sources)
    view.state.site, view.step             # always of the store
    view.notes                             # what the state asked for and the store does not have, as sentences

An old link, a link to another store's site or a typed address never fails: the nearest that can be shown is shown, and
what was changed is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from actigrad.errors import StoreError, nearest
from actigrad.explorer.snapshot import Snapshot
from actigrad.explorer.source import Source
from actigrad.explorer.state import State

GROUPABLE = 64
"""A coordinate of the samples with more values than this makes no groups."""


@dataclass(frozen=True)
class View:
    """What is shown, whole.

    Attributes:
        state: with nothing in it that the store does not have.
        snapshot: the store.
        step: the step that the state's means, recorded and whole.
        versus_step: the step to subtract, if any.
        other: the store to subtract, if any.
        notes: sentences for the page.
    """

    state: State
    snapshot: Snapshot
    step: int
    versus_step: int | None = None
    other: Snapshot | None = None
    notes: tuple[str, ...] = ()


def fit(state: State, sources: Mapping[str, Source]) -> View:
    """Fit a state to the stores.

    Raises:
        StoreError: when the chosen store cannot be opened or holds nothing yet.
    """
    notes: list[str] = []
    name = state.store or next(iter(sources))
    if name not in sources:
        notes.append(f"There is no store {name[:80]!r} here; this is {next(iter(sources))}.")
        name = next(iter(sources))
        state = replace(State(), theme=state.theme)
    snapshot = sources[name].snapshot()
    if not snapshot.steps:
        raise StoreError(f"{snapshot.path} has no recorded step yet. This page shows it as soon as there is one.")
    state = replace(state, store="" if name == next(iter(sources)) else name)
    state = _fit_site(state, snapshot, notes)
    state = _fit_choice(state, snapshot, notes)
    step = snapshot.steps[-1] if state.step is None else state.step
    versus_step, other, state = _fit_versus(state, snapshot, sources, notes)
    return View(state, snapshot, step, versus_step, other, tuple(notes))


def groups_of(snapshot: Snapshot) -> list[str]:
    """The sample groups that there are, as `label:3`."""
    found = []
    for name in snapshot.samples.variables:
        array = snapshot.samples[name]
        if array.dims == ("sample",) and array.dtype.kind in "iu" and name != "sample":
            values = snapshot.cache.get(("values", name), lambda array=array: np.unique(array.values))
            if 1 < len(values) <= GROUPABLE:
                found += [f"{name}:{int(value)}" for value in values]
    return found


def orders_of(snapshot: Snapshot, site: str) -> list[str]:
    """The orders in which a site's neurons can be shown."""
    return list(dict.fromkeys(["natural", "score", *snapshot.orders(site)]))


def default_site(snapshot: Snapshot) -> str:
    """Where a person starts: the first site kept whole, before others one without positions; else the first."""
    whole = [path for path in snapshot.sites if (path, "activation") in snapshot.kept]
    flat = [path for path in whole if snapshot.sites[path].dims == ("sample", "neuron")]
    return (flat or whole or list(snapshot.sites))[0]


def _fit_site(state: State, snapshot: Snapshot, notes: list[str]) -> State:
    if state.site in snapshot.sites:
        return state
    if not state.site:
        return replace(state, site=default_site(snapshot))  # a link may name a neuron of it
    chosen = (nearest(state.site, snapshot.sites, 1) or [default_site(snapshot)])[0]
    notes.append(f"{snapshot.name} has no site {state.site[:80]!r}; this is {chosen}.")
    return state.change(site=chosen)


def _fit_choice(state: State, snapshot: Snapshot, notes: list[str]) -> State:
    """Quantity, step, columns, group, orders and neuron."""
    summary, site = snapshot.summary(state.site), snapshot.sites[state.site]
    if summary is not None and state.quantity not in summary and "activation" in summary:
        notes.append(f"{state.site} has no {state.quantity}: {site.missing or 'the config did not ask for it'}.")
        state = state.change(quantity="activation")
    if state.step is not None and state.step not in snapshot.steps:
        close = min(snapshot.steps, key=lambda step: abs(step - (state.step or 0)))
        notes.append(f"Step {state.step} is not recorded; this is step {close}.")
        state = state.change(step=close)
    if state.group and state.group not in groups_of(snapshot):
        notes.append(f"There are no samples {state.group[:80]!r}; these are all.")
        state = state.change(group="")
    if state.order == "label" and "label" not in snapshot.samples:
        notes.append("The samples have no label to be grouped by.")
        state = state.change(order="")
    if state.neurons not in orders_of(snapshot, state.site):
        notes.append(f"{state.site} has no order {state.neurons[:80]!r}; these are its neurons as they come.")
        state = state.change(neurons="natural")
    state = _fit_columns(state, snapshot, notes)
    n = site.shape[-1] if "neuron" in site.dims else 1
    if state.neuron is not None and not 0 <= state.neuron < n:
        notes.append(f"{state.site} has neurons 0 to {n - 1}; there is no {state.neuron}.")
        state = state.change(neuron=None)
    if state.rows is not None and state.rows[1] > n:
        rows = (state.rows[0], n) if state.rows[0] < n else None
        state = state.change(rows=rows)
    return state


def _fit_columns(state: State, snapshot: Snapshot, notes: list[str]) -> State:
    """Samples only where they were kept; a link keeps its choice where it can be kept."""
    if state.x != "sample":
        return state
    recorded = snapshot.kept.get((state.site, state.quantity), ())
    if not recorded:
        notes.append(f"The {state.quantity} of {state.site} was not kept sample by sample; these are its steps.")
        return state.change(x="step")
    step = snapshot.steps[-1] if state.step is None else state.step
    kept = [one for one in recorded if one in snapshot.steps]
    if step not in kept:
        there = f"only at step {', '.join(map(str, kept))}" if kept else "at no step that is in yet"
        notes.append(f"{state.site} was kept sample by sample {there}; these are its steps.")
        return state.change(x="step")
    return state


def _fit_versus(state: State, snapshot: Snapshot, sources: Mapping[str, Source], notes: list[str]):
    """The step or the store to subtract."""
    kind, _, what = state.versus.partition(":")
    if kind == "step" and int(what) in snapshot.steps:
        return int(what), None, state
    if kind == "store" and what in sources and what != snapshot.name:
        try:
            other = sources[what].snapshot()
            if state.site in other.sites:
                return None, other, state
            notes.append(f"{what} has no site {state.site}; nothing is subtracted.")
        except StoreError as error:
            notes.append(f"{what} cannot be compared with: {error}")
        return None, None, state
    if kind:
        notes.append(f"There is nothing called {state.versus[:80]!r} to subtract.")
        state = state.change(versus="")
    return None, None, state
