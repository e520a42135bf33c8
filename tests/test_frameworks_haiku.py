"""observe of what Haiku transformed, with its parameters and its state."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.errors import CaptureError
from observing import X, assert_bit_equal_to_plain, assert_equal_bits, assert_stacked, assert_true, captured, listed

KEY = jax.random.key(0)


class Block(hk.Module):
    def __call__(self, x):
        return x + jnp.tanh(hk.Linear(3)(x))


class Inherits(Block):
    """Its `__call__` is its parent's."""


class Extends(Block):
    """Its `__call__` calls its parent's."""

    def __call__(self, x):
        return super().__call__(x) * 2


class Net(hk.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Block(), Inherits(), Extends()]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return hk.Sequential([hk.Linear(4), jax.nn.relu])(self.layers[0](x))


def made(function, x=X):
    """The pair that observe takes."""
    transformed = hk.transform(function)
    return transformed, transformed.init(KEY, x)


def test_every_module_is_a_site_under_haikus_name_inherited_and_repeated_ones_too():
    frame = captured(made(lambda x: Net()(x)))
    assert listed(frame) == [
        ("net/~/block/linear", "Linear"),
        ("net/~/block", "Block"),
        ("net/~/inherits/linear", "Linear"),
        ("net/~/inherits", "Inherits"),
        ("net/~/extends/linear", "Linear"),
        ("net/~/extends", "Extends"),
        ("net/~/block/linear#1", "Linear"),
        ("net/~/block#1", "Block"),
        ("net/linear", "Linear"),
        ("net/sequential", "Sequential"),
        ("net", "Net"),
    ]
    assert not frame.missing


def test_the_path_of_a_site_is_the_key_of_its_parameters():
    transformed, params = made(lambda x: Net()(x))
    linear = {site.path.split("#")[0] for site in captured((transformed, params)).sites if site.kind == "Linear"}
    assert linear == set(params)


def test_outputs_and_gradients_are_bit_equal_to_those_of_the_plain_function():
    transformed, params = made(lambda x: Net()(x))
    plain = lambda params, x: transformed.apply(params, None, x)
    assert_bit_equal_to_plain((transformed, params), plain, params)
    apply, same = actigrad.observe(transformed, params)
    assert same is params
    np.testing.assert_array_equal(apply(params, X), plain(params, X))


def test_what_is_captured_is_true_of_the_model():
    assert_true(made(lambda x: Net()(x)))


def test_the_function_itself_is_left_as_it_was():
    transformed, params = made(lambda x: Net()(x))
    captured((transformed, params))
    assert "tap" not in str(jax.make_jaxpr(transformed.apply)(params, None, X))


def test_activations_are_those_that_haiku_itself_tells():
    def network(x):
        x = hk.nets.MLP([8, 3])(hk.LayerNorm(-1, True, True)(x))
        return hk.MultiHeadAttention(2, 2, w_init=hk.initializers.VarianceScaling())(x[None], x[None], x[None])[0]

    transformed, params = made(network)
    own = {}

    def note(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            own[context.module.module_name] = output
        return output

    with hk.intercept_methods(note):
        transformed.apply(params, None, X)
    frame = captured((transformed, params))
    assert set(frame.activations) == set(own)
    assert len(own) == 9
    for path, output in own.items():
        np.testing.assert_allclose(frame.activations[path], output, rtol=1e-5, atol=1e-6)


def unrolled(x):
    for i in range(4):
        x = Block(name=f"block_{i}")(x)
    return x


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_layer_stack_equals_its_unrolled_twin(remat, transparent):
    class Map:
        def stacked_to_flat(self, name, index):
            return name.replace("block", f"block_{index}")

        def flat_to_stacked(self, name):
            part, index = name.split("/")[0].split("_")
            return name.replace(f"block_{index}", part), int(index)

    options = {"transparent": True, "transparency_map": Map()} if transparent else {}

    def stacked(x):
        step = lambda x: (hk.remat(Block(name="block")) if remat else Block(name="block"))(x)
        return hk.layer_stack(4, **options)(step)(x)

    transformed, params = made(stacked)
    prefix = "" if transparent else "__layer_stack_no_per_layer/"
    if transparent:
        each = params
    else:
        weights = params[f"{prefix}block/linear"]
        each = {f"block_{i}/linear": jax.tree.map(lambda w, i=i: w[i], weights) for i in range(4)}
    a, b = captured((transformed, params)), captured((hk.transform(unrolled), each))
    assert listed(a) == [(f"{prefix}block/linear", "Linear"), (f"{prefix}block", "Block")]
    assert a.sites[0].dims == ("layer", "sample", "neuron")
    assert_stacked(a, b, [(f"{prefix}block", "block_{}"), (f"{prefix}block/linear", "block_{}/linear")])


def test_stacks_within_stacks_and_beside_each_other_have_the_paths_of_their_parameters():
    def network(x):
        inner = lambda x: Block()(x)
        outer = lambda x: Block()(hk.layer_stack(2, name="inner")(inner)(x))
        x = Block()(hk.layer_stack(3, name="first")(outer)(Block()(x)))
        return Block()(hk.layer_stack(3, name="second")(inner)(x))

    transformed, params = made(network)
    frame = captured((transformed, params))
    assert {site.path for site in frame.sites if site.kind == "Linear"} == set(params)
    assert len(params) == 6
    assert frame.activations["first/inner/block"].shape == (3, 2, 5, 3)
    assert_true((transformed, params))


def test_a_lifted_ensemble_is_seen_though_it_was_jitted_and_called_before():
    member = hk.transform(lambda x: Block()(x))
    run = jax.jit(lambda params, x: jax.vmap(lambda params: member.apply(params, None, x))(params))

    def network(x):
        keys = hk.next_rng_keys(4) if hk.running_init() else jnp.zeros(4, jnp.uint32)
        params = hk.lift(lambda keys, x: jax.vmap(lambda key: member.init(key, x))(keys), name="members")(keys, x)
        return run(params, x)

    transformed, params = made(network)
    for _ in range(2):
        transformed.apply(params, None, X)
        assert listed(captured((transformed, params))) == [
            ("members/block/linear", "Linear"),
            ("members/block", "Block"),
        ]
        assert "tap" not in str(jax.make_jaxpr(transformed.apply)(params, None, X))


def test_scan_and_vmap_are_seen_from_within():
    def network(x):
        block = Block()
        x = hk.scan(lambda x, _: (block(x), None), x, None, length=2)[0]
        return hk.vmap(hk.Linear(2), split_rng=False)(x)

    frame = captured(made(network))
    assert [(site.path, site.shape) for site in frame.sites] == [
        ("block/linear", (2, 5, 3)), ("block", (2, 5, 3)), ("linear", (5, 2)),
    ]  # fmt: skip


def noisy(x):
    x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
    return hk.to_module(lambda x: hk.dropout(hk.next_rng_key(), 0.5, x))("drop")(x)


@jax.numpy_dtype_promotion("standard")  # Haiku's dropout multiplies a bool by a float
def test_state_and_random_keys_pass_through():
    transformed = hk.transform_with_state(noisy)
    params, state = transformed.init(KEY, X)
    apply, held = actigrad.observe(transformed, params, state)
    assert held == {"params": params, "state": state}
    output, after = apply.with_state(held, X, rng=KEY)  # pyright: ignore[reportFunctionMemberAccess]
    expected = transformed.apply(params, state, KEY, X)
    assert_equal_bits((output, after["state"]), expected)
    np.testing.assert_array_equal(apply(held, X, rng=KEY), output)
    frame = captured((transformed, params, state), rng=KEY)
    assert {"batch_norm", "drop"} < set(frame.activations)
    assert (frame.gradients["batch_norm"] == 0).any()
    assert set(frame.parameter_gradients) == {"params", "state"}


@pytest.mark.parametrize("rng", [None, KEY])
def test_a_function_that_takes_no_key_gets_none(rng):
    network = lambda rng, x: hk.Linear(2)(x) * rng
    transformed = hk.transform(network)
    params = transformed.init(KEY, 2.0, X)
    expected = transformed.apply(params, None, 2.0, X)
    for one in (transformed, hk.without_apply_rng(transformed)):
        apply, params = actigrad.observe(one, params)
        np.testing.assert_array_equal(apply(params, 2.0, X, rng=rng), expected)
    apply, held = actigrad.observe(hk.without_apply_rng(hk.transform_with_state(network)), params, {})
    np.testing.assert_array_equal(apply(held, 2.0, X, rng=rng), expected)


def test_modules_are_sites_where_they_are_called_and_not_where_another_method_is():
    def network(x):
        class Coder(hk.Module):
            def encode(self, x):
                return hk.Linear(2)(x)

        return Coder().encode(x)

    assert listed(captured(made(network))) == [("coder/~encode/linear", "Linear")]


def test_params_that_do_not_fit_are_told_by_name():
    apply, params = actigrad.observe(made(lambda x: Block()(x)))
    with pytest.raises(CaptureError, match=r"missing \['block/linear/b', 'block/linear/w'\], unexpected \['linear/b'"):
        apply({"linear": params["block/linear"]}, X)


def test_what_lacks_its_parameters_or_its_state_is_told_what_is_expected():
    transformed = hk.transform_with_state(noisy)
    with pytest.raises(CaptureError, match=r"got a haiku\S*\.TransformedWithState; .*WithState, params, state\)"):
        actigrad.observe(transformed)
    with pytest.raises(CaptureError, match=r"got a tuple of haiku\S*\.TransformedWithState, builtins\.dict; expected"):
        actigrad.observe(transformed, {})
