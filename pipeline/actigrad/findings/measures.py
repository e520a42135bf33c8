"""Measures: a few numbers of each place and recorded step, from the summaries of its neurons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray

from actigrad.metrics import METRICS
from actigrad.sites import Site
from actigrad.storage.store import read_samples, read_sites

MOST_STEPS = 60
READ_BYTES = 64 << 20


@dataclass(frozen=True)
class Numbers:
    """One quantity at one place; all arrays are (step,).

    Attributes:
        rms: of the values, median over the neurons.
        low, high: smallest and largest finite value.
        zeros: share of exact zeros.
        dead: share of the neurons that are zero for every sample.
        constant: share of the neurons that have one value other than zero for every sample.
        nonfinite: number of NaN and infinities.
    """

    rms: np.ndarray
    low: np.ndarray
    high: np.ndarray
    zeros: np.ndarray
    dead: np.ndarray
    constant: np.ndarray
    nonfinite: np.ndarray


@dataclass(frozen=True)
class Measures:
    """The quantities of one site (activation, gradient) or of one parameter (value, gradient, update)."""

    path: str
    numbers: dict[str, Numbers]
    site: Site | None = None

    def get(self, quantity: str) -> Numbers | None:
        """The numbers of a quantity, or None where the store has none."""
        return self.numbers.get(quantity)


@dataclass(frozen=True)
class Record:
    """All measures of a store.

    Attributes:
        steps: the steps looked at: all that were recorded, or `MOST_STEPS` of them, evenly, first and last included.
        sites: in forward order.
        parameters: by path.
        loss: (step,) mean over the samples, at these steps.
        losses: (sample,) at the last step.
    """

    steps: tuple[int, ...]
    sites: tuple[Measures, ...]
    parameters: tuple[Measures, ...]
    loss: np.ndarray
    losses: np.ndarray


def measure(
    tree: xarray.DataTree, advance: Callable[[int, int], None] = lambda done, total: None, *, also: Sequence[int] = ()
) -> Record:
    """Read the summaries of a store once.

    Args:
        tree: an open store.
        advance: told how many of how many places were read.
        also: recorded steps to look at beside those that would be.
    """
    samples = read_samples(tree)
    steps = samples["step"].values
    at = np.union1d(choose_steps(len(steps)), np.flatnonzero(np.isin(steps, list(also))))
    sites, parameters = site_nodes(tree), parameter_nodes(tree)
    measured: list[Measures] = []
    for site, node in sites:
        numbers = _read(node, ("activation", "gradient"), steps[at])
        measured.append(Measures(site.path, numbers, site))
        advance(len(measured), len(sites) + len(parameters))
    for path, node in parameters:
        measured.append(Measures(path, _read(node, ("value", "gradient", "update"), steps[at])))
        advance(len(measured), len(sites) + len(parameters))
    loss = samples["loss"]
    means = np.array([loss.isel(step=int(i)).values.mean(dtype=np.float64) for i in at])
    last = loss.isel(step=-1).values
    n = len(sites)
    return Record(tuple(map(int, steps[at])), tuple(measured[:n]), tuple(measured[n:]), means, last)


def choose_steps(n: int, most: int = MOST_STEPS) -> np.ndarray:
    """At most `most` of n positions, evenly spread, the first and the last included.

    >>> choose_steps(3).tolist(), choose_steps(9, most=3).tolist()
    ([0, 1, 2], [0, 4, 8])
    """
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def split_samples(samples: xarray.Dataset) -> list[tuple[str, np.ndarray]]:
    """The positions of the training samples, of the held out ones and of others, where a store tells them apart."""
    if "split" not in samples:
        return [("all samples", np.arange(samples.sizes["sample"]))]
    split, names = samples["split"].values, {0: "train", 1: "held out"}
    return [(names.get(int(one), f"split {one}"), np.flatnonzero(split == one)) for one in np.unique(split)]


def site_nodes(tree: xarray.DataTree) -> list[tuple[Site, xarray.DataTree]]:
    """Each site with its group, in forward order; a group is found by what it says it is, not by its name."""
    nodes = [node for node in tree["sites"].subtree if "feeds" in node.attrs] if "sites" in tree.children else []
    return list(zip(read_sites(tree), sorted(nodes, key=lambda node: node.attrs["index"]), strict=True))


def parameter_nodes(tree: xarray.DataTree) -> list[tuple[str, xarray.DataTree]]:
    """Each parameter's path with its group, by path."""
    nodes = tree["parameters"].subtree if "parameters" in tree.children else ()
    found = [(str(node.attrs.get("path", node.path)), node) for node in nodes if "summary" in node.children]
    return sorted(found, key=lambda pair: pair[0])


def _read(node: xarray.DataTree, quantities: Sequence[str], steps: np.ndarray) -> dict[str, Numbers]:
    if "summary" not in node.children:
        return {}
    summary: Any = node["summary"].to_dataset()
    return {quantity: _measure(summary[quantity].sel(step=steps)) for quantity in quantities if quantity in summary}


def _measure(values: xarray.DataArray) -> Numbers:
    """Numbers of (step, metric, …, neuron), some steps at a time."""
    steps = values.sizes["step"]
    at_once = max(1, READ_BYTES // max(1, values.nbytes // max(1, steps)))
    parts = [_reduce(values.isel(step=slice(i, i + at_once)).values) for i in range(0, steps, at_once)]
    return Numbers(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _reduce(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of `Numbers` of (step, metric, …, neuron)."""
    of = {name: values[:, i].reshape(len(values), -1) for i, name in enumerate(METRICS)}
    zero, flat = of["zero_fraction"] == 1, of["std"] == 0
    rms = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in of["rms"]])
    return (
        rms, np.fmin.reduce(of["min"], 1), np.fmax.reduce(of["max"], 1), np.mean(of["zero_fraction"], 1), zero.mean(1),
        (flat & ~zero).mean(1), np.nansum(of["nonfinite"], 1),
    )  # fmt: skip
