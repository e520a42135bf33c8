"""Reading: what every view asks of a store, with errors that name the nearest."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import xarray

from actigrad.errors import ViewError, did_you_mean
from actigrad.metrics import METRICS
from actigrad.sites import Site, choose
from actigrad.storage.names import site_group
from actigrad.storage.places import Where
from actigrad.storage.store import open_store, read_samples, read_sites
from actigrad.views.places import Place, find_place, loops_of, places_of

Store = xarray.DataTree | Where
QUANTITIES = ("activation", "gradient")


def open_tree(store: Store) -> xarray.DataTree:
    """The store itself, opened if it is a path."""
    return store if isinstance(store, xarray.DataTree) else open_store(store)


def require(name: str, value: Any, known: Collection[Any], also: str = "") -> Any:
    """The value, if it is known; an error that names the argument and the nearest otherwise."""
    if value not in known:
        near = did_you_mean(str(value), map(str, known))
        shown = ", ".join(map(str, known))
        raise ViewError(f"{name} is {value!r}; expected one of {shown}{also}." + f" {near.capitalize()}" * bool(near))
    return value


def describe_quantity(tree: xarray.DataTree, quantity: str) -> str:
    """What it is, for a title; a gradient says of what."""
    return f"gradient (of {tree.attrs['gradients_of']})" if quantity == "gradient" else quantity


def find_site(tree: xarray.DataTree, path: str) -> Site:
    """The site of that path, or an error with the nearest."""
    return find_place(read_sites(tree), path).site


def read_place(tree: xarray.DataTree, name: str) -> Place:
    """A site by its path, or one of its iterations: `blocks/attention[3]`."""
    return find_place(read_sites(tree), name)


def read_places(tree: xarray.DataTree, quantity: str | None = None, sites: str | Sequence[str] = "**"):
    """All places in forward order; of the sites that match, and whose summaries hold the quantity."""
    chosen = choose(read_sites(tree), sites)
    return places_of(site for site in chosen if quantity is None or quantity in find_summary(tree, site))


def find_group(tree: xarray.DataTree, path: str) -> Any:
    """A group of the tree; empty where there is none."""
    try:
        return tree[path]
    except KeyError:
        return {}


def find_summary(tree: xarray.DataTree, site: Site) -> Any:
    """A site's summaries; empty where there are none."""
    return find_group(tree, f"{site_group(site.path)}/summary")


def read_metric(tree: xarray.DataTree, site: Site, quantity: str, reduction: str) -> np.ndarray:
    """(step, …, neuron) of one statistic."""
    require("reduction", reduction, METRICS)
    return read_summary(tree, site, quantity)[:, METRICS.index(reduction)]


def read_summary(tree: xarray.DataTree, site: Site, quantity: str) -> np.ndarray:
    """(step, metric, …, neuron) of all statistics."""
    require("quantity", quantity, QUANTITIES)
    group = find_summary(tree, site)
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} has no {quantity} in this store; {site.missing or 'the config did not ask for it'}."
        )
    return group[quantity].values


def summaries(tree: xarray.DataTree, places: Iterable[Place], quantity: str) -> list[np.ndarray]:
    """(step, metric, neuron) of each place; each site is read once."""
    read: dict[str, np.ndarray] = {}
    for place in places:
        if place.site.path not in read:
            read[place.site.path] = read_summary(tree, place.site, quantity)
    return [read[place.site.path][(slice(None), slice(None), *place.at)] for place in places]


def neuron_rows(values: np.ndarray, place: Place) -> np.ndarray:
    """(step, neuron) of (step, …, neuron): one iteration of a loop, or the neurons of all of them one after another."""
    values = values[(slice(None), *place.at)]
    return values.reshape(values.shape[0], -1)


def neuron_ids(place: Place) -> dict[str, np.ndarray]:
    """Which neuron, and of which layer, stands at each place of `neuron_rows`."""
    loops = () if place.at else loops_of(place.site)
    index = np.indices((*loops, count_neurons(place.site))).reshape(len(loops) + 1, -1)
    names = ["layer", *(f"layer{i}" for i in range(2, len(loops) + 1))][: len(loops)]
    return {"neuron": index[-1]} | dict(zip(names, index[:-1], strict=True))


def find_step(tree: xarray.DataTree, step: int | None) -> int:
    """The position of a recorded step; the last by default."""
    steps = read_samples(tree)["step"].values.tolist()
    if step is None:
        return len(steps) - 1
    if step not in steps:
        raise ViewError(f"step {step} was not recorded; the store has {steps}.")
    return steps.index(step)


def read_full(tree: xarray.DataTree, place: Place, quantity: str, step: int | None) -> xarray.DataArray:
    """What was kept whole of a place at a step, lazily: (sample, …, neuron), at all iterations if it names none.

    Raises:
        ViewError: when the site was not kept whole, or not at that step.
    """
    require("quantity", quantity, QUANTITIES)
    group = find_group(tree, f"{site_group(place.site.path)}/full")
    if quantity not in group:
        raise ViewError(f"the {quantity} of site {place.site.path!r} was not kept whole; capture it with keep: full.")
    kept = group["step"].values.tolist()
    shown = int(read_samples(tree)["step"].values[find_step(tree, step)])
    if shown not in kept:
        raise ViewError(f"site {place.site.path!r} was kept whole at steps {kept}, not at {shown}.")
    loops = [dim for dim in place.site.dims if dim.startswith(("layer", "shard"))]
    return group[quantity].isel(step=kept.index(shown), **dict(zip(loops, place.at, strict=False)))


def describe_shape(site: Site) -> str:
    """`Conv 8×8×32`; the axes of loops are left out."""
    sizes = [
        s for s, dim in zip(site.shape, site.dims, strict=True) if not dim.startswith(("sample", "layer", "shard"))
    ]
    return f"{site.kind} {'×'.join(map(str, sizes)) or 'scalar'}".strip()


def count_neurons(site: Site) -> int:
    """How many neurons a site has; one where no axis is theirs."""
    return site.shape[-1] if "neuron" in site.dims else 1
