"""Which samples make a neuron say its most: the extremes, with where they came from.

Indices are those of the samples in the order in which states are combined: each state carries how many samples it saw,
and the later one's indices are moved by the earlier one's count. Combine batches in order.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.errors import CaptureError
from actigrad.reduce.base import Dims, State, as_float32, countable, on_finite, over_loops, sample_rows
from actigrad.reduce.moments import flush


class _Ranked:
    """What the three share: a sample's candidate for each neuron, and a key by which candidates are ranked."""

    def _k(self) -> int:
        raise NotImplementedError

    def _key(self, values: Any) -> Any:
        """Larger is better."""
        raise NotImplementedError

    def _candidates(self, rows: jax.Array, mask: jax.Array | None) -> jax.Array:
        """(sample, value, neuron) to (sample, neuron): each sample's best value; NaN where none is finite."""
        raise NotImplementedError

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """`value` and `sample` (neuron, k), best first, and `count`, how many samples were seen."""
        rows = sample_rows(x, dims, type(self).__name__)
        count, values, width = rows.shape
        count_state = {"count": jnp.asarray(countable(count, type(self).__name__), jnp.int32)}
        k = min(self._k(), count)
        if not (k and values and width):
            return count_state | _pad(jnp.zeros((width, 0), rows.dtype), jnp.zeros((width, 0), jnp.int32), self._k())
        # One zero: what a backend flushes, and -0.0, are equal to 0.0 on the host as well.
        best = flush(on_finite(self._candidates, rows).T)
        key, sample = jax.lax.top_k(jnp.where(jnp.isnan(best), -jnp.inf, self._key(best)), k)
        value = jnp.take_along_axis(best, sample, axis=1)
        sample = jnp.where(key == -jnp.inf, -1, sample.astype(jnp.int32))
        return count_state | _pad(value, sample, self._k())

    def combine(self, a: State, b: State) -> State:
        """The best of both; among equals the earlier sample."""
        offset = np.asarray(a["count"], np.int64)
        value = np.concatenate([np.asarray(s["value"], np.float64) for s in (a, b)], axis=-1)
        moved = [_present(a), _present(b)]
        moved[1] = np.where(moved[1] < 0, -1, moved[1] + offset[..., None, None])
        sample = np.concatenate(moved, axis=-1)
        # A key of its own for what is absent: it ranks behind all that is there.
        order = np.argsort(np.where(sample < 0, np.inf, -self._key(value)), axis=-1, kind="stable")[..., : self._k()]
        return {
            "count": offset + np.asarray(b["count"], np.int64),
            "value": np.take_along_axis(value, order, axis=-1),
            "sample": np.take_along_axis(sample, order, axis=-1),
        }

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """`value` float32 and `sample` int64, both (neuron, k); NaN and -1 where there were fewer samples."""
        sample = _present(state)
        return {"value": as_float32(np.where(sample < 0, np.nan, np.asarray(state["value"]))), "sample": sample}


@dataclass(frozen=True)
class TopK(_Ranked):
    """The `k` samples in which each neuron is largest: `value` and `sample`, (neuron, k), largest first.

    A sample stands for itself once, by its largest finite value over positions. Equal values: the earlier sample.
    State: 2k values a neuron. Cost: one pass, and a partial sort of (sample, neuron).
    """

    k: int

    def __post_init__(self):
        _validate_k(self)

    def _k(self) -> int:
        return self.k

    def _key(self, values: Any) -> Any:
        return values

    def _candidates(self, rows: jax.Array, mask: jax.Array | None) -> jax.Array:
        return _most(rows, mask)


@dataclass(frozen=True)
class BottomK(_Ranked):
    """The `k` samples in which each neuron is smallest: `value` and `sample`, (neuron, k), smallest first.

    As `TopK`, with a sample's smallest finite value.
    """

    k: int

    def __post_init__(self):
        _validate_k(self)

    def _k(self) -> int:
        return self.k

    def _key(self, values: Any) -> Any:
        return -values

    def _candidates(self, rows: jax.Array, mask: jax.Array | None) -> jax.Array:
        return _least(rows, mask)


@dataclass(frozen=True)
class Extremes(_Ranked):
    """Each neuron's signed value of largest magnitude and the sample that caused it: `value`, `sample`, (neuron,).

    Finite values only; NaN and -1 where there is none. Equal magnitudes: the earlier sample, and in it the positive.
    State: two values a neuron. Cost: two passes.
    """

    def _k(self) -> int:
        return 1

    def _key(self, values: Any) -> Any:
        return abs(values)

    def _candidates(self, rows: jax.Array, mask: jax.Array | None) -> jax.Array:
        low, high = _least(rows, mask), _most(rows, mask)
        return jnp.where(-low > high, low, high)

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """`value` float32 and `sample` int64, both (neuron,)."""
        return {key: values[..., 0] for key, values in super().finalize(state).items()}


def _most(rows: jax.Array, mask: jax.Array | None) -> jax.Array:
    return -_least(-rows, mask)


def _least(rows: jax.Array, mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return jnp.min(rows, axis=1)
    least = jnp.min(jnp.where(mask, rows, jnp.inf), axis=1)
    return jnp.where(jnp.any(mask, axis=1), least, jnp.nan)


def _pad(value: jax.Array, sample: jax.Array, k: int) -> State:
    more = ((0, 0), (0, k - value.shape[1]))
    return {"value": jnp.pad(value, more), "sample": jnp.pad(sample, more, constant_values=-1)}


def _present(state: State) -> np.ndarray:
    """Samples; -1 where there is none. A branch that was never taken left zeros everywhere: it saw none."""
    sample = np.asarray(state["sample"], np.int64)
    return np.where(sample < np.asarray(state["count"], np.int64)[..., None, None], sample, -1)


def _validate_k(reduction: TopK | BottomK) -> None:
    if reduction.k < 1:
        raise CaptureError(
            f"{type(reduction).__name__} got k={reduction.k}; expected how many samples to keep, from 1."
        )
