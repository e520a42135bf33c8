"""One small network, written in every framework: the same sites up to naming, and the same numbers."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name

import actigrad
from observing import X

SHAPES = {"first": (3, 4), "block/up": (4, 6), "block/down": (6, 4), "head": (4, 2)}
random = np.random.default_rng(0)
WEIGHTS = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
BIASES = {name: jnp.asarray(random.normal(size=shape[1]), jnp.float32) for name, shape in SHAPES.items()}
SITES = ["first", "block/up", "block/down", "block", "head"]


def plain():
    def dense(params, name, x):
        return checkpoint_name(x @ params[name]["w"] + params[name]["b"][None], name)

    def block(params, x):
        return checkpoint_name(x + dense(params, "block/down", jnp.tanh(dense(params, "block/up", x))), "block")

    def apply(params, x):
        return dense(params, "head", block(params, jnp.tanh(dense(params, "first", x))))

    return apply, {name: {"w": WEIGHTS[name], "b": BIASES[name]} for name in SHAPES}, ("{}", "w", "b")


def of_nnx():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.up, self.down = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

        def __call__(self, x):
            return x + self.down(jnp.tanh(self.up(x)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.block, self.head = nnx.Linear(3, 4, rngs=rngs), Block(rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.block(jnp.tanh(self.first(x))))

    return *actigrad.observe(Net(nnx.Rngs(0))), ("{}", "kernel", "bias")


def of_linen():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            return x + linen.Dense(4, name="down")(jnp.tanh(linen.Dense(6, name="up")(x)))

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2, name="head")(Block(name="block")(jnp.tanh(linen.Dense(4, name="first")(x))))

    variables = Net().init(jax.random.key(0), X)
    return *actigrad.observe(Net(), variables), ("params/{}", "kernel", "bias")


def of_equinox():
    key = jax.random.key(0)

    class Block(eqx.Module):
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __call__(self, x):
            return x + self.down(jnp.tanh(self.up(x)))

    class Net(eqx.Module):
        first: eqx.nn.Linear
        block: Block
        head: eqx.nn.Linear

        def __call__(self, x):
            return self.head(self.block(jnp.tanh(self.first(x))))

    block = Block(eqx.nn.Linear(4, 6, key=key), eqx.nn.Linear(6, 4, key=key))
    apply, params = actigrad.observe(Net(eqx.nn.Linear(3, 4, key=key), block, eqx.nn.Linear(4, 2, key=key)))
    return jax.vmap(apply, in_axes=(None, 0)), params, ("{}", "weight", "bias")


def of_haiku():
    class Block(hk.Module):
        def __call__(self, x):
            return x + hk.Linear(4, name="down")(jnp.tanh(hk.Linear(6, name="up")(x)))

    def net(x):
        return hk.Linear(2, name="head")(Block(name="block")(jnp.tanh(hk.Linear(4, name="first")(x))))

    transformed = hk.without_apply_rng(hk.transform(net))
    return *actigrad.observe(transformed, transformed.init(jax.random.key(0), X)), ("{}", "w", "b")


def of_keras():
    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.up, self.down = keras.layers.Dense(6, name="up"), keras.layers.Dense(4, name="down")

        def build(self, input_shape):
            self.up.build(input_shape)
            self.down.build((*input_shape[:-1], 6))

        def call(self, x):
            return x + self.down(keras.ops.tanh(self.up(x)))

    x = keras.Input((3,))
    hidden = Block(name="block")(keras.ops.tanh(keras.layers.Dense(4, name="first")(x)))
    model = keras.Model(x, keras.layers.Dense(2, name="head")(hidden))
    return *actigrad.observe(model), ("trainable_variables/{}", "kernel", "bias")


def place(params, names, values):
    """`params` with the given array at each leaf whose path a name tells; others must not exist."""
    pattern, weight, bias = names
    wanted = {f"{pattern.format(name)}/{weight}": values[0][name] for name in SHAPES}
    wanted |= {f"{pattern.format(name)}/{bias}": values[1][name] for name in SHAPES}

    def one(path, leaf):
        array = wanted.pop(jax.tree_util.keystr(path, simple=True, separator="/"))
        return array if array.shape == leaf.shape else array.T  # Equinox keeps (out, in)

    placed = jax.tree_util.tree_map_with_path(one, params)
    assert not wanted
    return placed


def read(tree, names):
    """Weights and biases by name, weights as (in, out)."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    pattern, weight, bias = names
    weights = {name: leaves[f"{pattern.format(name)}/{weight}"] for name in SHAPES}
    return {
        **{f"{name}/w": one if one.shape == SHAPES[name] else one.T for name, one in weights.items()},
        **{f"{name}/b": leaves[f"{pattern.format(name)}/{bias}"] for name in SHAPES},
    }


def frame_of(apply, params, names):
    loss = lambda params, batch: jnp.sum(jnp.sin(apply(params, batch["x"])))
    return actigrad.capture(loss)(place(params, names, (WEIGHTS, BIASES)), {"x": X})


@pytest.mark.parametrize("framework", [of_nnx, of_linen, of_equinox, of_haiku, of_keras])
@jax.numpy_rank_promotion("allow")
def test_the_same_network_has_the_same_sites_and_the_same_numbers(framework):
    reference, frame = frame_of(*plain()), frame_of(*framework())
    assert [site.path for site in frame.sites] == [site.path for site in reference.sites] == SITES
    np.testing.assert_allclose(frame.loss, reference.loss, rtol=1e-6)
    for site, other in zip(frame.sites, reference.sites, strict=True):
        assert (site.shape, site.dims, site.dtype) == (other.shape, other.dims, other.dtype)
        assert site.kind
        for quantity in ("activations", "gradients"):
            ours, its = getattr(frame, quantity)[site.path], getattr(reference, quantity)[site.path]
            np.testing.assert_allclose(ours, its, rtol=1e-5, atol=1e-6)
    ours = read(frame.parameter_gradients, framework()[2])
    its = read(reference.parameter_gradients, plain()[2])
    assert set(ours) == set(its)
    for name, gradient in its.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-5, atol=1e-6)
