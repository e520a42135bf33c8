"""Statistics per neuron."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.metrics import METRICS
from actigrad.reduce.base import Dims, State, as_float32, columns, countable, on_finite, on_host, over_loops
from actigrad.reduce.moments import absolute, bounds, centre, merge

EXACT_IN_FLOAT32 = 2**23
"""Up to how many ones or twos a float32 sum counts exactly."""


@dataclass(frozen=True)
class Summary:
    """Per-neuron statistics over all other axes; `finalize` gives float32 arrays of shape (neuron,) by metric.

    Metrics: mean, rms, std, min, max, extreme (the signed value of largest magnitude) of the finite values;
    zero_fraction of the finite values; nonfinite, the count of NaN and inf. A loop's axis stays in front. An array
    without a neuron axis gives one value. Neurons without a finite value have NaN. Complex values count by magnitude.
    Values below the smallest normal float32 (1.2e-38) count as zeros: CPUs and TPUs flush them.

    State: nine arrays (neuron,). Cost: two passes over the array for bounds, sum and zeros, and one for the moments; no
    copy of it. mean and std are right to about 1e-6 of the larger of |mean| and std, also for std far below |mean|.
    """

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """Nine values a neuron."""
        x, axes = columns(x, dims)
        count = countable(math.prod(x.shape[i] for i in axes), "Summary")
        if not count:
            return _nothing(tuple(size for i, size in enumerate(x.shape) if i not in axes), x.dtype)

        def measure(x: jax.Array, mask: jax.Array | None) -> State:
            low, high = limits = bounds(x, axes, mask)
            finite = (
                jnp.full(low.shape, count, jnp.int32) if mask is None else jnp.sum(mask, axis=axes, dtype=jnp.int32)
            )
            pivot, scale, relative = centre(x, axes, mask, finite, total, limits)
            return {
                "finite": finite,
                "nonfinite": count - finite,
                "zeros": _zeros(x, axes, count, mask is None),
                "min": low,
                "max": high,
                "pivot": pivot,
                "scale": scale,
                "sum": jnp.sum(relative, axis=axes),
                "squares": jnp.sum(relative * relative, axis=axes),
            }

        total = jnp.sum(x, axis=axes)
        return on_finite(measure, x, total)

    def combine(self, a: State, b: State) -> State:
        """Both in float64, around their common mean."""
        a, b = on_host(a), on_host(b)
        moments = merge(a | {"n": a["finite"]}, b | {"n": b["finite"]})
        counts = {key: a[key] + b[key] for key in ("nonfinite", "zeros")}
        # What saw nothing has no bounds: a branch that was not taken left zeros there.
        lows, highs = (
            [np.where(s["finite"] > 0, s[key], no) for s in (a, b)] for key, no in (("min", np.inf), ("max", -np.inf))
        )
        return counts | {"finite": moments.pop("n"), "min": np.minimum(*lows), "max": np.maximum(*highs)} | moments

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """Metric by metric; the names and their order are `METRICS`."""
        state = on_host(state)
        n = np.where(state["finite"] > 0, state["finite"], np.nan)
        mean, squares = absolute(state | {"n": state["finite"]})
        mean, variance = np.where(n > 0, mean, np.nan), squares / n
        low, high = np.where(n > 0, state["min"], np.nan), np.where(n > 0, state["max"], np.nan)
        result = {
            "mean": mean,
            "rms": np.sqrt(variance + mean**2),
            "std": np.sqrt(variance),
            "min": low,
            "max": high,
            "extreme": np.where(np.abs(low) > np.abs(high), low, high),
            "zero_fraction": state["zeros"] / n,
            "nonfinite": state["nonfinite"],
        }
        return {name: as_float32(result[name]) for name in METRICS}


@dataclass(frozen=True)
class ActiveFraction:
    """The share of each neuron's finite values that are above `threshold`; `finalize` gives float32 (neuron,).

    State: two counts a neuron. Cost: one pass. A neuron without a finite value has NaN.

    Args:
        threshold: a value is active when it is strictly larger; 0 suits ReLU and its relatives.
    """

    threshold: float = 0.0

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """Two counts a neuron."""
        x, axes = columns(x, dims)
        count = countable(math.prod(x.shape[i] for i in axes), "ActiveFraction")

        def measure(x: jax.Array, mask: jax.Array | None) -> State:
            if mask is None and count <= EXACT_IN_FLOAT32:
                sign = jnp.sign(x - self.threshold)
                active = jnp.sum(sign * sign + sign, axis=axes).astype(jnp.int32) // 2
                return {"active": active, "finite": jnp.full(active.shape, count, jnp.int32)}
            finite = jnp.isfinite(x)
            counts = {"active": finite & (x > self.threshold), "finite": finite}
            return {key: jnp.sum(what, axis=axes, dtype=jnp.int32) for key, what in counts.items()}

        return on_finite(measure, x)

    def combine(self, a: State, b: State) -> State:
        """Sums, in int64."""
        a, b = on_host(a), on_host(b)
        return {key: a[key] + b[key] for key in a}

    def finalize(self, state: State) -> np.ndarray:
        """The share."""
        state = on_host(state)
        return as_float32(state["active"] / np.where(state["finite"] > 0, state["finite"], np.nan))


def _zeros(x: jax.Array, axes: tuple[int, ...], count: int, finite: bool) -> jax.Array:
    if finite and count <= EXACT_IN_FLOAT32:
        # |sign| is 0 or 1, and a float sum is the fast one (see `on_finite`); exact as long as float32 counts.
        return count - jnp.sum(jnp.square(jnp.sign(x)), axis=axes).astype(jnp.int32)
    return jnp.sum(jnp.abs(x) < jnp.finfo(x.dtype).tiny, axis=axes, dtype=jnp.int32)


def _nothing(shape: tuple[int, ...], dtype: np.dtype) -> State:
    state = {key: jnp.zeros(shape, jnp.int32) for key in ("finite", "nonfinite", "zeros")}
    state |= {key: jnp.zeros(shape, dtype) for key in ("pivot", "sum", "squares")}
    return state | {
        "min": jnp.full(shape, jnp.inf, dtype),
        "max": jnp.full(shape, -jnp.inf, dtype),
        "scale": jnp.ones(shape, dtype),
    }
