"""observe of a Flax Linen module with its variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import actigrad
from actigrad.errors import CaptureError
from observing import X, assert_bit_equal_to_plain, assert_stacked, assert_true, captured, listed


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jnp.tanh(nn.Dense(3)(x))


class Inherits(Block):
    """Its `__call__` is its parent's."""


class Extends(Block):
    """Its `__call__` calls its parent's."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(x) * 2


class Net(nn.Module):
    def setup(self):
        self.layers = [Block(), Inherits(), Extends()]
        self.head = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.layers[0](x))


def made(module, x=X, **options):
    """The pair that observe takes."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return module, module.init(rngs, x, **options)


def test_every_module_is_a_site_under_its_own_path_inherited_and_repeated_ones_too():
    frame = captured(made(Net()))
    assert listed(frame) == [
        ("layers_0/Dense_0", "Dense"),
        ("layers_0", "Block"),
        ("layers_1/Dense_0", "Dense"),
        ("layers_1", "Inherits"),
        ("layers_2/Dense_0", "Dense"),
        ("layers_2", "Extends"),
        ("layers_0/Dense_0#1", "Dense"),
        ("layers_0#1", "Block"),
        ("head/layers_0", "Dense"),
        ("head/layers_2", "Dense"),
        ("head", "Sequential"),
    ]
    assert not frame.missing


def test_the_path_of_a_site_is_that_of_its_parameters():
    module, variables = made(Net())
    for path in captured((module, variables)).activations:
        node = variables["params"]
        for part in path.split("#")[0].split("/"):
            node = node[part]


def test_outputs_and_gradients_are_bit_equal_to_those_of_the_plain_module():
    module, variables = made(Net())
    assert_bit_equal_to_plain((module, variables), module.apply, variables)
    apply, params = actigrad.observe(module, variables)
    assert params is variables
    np.testing.assert_array_equal(apply(params, X), module.apply(variables, X))


def test_what_is_captured_is_true_of_the_model():
    assert_true(made(Net()))


def test_the_module_itself_is_left_as_it_was():
    module, variables = made(Net())
    captured((module, variables))
    assert "tap" not in str(jax.make_jaxpr(module.apply)(variables, X))


def test_activations_are_those_that_linen_itself_captures():
    class Many(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Sequential([nn.Dense(8), nn.gelu, nn.LayerNorm()])(x)
            x = nn.MultiHeadDotProductAttention(2)(x[None])[0]
            return nn.RNN(nn.GRUCell(4))(nn.Conv(4, (3,))(x[None]))[0]

    module, variables = made(Many())
    _, beside = module.apply(variables, X, capture_intermediates=True, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(beside["intermediates"])
    own = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
    frame = captured((module, variables))
    compared = [path for path in frame.activations if f"{path}/__call__/0" in own]
    assert len(compared) == 10
    assert set(frame.activations) - set(compared) == {path for path in frame.activations if "GRUCell_0" in path}
    for path in compared:
        np.testing.assert_allclose(frame.activations[path], own[f"{path}/__call__/0"], rtol=1e-5, atol=1e-6)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Block(name="block")(x), None


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_stack_equals_its_unrolled_twin(remat):
    step = nn.remat(Step, prevent_cse=False) if remat else Step
    scan = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            return scan(name="steps")(x, None)[0]

    class Unrolled(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(4):
                x = Block(name=f"block_{i}")(x)
            return x

    module, variables = made(Scanned())
    each = {f"block_{i}": jax.tree.map(lambda w, i=i: w[i], variables["params"]["steps"]["block"]) for i in range(4)}
    a, b = captured((module, variables)), captured((Unrolled(), {"params": each}))
    assert a.sites[0].dims == ("layer", "sample", "neuron")
    assert_stacked(
        a, b, [("steps/block", "block_{}"), ("steps/block/Dense_0", "block_{}/Dense_0"), ("steps", "block_{}")]
    )
    assert_true((module, variables))


def test_a_scanned_or_rematerialised_method_or_function_is_seen_from_within():
    class Lifted(nn.Module):
        def setup(self):
            self.dense, self.block = nn.Dense(3), Block()

        @nn.remat
        def within(self, x):
            return self.dense(x)

        def __call__(self, x):
            body = lambda self, x: (self.block(self.within(x)), None)
            return nn.scan(body, variable_broadcast="params", split_rngs={"params": False}, length=2)(self, x)[0]

    frame = captured(made(Lifted()))
    assert [(site.path, site.shape) for site in frame.sites] == [
        ("dense", (2, 5, 3)), ("block/Dense_0", (2, 5, 3)), ("block", (2, 5, 3)),
    ]  # fmt: skip


def test_an_ensemble_under_vmap_is_one_site_with_its_members_in_front():
    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            many = nn.vmap(Block, in_axes=None, out_axes=1, variable_axes={"params": 0}, split_rngs={"params": True},
                           axis_size=4)  # fmt: skip
            return many(name="members")(x).sum(axis=1)

    module, variables = made(Ensemble())
    frame = captured((module, variables))
    assert frame.activations["members"].shape == (4, 5, 3)
    for i in range(4):
        member = jax.tree.map(lambda w, i=i: w[i], variables["params"]["members"])
        np.testing.assert_allclose(frame.activations["members"][i], Block().apply({"params": member}, X), rtol=1e-6)


def test_a_module_under_jit_has_taps_here_and_none_outside_whoever_traced_first():
    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(JITTED(name="block")(x))

    module, variables = made(Jitted())
    for _ in range(2):
        module.apply(variables, X)
        assert listed(captured((module, variables))) == [
            ("block/Dense_0", "Dense"), ("block", "Block"), ("Dense_0", "Dense"),
        ]  # fmt: skip
        assert "tap" not in str(jax.make_jaxpr(module.apply)(variables, X))


JITTED = nn.jit(Block)


def test_a_child_that_shares_the_scope_of_its_parent_shares_its_path():
    class Adapted(nn.Module):
        def setup(self):
            self.child = nn.Dense(3)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            return self.child(x) * self.param("scale", nn.initializers.ones, ())

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted(name="adapted")(x)

    assert listed(captured(made(Outer()))) == [("adapted", "Dense"), ("adapted#1", "Adapted")]
    assert listed(captured(made(Adapted(name="root")))) == [("child", "Dense")]


def test_collections_and_random_keys_pass_through():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = nn.BatchNorm(use_running_average=not train)(x)
            return nn.Dropout(0.5, deterministic=not train)(x)

    module, variables = made(Noisy())
    apply, params = actigrad.observe(module, variables)
    options = {"rngs": {"dropout": jax.random.key(2)}, "mutable": ["batch_stats"]}
    output, changed = apply(params, X, **options)
    plain, expected = module.apply(variables, X, **options)
    np.testing.assert_array_equal(output, plain)
    jax.tree.map(np.testing.assert_array_equal, changed, expected)
    assert (apply({**params, **changed}, X, train=False) != apply(params, X, train=False)).any()

    frame = actigrad.capture(lambda params, x: apply(params, x, **options)[0].sum())(params, X)
    assert listed(frame) == [("BatchNorm_0", "BatchNorm"), ("Dropout_0", "Dropout")]
    assert (frame.gradients["BatchNorm_0"] == 0).any()
    assert set(frame.parameter_gradients) == {"params", "batch_stats"}


def test_another_method_can_be_called_and_modules_are_sites_where_they_are_called():
    class Coder(nn.Module):
        def setup(self):
            self.dense, self.tokens = nn.Dense(2), nn.Embed(3, 2)

        def encode(self, x):
            return self.tokens.attend(self.dense(x))

        def __call__(self, x):
            return self.encode(x)

    assert listed(captured(made(Coder()), method="encode")) == [("dense", "Dense")]


def test_variables_that_do_not_fit_are_told_by_name():
    apply, params = actigrad.observe(made(Block()))
    with pytest.raises(CaptureError, match=r"missing \['params/Dense_0/bias', .* unexpected \['Dense_0/bias'"):
        apply(params["params"], X)


def test_a_module_without_variables_is_told_what_is_expected():
    with pytest.raises(
        CaptureError, match=r"got a \S*test_frameworks_linen\.Block; .* pair \(flax\.linen\.Module, var"
    ):
        actigrad.observe(Block())
    with pytest.raises(CaptureError, match=r"a tuple of \S*test_frameworks_linen\.Block, builtins\.int; expected"):
        actigrad.observe(Block(), 3)
