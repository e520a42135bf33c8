"""Reading: what every view asks of a store, with errors that name the nearest; and what all pictures share."""

from typing import Any

import numpy as np
import xarray

from actigrad.errors import ViewError, nearest
from actigrad.metrics import METRICS
from actigrad.sites import Site
from actigrad.storage.places import Where
from actigrad.storage.schema import site_group
from actigrad.storage.store import open_store, read_samples, read_sites

Store = xarray.DataTree | Where
WIDTH = 920
FONTS = {"title": "11pt", "labels": "10pt", "xticks": "9pt", "yticks": "9pt"}


def open_tree(store: Store) -> xarray.DataTree:
    """The store itself, opened if it is a path."""
    return store if isinstance(store, xarray.DataTree) else open_store(store)


def describe_quantity(tree: xarray.DataTree, quantity: str) -> str:
    """What it is, for a title; a gradient says of what."""
    return f"gradient (of {tree.attrs['gradients_of']})" if quantity == "gradient" else quantity


def find_site(tree: xarray.DataTree, path: str) -> Site:
    """The site of that path, or an error with the nearest."""
    sites = {site.path: site for site in read_sites(tree)}
    if path not in sites:
        near = ", ".join(nearest(path, sites) or list(sites)[:8])
        raise ViewError(f"the store has no site {path!r}. The nearest: {near}.")
    return sites[path]


def find_group(tree: xarray.DataTree, path: str) -> Any:
    """A group of the tree; empty where there is none."""
    try:
        return tree[path]
    except KeyError:
        return {}


def find_summary(tree: xarray.DataTree, site: Site) -> Any:
    """A site's summaries; empty where there are none."""
    return find_group(tree, f"{site_group(site.path)}/summary")


def read_metric(tree: xarray.DataTree, site: Site, quantity: str, metric: str) -> np.ndarray:
    """(step, …, neuron) of one statistic."""
    if metric not in METRICS:
        raise ViewError(f"there is no metric {metric!r}; a store has {', '.join(METRICS)}.")
    group = find_summary(tree, site)
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} has no {quantity} in this store; {site.missing or 'the config did not ask for it'}."
        )
    return group[quantity].isel(metric=METRICS.index(metric)).values


def find_step(tree: xarray.DataTree, step: int | None) -> int:
    """The position of a recorded step; the last by default."""
    steps = read_samples(tree)["step"].values.tolist()
    if step is None:
        return len(steps) - 1
    if step not in steps:
        raise ViewError(f"step {step} was not recorded; the store has {steps}.")
    return steps.index(step)


def describe_shape(site: Site) -> str:
    """`Conv 8×8×32`."""
    return f"{site.kind} {'×'.join(map(str, site.sample_shape)) or 'scalar'}".strip()


def count_neurons(site: Site) -> int:
    """How many neurons a site has; one where no axis is theirs."""
    return site.shape[-1] if "neuron" in site.dims else 1


def frame(height: int) -> dict[str, Any]:
    """What all pictures share."""
    return {"width": WIDTH, "height": height, "fontsize": FONTS, "toolbar": "above"}
