"""Matrices: what a store shows of a site as neurons by something, with the orders and the levels that are stored.

    shown = open_matrix(tree, site, "activation", columns="sample", step=400, order="similarity")
    shown.matrix                                     # for `raster.rasterise`

The matrices of a site and a quantity:

    step        neurons by recorded steps, from the summaries: of all values that a neuron had at a step
    sample      neurons by samples (grouped by label where there are labels) at a step, where arrays are kept whole, or
                blocks of neurons by samples (`keep: levels`)
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
from actigrad.pictures.cells import Cells, join_summaries, read_block, read_cells, reduce_values
from actigrad.pictures.lazy import any_sample_source, position_source, reorder, step_source
from actigrad.pictures.levels import build_levels, open_levels
from actigrad.pictures.raster import Matrix, Span
from actigrad.pictures.ripmap import Source
from actigrad.pictures.stored import read_plan
from actigrad.sites import Site
from actigrad.storage.create import forget
from actigrad.storage.names import site_group
from actigrad.storage.places import Where, find_place

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
        source, groups, shown_step = any_sample_source(tree, site, quantity, step, samples)
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
    return group if _are_of(group, source) else None


def _are_of(group: zarr.Group, source: Source) -> bool:
    """Whether a group holds the finished levels of just this matrix."""
    plan = read_plan(group)
    return plan is not None and plan.shape == source.shape and group.attrs["arrangement"] == arrangement(source)


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
    if _are_of(group, source):
        return False
    same = group.attrs.get("arrangement") == arrangement(source)
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
        if math.prod(source.values.shape[:2]) > HELD:
            raise ViewError(
                f"site {site.path!r} has {source.shape[0]:,} neurons, {source.shape[1]:,} {source.attrs['columns']}s, "
                "too many to be looked at without levels. Make them: actigrad levels STORE."
            )
        if source.cells:
            cells = read_cells(np.asarray(source.values), columns)
            return Matrix(None, rows, columns, {(source.block, 1): Held(cells)}, source.shape)
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
