"""FLOPs of an equation: what XLA counts for the same program."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from actigrad.engine.flops import count_flops

A = jax.ShapeDtypeStruct((8, 5, 6), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((2, 9, 9, 4), jnp.float32)


def flops(function, *args):
    return sum(count_flops(eqn) for eqn in jax.make_jaxpr(function)(*args).eqns)


def conv(x, kernel, groups=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=dims, feature_group_count=groups)


def kernel(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (A, A)),
        (lambda a, b: jnp.einsum("bij,kj->ikb", a, b), (A, kernel(7, 6))),
        (lambda a, b: jnp.einsum("bij,bik->bjk", a, b), (A, A)),
        (conv, (IMAGE, kernel(3, 3, 4, 6))),
        (lambda x, k: lax.conv(x.transpose(0, 3, 1, 2), k, (1, 1), "VALID"), (IMAGE, kernel(6, 4, 3, 3))),
        (lambda x, k: conv(x, k, groups=2), (IMAGE, kernel(3, 3, 2, 6))),
        (lambda a: a * 2 + a, (A,)),
        (lambda a: jnp.where(a > 0, a, a), (A,)),
    ],
)
def test_arithmetic_is_counted_as_xla_counts_it(function, args):
    assert flops(function, *args) == (jax.jit(function).lower(*args).cost_analysis() or {}).get("flops", 0) > 0


def test_functions_and_sums_count_one_an_element():
    assert flops(jnp.exp, A) == flops(lambda a: a.sum(), A) == flops(lambda a: a.max(axis=1), A) == 8 * 5 * 6


def test_rows_of_a_ragged_product_meet_one_matrix_each():
    sizes = jax.ShapeDtypeStruct((3,), jnp.int32)
    assert flops(lax.ragged_dot, kernel(9, 4), kernel(3, 4, 5), sizes) == 2 * 9 * 4 * 5


@pytest.mark.parametrize(("start", "join"), [(-jnp.inf, lax.max), (jnp.inf, lax.min), (0.0, lax.add)])
def test_a_pooling_window_counts_all_that_it_looks_at(start, join):
    pool = lambda x: lax.reduce_window(x, start, join, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    assert flops(pool, IMAGE) == 2 * 4 * 4 * 4 * 9


def test_moving_data_and_counting_in_integers_is_no_flop():
    assert flops(lambda a: a.reshape(-1, 6).T[::2].astype(jnp.bfloat16), A) == 0
    assert flops(lambda i: i * 2 + 1, jax.ShapeDtypeStruct((9,), jnp.int32)) == 0


def test_what_shapes_do_not_tell_is_not_counted():
    assert flops(lambda a: lax.sort(a), A) == 0
    assert flops(lambda a: lax.top_k(a, 2), A) == 0
