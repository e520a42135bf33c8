"""observe: a model becomes a pure function with a tap on every module's output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import actigrad
from actigrad.errors import CaptureError

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))


class Inherits(Block):
    """Its `__call__` is its parent's."""


class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([Block(rngs=rngs), Inherits(rngs=rngs)])
        self.shared = self.layers[0]
        self.head = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 2, rngs=rngs))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.shared(x))


def captured(model, x=X, **options):
    apply, params = actigrad.observe(model)
    return actigrad.capture(lambda params, batch: jnp.sum(jnp.square(apply(params, batch["x"]))), **options)(
        params, {"x": x}
    )


def test_every_module_is_a_site_under_its_own_path_shared_and_repeated_ones_too():
    frame = captured(Net(rngs=nnx.Rngs(0)))
    assert [(site.path, site.kind) for site in frame.sites] == [
        ("layers/0/dense", "Linear"),
        ("layers/0", "Block"),
        ("layers/1/dense", "Linear"),
        ("layers/1", "Inherits"),
        ("layers/0/dense#1", "Linear"),
        ("layers/0#1", "Block"),
        ("head/layers/0", "Linear"),
        ("head/layers/2", "Linear"),
        ("head", "Sequential"),
    ]
    assert not frame.missing


def test_the_path_of_a_site_is_that_of_its_parameters():
    _, params = actigrad.observe(Net(rngs=nnx.Rngs(0)))
    for site in captured(Net(rngs=nnx.Rngs(0))).sites:
        node = params
        for part in site.path.split("#")[0].split("/"):
            node = node[int(part) if part.isdigit() else part]


def test_outputs_and_gradients_are_bit_equal_to_those_of_the_plain_model():
    model = Net(rngs=nnx.Rngs(0))
    apply, params = actigrad.observe(model)
    graph, state = nnx.split(model)
    plain = jax.jit(jax.value_and_grad(lambda state: jnp.sum(jnp.square(nnx.merge(graph, state)(X)))))(state)
    frame = captured(model)
    assert frame.loss.tobytes() == plain[0].tobytes()
    for a, b in zip(jax.tree.leaves(frame.parameter_gradients), jax.tree.leaves(plain[1]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_array_equal(apply(params, X), model(X))


def test_the_model_itself_is_left_as_it_was():
    model = Net(rngs=nnx.Rngs(0))
    captured(model)
    assert type(model.layers[0]) is Block
    assert "tap" not in str(jax.make_jaxpr(model)(X))


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_stack_equals_its_unrolled_twin(remat):
    stack = nnx.split_rngs(splits=4)(nnx.vmap(lambda rngs: Block(rngs=rngs), in_axes=(0,), out_axes=0))(nnx.Rngs(0))

    class Scanned(nnx.Module):
        def __init__(self):
            self.blocks = stack

        def __call__(self, x):
            step = lambda x, block: block(x)
            step = nnx.remat(step) if remat else step
            return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)

    class Unrolled(nnx.Module):
        def __init__(self):
            graph, state = nnx.split(stack)
            self.blocks = nnx.List([nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(4)])

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    a, b = captured(Scanned()), captured(Unrolled())
    assert a.sites[0].dims == ("layer", "sample", "neuron")
    for name in ("", "/dense"):
        for quantity in ("activations", "gradients"):
            stacked = np.stack([getattr(b, quantity)[f"blocks/{i}{name}"] for i in range(4)])
            np.testing.assert_allclose(getattr(a, quantity)[f"blocks{name}"], stacked, rtol=1e-5, atol=1e-6)


def test_dropout_and_batch_norm_start_from_params_each_time_and_their_new_state_can_be_had():
    class Noisy(nnx.Module):
        def __init__(self, *, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.norm(x))

    apply, params = actigrad.observe(Noisy(rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(apply(params, X), apply(params, X))
    _, after = apply.with_state(params, X)  # pyright: ignore[reportFunctionMemberAccess]
    assert (after["norm"]["mean"] != params["norm"]["mean"]).any()
    assert (apply(after, X) != apply(params, X)).any()
    frame = captured(Noisy(rngs=nnx.Rngs(0)))
    assert [site.path for site in frame.sites] == ["norm", "drop"]
    assert (frame.gradients["norm"] == 0).any()


def test_an_output_that_is_a_pytree_is_a_site_a_leaf():
    class Two(nnx.Module):
        def __call__(self, x):
            return {"a": x * 2, "b": (x * 3, x * 4)}

    class Outer(nnx.Module):
        def __init__(self):
            self.two = Two()

        def __call__(self, x):
            out = self.two(x)
            return out["a"] + out["b"][1]

    frame = captured(Outer())
    assert list(frame.activations) == ["two.a", "two.b.0", "two.b.1"]
    assert frame.unreached == ("two.b.0",)


def test_another_method_can_be_called():
    class Coder(nnx.Module):
        def __init__(self, *, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def encode(self, x):
            return self.dense(x)

    model = Coder(rngs=nnx.Rngs(0))
    apply, params = actigrad.observe(model)
    np.testing.assert_array_equal(apply(params, X, method="encode"), model.encode(X))


def test_params_that_do_not_fit_are_told_by_name():
    apply, params = actigrad.observe(Block(rngs=nnx.Rngs(0)))
    wrong = {"dense": {"kernel": params["dense"]["kernel"], "bais": params["dense"]["bias"]}}
    with pytest.raises(CaptureError, match=r"missing \['dense/bias'\], unexpected \['dense/bais'\]"):
        apply(wrong, X)


def test_what_no_adapter_knows_is_told_with_the_way_out():
    with pytest.raises(CaptureError, match=r"builtins\.int.*actigrad\.tap"):
        actigrad.observe(3)


def test_a_third_party_joins_by_entry_point(monkeypatch):
    class Entry:
        def load(self):
            return lambda model: (lambda params, x: x * params["k"], {"k": model["k"]}) if "k" in model else None

    monkeypatch.setattr(
        "actigrad.frameworks.entry_points", lambda group: [Entry()] if group == "actigrad.frameworks" else []
    )
    apply, params = actigrad.observe({"k": 2.0})
    assert apply(params, 3.0) == 6.0
