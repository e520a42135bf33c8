"""Order: permutations that make structure visible.

    natural       as they come
    label         samples grouped by label, within a label as they come
    score         neurons by a statistic, largest first
    peak          neurons by the step or sample at which they are largest
    selectivity   neurons by the label that they prefer, the most selective first
    similarity    neurons that do alike beside each other: see `similarity`

An order is an integer array: `order[i]` is the element shown at place i. Orders are stable and deterministic. Neurons
that say nothing stand in groups of their own at the end: first those that are constant, then the dead, which are zero.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LIVE, CONSTANT, DEAD = 0, 1, 2


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


def peak_order(values: Float[np.ndarray, "neuron column"]) -> Int[np.ndarray, "neuron"]:
    """Neurons by the column at which their magnitude is largest, then by that magnitude; NaN is nothing.

    >>> peak_order(np.array([[0.0, 0.0, 5.0], [-7.0, 0.0, 1.0], [0.0, 0.0, 6.0]])).tolist()
    [1, 2, 0]
    """
    size = np.where(np.isfinite(values), np.abs(values), -1)
    if not size.shape[1]:
        return natural_order(len(size))
    return np.lexsort((-size.max(1), size.argmax(1)))


def selectivity_order(
    values: Float[np.ndarray, "neuron sample"], labels: Shaped[np.ndarray, "sample"]
) -> Int[np.ndarray, "neuron"]:
    """Neurons by the label at which their mean is largest; within a label those first that stand out most.

    Selectivity is the mean over that label's samples less the mean over the others, in units of the standard deviation
    over all samples.

    >>> selectivity_order(np.array([[0.0, 0.0, 4.0], [0.0, 3.0, 1.0], [2.0, 2.0, 1.0]]), np.array([0, 0, 1])).tolist()
    [2, 1, 0]
    """
    values = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    known = np.unique(labels)
    inside = np.stack([values[:, labels == one].mean(1) for one in known], 1)
    share = np.array([(labels == one).mean() for one in known])
    best = inside.argmax(1)
    place = np.arange(len(values))
    others = (values.mean(1) - share[best] * inside[place, best]) / np.maximum(1 - share[best], 1e-12)
    spread = values.std(1)
    stands_out = (inside[place, best] - others) / np.where(spread > 0, spread, 1.0)
    return np.lexsort((-stands_out, best))


def find_silent(low: Float[np.ndarray, "neuron"], high: Float[np.ndarray, "neuron"]) -> Int[np.ndarray, "neuron"]:
    """Which neurons are LIVE, CONSTANT or DEAD, from their smallest and largest values; NaN is taken for live.

    >>> find_silent(np.array([0.0, 2.0, -1.0]), np.array([0.0, 2.0, 1.0])).tolist()
    [2, 1, 0]
    """
    return np.where(low == high, np.where(low == 0, DEAD, CONSTANT), LIVE)


def silent_last(order: Int[np.ndarray, "neuron"], groups: Int[np.ndarray, "neuron"]) -> Int[np.ndarray, "neuron"]:
    """The order with live neurons first, then the constant ones, then the dead; each group as it was."""
    return order[np.argsort(groups[order], kind="stable")]


def is_permutation(order: np.ndarray, n: int) -> bool:
    """Whether each of n elements is in it once.

    >>> is_permutation(np.array([1, 0]), 2), is_permutation(np.array([1, 1]), 2)
    (True, False)
    """
    if order.shape != (n,) or order.dtype.kind not in "iu" or (n and not 0 <= order.min() <= order.max() < n):
        return False
    return bool((np.bincount(order, minlength=n) == 1).all())
