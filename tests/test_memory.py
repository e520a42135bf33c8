"""Memory: XLA's own numbers, and the largest batch among them."""

import jax
import jax.numpy as jnp
import pytest

import actigrad
from actigrad.engine.memory import largest_batch

WIDTH = 64
PARAMS = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
BATCH = {"x": jax.ShapeDtypeStruct((16, WIDTH), jnp.float32)}


def step(params, batch):
    return jnp.sort(jnp.tanh(batch["x"] @ params), axis=0) @ params


def total(samples):
    batch = {"x": jax.ShapeDtypeStruct((samples, WIDTH), jnp.float32)}
    return actigrad.measure_memory(step, PARAMS, batch).total


def test_arguments_and_results_are_counted_in_bytes_from_shapes_alone():
    memory = actigrad.measure_memory(step, PARAMS, BATCH)
    assert memory.arguments == 4 * (WIDTH * WIDTH + 16 * WIDTH)
    assert memory.results == 4 * 16 * WIDTH
    assert memory.temporary > 0
    assert memory.total == memory.arguments + memory.results + memory.temporary


def test_a_donated_argument_is_counted_once():
    memory = actigrad.measure_memory(
        jax.jit(lambda x: x + 1, donate_argnums=0), jax.ShapeDtypeStruct((1024,), jnp.float32)
    )
    assert (memory.arguments, memory.results, memory.shared) == (4096, 4096, 4096)
    assert memory.total == 4096 + memory.temporary


def test_a_captured_loss_can_be_measured():
    def loss(params, batch):
        return jnp.sum(actigrad.tap(jnp.tanh(batch["x"] @ params), "h") ** 2)

    memory = actigrad.measure_memory(actigrad.capture(loss), PARAMS, BATCH)
    site = 4 * 16 * WIDTH
    assert memory.results >= 2 * site + 4 * WIDTH * WIDTH + site  # activation, gradient, parameter's and input's


@pytest.mark.parametrize("fits", [1, 40, 100, 777, 3000])
def test_the_largest_batch_is_measured_to_fit_and_at_most_five_percent_too_small(fits):
    limit = total(fits)
    samples, memory = largest_batch(step, PARAMS, BATCH, limit=limit, most=10_000)
    assert memory.total == total(samples) <= limit
    assert 0.95 * fits <= samples


def test_it_stops_at_the_most_that_is_asked_for():
    samples, memory = largest_batch(step, PARAMS, BATCH, limit=1 << 40, most=123)
    assert samples == 123
    assert memory.total == total(123)


def test_where_not_even_one_sample_fits_it_says_so():
    assert largest_batch(step, PARAMS, BATCH, limit=1000, most=50) == (0, None)
