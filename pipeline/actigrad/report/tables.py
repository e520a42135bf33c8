"""Tables: the numbers behind the pictures, and what they say in words."""

from collections.abc import Sequence

import numpy as np
import xarray

from actigrad.findings import Measures, Record
from actigrad.metrics import METRICS
from actigrad.report.parts import Table
from actigrad.storage.names import site_group

ROWS, COLUMNS = 40, 12
SITE_ROWS = 10_000
SITE_HEADS = (
    "site", "kind", "shape of a sample", "parameters", "activation rms", "zeros", "dead", "gradient rms", "not finite",
)  # fmt: skip


def number(value: float | np.floating) -> str:
    """Three digits; nothing where there is no number.

    >>> number(0.012345), number(float("nan"))
    ('0.0123', '')
    """
    return f"{value:.3g}" if np.isfinite(value) else ("" if np.isnan(value) else str(value))


def tabulate_steps(record: Record, quantity: str) -> Table:
    """The rms of each site along the steps."""
    sites = [site for site in record.sites if site.get(quantity)]
    steps = _spread(len(record.steps), COLUMNS)
    rows = [[site.path, *(number(site.numbers[quantity].rms[i]) for i in steps)] for site in sites[:ROWS]]
    heads = ["rms at step", *(str(record.steps[i]) for i in steps)]
    return Table(heads, rows, _shown(len(rows), len(sites), "sites") + _shown(len(steps), len(record.steps), "steps"))


def tabulate_sites(record: Record, most: int = ROWS) -> Table:
    """Each site at the last step."""
    rows = [_site_row(site) for site in record.sites[:most]]
    return Table(SITE_HEADS, rows, _shown(len(rows), len(record.sites), "sites"))


def tabulate_neurons(tree: xarray.DataTree, path: str, quantity: str) -> Table:
    """The neurons of a site with the largest values at the last step."""
    values: np.ndarray = tree[f"{site_group(path)}/summary"].to_dataset()[quantity].isel(step=-1).values
    values = values.reshape(len(METRICS), -1, values.shape[-1])
    rms = np.nan_to_num(values[METRICS.index("rms")].max(0), nan=np.inf)
    top = np.argsort(-rms, kind="stable")[:ROWS]
    shown = ("mean", "rms", "min", "max", "zero_fraction")
    reduce = {"min": np.fmin.reduce, "max": np.fmax.reduce}
    rows = [
        [str(i), *(number(float(reduce.get(m, np.mean)(values[METRICS.index(m), :, i]))) for m in shown)] for i in top
    ]
    note = _shown(len(rows), len(rms), "neurons", "those of the largest rms") + "at the last step"
    return Table(("neuron", "mean", "rms", "min", "max", "share of zeros"), rows, note)


def tabulate_values(site: Measures, quantity: str, steps: Sequence[int]) -> Table:
    """A site's values along the steps."""
    numbers, at = site.numbers[quantity], _spread(len(steps), ROWS)
    columns = (numbers.rms, numbers.low, numbers.high, numbers.zeros, numbers.nonfinite)
    rows = [[str(steps[i]), *(number(float(column[i])) for column in columns)] for i in at]
    note = _shown(len(rows), len(steps), "steps")
    return Table(("step", "rms (median neuron)", "smallest", "largest", "share of zeros", "not finite"), rows, note)


def say_range(record: Record, quantity: str) -> str:
    """The smallest and the largest rms of a quantity, with site and step."""
    found = [
        (float(rms), site.path, step)
        for site in record.sites
        if (numbers := site.get(quantity))
        for rms, step in zip(numbers.rms, record.steps, strict=True)
        if np.isfinite(rms)
    ]
    if not found:
        return "no finite value"
    (low, where, when), (high, there, then) = min(found), max(found)
    return f"rms from {low:.2g} ({where}, step {when}) to {high:.2g} ({there}, step {then})"


def say_values(site: Measures, quantity: str) -> str:
    """The range of a site's values at the last step."""
    numbers = site.numbers[quantity]
    return (
        f"values from {number(float(numbers.low[-1]))} to {number(float(numbers.high[-1]))}, {numbers.zeros[-1]:.0%} "
        f"zeros, {numbers.nonfinite[-1]:,.0f} not finite at the last step"
    )


def _site_row(site: Measures) -> list[str]:
    assert site.site is not None
    activation, gradient = site.get("activation"), site.get("gradient")
    broken = sum(float(numbers.nonfinite.sum()) for numbers in site.numbers.values())
    return [
        site.path,
        site.site.kind,
        "×".join(map(str, site.site.sample_shape)) or "scalar",
        f"{site.site.work.parameters:,}",
        number(float(activation.rms[-1])) if activation else "",
        f"{activation.zeros[-1]:.1%}" if activation else "",
        f"{activation.dead[-1]:.1%}" if activation else "",
        number(float(gradient.rms[-1])) if gradient else "",
        f"{broken:,.0f}",
    ]


def _spread(n: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()


def _shown(shown: int, total: int, what: str, which: str = "evenly chosen") -> str:
    if shown == total:
        return ""
    return f"{shown} of {total:,} {what}, {which if what != 'sites' else 'the first'}; "
