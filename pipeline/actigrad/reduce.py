"""Reductions as values: what to keep of an array that is too big to keep.

A reduction has three parts, so that the same value works on one batch, on many, and inside a backward loop:

- `chunk(x, dims) -> state` runs on the device, inside the jitted pass, where the array is; it returns a small pytree;
- `combine(a, b) -> state` merges two states on the host, in float64; it is associative;
- `finalize(state) -> result` turns a state into what a person reads.

    frame = capture(loss, reduce=Summary())(params, batch)
    Summary().finalize(frame.gradients["head/0"])["rms"]          # one value a neuron

Results equal the same statistic of the concatenated full tensor, whatever the batching (property test). Sums are kept
relative to each neuron's largest magnitude: a plain float32 sum of squares is zero for gradients below 1e-23, and a
vanishing gradient is exactly what one looks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce as fold
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.metrics import METRICS, bin_magnitudes

_SIDE = np.asarray(bin_magnitudes())

State = Any


@runtime_checkable
class Reduction(Protocol):
    """What capture needs of a reduction; see the module's docstring."""

    def chunk(self, x: jax.Array, dims: tuple[str, ...]) -> State:
        """The state of one array, on the device. Leaves are float32 (or wider), int32 or bool."""
        ...

    def combine(self, a: State, b: State) -> State:
        """The state of both, on the host."""
        ...

    def finalize(self, state: State) -> Any:
        """The result, as NumPy arrays."""
        ...


Choice = Reduction | Mapping[str, Reduction] | None


def chunk(choice: Choice, x: jax.Array, dims: tuple[str, ...]) -> State:
    """The state of `x` under one reduction, under several by name, or the array itself."""
    if choice is None:
        return x
    if isinstance(choice, Mapping):
        return {name: one.chunk(x, dims) for name, one in choice.items()}
    return choice.chunk(x, dims)


def combine(choice: Reduction | Mapping[str, Reduction], states: list[State]) -> State:
    """The state of all batches, merged in order."""
    if isinstance(choice, Mapping):
        return {name: combine(one, [state[name] for state in states]) for name, one in choice.items()}
    return fold(choice.combine, states)


def finalize(choice: Reduction | Mapping[str, Reduction], state: State) -> Any:
    """The result of a state."""
    if isinstance(choice, Mapping):
        return {name: one.finalize(state[name]) for name, one in choice.items()}
    return choice.finalize(state)


def _reduced_axes(dims: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(i for i, dim in enumerate(dims) if dim != "neuron")


def _wide(x: jax.Array) -> jax.Array:
    """In the precision that sums are made in: float32, or wider where the array is; magnitudes of complex values."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.abs(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@dataclass(frozen=True)
class Summary:
    """Per-neuron statistics over all other axes; `finalize` gives float32 arrays of shape (neuron,) by metric.

    Metrics: mean, rms, std, min, max, extreme (the signed value of largest magnitude) of the finite values;
    zero_fraction of the finite values; nonfinite, the count of NaN and inf. A loop's axis stays in front. An array
    without a neuron axis gives one value. Neurons without a finite value have NaN. Complex values count by magnitude.
    """

    def chunk(self, x: jax.Array, dims: tuple[str, ...]) -> State:
        """Eight values a neuron. One pass over the array for its bounds, one for its sums; XLA fuses both."""
        axes = _reduced_axes(dims)
        x = _wide(x)
        if "neuron" not in dims:
            x, axes = x[..., None], tuple(range(x.ndim))
        finite = jnp.isfinite(x)
        some = jnp.any(finite, axis=axes)
        low = jnp.min(jnp.where(finite, x, jnp.inf), axis=axes, initial=jnp.inf)
        high = jnp.max(jnp.where(finite, x, -jnp.inf), axis=axes, initial=-jnp.inf)
        scale = jnp.where(some, jnp.maximum(jnp.abs(low), jnp.abs(high)), 0)
        safe = jnp.where(scale > 0, scale, 1)
        relative = jnp.where(finite, x, 0) / jnp.expand_dims(safe, axes)
        return {
            "finite": jnp.sum(finite, axis=axes, dtype=jnp.int32),
            "nonfinite": jnp.sum(~finite, axis=axes, dtype=jnp.int32),
            "zeros": jnp.sum(x == 0, axis=axes, dtype=jnp.int32),
            "min": low,
            "max": high,
            "scale": safe,
            "sum": jnp.sum(relative, axis=axes),
            "squares": jnp.sum(relative * relative, axis=axes),
        }

    def combine(self, a: State, b: State) -> State:
        """Both in float64, on the larger of the two scales."""
        a, b = _on_host(a), _on_host(b)
        scale = np.maximum(a["scale"], b["scale"])
        out = {key: a[key] + b[key] for key in ("finite", "nonfinite", "zeros")}
        out |= {"min": np.minimum(a["min"], b["min"]), "max": np.maximum(a["max"], b["max"]), "scale": scale}
        out["sum"] = a["sum"] * (a["scale"] / scale) + b["sum"] * (b["scale"] / scale)
        out["squares"] = a["squares"] * (a["scale"] / scale) ** 2 + b["squares"] * (b["scale"] / scale) ** 2
        return out

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """Metric by metric; the names and their order are `METRICS`."""
        state = _on_host(state)
        with np.errstate(divide="ignore", invalid="ignore"):
            some = state["finite"] > 0
            mean, square = state["sum"] / state["finite"], state["squares"] / state["finite"]
            spread = np.sqrt(np.maximum(square - mean**2, 0))
            low, high = np.where(some, state["min"], np.nan), np.where(some, state["max"], np.nan)
            result = {
                "mean": mean * state["scale"],
                "rms": np.sqrt(square) * state["scale"],
                "std": spread * state["scale"],
                "min": low,
                "max": high,
                "extreme": np.where(np.abs(low) > np.abs(high), low, high),
                "zero_fraction": state["zeros"] / state["finite"],
                "nonfinite": state["nonfinite"],
            }
        return {name: result[name].astype(np.float32) for name in METRICS}


@dataclass(frozen=True)
class Histogram:
    """Counts of an array's values on fixed symlog bins (`metrics.bin_edges`), for the whole site.

    `finalize` gives `counts` (bin,), and the scalars `zero`, `nan`, `posinf`, `neginf`, all int64. Exact zeros, NaN and
    infinities are in none of the bins. Fixed bins make steps, sites and runs comparable.
    """

    def chunk(self, x: jax.Array, dims: tuple[str, ...]) -> State:
        """A binary search an element and a scatter-add; a loop's axis keeps its own counts."""
        x = _wide(x).reshape(-1)
        side = _SIDE.size
        rank = jnp.searchsorted(jnp.asarray(_SIDE, x.dtype), jnp.abs(x), side="right").astype(jnp.int32) - 1
        bins = jnp.where(x < 0, side - 1 - rank, side + 1 + rank)
        bins = jnp.where(rank < 0, side, bins)
        counted = jnp.isfinite(x) & (x != 0)
        counts = jnp.zeros(2 * side + 1, jnp.int32).at[bins].add(counted.astype(jnp.int32))
        special = {"zero": x == 0, "nan": jnp.isnan(x), "posinf": jnp.isposinf(x), "neginf": jnp.isneginf(x)}
        return {"counts": counts} | {key: jnp.sum(what, dtype=jnp.int32) for key, what in special.items()}

    def combine(self, a: State, b: State) -> State:
        """Sums, in int64."""
        return {key: np.asarray(a[key], np.int64) + np.asarray(b[key], np.int64) for key in a}

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """The counts."""
        return {key: np.asarray(value, np.int64) for key, value in state.items()}


@dataclass(frozen=True)
class Full:
    """The whole array, optionally rounded to a smaller dtype on the device.

    Args:
        dtype: `"bfloat16"` rounds each value to bfloat16 and returns it as float32, which any reader opens; None or
            `"float32"` keeps the array's own dtype.
    """

    dtype: str | None = None

    def chunk(self, x: jax.Array, dims: tuple[str, ...]) -> State:
        """The array; a bfloat16 one as float32, bit for bit the same values."""
        if self.dtype == "bfloat16":
            x = x.astype(jnp.bfloat16)
        return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x

    def combine(self, a: State, b: State) -> State:
        """Concatenated along `sample` (axis 0; inside a loop's axis this is left to the caller)."""
        return np.concatenate([np.asarray(a), np.asarray(b)])

    def finalize(self, state: State) -> np.ndarray:
        """The array on the host."""
        return np.asarray(state)


def _on_host(state: State) -> dict[str, np.ndarray]:
    return {
        key: np.asarray(value, np.int64 if np.asarray(value).dtype.kind in "iu" else np.float64)
        for key, value in state.items()
    }
