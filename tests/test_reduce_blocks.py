"""Blocks of neurons that are reduced where they are made are the cells of a level that the whole array would get."""

from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name

from actigrad.engine.transform import capture
from actigrad.errors import CaptureError
from actigrad.pictures.cells import read_block, reduce_values
from actigrad.reduce import Blocks

ODD = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 3e38, -3e38], np.float32)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "int8": np.int8}
LAYOUTS = {(): ("sample", "neuron"), (3,): ("sample", "position", "neuron"), (2, 2): ("sample", "y", "x", "neuron")}


@cache
def compiled(size, dims):
    return jax.jit(lambda x: Blocks(size).chunk(x, dims))


def make_values(seed, shape, dtype):
    """Dyadic values with many ties, so that sums are exact in any order, and odd ones strewn in."""
    random = np.random.default_rng(seed)
    values = random.integers(-8, 9, shape).astype(np.float32) / 4
    with np.errstate(all="ignore"):
        if np.issubdtype(dtype, np.integer):
            return values.astype(dtype)
        return np.where(random.random(shape) < 0.2, random.choice(ODD, shape), values).astype(dtype)


def cells_of(x, size):
    """Of (sample, …, neuron): what `pictures` makes of it, (sample, block)."""
    with np.errstate(all="ignore"):
        values = np.asarray(x, np.float32).reshape(len(x), -1, x.shape[-1]).transpose(2, 0, 1)
    ids = [np.arange(n, dtype=np.int32) for n in values.shape[:2]]
    cells = reduce_values(read_block(values), (size, 1), *ids)
    first = size * np.arange(cells.shape[0], dtype=np.int32)[:, None]
    neuron = np.where(cells.row < 0, -1, cells.row - first)
    return {"extreme": cells.extreme.T, "neuron": neuron.T, "mean": cells.mean.T, "nonfinite": cells.nonfinite.T}


def assert_cells(state, expected, *, error=0.0):
    """To the bit; means to an error where sums of doubles depend on their order."""
    for name, values in expected.items():
        found = np.asarray(state[name])
        if name == "extreme":
            there = ~np.isnan(values)
            np.testing.assert_array_equal(there, ~np.isnan(found))
            np.testing.assert_array_equal(found.view(np.int32)[there], values.view(np.int32)[there])
        elif name == "mean" and error:
            np.testing.assert_allclose(found, values, rtol=1e-6, atol=error)
        else:
            np.testing.assert_array_equal(found, values, err_msg=name)


def rounding(x):
    """What a mean may be off by; nothing, where doubles hold the sum of all values exactly."""
    x = np.abs(np.asarray(x, np.float64))
    x = x[np.isfinite(x) & (x > 0)]
    return 1e-14 * x.max(initial=0) + 1e-38 if x.max(initial=1) > 1e9 * x.min(initial=1) else 0.0


@settings(max_examples=30)
@given(
    st.sampled_from(list(DTYPES)), st.sampled_from(list(LAYOUTS)), st.sampled_from(((1, 5), (4, 5), (16, 33))),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_block_is_the_cell_that_the_whole_array_would_get(dtype, between, sizes, seed):
    size, width = sizes
    x = make_values(seed, (4, *between, width), DTYPES[dtype])
    state = jax.device_get(compiled(size, LAYOUTS[between])(jnp.asarray(x)))
    assert_cells(state, cells_of(x, size), error=rounding(x))


def test_batches_are_joined_along_the_samples():
    x = make_values(0, (7, 20), np.float32)
    blocks, chunk = Blocks(8), compiled(8, ("sample", "neuron"))
    parts = [jax.device_get(chunk(jnp.asarray(part))) for part in np.split(x, [3, 4])]
    state = blocks.combine(blocks.combine(parts[0], parts[1]), parts[2])
    whole = blocks.finalize(chunk(jnp.asarray(x)))
    for name, leaf in whole.items():
        np.testing.assert_array_equal(state[name], leaf)


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_iterations_of_a_loop_are_reduced_as_positions_are(loops):
    x = make_values(loops, (loops, 4, 3, 21), np.float32)
    state = Blocks(8).chunk(jnp.asarray(x), ("layer", "sample", "position", "neuron"))
    assert state["extreme"].shape == (loops, 4, 3)
    count = 3 * np.array([8, 8, 5])
    joined = jax.jit(Blocks(8).join)(state, count)
    error = rounding(x) if loops == 1 else 1e-6 * np.abs(x[np.isfinite(x)]).max()
    assert_cells(joined, cells_of(x.transpose(1, 0, 2, 3), 8), error=error)


@pytest.mark.parametrize("loop", [False, True])
def test_gradients_are_reduced_on_the_way_back_in_loops_too(loop):
    def loss(params, batch):
        def body(x, w):
            x = checkpoint_name(jnp.tanh(x @ w), "hidden")
            return x, None

        return jnp.sum((jax.lax.scan(body, batch, params)[0] if loop else body(batch, params[0])[0]) ** 2)

    random = np.random.default_rng(0)
    params, batch = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((3, 12, 12), (5, 12)))
    whole = capture(loss)(params, batch)
    frame = capture(loss, reduce=Blocks(8))(params, batch)
    (site,) = frame.gradients
    for found, full in ((frame.gradients, whole.gradients), (frame.activations, whole.activations)):
        layers = np.asarray(full[site]) if loop else np.asarray(full[site])[None]
        for i, layer in enumerate(layers):
            state = {name: leaf[i] if loop else leaf for name, leaf in found[site].items()}
            assert_cells(state, cells_of(layer, 8), error=1e-7)


def test_values_of_any_size_are_told_apart_by_their_bits():
    x = np.array([[0.0, 1e-45, -1e-45, -0.0], [-0.0, 0.0, 0.0, 0.0]], np.float32)
    state = Blocks(4).chunk(jnp.asarray(x), ("sample", "neuron"))
    assert np.asarray(state["extreme"]).tobytes() == np.array([[1e-45], [-0.0]], np.float32).tobytes()
    assert np.asarray(state["neuron"]).tolist() == [[1], [0]]


def test_blocks_need_samples_and_a_size():
    with pytest.raises(CaptureError, match="Blocks got size=0"):
        Blocks(0)
    with pytest.raises(CaptureError, match="Blocks needs a dim 'sample'"):
        Blocks(4).chunk(jnp.zeros((3, 4)), ("position", "neuron"))
