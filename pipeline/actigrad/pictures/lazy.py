"""Lazy: what a store holds of a site as matrices, neurons by something; nothing is read before it is looked at.

step_source(tree, site, "activation")                    # from the summaries
sample_source(tree, site, "activation", step=400)        # from what was kept whole: source, groups of labels, step
blocks_source(tree, site, "activation", step=400)        # from the blocks that `keep: levels` keeps
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import xarray
from dask.array import stack, where

from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.pictures.order import label_order
from actigrad.pictures.ripmap import Source
from actigrad.sites import Site
from actigrad.storage.blocks import block_counts
from actigrad.storage.names import blocks_group, site_group
from actigrad.storage.store import read_samples


def step_source(tree: xarray.DataTree, site: Site, quantity: str) -> Source:
    """Neurons by recorded steps, as statistics of all values that a neuron had at a step."""
    group = read_group(tree, f"{site_group(site.path)}/summary")
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} has no {quantity} in this store; {site.missing or 'the config did not ask for it'}."
        )
    metrics = [METRICS.index(name) for name in ("extreme", "mean", "nonfinite")]
    values = by_dask(group[quantity]).isel(metric=metrics).transpose("neuron", "step", ..., "metric").data
    sizes = dict(zip(site.dims, site.shape, strict=True))
    count = math.prod(n for dim, n in sizes.items() if dim != "neuron" and not dim.startswith(("layer", "shard")))
    attrs = _attributes(site, quantity, "step", None)
    return Source(values.reshape(*values.shape[:2], -1, 3), statistics=max(1, count), copy=True, attrs=attrs)


def sample_source(tree: xarray.DataTree, site: Site, quantity: str, step: int | None,
                  samples: str = "label") -> tuple[Source, list[tuple[int, int, int]], int]:  # fmt: skip
    """Neurons by samples at a step; with the groups of labels and the step."""
    array, step = _kept_whole(tree, site, quantity, step)
    columns, groups = _in_order(tree, samples)
    others = [dim for dim in array.dims if dim not in ("sample", "neuron")]
    values = array.transpose("neuron", "sample", *others).data
    values = values.reshape(*values.shape[:2], -1) if others else values
    attrs = _attributes(site, quantity, "sample", step) | {"samples": samples}
    strips = max(values.chunksize[:2]) > 4096 and math.prod(values.chunksize[:2]) > 2**18
    if columns is not None:
        values = values[:, columns]
    copy = strips or columns is not None
    return Source(values, columns=columns, copy=copy, attrs=attrs), groups, step


def any_sample_source(tree: xarray.DataTree, site: Site, quantity: str, step: int | None,
                      samples: str = "label") -> tuple[Source, list[tuple[int, int, int]], int]:  # fmt: skip
    """Neurons by samples at a step: of what was kept whole, else of blocks of neurons."""
    whole = read_group(tree, f"{site_group(site.path)}/full")
    there = quantity in whole and (_last(tree) if step is None else step) in whole["step"].values
    blocks = None if there else blocks_source(tree, site, quantity, step, samples)
    return blocks or sample_source(tree, site, quantity, step, samples)


def blocks_source(tree: xarray.DataTree, site: Site, quantity: str, step: int | None,
                  samples: str = "label") -> tuple[Source, list[tuple[int, int, int]], int] | None:  # fmt: skip
    """Blocks of neurons by samples, as `keep: levels` keeps them; None where they were not kept at the step."""
    group = read_group(tree, blocks_group(site.path, quantity))
    step = _last(tree) if step is None else step
    if "mean" not in group or step not in (kept := group["step"].values.tolist()):
        return None
    at = lambda name: by_dask(group[name]).isel(step=kept.index(step)).transpose("block", "sample").data
    size, bad, neuron = group.attrs["neurons_per_block"], at("nonfinite"), at("neuron")
    counts, first = np.array(block_counts(site))[:, None], size * np.arange(bad.shape[0])[:, None]
    fields = [at("extreme"), where(neuron < 0, -1, first + neuron), at("mean"), counts - bad, bad]
    columns, groups = _in_order(tree, samples)
    values = stack([one.astype(np.float64) for one in fields], axis=-1)
    values = values if columns is None else values[:, columns]
    attrs = _attributes(site, quantity, "sample", step) | {"samples": samples}
    height, count = group.attrs["neurons"], group.attrs["values_per_neuron"]
    return Source(values, None, columns, count, True, attrs, block=size, height=height), groups, step


def position_source(tree: xarray.DataTree, site: Site, quantity: str, step: int | None,
                    sample: int | None) -> tuple[Source, list[tuple[int, int, int]], int]:  # fmt: skip
    """Neurons by positions (rows of an image one after the other) at a step."""
    array, step = _kept_whole(tree, site, quantity, step)
    others = [dim for dim in array.dims if dim not in ("sample", "neuron")]
    if not others:
        raise ViewError(f"site {site.path!r} has no positions: its dims are {array.dims}. Look at x='sample'.")
    if sample is not None and not 0 <= sample < array.sizes["sample"]:
        raise ViewError(f"sample is {sample}; the store has {array.sizes['sample']}.")
    array = array if sample is None else array.isel(sample=[sample])
    values = array.transpose("neuron", *others, "sample").data
    values = values.reshape(values.shape[0], -1, values.shape[-1])
    return Source(values, attrs=_attributes(site, quantity, "position", step)), [], step


def reorder(source: Source, rows: np.ndarray | None) -> Source:
    """The same matrix with its rows in another order.

    Raises:
        ViewError: where rows are blocks of neurons, which stand in their natural order.
    """
    if rows is None or np.array_equal(rows, np.arange(source.shape[0])):
        return source
    if source.block > 1:
        raise ViewError(
            f"of site {source.attrs['site']!r} blocks of {source.block} neurons were kept (keep: levels), in their "
            "natural order alone. Look at them in order='natural', or capture the site with keep: full."
        )
    return replace(source, values=source.values[rows], rows=np.asarray(rows, np.int32), copy=True)


def _in_order(tree: xarray.DataTree, samples: str) -> tuple[np.ndarray | None, list[tuple[int, int, int]]]:
    """Samples as they are shown, None for as they come; with the groups of labels."""
    known = read_samples(tree)
    if samples not in ("label", "natural"):
        raise ViewError(f"samples is {samples!r}; they can be in 'label' or 'natural' order.")
    return label_order(known["label"].values) if samples == "label" and "label" in known else (None, [])


def _last(tree: xarray.DataTree) -> int:
    return int(read_samples(tree)["step"].values[-1])


def _attributes(site: Site, quantity: str, columns: str, step: int | None) -> dict[str, Any]:
    at = {} if step is None else {"step": step}
    return {"site": site.path, "quantity": quantity, "rows": "neuron", "columns": columns, **at}


def _kept_whole(tree: xarray.DataTree, site: Site, quantity: str, step: int | None) -> tuple[xarray.DataArray, int]:
    """The whole array of a step, which is the last recorded one by default."""
    group = read_group(tree, f"{site_group(site.path)}/full")
    if quantity not in group:
        raise ViewError(
            f"site {site.path!r} was not kept whole; capture its {quantity} with keep: full, or look at x='step'."
        )
    recorded = read_samples(tree)["step"].values.tolist()
    step = int(recorded[-1] if step is None else step)
    if step not in recorded:
        raise ViewError(f"step {step} was not recorded; the store has {recorded}.")
    kept = group["step"].values.tolist()
    if step not in kept:
        raise ViewError(f"site {site.path!r} was kept whole at steps {kept}, not at {step}.")
    array = by_dask(group[quantity]).isel(step=kept.index(step))
    return (array if "neuron" in array.dims else array.expand_dims(neuron=1)), step


def by_dask(array: xarray.DataArray) -> xarray.DataArray:
    """The same array, read in the pieces that it is stored in; not all at once."""
    stored = array.encoding.get("shards") or array.encoding.get("chunks") or array.shape
    return array if array.chunks is not None else array.chunk(dict(zip(array.dims, stored, strict=True)))


def read_group(tree: xarray.DataTree, path: str) -> Any:
    """A group of the tree; empty where there is none."""
    try:
        return tree[path]
    except KeyError:
        return {}
