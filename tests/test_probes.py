"""Probes: exact identities, and gradients that are reduced where they pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import actigrad
from actigrad import reduce as reductions
from actigrad.engine.probes import enter, make_probe, open_tap, pack, state_of_zeros, unpack
from actigrad.reduce import (
    ActiveFraction,
    BottomK,
    Extremes,
    Full,
    Gram,
    Histogram,
    Pooled,
    Project,
    Summary,
    Take,
    TopK,
)

EVERY = {
    "summary": Summary(),
    "active": ActiveFraction(),
    "histogram": Histogram(),
    "extremes": Extremes(),
    "top": TopK(2),
    "bottom": BottomK(20),
    "gram": Gram(),
    "full": Full("bfloat16"),
    "pooled": Pooled("max", then=TopK(1)),
    "part": Take("neuron", [0, -1], then=Summary()),
    "projected": Project(2),
}
LAYERS, SAMPLES, WIDTH = 5, 7, 6
BITS = jnp.asarray([0, 0x8000, 0x7FC1, 0x7F80, 0xFF80, 0x0001, 0x3F80], jnp.uint16)


@partial(jax.jit, static_argnums=1)
def every(x, dims):
    return reductions.chunk(EVERY, x, dims)


def bits(x):
    return np.asarray(x).view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("choice", [None, Summary(), EVERY], ids=["whole", "summary", "every"])
def test_a_probe_changes_no_bit(dtype, choice):
    x = lax.bitcast_convert_type(BITS, jnp.dtype(dtype)).reshape(1, -1)
    probe = make_probe(choice, x, ("sample", "neuron"))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), probe)
    found = jax.jit(lambda x, p: enter(choice, ("sample", "neuron"), x, p, lambda: None))(x, zeros)
    np.testing.assert_array_equal(bits(found), bits(x))


def test_derivatives_see_the_probe_added():
    x, p = jnp.float32([1, 2]), jnp.float32([0, 0])
    value, tangent = jax.jvp(open_tap, (x, p), (jnp.float32([3, 4]), jnp.float32([10, 20])))
    assert value.tolist() == [1, 2]
    assert tangent.tolist() == [13, 24]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_integers_come_through_as_floats_unharmed(numbers):
    x = np.int32(numbers)

    class Count:
        def chunk(self, x, dims):
            return {"signed": x, "unsigned": x.astype(jnp.uint32), "truth": x > 0}

        def combine(self, a, b):
            return a

        def finalize(self, state):
            return state

    one = Count()
    state = one.chunk(jnp.asarray(x), ())
    packed = pack(state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(packed))
    # A loop stacks iterations in front.
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), packed)
    for name, back in unpack(one, jnp.asarray(x), (), stacked).items():
        assert back.dtype == state[name].dtype
        np.testing.assert_array_equal(back, np.stack([state[name]] * 2))


def test_complex_states_come_through():
    x = jnp.asarray([[1 + 2j, 3]], jnp.complex64)
    state = Full().chunk(x, ("sample", "neuron"))
    np.testing.assert_array_equal(unpack(Full(), x, ("sample", "neuron"), pack(state)).value, x)


def stacked_model(wrap=lambda body: body):
    """A residual network under scan, one tap in each layer and one behind all."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(0, 0.5, (LAYERS, WIDTH, WIDTH)), jnp.float32)
    batch = jnp.asarray(rng.normal(size=(SAMPLES, 3, WIDTH)), jnp.float32)

    def layer(x, w):
        return actigrad.tap(x + jnp.tanh(x @ w), "layer"), None

    def loss(params, batch):
        x, _ = lax.scan(wrap(layer), batch, params)
        return jnp.mean(jnp.square(actigrad.tap(x, "out")), axis=(1, 2))

    return loss, params, batch


@pytest.mark.parametrize("wrap", [lambda body: body, jax.checkpoint, jax.jit], ids=["plain", "checkpoint", "jit"])
def test_a_gradient_reduced_on_its_way_is_the_reduction_of_the_gradient(wrap):
    loss, params, batch = stacked_model(wrap)
    whole = actigrad.capture(loss)(params, batch)
    frame = jax.jit(actigrad.capture(loss, reduce=EVERY))(params, batch)
    np.testing.assert_array_equal(frame.loss, whole.loss)
    np.testing.assert_allclose(frame.parameter_gradients, whole.parameter_gradients, rtol=1e-6, atol=1e-9)
    for site in whole.sites:
        for quantity in ("activations", "gradients"):
            x, state = getattr(whole, quantity)[site.path], getattr(frame, quantity)[site.path]
            expected = reductions.finalize(EVERY, every(x, site.dims))
            found = reductions.finalize(EVERY, state)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-5), found["full"], expected["full"]
            )
            for name in EVERY:
                if name != "full":  # rounded, so that the last digit of float32 may move one of bfloat16
                    assert_alike(found[name], expected[name])


def assert_alike(found, expected):
    for value, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batches", [(SAMPLES,), (3, 4), (1, 1, 5)])
def test_batches_of_a_scanned_model_join_to_the_whole(batches):
    loss, params, batch = stacked_model()
    captured = actigrad.capture(loss, reduce=EVERY)
    parts = [captured(params, jnp.asarray(part)) for part in np.split(np.asarray(batch), np.cumsum(batches)[:-1])]
    whole = actigrad.capture(loss)(params, batch)
    state = reductions.combine(EVERY, [part.gradients["layer"] for part in parts])
    found = reductions.finalize(EVERY, state)
    gradient = np.asarray(whole.gradients["layer"])
    assert gradient.shape == (LAYERS, SAMPLES, 3, WIDTH)
    np.testing.assert_allclose(found["summary"]["max"], gradient.max((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["full"], gradient, rtol=2e-2, atol=1e-6)
    magnitude = np.abs(gradient).max(2)
    np.testing.assert_array_equal(found["extremes"]["sample"], magnitude.argmax(1))
    assert found["bottom"]["sample"].shape == (LAYERS, WIDTH, 20)
    assert (np.sort(found["bottom"]["sample"], -1)[..., -SAMPLES:] == np.arange(SAMPLES)).all()


def test_a_gradient_that_never_comes_is_the_reduction_of_zeros():
    def loss(params, batch):
        actigrad.tap(batch * params, "beside")
        return jnp.mean(batch * params)

    batch = jnp.ones((4, 3))
    frame = actigrad.capture(loss, reduce=EVERY)(jnp.float32(2), batch)
    zeros = every(jnp.zeros((4, 3)), ("sample", "neuron"))
    assert_alike(frame.gradients["beside"], zeros)
    assert_alike(state_of_zeros(EVERY, batch, ("sample", "neuron"), ()), zeros)
    looped = state_of_zeros(EVERY, batch, ("sample", "neuron"), (2, 3))
    assert_alike(looped, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, 3, *leaf.shape)), zeros))


def test_a_branch_that_is_not_taken_leaves_nothing():
    def loss(params, batch):
        x = lax.cond(params > 0, lambda x: actigrad.tap(x * params, "up"), lambda x: actigrad.tap(-x, "down"), batch)
        return jnp.sum(x**2)

    batch = jnp.ones((4, 3))
    frame = actigrad.capture(loss, reduce=EVERY)(jnp.float32(2), batch)
    up, down = (reductions.finalize(EVERY, frame.gradients[name]) for name in ("up", "down"))
    np.testing.assert_allclose(up["summary"]["mean"], 4)
    assert np.isnan(down["summary"]["mean"]).all()
    assert (down["top"]["sample"] == -1).all()
    assert down["histogram"]["counts"].sum() == 0
    joined = reductions.combine(EVERY, [frame.gradients["down"], frame.gradients["up"]])
    np.testing.assert_allclose(reductions.finalize(EVERY, joined)["summary"]["max"], 4)


def test_a_gradient_that_is_only_summarised_takes_no_memory():
    layers, rows, width = 16, 1024, 256
    params = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)
    batch = jax.ShapeDtypeStruct((rows, width), jnp.float32)

    def loss(params, batch):
        return jnp.sum(lax.scan(lambda x, w: (actigrad.tap(jnp.tanh(x @ w), "layer"), None), batch, params)[0])

    def only_gradients(site, quantity):
        return Summary() if quantity == "gradient" else {}

    def stack_then_reduce(params, batch):
        whole = actigrad.capture(
            loss, reduce=lambda site, quantity: None if quantity == "gradient" else {}, inputs=False
        )
        frame = whole(params, batch)
        gradient = frame.gradients["layer"]
        return frame.parameter_gradients, Summary().chunk(gradient, ("layer", "sample", "neuron"))

    def temporary(f):
        return jax.jit(f).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    plain = temporary(jax.value_and_grad(loss))
    inside = temporary(actigrad.capture(loss, reduce=only_gradients, inputs=False))
    stacked = temporary(stack_then_reduce)
    print(f"temporary bytes, of plain value_and_grad: inside {inside / plain:.2f}, stacked {stacked / plain:.2f}")
    all_layers = layers * rows * width * 4
    assert inside <= 1.3 * plain
    assert inside - plain <= 0.3 * all_layers
    assert stacked - plain >= 0.9 * all_layers
