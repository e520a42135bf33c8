"""Counts on fixed bins, exact, at the speed of reading the array.

The bins are a little less than a factor of two wide, so the half octave that a float's upper bits name (its exponent
and first mantissa bit) holds at most one edge. A table of 1024 half octaves gives the edge, and the slots below and
above it: one lookup and one integer comparison, where a binary search takes seven of each (on a CPU 57 ms for 8.4 M
values against 200; comparing with all edges, sorting and one-hot products took 345 ms and more).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.metrics import SPECIAL, bin_magnitudes
from actigrad.reduce.base import Dims, State, countable, over_loops, wide

SIDE = np.asarray(bin_magnitudes(), np.float32)
BINS = 2 * SIDE.size + 1
SLOTS = BINS + len(SPECIAL)
_SHIFT = 22  # of a float32's bits: sign, eight of exponent and one of mantissa remain
_SMALLEST_NORMAL = 1 << 23
_INF = 0x7F800000
_LANES = 64
"""Histograms side by side on accelerators, so that neighbours do not wait for one counter."""


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per half octave: the edge within it, and the slots below and from it on."""
    edges = SIDE.view(np.int32).astype(np.int64)
    cells = np.arange(512) << _SHIFT
    lower = np.searchsorted(edges, cells, side="right")  # how many edges a cell's first value has reached
    upper = np.searchsorted(edges, cells + (1 << _SHIFT) - 1, side="right")
    assert (upper - lower).max() == 1, "two edges in one half octave"
    edge = np.where(upper > lower, edges[np.minimum(lower, edges.size - 1)], 2**31 - 1)
    middle = SIDE.size
    zero, nan, posinf, neginf = (BINS + SPECIAL.index(name) for name in ("zero", "nan", "posinf", "neginf"))
    below, above = np.stack([middle - lower, middle + lower]), np.stack([middle - upper, middle + upper])
    subnormal = cells < _SMALLEST_NORMAL
    below[:, subnormal] = above[:, subnormal] = zero
    first, last = _INF >> _SHIFT, (_INF >> _SHIFT) + 1
    edge[first], below[:, first], above[:, first] = _INF + 1, [neginf, posinf], nan
    below[:, last] = above[:, last] = nan
    return np.tile(edge, 2).astype(np.int32), _by_sign(below), _by_sign(above)


def _by_sign(slots: np.ndarray) -> np.ndarray:
    """(negative, positive) rows in the order of the sign bit."""
    return slots[::-1].reshape(-1).astype(np.int32)


_EDGE, _BELOW, _ABOVE = _tables()


@dataclass(frozen=True)
class Histogram:
    """Counts of an array's values on fixed symlog bins (`metrics.bin_edges`), for the whole site.

    `finalize` gives `counts` (bin,), and the scalars `zero`, `nan`, `posinf`, `neginf`, all int64. Exact zeros, NaN and
    infinities are in none of the bins, and values below the smallest normal float32 (1.2e-38) count as zeros. Fixed
    bins make steps, sites and runs comparable. An edge belongs to the bin on its far side from zero.

    State: 151 counts. Cost: a lookup and a scatter-add an element; memory for the slots, 4 bytes an element.
    """

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """The slot of each element, counted; a loop's axis keeps its own counts."""
        countable(x.size, "Histogram")
        slots = slots_of(wide(x).reshape(-1))
        counts = jax.lax.platform_dependent(slots, cpu=count_slots, default=count_slots_in_lanes)
        special = {name: counts[BINS + i] for i, name in enumerate(SPECIAL)}
        return {"counts": counts[:BINS]} | special

    def combine(self, a: State, b: State) -> State:
        """Sums, in int64."""
        return {key: np.asarray(a[key], np.int64) + np.asarray(b[key], np.int64) for key in a}

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """The counts."""
        return {key: np.asarray(value, np.int64) for key, value in state.items()}


def slots_of(x: jax.Array) -> jax.Array:
    """The slot of each value: a bin, or one of `SPECIAL` behind the bins."""
    if x.dtype != jnp.float32:
        limits = jnp.finfo(jnp.float32)
        inside = jnp.sign(x) * jnp.clip(jnp.abs(x), float(limits.tiny), float(limits.max))
        x = jnp.where(jnp.isfinite(x), inside, x).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    cell = (bits >> _SHIFT).astype(jnp.int32)
    size = (bits & 0x7FFFFFFF).astype(jnp.int32)
    look_up = lambda table: jnp.asarray(table).at[cell].get(mode="promise_in_bounds")
    return jnp.where(size >= look_up(_EDGE), look_up(_ABOVE), look_up(_BELOW))


def count_slots(slots: jax.Array) -> jax.Array:
    """How often each slot occurs."""
    return jnp.zeros(SLOTS, jnp.int32).at[slots].add(1, mode="promise_in_bounds")


def count_slots_in_lanes(slots: jax.Array) -> jax.Array:
    """The same, with neighbours in histograms of their own."""
    lanes = jax.lax.iota(jnp.int32, slots.size) % _LANES
    return jnp.sum(jnp.zeros((_LANES, SLOTS), jnp.int32).at[lanes, slots].add(1, mode="promise_in_bounds"), axis=0)
