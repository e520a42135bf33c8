"""Catalogue: orders of a site's neurons by name, those that a store holds and those that are made when asked for.

    rows = find_order(tree, site, "score:rms", quantity="gradient")          # a permutation
    save_order("run.zarr", "head/hidden", "mine", [2, 0, 1], how="by hand")  # then order="mine" in any view
    write_levels("run.zarr", orders=("natural", "similarity"))               # stores orders, and levels in them

Names: natural; score, score:METRIC (rms by default, of the quantity at the step); peak:step, peak:sample; selectivity
(for labels); similarity; and any name that is stored. A stored order is used as it is, whatever it was made from: it is
never fitted again on a zoom. Neurons that are constant or dead at all recorded steps stand at the end.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray
import zarr
from dask.base import compute

from actigrad.errors import StoreError, ViewError
from actigrad.metrics import METRICS
from actigrad.pictures.lazy import blocks_source, read_group, reorder, sample_source, step_source
from actigrad.pictures.matrices import build, is_large
from actigrad.pictures.order import (
    find_silent,
    is_permutation,
    peak_order,
    score_order,
    selectivity_order,
    silent_last,
)
from actigrad.pictures.ripmap import Source
from actigrad.pictures.similarity import similarity_order
from actigrad.sites import Site, choose
from actigrad.storage.create import CODECS, consolidate, forget
from actigrad.storage.journal import Journal
from actigrad.storage.names import site_group
from actigrad.storage.places import Where, find_place
from actigrad.storage.store import open_store, read_samples, read_sites

ORDERS = ("natural", "score", "score:METRIC", "peak:step", "peak:sample", "selectivity", "similarity")
PROFILE_COLUMNS = 64
"""Samples or steps, evenly spaced, that similarity looks at."""


def find_order(tree: xarray.DataTree, site: Site, name: str, *, quantity: str = "activation",
               step: int | None = None, seed: int = 0) -> np.ndarray | None:  # fmt: skip
    """The permutation of that name, stored or made; None for the natural order.

    Args:
        tree: the store.
        site: one of its sites.
        name: see the module's docstring.
        quantity: what scores, peaks and profiles are of.
        step: of scores, selectivity and profiles; the last by default.
        seed: of similarity.

    Raises:
        ViewError: when there is no such order, or the store lacks what it is made from.
    """
    stored = read_order(tree, site, name)
    return stored if stored is not None else make_order(tree, site, name, quantity=quantity, step=step, seed=seed)[0]


def read_order(tree: xarray.DataTree, site: Site, name: str) -> np.ndarray | None:
    """A stored order; None where there is none of that name."""
    group = read_group(tree, f"{site_group(site.path)}/orders")
    return np.asarray(group[name].values) if name in group else None


def make_order(tree: xarray.DataTree, site: Site, name: str, *, quantity: str = "activation",
               step: int | None = None, seed: int = 0) -> tuple[np.ndarray | None, str]:  # fmt: skip
    """A permutation by how it is made, and a sentence on the data that it was made from; see `find_order`."""
    kind, _, of = name.partition(":")
    at = f"{quantity} at step {_steps(tree)[_index(tree, step)]}"
    if name == "natural":
        return None, "none"
    if kind == "score" and _is_made(name):
        score = _metric(tree, site, quantity, of or "rms").isel(step=_index(tree, step)).values
        size = np.abs(score) if of == "extreme" else score
        largest = size.reshape(-1, size.shape[-1]).max(0)
        order, data = score_order(largest, np.zeros(len(largest), bool)), f"{of or 'rms'} of the {at}"
    elif name == "peak:step":
        order, data = peak_order(_over_steps(tree, site, quantity, "extreme")), f"extremes of the {quantity} by step"
    elif name == "peak:sample":
        order, data = peak_order(_columns(sample_source(tree, site, quantity, step, "natural")[0])), f"whole {at}"
    elif name == "selectivity":
        order, data = _by_selectivity(tree, site, quantity, step), f"whole {at}, and labels"
    elif name == "similarity":
        profiles, data = _profiles(tree, site, quantity, step)
        order = similarity_order(profiles, seed)
    else:
        stored = ", ".join(read_group(tree, f"{site_group(site.path)}/orders")) or "none"
        raise ViewError(_no_order(name, f"stored with site {site.path!r}: {stored}"))
    return silent_last(order, _silent(tree, site, quantity)), data


def save_order(where: Where, site: str, name: str, order: Sequence[int] | np.ndarray, *, how: str,
               data: str = "", seed: int | None = None) -> None:  # fmt: skip
    """Store an order under a name; one of that name is replaced.

    Args:
        where: the store.
        site: the site's path.
        name: not "natural", and without slashes.
        order: `order[i]` is the neuron shown at place i; each neuron once.
        how: what made it, for whoever reads the store.
        data: what it was made from.
        seed: where chance was involved.

    Raises:
        StoreError: when it is no permutation of the site's neurons, the name cannot be used, or the store is not
            complete.
    """
    tree = _open_complete(where)
    found = {one.path: one for one in read_sites(tree)}
    if site not in found:
        raise StoreError(f"the store {where} has no site {site!r}. It has {', '.join(list(found)[:8])}.")
    with Journal(where):
        _save(where, found[site], name, np.asarray(order), {"how": how, "data": data, "seed": seed})
        consolidate(where)


def write_levels(where: Where, orders: Sequence[str] = ("natural",), *, sites: Sequence[str] | str = "**",
                 seed: int = 0, told: Callable[[str], None] = lambda what: None) -> int:  # fmt: skip
    """Store the orders of every site, and the levels of every matrix that is large, in each order.

    What is there already stays; where steps were added, levels go on. Sites to which an order does not apply (no
    labels, nothing kept whole) are left out of it.

    Args:
        where: the store.
        orders: names; "natural" needs no order stored.
        sites: patterns of sites, as a config has them.
        seed: of similarity.
        told: a line for each matrix whose levels are made.

    Returns:
        How many matrices got levels.

    Raises:
        StoreError: when the store is not complete, or is written to.
        ViewError: when there is no such order.
    """
    made, tree = 0, _open_complete(where)
    chosen = choose(read_sites(tree), sites)
    for name in orders:
        if not _is_made(name) and all(read_order(tree, site, name) is None for site in chosen):
            raise ViewError(_no_order(name, "no site of the store holds one of that name"))
    with Journal(where):
        for site in chosen:
            for name in orders:
                try:
                    rows = _stored_order(where, tree, site, name, seed)
                except ViewError as error:
                    told(f"{site.path}: no order {name!r}: {error}")
                    continue
                for quantity, columns, source in _sources(tree, site):
                    if source.block > 1 and rows is not None:
                        told(f"{site.path}: {quantity} by {columns}, {name}: blocks of neurons are in natural order")
                    elif is_large(source) and build(where, site, quantity, columns, name, reorder(source, rows)):
                        told(f"{site.path}: {quantity} by {columns}, {name}")
                        made += 1
        consolidate(where)
    return made


def _open_complete(where: Where) -> xarray.DataTree:
    tree = open_store(where)
    if not tree.attrs["complete"]:
        raise StoreError(f"{where} is not complete, so it gets no orders and levels yet. Finish it: run with --resume.")
    return tree


def _is_made(name: str) -> bool:
    """Whether an order of that name can be made, where the site has what it takes."""
    kind, _, of = name.partition(":")
    return name in ORDERS or (kind == "score" and of in METRICS)


def _no_order(name: str, stored: str) -> str:
    known = ", ".join(ORDERS)
    return f"there is no order {name!r}; {stored}. There are {known}, where METRIC is one of {', '.join(METRICS)}."


def _sources(tree: xarray.DataTree, site: Site) -> list[tuple[str, str, Source]]:
    """The matrices of a site that may have levels: quantity, name of the columns, source."""
    summary = read_group(tree, f"{site_group(site.path)}/summary")
    full = read_group(tree, f"{site_group(site.path)}/full")
    found = []
    for quantity in ("activation", "gradient"):
        if quantity in summary:
            found.append((quantity, "step", step_source(tree, site, quantity)))
        whole = full["step"].values.tolist() if quantity in full else []
        found += [(quantity, f"sample-{one}", sample_source(tree, site, quantity, one)[0]) for one in whole]
        for one in read_samples(tree)["step"].values.tolist():
            if one not in whole and (blocks := blocks_source(tree, site, quantity, one)):
                found.append((quantity, f"sample-{one}", blocks[0]))
    return found


def _stored_order(where: Where, tree: xarray.DataTree, site: Site, name: str, seed: int) -> np.ndarray | None:
    rows = read_order(tree, site, name)
    if rows is None:
        rows, data = make_order(tree, site, name, seed=seed)
        if rows is not None:
            _save(where, site, name, rows, {"how": name, "data": data, "seed": seed})
    return rows


def _save(where: Where, site: Site, name: str, order: np.ndarray, attrs: dict[str, Any]) -> None:
    n = site.shape[-1] if "neuron" in site.dims else 1
    if not is_permutation(order, n):
        raise StoreError(
            f"the order {name!r} of site {site.path!r} has {len(order)} entries, {len(np.unique(order))} of them "
            f"different; it must hold each of 0 … {n - 1} once."
        )
    if name == "natural" or "/" in name or not name:
        raise StoreError(f"an order cannot be called {name!r}: it needs a name without '/', and natural is taken.")
    root = zarr.open_group(find_place(where).to_zarr(), mode="r+", use_consolidated=False)
    group = root.require_group(f"{site_group(site.path)}/orders")
    forget(where, f"{site_group(site.path)}/orders/{name}")
    array = group.create_array(
        name, shape=(n,), chunks=(max(1, n),), dtype="int32", dimension_names=("neuron",), overwrite=True,
        attributes={
            "long_name": "the neuron that stands at each place", "derived": True, **attrs,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        fill_value=-1, compressors=CODECS["plain"](), config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = order.astype(np.int32)


def _metric(tree: xarray.DataTree, site: Site, quantity: str, metric: str) -> xarray.DataArray:
    """(step, …, neuron) of one statistic, lazy."""
    group = read_group(tree, f"{site_group(site.path)}/summary")
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} has no {quantity} in this store; {site.missing or 'the config did not ask for it'}."
        )
    return group[quantity].isel(metric=METRICS.index(metric)).transpose("step", ..., "neuron")


def _over_steps(tree: xarray.DataTree, site: Site, quantity: str, metric: str, steps: Any = slice(None)) -> np.ndarray:
    """(neuron, step and loop) of one statistic."""
    values = _metric(tree, site, quantity, metric).isel(step=steps).values
    return values.reshape(-1, values.shape[-1]).T


def _silent(tree: xarray.DataTree, site: Site, quantity: str) -> np.ndarray:
    """Which neurons are constant or dead over all steps; one pass over the summaries, lazily."""
    low, high = (_metric(tree, site, quantity, metric) for metric in ("min", "max"))
    over = [dim for dim in low.dims if dim != "neuron"]
    low, high = compute(low.min(over, skipna=False).data, high.max(over, skipna=False).data)
    return find_silent(np.asarray(low), np.asarray(high))


def _by_selectivity(tree: xarray.DataTree, site: Site, quantity: str, step: int | None) -> np.ndarray:
    known = read_samples(tree)
    if "label" not in known:
        raise ViewError("order is 'selectivity', and this store's samples have no label.")
    source = sample_source(tree, site, quantity, step, "natural")[0]
    return selectivity_order(_columns(source), known["label"].values)


def _profiles(tree: xarray.DataTree, site: Site, quantity: str, step: int | None) -> tuple[np.ndarray, str]:
    """What similarity compares: samples where the site is kept whole, else statistics at recorded steps."""
    try:
        source, _, step = sample_source(tree, site, quantity, step, "natural")
        chosen = np.unique(np.linspace(0, source.shape[1] - 1, PROFILE_COLUMNS).astype(int))
        return _columns(source, chosen), f"{len(chosen)} samples of the whole {quantity} at step {step}"
    except ViewError:
        chosen = np.unique(np.linspace(0, len(_steps(tree)) - 1, PROFILE_COLUMNS // 4).astype(int))
        metrics = [_over_steps(tree, site, quantity, name, chosen) for name in ("mean", "rms", "min", "max")]
        profiles = np.concatenate(metrics, 1)
        spread = profiles.std(0)
        data = f"mean, rms, min and max of the {quantity} at {len(chosen)} steps"
        return (profiles / np.where(spread > 0, spread, 1)).astype(np.float32), data


def _columns(source: Source, chosen: Any = slice(None)) -> np.ndarray:
    """(neuron, column) of a matrix; where an element is several values, their mean."""
    values = np.asarray(source.values[:, chosen], np.float32)
    return values if values.ndim == 2 else values.mean(2)


def _steps(tree: xarray.DataTree) -> list[int]:
    return read_samples(tree)["step"].values.tolist()


def _index(tree: xarray.DataTree, step: int | None) -> int:
    steps = _steps(tree)
    if step is not None and step not in steps:
        raise ViewError(f"step {step} was not recorded; the store has {steps}.")
    return len(steps) - 1 if step is None else steps.index(step)
