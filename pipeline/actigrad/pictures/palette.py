"""Palette: colours that belong to the run and not to the picture.

A limit comes from what the store tells of the quantity, so it does not jump when one zooms, and two panels of one
quantity can be compared: where a picture's elements are values, from their histogram at the step; where each is the
extreme of all that a neuron was at a step, from the extremes, which nearly all lie beyond the limit of single values.
Signed quantities are symmetric about zero on a diverging map (white is zero); others
start at zero on a sequential one. Both maps are perceptually uniform and tell apart without red-green vision. A value
that is not finite is drawn in a colour that neither map holds.
"""

from dataclasses import dataclass

import colorcet
import numpy as np

NOT_FINITE = "#00e05a"
CLIPPED_SHARE, CLIPPED_STATISTICS = 1e-3, 1e-2
"""Of values, and of statistics: there are as many of these as elements in a picture, and their tail is long."""
DIVERGING = list(colorcet.CET_D1A)
SEQUENTIAL = list(colorcet.CET_L17)
MAGNITUDE = list(colorcet.CET_L8)


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Attributes:
        low, high: the values at the two ends.
        colours: the map.
        clipped: the share of all elements beyond the ends.
        elements: what they are.
    """

    low: float
    high: float
    colours: list[str]
    clipped: float
    elements: str = "values"

    def text(self) -> str:
        """For a legend."""
        share = f"{self.clipped:.2%}" if self.clipped >= 1e-4 else "under 0.01%"
        beyond = f"; {share} of all {self.elements} lie beyond" if self.clipped else ""
        return f"colours from {self.low:.3g} to {self.high:.3g}{beyond}"


def make_scale(counts: np.ndarray, zeros: int, left: np.ndarray, right: np.ndarray, extremes: np.ndarray) -> Scale:
    """The scale of one quantity at one step.

    Args:
        counts: (bin,) of the stored histogram.
        zeros: how many values are exactly zero.
        left: (bin,) lower edges.
        right: (bin,) upper edges.
        extremes: (neuron,) signed extremes; they bound the scale, as bins are coarse.
    """
    finite = extremes[np.isfinite(extremes)]
    signed = bool(counts[right <= 0].sum())
    peak = float(np.abs(finite).max()) if finite.size else 0.0
    if peak == 0.0:
        return Scale(-1.0 if signed else 0.0, 1.0, DIVERGING if signed else SEQUENTIAL, 0.0)
    magnitude = np.maximum(np.abs(left), np.abs(right))
    total = counts.sum() + zeros
    edges = np.unique(magnitude)
    beyond = np.array([counts[magnitude > edge].sum() for edge in edges]) / max(1, total)
    limit = min(peak, float(edges[np.argmax(beyond <= CLIPPED_SHARE)]))
    clipped = 0.0 if limit >= peak else float(beyond[np.argmax(beyond <= CLIPPED_SHARE)])
    return Scale(-limit if signed else 0.0, limit, DIVERGING if signed else SEQUENTIAL, clipped)


def make_scale_of_statistics(statistics: np.ndarray, name: str) -> Scale:
    """The scale of a picture of which each element is a statistic of many values.

    Args:
        statistics: signed, of any shape.
        name: of them, in the plural, for the legend.
    """
    finite = statistics[np.isfinite(statistics)]
    signed, size = bool((finite < 0).any()), np.abs(finite)
    # Of exact zeros, as dead neurons have them, there may be any number: they would make everything else lie beyond.
    limit = float(np.quantile(size[size > 0], 1 - CLIPPED_STATISTICS)) if size.any() else 1.0
    clipped = float((size > limit).mean()) if size.size else 0.0
    return Scale(-limit if signed else 0.0, limit, DIVERGING if signed else SEQUENTIAL, clipped, name)
