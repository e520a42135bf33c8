"""FLOPs: how much arithmetic one equation of a program is, from its shapes.

A multiplication with an addition counts as two, as XLA's cost analysis counts. Matrix products and convolutions are
exact; elementwise operations and reductions count one for each element, whatever they take (`exp` as `add`); data
movement counts nothing, nor does arithmetic on integers. Sorting, FFTs, factorisations and foreign kernels are not
counted: what they cost depends on what is done, not on shapes alone.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

MOVES = frozenset({
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "gather", "iota", "pad", "reshape", "rev", "scatter", "slice", "split", "squeeze",
    "stop_gradient", "transpose", "copy_p", "bitcast_convert_type", "reduce_precision", "optimization_barrier",
    "sharding_constraint", "pvary", "pbroadcast", "random_bits", "random_wrap", "random_unwrap", "random_seed",
    "random_fold_in", "threefry2x32", "device_put", "empty", "create_token",
})  # fmt: skip
"""Primitives that move or make data; they are no operations that a reader of a model thinks of."""
UNCOUNTED = frozenset({
    "sort", "top_k", "approx_top_k", "fft", "cholesky", "eig", "eigh", "svd", "lu", "qr", "geqrf",
    "householder_product", "triangular_solve", "schur", "tridiagonal_solve", "pallas_call", "ffi_call",
    "pure_callback", "io_callback", "debug_callback", "custom_call",
})  # fmt: skip


def count_flops(eqn: JaxprEqn) -> int:
    """Floating-point operations of one equation, without those of jaxprs inside it."""
    name = eqn.primitive.name
    if name in COUNTS:
        return COUNTS[name](eqn)
    if name in MOVES or name in UNCOUNTED or not any(map(_is_inexact, [*eqn.invars, *eqn.outvars])):
        return 0
    sizes = [_size(var) for var in (*eqn.invars, *eqn.outvars)]
    return max(sizes, default=0)  # a reduction goes over its operand, an elementwise operation over its result


def _dot(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return 2 * _size(eqn.outvars[0]) * math.prod(shape[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    kernel, out_axis = _shape(eqn.invars[1]), eqn.params["dimension_numbers"].rhs_spec[0]
    return 2 * _size(eqn.outvars[0]) * math.prod(kernel) // max(1, kernel[out_axis])


def _window(eqn: JaxprEqn) -> int:
    return _size(eqn.outvars[0]) * math.prod(eqn.params["window_dimensions"])


def _ragged_dot(eqn: JaxprEqn) -> int:
    return 2 * _size(eqn.outvars[0]) * _shape(eqn.invars[0])[-1]


COUNTS: dict[str, Callable[[JaxprEqn], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
    "reduce_window_sum": _window,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
}


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: Any) -> int:
    return math.prod(_shape(var))


def _is_inexact(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))
