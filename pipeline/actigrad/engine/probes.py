"""Probes: zeros that enter a program at its taps, and whose cotangents are the gradients there.

A probe must not change a single bit of the program. `x + 0` does: it turns -0.0 into 0.0, upcasts bfloat16 when the
zero is float32, and keeps a buffer of the activation's size. So there are two exact identities:

- `open_tap(x, probe)`: the tangent is `dx + dprobe`, so the probe's cotangent is the gradient;
- with a reduction, a custom rule: on the way back the gradient goes through unchanged, and the small `state` receives
  its reduction as its "cotangent". Inside a loop this happens iteration by iteration: the full gradient of all layers
  never exists.

A cotangent must be floating, and a reduction may count. Integers travel as two float32 halves of 16 bits, which are
exact and meet no arithmetic on the way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from actigrad import reduce as reductions

Dims = tuple[str, ...]


@jax.custom_jvp
def open_tap(x: jax.Array, probe: jax.Array) -> jax.Array:
    """`x`, bit for bit; derivatives see `x + probe`."""
    return x


@open_tap.defjvp
def _open_tap_jvp(primals, tangents):
    return open_tap(*primals), tangents[0] + tangents[1]


def make_probe(choice: reductions.Choice, aval: Any, dims: Dims) -> Any:
    """The zeros that enter at a tap, without a loop's axes: like the value, or the packed state of its reduction."""
    like = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    if choice is None:
        return like
    return jax.eval_shape(lambda x: pack(reductions.chunk(choice, x, dims)), like)


def enter(choice: reductions.Choice, dims: Dims, x: jax.Array, probe: Any, on_gradient: Callable[[], Any]) -> jax.Array:
    """`x`, bit for bit, with a probe at it.

    JAX skips the way back to a value that no derivative reaches; its reduction must then be that of zeros, not the
    empty one that the probe began as. `on_gradient` is called, while tracing, when the way back does come through.
    """
    if choice is None:
        return open_tap(x, probe)

    @jax.custom_vjp
    def reduce_tap(x, state):
        return x

    def backward(_, cotangent):
        on_gradient()
        return cotangent, pack(reductions.chunk(choice, cotangent, dims))

    reduce_tap.defvjp(lambda x, state: (x, None), backward)
    return reduce_tap(x, probe)


def state_of_zeros(choice: Any, aval: Any, dims: Dims, front: tuple[int, ...]) -> Any:
    """The reduction of a gradient that is zero everywhere, with loops' axes in front."""
    state = reductions.chunk(choice, jnp.zeros(aval.shape, aval.dtype), dims)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, front + leaf.shape), state)


def pack(state: Any) -> Any:
    """Integer and bool leaves as a leading pair of float32 halves."""
    return jax.tree.map(_pack_leaf, state)


def unpack(choice: reductions.Choice, aval: Any, dims: Dims, packed: Any) -> Any:
    """The state again; loops' axes in front of the pair are kept in front."""
    if choice is None:
        return packed
    like = jax.eval_shape(lambda x: reductions.chunk(choice, x, dims), jax.ShapeDtypeStruct(aval.shape, aval.dtype))
    return jax.tree.map(_unpack_leaf, like, packed)


def _pack_leaf(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    whole = leaf.astype(jnp.int32)
    return jnp.stack([whole >> 16, whole & 0xFFFF], axis=-1).astype(jnp.float32)


def _unpack_leaf(like: Any, packed: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jnp.inexact):
        return packed
    halves = packed.astype(jnp.int32)
    return ((halves[..., 0] << 16) | halves[..., 1]).astype(like.dtype)
