"""How neurons vary together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.errors import CaptureError
from actigrad.reduce.base import Dims, State, columns, countable, on_finite, on_host, over_loops
from actigrad.reduce.moments import absolute, bounds, centre, merge


@dataclass(frozen=True)
class Gram:
    """The neurons' means, covariance and Gram matrix over all other axes.

    `finalize` gives `mean` (neuron,), `covariance` and `gram` (neuron, neuron) (the mean products of deviations and of
    the values themselves), float64, in which products of vanishing gradients are not zero; `count`, the observations,
    and `skipped`, those left out because a neuron of theirs was not finite, int64. NaN without an observation.

    State: width² values; 4 MiB for 1024 neurons. Cost: a product (neuron, n) × (n, neuron), and a copy of the array.

    Args:
        max_width: the widest site that is accepted; wider ones are an error, because memory grows with the square.
    """

    max_width: int = 1024

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """Sums of values and of products of pairs, centred and scaled by neuron."""
        x, axes = columns(x, dims)
        x = jnp.moveaxis(x, next(i for i in range(x.ndim) if i not in axes), -1)
        x = x.reshape(-1, x.shape[-1])
        count, width = x.shape
        countable(count, "Gram")
        if width > self.max_width:
            raise CaptureError(self._too_wide(width))
        if not (count and width):
            return _nothing(width, x.dtype)

        def measure(x: jax.Array, mask: jax.Array | None) -> State:
            seen = jnp.full((width,), count, jnp.int32)
            if mask is not None:
                whole = jnp.all(mask, axis=1, keepdims=True)
                seen, mask = (
                    jnp.broadcast_to(jnp.sum(whole, dtype=jnp.int32), (width,)),
                    jnp.broadcast_to(whole, x.shape),
                )
            pivot, scale, relative = centre(x, (0,), mask, seen, total, bounds(x, (0,), mask))
            products = jnp.matmul(relative.T, relative, precision=jax.lax.Precision.HIGHEST)
            sums = {"sum": jnp.sum(relative, axis=0), "squares": products}
            return {"n": seen, "skipped": count - seen, "pivot": pivot, "scale": scale} | sums

        total = jnp.sum(x, axis=0)
        return on_finite(measure, x, total)

    def combine(self, a: State, b: State) -> State:
        """Both in float64, around their common mean."""
        a, b = on_host(a), on_host(b)
        return merge(a, b, outer=True) | {"skipped": a["skipped"] + b["skipped"]}

    def finalize(self, state: State) -> dict[str, np.ndarray]:
        """Means over observations."""
        state = on_host(state)
        mean, products = absolute(state, outer=True)
        n = np.where(state["n"] > 0, state["n"], np.nan)
        mean, covariance = np.where(n > 0, mean, np.nan), products / n[..., None]
        gram = covariance + mean[..., :, None] * mean[..., None, :]
        result = {"mean": mean, "covariance": covariance, "gram": gram}
        # One count a neuron travels, so that a loop's axes fall in front of it as of everything else; all are equal.
        counts = {"count": state["n"], "skipped": state["skipped"]}
        return result | {key: value.max(axis=-1, initial=0) for key, value in counts.items()}

    def _too_wide(self, width: int) -> str:
        return (
            f"Gram keeps width² values: a site of {width} neurons would take {4 * width**2 / 2**20:.0f} MiB, and the "
            f"limit is {self.max_width} neurons. Take fewer of them (Take('neuron', slice(0, {self.max_width}), "
            f"then=Gram())), project them (Project({min(256, self.max_width)}, then=Gram())), or allow it "
            f"(Gram(max_width={width}))."
        )


def _nothing(width: int, dtype: np.dtype) -> State:
    state = {key: jnp.zeros((width,), jnp.int32) for key in ("n", "skipped")}
    state |= {key: jnp.zeros((width,), dtype) for key in ("pivot", "sum")}
    return state | {"scale": jnp.ones((width,), dtype), "squares": jnp.zeros((width, width), dtype)}
