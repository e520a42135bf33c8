"""Arrays that are kept, sample by sample: whole, rounded, in part, pooled or projected.

`Take`, `Pooled` and `Project` make a smaller array and hand it on, by default to `Full`, which keeps it; another
reduction may come `then`:

    Take("neuron", slice(0, 8))                            # eight neurons of every sample
    Pooled("max", then=TopK(5))                            # the samples in which a channel fires anywhere
    Take("position", -1, then=Summary())                   # the last token's statistics
    Project(64, then=Gram())                               # a wide site's geometry
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.errors import CaptureError
from actigrad.reduce.base import Dims, Reduction, State, over_loops, position_of, wide

DTYPES = (None, "float32", "bfloat16")
POOLS = {"mean": jnp.mean, "max": jnp.max}


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=("axis",))
@dataclass(frozen=True)
class Rows:
    """An array that knows where its samples are; NumPy reads it as the array.

    Attributes:
        value: the array; inside a loop's stack, with the loop's axis in front.
        axis: the sample axis counted from the end, so that axes may come in front; None without samples.
    """

    value: Any
    axis: int | None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype, copy=copy)


@dataclass(frozen=True)
class Full:
    """The whole array, optionally rounded to a smaller dtype on the device.

    State: the array. Batches are joined along `sample`, behind a loop's axes.

    Args:
        dtype: `"bfloat16"` rounds each value to bfloat16, which halves what leaves the device; None or `"float32"`
            keeps the array's own dtype. `finalize` gives bfloat16 values as float32, which any reader opens.
    """

    dtype: str | None = None

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise CaptureError(f"Full got dtype={self.dtype!r}; expected one of {', '.join(map(repr, DTYPES))}.")

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """The array, rounded where that was asked for."""
        if self.dtype == "bfloat16" and jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(jnp.bfloat16)
        return Rows(x, dims.index("sample") - len(dims) if "sample" in dims else None)

    def combine(self, a: State, b: State) -> State:
        """Joined along `sample`."""
        if a.axis is None:
            raise CaptureError(
                f"Full cannot join arrays of shape {np.shape(a.value)} from two batches: they have no sample axis. "
                "Keep a statistic of such a site (Summary), or capture all samples in one batch."
            )
        return replace(a, value=np.concatenate([np.asarray(a.value), np.asarray(b.value)], a.axis))

    def finalize(self, state: State) -> np.ndarray:
        """The array on the host; a bfloat16 one as float32, bit for bit the same values."""
        value = np.asarray(state.value)
        return value.astype(np.float32) if value.dtype == jnp.bfloat16 else value


class _Handing:
    """Makes a smaller array on the device and hands it to the next reduction, which does the rest."""

    then: Reduction

    def _smaller(self, x: jax.Array, dims: Dims) -> tuple[jax.Array, Dims]:
        raise NotImplementedError

    @over_loops
    def chunk(self, x: jax.Array, dims: Dims) -> State:
        """The next reduction's state of the smaller array."""
        return self.then.chunk(*self._smaller(x, dims))

    def combine(self, a: State, b: State) -> State:
        """As the next reduction does."""
        return self.then.combine(a, b)

    def finalize(self, state: State) -> Any:
        """As the next reduction does."""
        return self.then.finalize(state)


@dataclass(frozen=True)
class Take(_Handing):
    """Some neurons, positions or heads, by the name of their dim; a loop's iterations are chosen by sites instead.

    State: what is taken. Cost: a slice, or a gather for a list.

    Args:
        dim: the dim to choose along.
        at: an index (the dim is then gone), a slice, or a list of indices, in any order; negative ones count from the
            end.
        then: what to do with the part; kept by default.
    """

    dim: str
    at: int | slice | Sequence[int]
    then: Reduction = field(default_factory=Full)

    def __post_init__(self):
        if self.dim == "sample":
            raise CaptureError("Take got dim='sample'; choose samples when making the batch. TopK finds the strongest.")
        if not isinstance(self.at, int | slice):
            object.__setattr__(self, "at", tuple(self.at))

    def _smaller(self, x: jax.Array, dims: Dims) -> tuple[jax.Array, Dims]:
        axis = position_of(dims, self.dim, f"Take({self.dim!r})")
        at: Any = self.at
        if isinstance(at, slice):
            return x[(slice(None),) * axis + (at,)], dims
        chosen, size = np.atleast_1d(np.asarray(at, np.int32)), x.shape[axis]
        wrong = [int(i) for i in chosen if not -size <= i < size]
        if wrong:
            raise CaptureError(
                f"Take({self.dim!r}) got {', '.join(map(str, wrong))}, but the dim has {size} places; expected indices "
                f"from {-size} to {size - 1}."
            )
        part = jnp.take(x, jnp.asarray(chosen % max(size, 1)), axis=axis)
        if isinstance(at, int):
            return jnp.squeeze(part, axis), (*dims[:axis], *dims[axis + 1 :])
        return part, dims


@dataclass(frozen=True)
class Pooled(_Handing):
    """The mean or the maximum over all dims between sample and neuron; both of these are kept.

    State: (sample, neuron) float32. Cost: one pass. NaN and infinities pass through, as in the mean itself.

    Args:
        how: "mean" or "max".
        then: what to do with the pooled array; kept by default.
    """

    how: str = "mean"
    then: Reduction = field(default_factory=Full)

    def __post_init__(self):
        if self.how not in POOLS:
            raise CaptureError(f"Pooled got {self.how!r}; expected 'mean' or 'max'.")

    def _smaller(self, x: jax.Array, dims: Dims) -> tuple[jax.Array, Dims]:
        kept = tuple(dim for dim in dims if dim in ("sample", "neuron"))
        axes = tuple(i for i, dim in enumerate(dims) if dim not in kept)
        if 0 in (x.shape[i] for i in axes):
            raise CaptureError(
                f"Pooled({self.how!r}) got an array of shape {x.shape}: there is no position to pool over."
            )
        return POOLS[self.how](wide(x), axis=axes), kept


@dataclass(frozen=True)
class Project(_Handing):
    """A Gaussian random projection of the neurons to `size` directions, the same for all sites of one width.

    A squared distance between two samples comes out within a factor of 1 ± sqrt(2 / size) of itself (one standard
    deviation; 18 % for 64), right on average: it shows geometry, not neurons. The directions keep the dim's name.

    State: the array with `size` in place of the width. Cost: one product with a (width, size) matrix.

    Args:
        size: how many directions.
        dim: the dim to project.
        seed: of the matrix; `matrix(width)` gives it.
        then: what to do with the projected array; kept by default.
    """

    size: int
    dim: str = "neuron"
    seed: int = 0
    then: Reduction = field(default_factory=Full)

    def __post_init__(self):
        if self.size < 1:
            raise CaptureError(f"Project got size={self.size}; expected how many directions to keep, from 1.")

    def matrix(self, width: int) -> jax.Array:
        """(width, size) float32, of variance 1 / size."""
        key = jax.random.key(self.seed, impl="threefry2x32")
        return jax.random.normal(key, (width, self.size), jnp.float32) * self.size**-0.5

    def _smaller(self, x: jax.Array, dims: Dims) -> tuple[jax.Array, Dims]:
        axis = position_of(dims, self.dim, f"Project({self.size})")
        x = jnp.moveaxis(wide(x), axis, -1)
        matrix = self.matrix(x.shape[-1]).astype(x.dtype)
        x = jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(x, -1, axis), dims
