"""Which site feeds which, read off the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.engine.program import split_arguments, trace_program
from actigrad.sites import Work

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


@pytest.mark.parametrize("loop", ["while", "scan of nothing"])
def test_what_comes_after_a_loop_that_may_not_run_is_also_fed_by_what_stands_before_it(loop):
    def loss(params, batch):
        x, shift = actigrad.tap(batch["x"] * 2, "before"), actigrad.tap(batch["x"] * 3, "shift")
        limit = jnp.sum(batch["x"])
        body = lambda x: actigrad.tap(jnp.tanh(x) + shift, "body")
        if loop == "while":
            x = jax.lax.while_loop(lambda x: jnp.sum(x) < limit, body, x)
        else:
            x = jax.lax.scan(lambda x, _: (body(x), None), x, length=0)[0]
        return jnp.sum(x)

    assert feeds(loss) == {"before": ("body", "loss"), "shift": ("body",), "body": ("loss",)}


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


def test_what_is_stopped_carries_data_and_no_derivative():
    def loss(params, batch):
        x = actigrad.tap(batch["x"] * 2, "x")
        return jnp.sum(x * jax.lax.stop_gradient(actigrad.tap(jnp.sin(x), "stopped")))

    assert feeds(loss) == {"x": ("stopped", "loss"), "stopped": ("loss",)}
    assert actigrad.capture(loss)({}, {"x": X}).unreached == ("stopped",)


def work(loss, params, batch):
    static, arrays = split_arguments((params, batch, (), {}))
    return trace_program(loss, static, arrays).flow.work


def test_the_first_site_that_needs_an_operation_or_a_parameter_owns_it_and_the_loss_owns_the_rest():
    def loss(params, batch):
        shared = jnp.tanh(batch["x"] @ params["w"])
        a = actigrad.tap(shared * params["scale"], "a")
        b = actigrad.tap(shared + a, "b")
        jnp.exp(b)  # nobody needs it
        return jnp.sum(b @ params["w"])

    params = {"w": jnp.ones((3, 3)), "scale": jnp.ones(()), "unused": jnp.ones(7), "step": jnp.ones((), jnp.int32)}
    found = work(loss, params, {"x": X})
    assert found == {
        "a": Work((("dot_general", 1), ("tanh", 1), ("mul", 1)), 2 * 4 * 3 * 3 + 12 + 12, 10),
        "b": Work((("add", 1),), 12, 0),
        "loss": Work((("dot_general", 1), ("reduce_sum", 1)), 2 * 4 * 3 * 3 + 12, 0),
    }


def test_integers_among_the_parameters_are_not_counted():
    loss = lambda params, batch: jnp.sum(actigrad.tap(params["table"][params["index"]], "x"))
    assert work(loss, {"table": jnp.ones((5, 2)), "index": jnp.arange(3)}, {"x": X})["x"].parameters == 10


def test_the_batchs_floating_values_alone_enter():
    def loss(params, batch):
        x = actigrad.tap(batch["x"] * 2, "x")
        return jnp.sum(actigrad.tap(jnp.sin(x), "y") * batch["label"][:, None].astype(jnp.float32))

    static, arrays = split_arguments(({}, {"x": X, "label": jnp.arange(4)}, (), {}))
    assert trace_program(loss, static, arrays).flow.entries == ("x",)


def test_work_in_a_loop_counts_each_time_it_runs():
    def loss(params, batch):
        def outer(x, w):
            return jax.lax.fori_loop(0, 5, lambda i, x: actigrad.tap(jnp.sin(x) @ w, "block"), x), None

        return jnp.sum(jax.lax.scan(outer, batch["x"], params["w"])[0] * 2)

    found = work(loss, {"w": jnp.ones((2, 3, 3))}, {"x": X})
    assert found["block"] == Work((("sin", 10), ("dot_general", 10)), 10 * (12 + 2 * 4 * 3 * 3), 18)
    assert found["loss"].operations == (("mul", 1), ("reduce_sum", 1))


def test_work_is_seen_through_calls_branches_and_meshes():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))

    def loss(params, batch):
        x = jax.checkpoint(jax.jit(jnp.sin))(batch["x"])
        x = jax.lax.cond(x[0, 0] > 0, jnp.cos, jnp.tanh, x)
        x = actigrad.tap(jax.nn.relu(x), "x")
        split = jax.sharding.PartitionSpec("data")
        y = jax.shard_map(jnp.exp, mesh=mesh, in_specs=split, out_specs=split)(x)
        return jnp.sum(actigrad.tap(y, "y"))

    found = work(loss, {}, {"x": X})
    assert dict(found["x"].operations) == {"sin": 1, "gt": 1, "cos": 1, "tanh": 1, "max": 1}
    assert found["y"] == Work((("exp", 4),), 12, 0)
