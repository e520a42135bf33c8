"""Sums that survive: of gradients near 1e-30, of values near 1e30, of a small spread around a large mean.

A plain float32 sum of squares is zero for gradients below 1e-23, and a vanishing gradient is exactly what one looks
for; and a mean of squares less a square of means loses a spread below a thousandth of the mean. So each neuron's values
are first centred on (an estimate of) their mean and divided by a power of two near their largest deviation. Then sums
are of order one, and what the estimate lacks is added back: `mean = pivot + scale * sum / n`.

Merged in float64, by Chan's formula; there no scale is needed.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def bounds(x: jax.Array, axes: tuple[int, ...], mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest value along `axes`, which are not empty; (inf, -inf) where nothing is finite."""
    low, high = (x, x) if mask is None else (jnp.where(mask, x, jnp.inf), jnp.where(mask, x, -jnp.inf))
    return flush(jnp.min(low, axis=axes)), flush(jnp.max(high, axis=axes))


def flush(x: jax.Array) -> jax.Array:
    """What is below the smallest normal number becomes zero, on backends that would let it through as on the others."""
    return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, 0, x)


def centre(x: jax.Array, axes: tuple[int, ...], mask: jax.Array | None, n: jax.Array, total: jax.Array, limits: Any):
    """(pivot, scale, relative): `relative` is `(x - pivot) / scale`, within [-2, 2], and 0 where masked.

    Args:
        x: the array.
        axes: all but the neurons'.
        mask: where it is finite; None for everywhere.
        n: how many values each neuron has.
        total: the sum along `axes`; used where nothing is masked.
        limits: (low, high), as `bounds` gives them.
    """
    if mask is None:
        guess = total / n.astype(x.dtype)
    else:
        # A shrunk sum cannot overflow, whatever the count.
        guess = jnp.sum(jnp.where(mask, x * 2.0**-31, 0), axis=axes) / jnp.maximum(n, 1).astype(x.dtype) * 2.0**31
    some = n > 0
    pivot, shrink = pivot_and_shrink(guess, *(jnp.where(some, limit, 0) for limit in limits))
    relative = shrunk(x, axes, pivot, shrink)
    return pivot, 1 / shrink, relative if mask is None else jnp.where(mask, relative, 0)


def pivot_and_shrink(guess: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each neuron a point within its bounds, and the power of two that brings all distances from it below 2."""
    pivot = lax.clamp(low, guess, high)
    reach = lax.max(high - pivot, pivot - low)
    # At least a last digit of x, and a normal number: x / reach stays finite.
    info = jnp.finfo(reach.dtype)
    reach = lax.clamp(
        jnp.asarray(info.tiny, reach.dtype),
        lax.max(reach, lax.max(-low, high) * float(info.eps)),
        jnp.asarray(info.max / 4, reach.dtype),
    )
    # The exponent's bits alone are the power of two below.
    bits, exponent = (jnp.int64, 0x7FF << 52) if reach.dtype == jnp.float64 else (jnp.int32, 0xFF << 23)
    below = lax.bitcast_convert_type(lax.bitcast_convert_type(reach, bits) & bits(exponent), reach.dtype)
    return pivot, 1 / below


def shrunk(x: jax.Array, axes: tuple[int, ...], pivot: jax.Array, shrink: jax.Array) -> jax.Array:
    """`(x - pivot) * shrink` without its overflow: both products are exact, as `shrink` is a power of two."""
    return x * lax.expand_dims(shrink, axes) - lax.expand_dims(pivot * shrink, axes)


def merge(a: Any, b: Any, outer: bool = False) -> dict[str, Any]:
    """Chan's formula for wide states with `n`, `pivot`, `scale`, `sum` and `squares`; the result has scale 1, sum 0.

    NumPy's arrays, or JAX's. With `outer`, `squares` has a second neuron axis: products of pairs.
    """
    xp = a["n"].__array_namespace__()
    (mean_a, squares_a), (mean_b, squares_b) = absolute(a, outer), absolute(b, outer)
    n_a, n = (count.astype(mean_a.dtype) for count in (a["n"], a["n"] + b["n"]))
    share = xp.where(n > 0, (n - n_a) / xp.maximum(n, 1), 0)
    apart = xp.where((a["n"] > 0) & (b["n"] > 0), mean_b - mean_a, 0)
    mean = xp.where(a["n"] > 0, mean_a + apart * share, mean_b)
    weight = n_a * share
    between = _pairs(apart, apart) * weight[..., None] if outer else apart**2 * weight
    nothing = xp.zeros_like(mean)
    squares = squares_a + squares_b + between
    return {"n": a["n"] + b["n"], "pivot": mean, "scale": nothing + 1, "sum": nothing, "squares": squares}


def absolute(state: Any, outer: bool = False) -> tuple[Any, Any]:
    """(mean, sum of squared deviations from it), or of products of pairs with `outer`."""
    xp = state["n"].__array_namespace__()
    scale = state["scale"]
    n = xp.maximum(state["n"], 1).astype(scale.dtype)
    offset = state["sum"] / n
    if outer:
        squares = (state["squares"] - _pairs(offset, offset) * n[..., None]) * _pairs(scale, scale)
    else:
        squares = xp.maximum(state["squares"] - offset**2 * n, 0) * scale**2
    return state["pivot"] + offset * scale, squares


def _pairs(a: Any, b: Any) -> Any:
    return a[..., :, None] * b[..., None, :]
