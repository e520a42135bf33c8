"""Series: what a store summarises, one quantity of one place at a time, under the names that a person sees.

    for series in list_series(tree):
        series.place, series.quantity               # "head/relu", "activation"
        series.read(0)                              # (metric, …, neuron) at the first recorded step

Nothing is read before `read`, and then one step of one series.
"""

from dataclasses import dataclass

import numpy as np
import xarray

from actigrad.findings import parameter_nodes, site_nodes
from actigrad.metrics import METRICS

QUANTITIES = {"value": "parameter", "gradient": "parameter_gradient", "update": "update"}
"""Of a parameter, as a store calls them and as a person does."""


@dataclass(frozen=True)
class Series:
    """The summaries of one quantity at one place over the recorded steps.

    Attributes:
        place: the path of a site or of a parameter.
        quantity: activation, gradient, parameter, parameter_gradient, update.
        values: (step, metric, …, neuron), lazy.
        group: what stands beside it; the histogram and its bins, at a site.
        whole: (step, sample, …, neuron), lazy, where the site was kept whole; its steps may be fewer.
    """

    place: str
    quantity: str
    values: xarray.DataArray
    group: xarray.Dataset
    whole: xarray.DataArray | None = None

    @property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return self.group["step"].values.tolist()

    def read(self, index: int) -> np.ndarray:
        """(metric, …, neuron) at one step."""
        return self.values.isel(step=index).values

    def extremes(self) -> np.ndarray:
        """(step, neuron) signed extremes; over a loop's iterations the one of largest magnitude."""
        at = METRICS.index("extreme")
        rows = [_largest(self.values.isel(step=i, metric=at).values) for i in range(len(self.steps))]
        return np.stack(rows)

    def histogram(self, index: int) -> tuple[np.ndarray, int] | None:
        """Counts (bin,) and the number of exact zeros at one step, over all iterations of a loop."""
        if f"{self.quantity}_histogram" not in self.group:
            return None
        counts = self.group[f"{self.quantity}_histogram"].isel(step=index).values
        zeros = self.group[f"{self.quantity}_special"].isel(step=index, special=0).values
        return counts.reshape(-1, counts.shape[-1]).sum(0), int(zeros.sum())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """The left and right edges of the bins."""
        return self.group["bin_left"].values, self.group["bin_right"].values


def list_series(tree: xarray.DataTree) -> list[Series]:
    """All that a store summarises: sites in forward order, then parameters by path."""
    found = []
    for site, node in site_nodes(tree):
        if "summary" not in node.children:
            continue
        summary = node["summary"].to_dataset()
        whole = node["full"].to_dataset() if "full" in node.children else {}
        found += [
            Series(site.path, quantity, summary[quantity], summary, whole.get(quantity))
            for quantity in ("activation", "gradient")
            if quantity in summary
        ]
    for path, node in parameter_nodes(tree):
        summary = node["summary"].to_dataset()
        found += [Series(path, name, summary[key], summary) for key, name in QUANTITIES.items() if key in summary]
    return found


def _largest(values: np.ndarray) -> np.ndarray:
    """(neuron,) of (…, neuron): the value of largest magnitude along what stands in front."""
    flat = values.reshape(-1, values.shape[-1])
    place = np.where(np.isnan(flat), -1, np.abs(flat)).argmax(0)
    return np.take_along_axis(flat, place[None], 0)[0]
