"""Reductions as values: what to keep of an array that is too big to keep.

A reduction has three parts, so that the same value works on one batch, on many, and inside a backward loop:

- `chunk(x, dims) -> state` runs on the device, inside the jitted pass, where the array is; it returns a small pytree;
- `combine(a, b) -> state` merges two states on the host, in float64; it is associative, and `b` comes after `a`;
- `finalize(state) -> result` turns a state into what a person reads.

    frame = capture(loss, reduce=Summary())(params, batch)
    Summary().finalize(frame.gradients["head/0"])["rms"]          # one value a neuron

Results equal the same statistic of the concatenated full tensor, whatever the batching (property test).

| reduction | keeps, for an array (sample, …, neuron) |
|---|---|
| `Summary()` | mean, rms, std, min, max, signed extreme, zero fraction, non-finite count of each neuron |
| `ActiveFraction(threshold)` | the share of a neuron's values above a threshold |
| `Histogram()` | counts on 147 fixed symlog bins, for the site |
| `Extremes()` | each neuron's value of largest magnitude, and its sample |
| `TopK(k)`, `BottomK(k)` | the samples in which each neuron is largest, smallest |
| `Gram(max_width)` | covariance and Gram matrix of the neurons |
| `Blocks(size)` | of each sample, blocks of neurons: signed extreme, whose it is, mean, non-finite count |
| `Full(dtype)` | the array |
| `Take(dim, at)`, `Pooled(how)`, `Project(size)` | a part, pooled over positions, projected; `then=` any of these |

Limits: one batch may hold 2³¹ - 1 elements to a count (int32). Integers are read as float32. A custom reduction is any
object with these three methods; its state's leaves are float32 or wider, int32 or bool, because a gradient's state
travels as a cotangent.
"""

from actigrad.reduce.base import Choice, Reduction, State, chunk, combine, finalize
from actigrad.reduce.blocks import Blocks
from actigrad.reduce.gram import Gram
from actigrad.reduce.histogram import Histogram
from actigrad.reduce.kept import Full, Pooled, Project, Rows, Take
from actigrad.reduce.ranked import BottomK, Extremes, TopK
from actigrad.reduce.summary import ActiveFraction, Summary

__all__ = [
    "ActiveFraction",
    "Blocks",
    "BottomK",
    "Choice",
    "Extremes",
    "Full",
    "Gram",
    "Histogram",
    "Pooled",
    "Project",
    "Reduction",
    "Rows",
    "State",
    "Summary",
    "Take",
    "TopK",
    "chunk",
    "combine",
    "finalize",
]
