"""Metrics: the names and bins that what is computed, what is stored and what is shown agree on."""

import math

METRICS = ("mean", "rms", "std", "min", "max", "extreme", "zero_fraction", "nonfinite")
"""Statistics of a neuron; `extreme` is the signed value of largest magnitude."""

SPECIAL = ("zero", "nan", "posinf", "neginf")
"""Values that a histogram counts apart from its bins."""

FIRST_DECADE, LAST_DECADE, BINS_PER_DECADE = -12, 6, 4


def bin_magnitudes() -> list[float]:
    """The positive bin edges: four a decade from 1e-12 to 1e6."""
    n = (LAST_DECADE - FIRST_DECADE) * BINS_PER_DECADE
    return [10 ** (FIRST_DECADE + i / BINS_PER_DECADE) for i in range(n + 1)]


def bin_edges() -> list[float]:
    """All edges of the symlog bins: both signs, one bin across zero, open at both ends.

    >>> len(bin_edges()), bin_edges()[73:75]
    (148, [-1e-12, 1e-12])
    """
    side = bin_magnitudes()
    return [-math.inf, *(-x for x in reversed(side)), *side, math.inf]
