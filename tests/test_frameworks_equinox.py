"""observe of an Equinox module."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import actigrad
from actigrad.errors import CaptureError
from observing import X, assert_equal_bits, assert_stacked, listed

KEYS = jax.random.split(jax.random.key(0), 8)


class Block(eqx.Module):
    dense: eqx.nn.Linear
    activation: Callable

    def __init__(self, key):
        self.dense, self.activation = eqx.nn.Linear(3, 3, key=key), jnp.tanh

    def __call__(self, x):
        return x + self.activation(self.dense(x))


class Inherits(Block):
    """Its `__call__` is its parent's."""


class Extends(Block):
    """Its `__call__` calls its parent's."""

    def __call__(self, x):
        return super().__call__(x) * 2


class Net(eqx.Module):
    layers: list[Block]
    heads: dict[str, eqx.nn.Sequential]

    def __init__(self):
        self.layers = [Block(KEYS[0]), Inherits(KEYS[1]), Extends(KEYS[2])]
        self.heads = {"main": eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=KEYS[3]), eqx.nn.Lambda(jax.nn.relu)])}

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.heads["main"](self.layers[0](x))


def batched(apply, **options):
    return lambda params, batch: jnp.sum(jnp.square(jax.vmap(apply, in_axes=(None, 0), **options)(params, batch["x"])))


def captured(model, x=X):
    apply, params = actigrad.observe(model)
    return actigrad.capture(batched(apply))(params, {"x": x})


def test_every_module_is_a_site_under_its_own_path_inherited_and_repeated_ones_too():
    frame = captured(Net())
    assert listed(frame) == [
        ("layers/0/dense", "Linear"),
        ("layers/0", "Block"),
        ("layers/1/dense", "Linear"),
        ("layers/1", "Inherits"),
        ("layers/2/dense", "Linear"),
        ("layers/2", "Extends"),
        ("layers/0/dense#1", "Linear"),
        ("layers/0#1", "Block"),
        ("heads/main/layers/0", "Linear"),
        ("heads/main/layers/1", "Lambda"),
        ("heads/main", "Sequential"),
    ]
    assert not frame.missing
    assert {site.dims for site in frame.sites} == {("sample", "neuron")}


def test_the_path_of_a_site_is_that_of_its_parameters():
    frame = captured(Net())
    leaves = jax.tree_util.tree_leaves_with_path(frame.parameter_gradients)
    parameters = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    assert len(parameters) == 8
    linear = {path.split("#")[0] for path, kind in listed(frame) if kind == "Linear"}
    assert {f"{path}/{name}" for path in linear for name in ("weight", "bias")} == parameters


def test_outputs_and_gradients_are_bit_equal_to_those_of_the_plain_model():
    model = Net()
    plain = lambda model: jnp.sum(jnp.square(jax.vmap(model)(X)))
    value, gradients = eqx.filter_jit(eqx.filter_value_and_grad(plain))(model)
    frame = captured(model)
    assert_equal_bits((frame.loss, frame.parameter_gradients), (value, gradients))
    assert jax.tree.structure(frame.parameter_gradients) == jax.tree.structure(gradients)


def test_what_is_captured_is_true_of_the_model():
    apply, params = actigrad.observe(Net())
    report = actigrad.check(batched(apply), params, {"x": X})
    assert report.ok
    assert {verdict.question for verdict in report.verdicts if verdict.ok} == {"outputs", "forward", "nudge", "cut"}


def test_the_model_itself_is_left_as_it_was():
    model = Net()
    captured(model)
    assert type(model.layers[0]) is Block
    assert type(model.heads["main"].layers[0]) is eqx.nn.Linear
    assert "tap" not in str(jax.make_jaxpr(model)(X[0]))


def test_the_params_can_be_trained_as_equinox_models_are():
    model = Net()
    apply, params = actigrad.observe(model)
    loss, optimizer = batched(apply), optax.sgd(1e-3)
    updates, _ = optimizer.update(jax.grad(loss)(params, {"x": X}), optimizer.init(params))
    after = eqx.apply_updates(params, updates)
    assert loss(after, {"x": X}) < loss(params, {"x": X})
    trained = eqx.combine(after, eqx.filter(model, eqx.is_inexact_array, inverse=True))
    np.testing.assert_allclose(jax.vmap(trained)(X), jax.vmap(apply, in_axes=(None, 0))(after, X), rtol=1e-6)


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_stack_equals_its_unrolled_twin(remat):
    class Scanned(eqx.Module):
        blocks: Block

        def __call__(self, x):
            arrays, static = eqx.partition(self.blocks, eqx.is_array)
            step = lambda x, one: (eqx.combine(one, static)(x), None)
            return jax.lax.scan(eqx.filter_checkpoint(step) if remat else step, x, arrays)[0]

    stack = eqx.filter_vmap(Block)(KEYS[:4])
    pick = lambda i: jax.tree.map(lambda w: w[i] if eqx.is_array(w) else w, stack)
    a, b = captured(Scanned(stack)), captured(eqx.nn.Sequential([eqx.nn.Lambda(pick(i)) for i in range(4)]))
    assert listed(a) == [("blocks/dense", "Linear"), ("blocks", "Block")]
    assert a.sites[0].dims == ("layer", "sample", "neuron")
    assert_stacked(a, b, [("blocks", "layers/{}/fn"), ("blocks/dense", "layers/{}/fn/dense")])


def test_an_inner_vmap_is_an_axis_of_positions_and_an_ensemble_has_its_members_there():
    class Many(eqx.Module):
        dense: eqx.nn.Linear
        ensemble: Block

        def __call__(self, x):
            x = jax.vmap(self.dense)(x)
            return eqx.filter_vmap(lambda block, x: block(x[0]), in_axes=(eqx.if_array(0), None))(self.ensemble, x)

    model = Many(eqx.nn.Linear(3, 3, key=KEYS[0]), eqx.filter_vmap(Block)(KEYS[:4]))
    frame = captured(model, jnp.stack([X, X + 1]))
    assert {site.path: (site.shape, site.dims) for site in frame.sites} == {
        "dense": ((2, 5, 3), ("sample", "position", "neuron")),
        "ensemble/dense": ((2, 4, 3), ("sample", "position", "neuron")),
        "ensemble": ((2, 4, 3), ("sample", "position", "neuron")),
    }
    np.testing.assert_allclose(frame.activations["dense"][0], jax.vmap(model.dense)(X), rtol=1e-6)


def test_what_is_jitted_or_wrapped_within_is_seen():
    class Wrapped(eqx.Module):
        saved: Callable
        block: Block

        @eqx.filter_jit
        def __call__(self, x):
            return eqx.filter_jit(self.block)(self.saved(x))

    model = Wrapped(eqx.filter_checkpoint(Block(KEYS[1])), Block(KEYS[2]))
    for _ in range(2):
        jax.vmap(model)(X)
        assert listed(captured(model)) == [
            ("saved/_fun/dense", "Linear"),
            ("saved/_fun", "Block"),
            ("saved", "_CheckpointWrapper"),
            ("block/dense", "Linear"),
            ("block", "Block"),
        ]
        assert "tap" not in str(jax.make_jaxpr(model)(X[0]))


def test_a_layer_that_is_kept_jitted_is_one_site_and_a_model_that_is_cannot_be_observed():
    jitted = eqx.filter_jit(Block(KEYS[0]))
    assert [path for path, _ in listed(captured(eqx.nn.Sequential([eqx.nn.Lambda(jitted)])))] == [
        "layers/0/fn", "layers/0",
    ]  # fmt: skip
    with pytest.raises(CaptureError, match=r"got what equinox\.filter_jit returned.* expected the equinox\.Module"):
        actigrad.observe(jitted)


def test_a_shared_layer_keeps_the_path_of_its_owner():
    class Tied(eqx.Module):
        shared: eqx.nn.Shared

        def __call__(self, x):
            first, second = self.shared()
            return second(jnp.tanh(first(x)))

    pair = eqx.nn.Linear(3, 3, key=KEYS[0]), eqx.nn.Linear(3, 3, key=KEYS[1])
    frame = captured(Tied(eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)))
    assert [path for path, _ in listed(frame)] == ["shared/pytree/0", "shared/pytree/1"]
    whole = captured(Tied(eqx.nn.Shared(pair, lambda pair: pair[1], lambda pair: pair[0])))
    assert [path for path, _ in listed(whole)] == ["shared/pytree/0", "shared/pytree/0#1"]


class Noisy(eqx.Module):
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout

    def __init__(self):
        self.norm, self.drop = eqx.nn.BatchNorm(3, "batch", mode="batch"), eqx.nn.Dropout(0.5)

    def __call__(self, x, state, key):
        x, state = self.norm(x, state)
        return self.drop(x, key=key), state


def test_state_and_random_keys_pass_through_and_the_state_is_no_site():
    model, state = eqx.nn.make_with_state(Noisy)()
    apply, params = actigrad.observe(model)
    axes = {"in_axes": (0, None, 0), "out_axes": (0, None), "axis_name": "batch"}
    keys = jax.random.split(KEYS[0], 5)

    def loss(params, batch, state, keys):
        output, after = jax.vmap(lambda *inputs: apply(params, *inputs), **axes)(batch["x"], state, keys)
        return jnp.sum(output), (output, after)

    frame = actigrad.capture(loss)(params, {"x": X}, state, keys)
    assert listed(frame) == [("norm", "BatchNorm"), ("drop", "Dropout")]
    assert (frame.gradients["norm"] == 0).any()
    expected = jax.vmap(model, **axes)(X, state, keys)
    for one, other in zip(jax.tree.leaves(frame.aux), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_an_output_that_is_a_pytree_is_a_site_a_leaf_and_what_is_no_array_passes():
    class Two(eqx.Module):
        def __call__(self, x):
            return {"a": x * 2, "b": (x * 3, "text", None)}

    class Outer(eqx.Module):
        two: Two

        def __call__(self, x):
            out = self.two(x)
            assert out["b"][1:] == ("text", None)
            return out["a"] + out["b"][0]

    assert [path for path, _ in listed(captured(Outer(Two())))] == ["two.a", "two.b.0"]


def test_another_method_can_be_called():
    class Coder(eqx.Module):
        dense: eqx.nn.Linear

        def encode(self, x):
            return self.dense(x)

    model = Coder(eqx.nn.Linear(3, 2, key=KEYS[0]))
    apply, params = actigrad.observe(model)
    np.testing.assert_array_equal(apply(params, X[0], method="encode"), model.encode(X[0]))


def test_modules_without_a_call_and_integers_are_left_alone():
    class Table(eqx.Module):
        rows: jax.Array

    class Looks(eqx.Module):
        table: Table
        dense: eqx.nn.Linear

        def __call__(self, x):
            return self.dense(x)[self.table.rows]

    model = Looks(Table(jnp.arange(2)), eqx.nn.Linear(3, 3, key=KEYS[0]))
    assert [path for path, _ in listed(captured(model))] == ["dense"]
    assert actigrad.observe(model)[1].table.rows is None


def test_what_is_jitted_within_is_traced_once():
    traced = []

    class Counts(eqx.Module):
        dense: eqx.nn.Linear

        @eqx.filter_jit
        def __call__(self, x):
            traced.append(x)
            return self.dense(x)

    apply, params = actigrad.observe(Counts(eqx.nn.Linear(3, 3, key=KEYS[0])))
    for x in X:
        apply(params, x)
    assert len(traced) == 1


def test_params_that_do_not_fit_are_told_by_name():
    apply, params = actigrad.observe(Block(KEYS[0]))
    with pytest.raises(CaptureError, match=r"missing \['dense/bias'\], unexpected \[\] \(1 arrays, expected 2\)"):
        apply(eqx.tree_at(lambda block: block.dense.bias, params, None), X[0])
    with pytest.raises(CaptureError, match=r"Inherits.*expected.*Block"):
        apply(actigrad.observe(Inherits(KEYS[0]))[1], X[0])
