"""Scales: the colours of a site's quantity, from what its store tells of the whole run.

read_scale(group, "gradient", 3)        # of pictures whose elements are values at the fourth recorded step
read_scale(group, "gradient", None)     # of pictures over the steps: each element is the extreme of a neuron's
"""

from typing import Any

import numpy as np

from actigrad.metrics import METRICS
from actigrad.pictures.palette import Scale, make_scale, make_scale_of_statistics

READ = 2**22
"""Statistics that are looked at; where there are more, those of steps that are evenly spaced."""


def read_scale(group: Any, quantity: str, index: int | None, *, statistic: str = "extreme") -> Scale:
    """The colours of a quantity.

    Args:
        group: a site's summaries, which have that quantity.
        quantity: activation or gradient.
        index: position of the step; None where the picture is over all steps.
        statistic: what an element of a picture over steps is: extreme or mean.
    """
    if index is None:
        values = group[quantity].isel(metric=METRICS.index(statistic))
        n = values.sizes["step"]
        steps = np.unique(np.linspace(0, n - 1, min(n, max(1, READ * n // max(1, values.size)))).astype(int))
        return make_scale_of_statistics(values.isel(step=steps).values, f"{statistic}s")
    counts = group[f"{quantity}_histogram"].isel(step=index).values
    zeros = group[f"{quantity}_special"].isel(step=index, special=0).values
    extremes = group[quantity].isel(step=index, metric=METRICS.index("extreme")).values
    return make_scale(
        counts.reshape(-1, counts.shape[-1]).sum(0), int(zeros.sum()), group["bin_left"].values,
        group["bin_right"].values, extremes.ravel(),
    )  # fmt: skip
