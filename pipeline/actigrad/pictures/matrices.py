"""Matrices: what a store shows of a site as neurons by something, with the orders and the levels that are stored.

    shown = open_matrix(tree, site, "activation", columns="sample", step=400, order="similarity")
    shown.matrix                                     # for `raster.rasterise`

The matrices of a site and a quantity:

    step        neurons by recorded steps, from the summaries: of all values that a neuron had at a step
    sample      neurons by samples (grouped by label where there are labels) at a step, where arrays are kept whole
    position    neurons by positions at a step: of one sample, or of all

The first two have levels in the store, `sites/<path>/levels/<order>/<quantity>/<step, or sample-STEP>`, once
`catalogue.write_levels` made them. Without, a small matrix is read whole, and a large one in pieces at each look.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray
import zarr

from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.pictures.cells import Cells, join_summaries, read_block, reduce_values
from actigrad.pictures.levels import build_levels, open_levels
from actigrad.pictures.order import label_order
from actigrad.pictures.raster import Matrix, Span
from actigrad.pictures.ripmap import Source
from actigrad.sites import Site
from actigrad.storage.create import forget
from actigrad.storage.places import Where, find_place
from actigrad.storage.schema import site_group
from actigrad.storage.store import read_samples

SMALL = 2**22
"""Values that are read whole when a matrix is opened; matrices of more have levels."""
HELD = 2**24
"""Elements of statistics that are held without levels, at most."""


@dataclass(frozen=True)
class Shown:
    """A matrix with what its axes mean.

    Attributes:
        matrix: (neuron, column), rows and columns in order.
        columns: ids of the columns as they are shown.
        groups: (label, first column, stop) where samples are grouped.
        step: the recorded step; None where columns are steps.
    """

    matrix: Matrix
    columns: np.ndarray
    groups: list[tuple[int, int, int]]
    step: int | None


def open_matrix(tree: xarray.DataTree, site: Site, quantity: str, *, columns: str, step: int | None = None,
                order: str = "natural", rows: np.ndarray | None = None, samples: str = "label",
                sample: int | None = None) -> Shown:  # fmt: skip
    """The matrix of a site, from its levels where there are any.

    Args:
        tree: the store.
        site: one of its sites.
        quantity: activation or gradient.
        columns: step, sample or position.
        step: a recorded step, for samples and positions; the last that is kept by default.
        order: the name of the order of `rows`, under which levels are looked for.
        rows: neurons as they are shown; None for the natural order.
        samples: "label" or "natural": how samples are ordered.
        sample: which sample's positions; None for the extreme over all.

    Raises:
        ViewError: when the store does not hold it.
    """
    if columns == "step":
        source, groups, shown_step = step_source(tree, site, quantity), [], None
    elif columns == "sample":
        source, groups, shown_step = sample_source(tree, site, quantity, step, samples)
    elif columns == "position":
        source, groups, shown_step = position_source(tree, site, quantity, step, sample)
    else:
        raise ViewError(f"x is {columns!r}; a heatmap has 'sample', 'step' or 'position' from left to right.")
    source = reorder(source, rows)
    ids = np.arange(source.shape[1]) if source.columns is None else source.columns
    name = _levels_name(columns, shown_step)
    group = None if name is None else find_levels(tree, site, quantity, name, order, source)
    matrix = _open(source, site) if group is None else open_levels(group, _plain(source), source.rows, source.columns)
    return Shown(matrix, np.asarray(ids), groups, shown_step)


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
    known = read_samples(tree)
    if samples not in ("label", "natural"):
        raise ViewError(f"samples is {samples!r}; they can be in 'label' or 'natural' order.")
    columns, groups = None, []
    if samples == "label" and "label" in known:
        columns, groups = label_order(known["label"].values)
    others = [dim for dim in array.dims if dim not in ("sample", "neuron")]
    values = array.transpose("neuron", "sample", *others).data
    values = values.reshape(*values.shape[:2], -1) if others else values
    attrs = _attributes(site, quantity, "sample", step) | {"samples": samples}
    strips = max(values.chunksize[:2]) > 4096 and math.prod(values.chunksize[:2]) > 2**18
    if columns is not None:
        values = values[:, columns]
    copy = strips or columns is not None
    return Source(values, columns=columns, copy=copy, attrs=attrs), groups, step


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
    """The same matrix with its rows in another order."""
    if rows is None or np.array_equal(rows, np.arange(source.shape[0])):
        return source
    return replace(source, values=source.values[rows], rows=np.asarray(rows, np.int32), copy=True)


def is_large(source: Source) -> bool:
    """Whether a matrix is worth levels: it is more than is read at a look."""
    return math.prod(source.values.shape) * (len(METRICS) // 3 if source.statistics else 1) > SMALL


def find_levels(tree: xarray.DataTree, site: Site, quantity: str, name: str, order: str, source: Source) -> Any:
    """The group of the levels of just this matrix; None where there is none."""
    place, path = tree.encoding.get("place"), levels_group(site, order, quantity, name)
    if place is None or not is_large(source):
        return None
    try:
        group = zarr.open_group(place.to_zarr(read_only=True), path=path, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return None
    fits = group.attrs.get("complete") and group.attrs["shape"] == list(source.shape)
    return group if fits and group.attrs["arrangement"] == arrangement(source) else None


def levels_group(site: Site, order: str, quantity: str, name: str) -> str:
    """Where levels are."""
    return f"{site_group(site.path)}/levels/{order}/{quantity}/{name}"


def arrangement(source: Source) -> str:
    """A digest of the orders of rows and columns: levels of another order are not this matrix'."""
    parts = (b"" if ids is None else np.asarray(ids, np.int64).tobytes() for ids in (source.rows, source.columns))
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def build(where: Where, site: Site, quantity: str, name: str, order: str, source: Source) -> bool:
    """Make the levels of a matrix, or go on with them where it has grown; False where they are there already."""
    root = zarr.open_group(find_place(where).to_zarr(), mode="r+", use_consolidated=False)
    path = levels_group(site, order, quantity, name)
    group = root.require_group(path)
    same = group.attrs.get("arrangement") == arrangement(source)
    if same and group.attrs.get("complete") and group.attrs["shape"] == list(source.shape):
        return False
    attrs = {**source.attrs, "order": order, "arrangement": arrangement(source), "derived": True}
    forget(where, path)
    build_levels(group, replace(source, attrs=attrs), append=same)
    return True


@dataclass(frozen=True)
class Held:
    """A 1x1 level in memory."""

    cells: Cells

    def read(self, rows: Span, columns: Span) -> Cells:
        """Its cells from one to another along both axes."""
        y, x, c = slice(*rows), slice(*columns), self.cells
        arrays = (c.extreme, c.row, c.column, c.total, c.finite, c.nonfinite)
        return Cells(*(array[y, x] for array in arrays))


def _open(source: Source, site: Site) -> Matrix:
    """A matrix without levels: read now if it is small, later if it is not."""
    rows, columns = (
        np.arange(n, dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        for n, ids in zip(source.shape, (source.rows, source.columns), strict=True)
    )
    if source.statistics:
        if math.prod(source.shape) > HELD:
            raise ViewError(
                f"site {site.path!r} has {source.shape[0]:,} neurons at {source.shape[1]:,} steps, too many to be "
                "looked at without levels. Make them: actigrad levels STORE."
            )
        values = np.asarray(source.values, np.float32)
        cells = join_summaries(values[..., 0], values[..., 1], values[..., 2], rows, columns, source.statistics)
        return Matrix(cells.extreme, rows, columns, {(1, 1): Held(cells)})
    if is_large(source):
        return Matrix(source.values, rows, columns)
    values = np.asarray(source.values)
    if values.ndim == 2:
        return Matrix(values, rows, columns)
    cells = reduce_values(read_block(values), (1, 1), rows, columns)
    return Matrix(cells.extreme, rows, columns, {(1, 1): Held(cells)})


def _plain(source: Source) -> Any:
    return None if source.copy or source.values.ndim > 2 else source.values


def _levels_name(columns: str, step: int | None) -> str | None:
    return {"step": "step", "sample": f"sample-{step}"}.get(columns)


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
