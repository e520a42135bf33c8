"""treescope: one page, offline, with the module tree to unfold and every site's arrays of the last step as pictures.

    actigrad export runs/digits/digits.zarr --to treescope

An array is what was kept whole, or else the rms of each neuron along the steps. Axes have the store's own names; hover
gives index and value. Only the edges of a large array are read and shown (treescope marks the cut).
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import treescope
import xarray
from treescope import ndarray_adapters, type_registries

from actigrad.export.series import Series, list_series
from actigrad.metrics import METRICS

CELLS = 2_000_000
"""On the page, all arrays together; a cell takes about six bytes."""
LINES = 300
"""Of the page that are unfolded when it opens."""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: system-ui, sans-serif; margin: 2em }} main {{ overflow-x: auto }}</style></head>
<body><h1>{title}</h1><p>Click on a triangle to unfold it; hover over a cell for its index and value.</p>
<main>{body}</main></body></html>
"""


@dataclass(frozen=True)
class Stored:
    """An array in the store, for treescope.

    Attributes:
        array: lazy, with named dims.
        note: what it is.
    """

    array: xarray.DataArray
    note: str


def write(tree: xarray.DataTree, path: Path, advance: Callable[[int, int], None]) -> None:
    """One HTML file."""
    found, nested = list_series(tree), {}
    for series in found:
        node = nested
        for part in series.place.split("/"):
            node = node.setdefault(f"{part}/", {})
        node[series.quantity] = _newest(series)
    type_registries.NDARRAY_ADAPTER_REGISTRY[Stored] = _Adapter(advance, len(found))
    shown = treescope.ArrayAutovisualizer(maximum_size=int(np.clip(CELLS // max(1, len(found)), 64, 4000)))
    with treescope.active_autovisualizer.set_scoped(shown), treescope.using_expansion_strategy(max_height=LINES):
        body = treescope.render_to_html(nested)
    path.write_text(PAGE.format(title=html.escape(str(tree.attrs["title"])), body=body), encoding="utf-8")
    advance(len(found), len(found))


def _newest(series: Series) -> Stored:
    if series.whole is not None:
        step = series.whole["step"].values[-1]
        return Stored(series.whole.isel(step=-1), f"step {step}")
    return Stored(series.values.isel(metric=METRICS.index("rms")), "rms along the steps")


class _Adapter(ndarray_adapters.NDArrayAdapter[Stored]):
    """Names of axes, and the edges of an array without reading the rest."""

    def __init__(self, advance: Callable[[int, int], None], total: int):
        self.advance, self.done, self.total = advance, 0, total

    def get_axis_info_for_array_data(self, array: Stored) -> tuple[Any, ...]:
        return tuple(ndarray_adapters.NamedPositionlessAxisInfo(dim, size) for dim, size in array.array.sizes.items())

    def get_array_data_with_truncation(self, array: Stored, mask: Any, edge_items_per_axis: tuple[int | None, ...]):
        self.done += 1
        self.advance(min(self.done, self.total), self.total)
        shown, indices = np.ones((), bool), {}
        for (dim, size), edge in zip(array.array.sizes.items(), edge_items_per_axis, strict=True):
            along = np.ones(size if edge is None else 2 * edge + 1, bool)
            if edge is not None:  # the one in the middle stands for all that is left out
                along[edge], indices[dim] = False, np.r_[0 : edge + 1, size - edge : size]
            shown = shown[..., None] & along
        return array.array.isel(indices).values, shown

    def get_array_summary(self, array: Stored, fast: bool) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in array.array.sizes.items())
        return f"{array.array.dtype} ({sizes}) {array.note}"

    def get_numpy_dtype(self, array: Stored) -> np.dtype:
        return array.array.dtype
