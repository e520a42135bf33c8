"""Of every sample, blocks of neighbouring neurons: what a picture of neurons by samples shows, at a part of its bytes.

    state = Blocks(64).chunk(x, ("sample", "neuron"))      # four arrays (sample, block)

What a block keeps is what a cell of a level does (`pictures.cells`): the signed extreme, which neuron has it, the mean,
and how many values are not finite.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from actigrad.errors import CaptureError
from actigrad.reduce.base import Dims, State, countable, over_loops, sample_rows

INFINITY = 0x7F800000
"""Bits of float32's infinity: those of larger magnitudes are NaN."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` consecutive neurons of every sample; the last may be shorter.

    State, (sample, block) each: `extreme` float32, the finite value of largest magnitude, NaN where there is none;
    `neuron` int32, at which place of the block it stands, -1 where there is none; `mean` float32 of the finite values,
    NaN where there is none; `nonfinite` int32, how many are NaN or infinite. Positions are reduced with the neurons,
    loops' axes stay in front (`join` takes them in). Among equal magnitudes the lowest neuron wins, then the first
    position. Batches are joined along `sample`.

    Magnitudes are compared by their bits, so what a backend flushes to zero is still told apart. Sums are doubles.
    Cost: two passes (5 ns a value on a CPU).

    Args:
        size: neurons of a block.
    """

    size: int

    def __post_init__(self):
        if self.size < 1:
            raise CaptureError(f"Blocks got size={self.size}; expected how many neurons a block has, from 1.")

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """Four arrays (sample, block)."""
        rows = sample_rows(x, dims, "Blocks").astype(jnp.float32)
        count, values, width = rows.shape
        countable(values * self.size, "Blocks")
        blocks = -(-width // self.size)
        more = blocks * self.size - width
        cells = jnp.pad(rows, ((0, 0), (0, 0), (0, more)), constant_values=jnp.nan)
        cells = cells.reshape(count, values, blocks, self.size)
        magnitude = lax.bitcast_convert_type(cells, jnp.int32) & 0x7FFFFFFF
        finite = magnitude < INFINITY
        best, place = _first_of_largest(jnp.where(finite, magnitude, -1))
        offset, position = place // max(1, values), place % max(1, values)
        at = (position * blocks + lax.broadcasted_iota(jnp.int32, place.shape, 1)) * self.size + offset
        found = jnp.take_along_axis(cells.reshape(count, -1), at, axis=1, mode="clip")
        known = jnp.sum(finite, axis=(1, 3), dtype=jnp.int32)
        with jax.enable_x64(True):
            total = jnp.sum(jnp.where(finite, cells, 0).astype(jnp.float64), axis=(1, 3))
            mean = (total / known.astype(jnp.float64)).astype(jnp.float32)
        inside = np.minimum(self.size, width - self.size * np.arange(blocks)).astype(np.int32) * np.int32(values)
        return {
            "extreme": jnp.where(best < 0, jnp.nan, found),
            "neuron": jnp.where(best < 0, -1, offset),
            "mean": jnp.where(known > 0, mean, jnp.nan),
            "nonfinite": jnp.broadcast_to(jnp.asarray(inside), known.shape) - known,
        }

    def join(self, state: State, count: jax.Array | np.ndarray) -> State:
        """The state with loops' axes in front, which are reduced as positions are.

        Args:
            state: of `chunk`.
            count: (block,) values of each block in one iteration.
        """
        loops = {name: leaf.reshape(-1, *leaf.shape[-2:]) for name, leaf in state.items()}
        if len(loops["mean"]) == 1:
            return {name: leaf[0] for name, leaf in loops.items()}
        magnitude = jnp.where(
            loops["neuron"] < 0, -1, lax.bitcast_convert_type(loops["extreme"], jnp.int32) & 0x7FFFFFFF
        )
        largest = magnitude == jnp.max(magnitude, axis=0, keepdims=True)
        chosen = jnp.argmin(jnp.where(largest, loops["neuron"], self.size), axis=0)[None]
        known = jnp.broadcast_to(jnp.asarray(count, jnp.int32), magnitude.shape) - loops["nonfinite"]
        with jax.enable_x64(True):
            sums = jnp.where(known > 0, loops["mean"], 0).astype(jnp.float64) * known.astype(jnp.float64)
            mean = (jnp.sum(sums, axis=0) / jnp.sum(known, axis=0).astype(jnp.float64)).astype(jnp.float32)
        taken = {name: jnp.take_along_axis(loops[name], chosen, axis=0)[0] for name in ("extreme", "neuron")}
        return taken | {"mean": mean, "nonfinite": jnp.sum(loops["nonfinite"], axis=0, dtype=jnp.int32)}

    def combine(self, a: State, b: State) -> State:
        """Joined along `sample`."""
        return {name: np.concatenate([np.asarray(a[name]), np.asarray(b[name])], axis=-2) for name in a}

    def finalize(self, state: State) -> Any:
        """The four arrays on the host."""
        return {name: np.asarray(leaf) for name, leaf in state.items()}


def _first_of_largest(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sample, value, block, neuron) to (sample, block): the largest key and its place, neuron by neuron."""
    position, neuron = (lax.broadcasted_iota(jnp.int32, key.shape, axis) for axis in (1, 3))

    def larger(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        better = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return lax.select(better, b[0], a[0]), lax.select(better, b[1], a[1])

    start = jnp.asarray(-1, jnp.int32), jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
    return lax.reduce((key, neuron * key.shape[1] + position), start, larger, (1, 3))
