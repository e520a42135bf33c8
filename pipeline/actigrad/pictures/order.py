"""Order: permutations that make structure visible.

    natural   as they come
    label     samples grouped by label, within a label as they come
    score     neurons by a statistic, largest first; those that are constant zero ("dead") last, in a group of their own

An order is an integer array: `order[i]` is the element shown at position i. Orders are stable and deterministic.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def natural_order(n: int) -> Int[np.ndarray, "element"]:
    """0, 1, …, n - 1."""
    return np.arange(n)


def label_order(
    labels: Shaped[np.ndarray, "sample"],
) -> tuple[Int[np.ndarray, "sample"], list[tuple[int, int, int]]]:
    """Samples grouped by label, and each group as (label, start, stop).

    >>> order, groups = label_order(np.array([1, 0, 1]))
    >>> order.tolist(), groups
    ([1, 0, 2], [(0, 0, 1), (1, 1, 3)])
    """
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    stops = [*starts[1:].tolist(), len(labels)]
    return order, [(int(v), int(a), int(b)) for v, a, b in zip(values, starts, stops, strict=True)]


def score_order(score: Float[np.ndarray, "neuron"], dead: Bool[np.ndarray, "neuron"]) -> Int[np.ndarray, "neuron"]:
    """Neurons by score, largest first, NaN after all numbers; the dead ones last.

    >>> score_order(np.array([1.0, 3.0, 0.0, np.nan]), np.array([False, False, True, False])).tolist()
    [1, 0, 3, 2]
    """
    return np.lexsort((np.where(np.isnan(score), np.inf, -score), dead))
