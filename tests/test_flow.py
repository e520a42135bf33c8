"""Which site feeds which, read off the program."""

import jax
import jax.numpy as jnp

import actigrad

X = jnp.ones((4, 3))


def feeds(loss):
    return {site.path: site.feeds for site in actigrad.list_sites(loss, {}, {"x": X})}


def test_a_chain_feeds_the_next_and_the_last_the_loss():
    loss = lambda params, batch: jnp.sum(actigrad.tap(actigrad.tap(batch["x"] * 2, "a") * 3, "b"))
    assert feeds(loss) == {"a": ("b",), "b": ("loss",)}


def test_a_residual_add_feeds_past_the_block():
    def loss(params, batch):
        stem = actigrad.tap(batch["x"] * 2, "stem")
        block = actigrad.tap(jnp.tanh(stem), "block")
        return jnp.sum(actigrad.tap(stem + block, "sum"))

    assert feeds(loss) == {"stem": ("block", "sum"), "block": ("sum",), "sum": ("loss",)}


def test_a_split_feeds_both_sides_and_a_dead_end_nothing():
    def loss(params, batch):
        a, b = jnp.split(actigrad.tap(batch["x"] * 2, "stem"), [1], axis=1)
        actigrad.tap(b, "deadend")
        return jnp.sum(actigrad.tap(a, "left"))

    assert feeds(loss) == {"stem": ("left", "deadend"), "deadend": (), "left": ("loss",)} or feeds(loss) == {
        "stem": ("deadend", "left"), "deadend": (), "left": ("loss",)}  # fmt: skip


def test_a_loop_feeds_what_comes_after_it_and_its_own_next_iteration_is_its_layer_axis():
    def loss(params, batch):
        def body(x, _):
            x = actigrad.tap(jnp.tanh(actigrad.tap(x * 2, "a")), "b")
            return x, None

        return jnp.sum(actigrad.tap(jax.lax.scan(body, batch["x"], length=3)[0], "end"))

    assert feeds(loss) == {"a": ("b",), "b": ("end",), "end": ("loss",)}


def test_control_flow_and_calls_are_seen_through():
    def loss(params, batch):
        x = jax.jit(lambda x: actigrad.tap(x * 2, "jit"))(batch["x"])
        x = jax.checkpoint(lambda x: actigrad.tap(jnp.sin(x), "remat"))(x)
        x = jax.lax.cond(x[0, 0] > 0, lambda x: actigrad.tap(x, "yes"), lambda x: actigrad.tap(-x, "no"), x)
        return jnp.sum(jax.nn.relu(x))

    # The last branch is the true one: branches are stored as (false, true).
    assert feeds(loss) == {"jit": ("remat",), "remat": ("no", "yes", "loss"), "no": ("loss",), "yes": ("loss",)}


def test_an_integer_way_carries_data_and_no_derivative():
    def loss(params, batch):
        scores = actigrad.tap(batch["x"] * 2, "scores")
        which = actigrad.tap(jnp.argmax(scores, axis=1), "which")
        return jnp.sum(jax.nn.one_hot(which, 3) * batch["x"])

    assert feeds(loss) == {"scores": ("which",), "which": ("loss",)}
    assert actigrad.capture(loss)({}, {"x": X}).unreached == ("scores", "which")
