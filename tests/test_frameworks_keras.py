"""observe of a Keras model on its JAX backend."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import actigrad
from actigrad.errors import CaptureError
from observing import X, assert_bit_equal_to_plain, assert_equal_bits, assert_true, captured, listed

# Keras' own layers add a (3,) to a (5, 3), and multiply what has different dtypes.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def standard_promotion():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@keras.saving.register_keras_serializable()
class Block(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.parts = {"dense": [keras.layers.Dense(3, name="dense")]}
        self.drop = keras.layers.Dropout(0.5, name="drop", seed=1)

    def build(self, input_shape):
        self.parts["dense"][0].build(input_shape)

    def call(self, x, training=False):
        return x + self.drop(keras.ops.tanh(self.parts["dense"][0](x)), training=training)


class Inherits(Block):
    """Its `call` is its parent's."""


class Extends(Block):
    """Its `call` calls its parent's."""

    def call(self, x, training=False):
        return super().call(x, training) * 2


class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [Block(name="a"), Inherits(name="b"), Extends(name="c")]
        self.head = keras.layers.Dense(4, activation="relu", name="head")

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.blocks[0](x, training=training))


def made(model=None, x=X):
    keras.utils.set_random_seed(0)
    model = Net(name="net") if model is None else model
    model(x)
    return model


def functional():
    """Two nested models, one layer twice, layers without variables, an operation that is no layer."""
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    parts = [keras.layers.Dense(3, name="dense"), keras.layers.BatchNormalization(name="norm")]
    y = keras.Sequential([*parts, keras.layers.Dropout(0.5, name="drop", seed=2)], name="block")(x)
    shared = keras.layers.Dense(3, name="shared")
    y = keras.layers.ReLU(name="relu")(shared(shared(y)) + x)
    return keras.Model(x, keras.layers.Dense(2, name="head")(y))


def plain_of(model, **options):
    state = [variable.value for variable in model.non_trainable_variables]
    paths = [variable.path.split("/") for variable in model.trainable_variables]

    def plain(params, x):
        values = []
        for path in paths:
            node = params["trainable_variables"]
            for part in path:
                node = node[part]
            values.append(node)
        return model.stateless_call(values, state, x, **options)[0]

    return plain


def test_every_layer_is_a_site_under_its_own_path_inherited_and_repeated_ones_too():
    assert listed(captured(made())) == [
        ("net/a/dense", "Dense"),
        ("net/a/drop", "Dropout"),
        ("net/a", "Block"),
        ("net/b/dense", "Dense"),
        ("net/b/drop", "Dropout"),
        ("net/b", "Inherits"),
        ("net/c/dense", "Dense"),
        ("net/c/drop", "Dropout"),
        ("net/c", "Extends"),
        ("net/a/dense#1", "Dense"),
        ("net/a/drop#1", "Dropout"),
        ("net/a#1", "Block"),
        ("net/head", "Dense"),
    ]


def test_layers_of_a_functional_model_have_the_paths_of_their_variables_and_those_without_have_their_sisters():
    frame = captured(functional())
    assert listed(frame) == [
        ("block/dense", "Dense"),
        ("block/norm", "BatchNormalization"),
        ("block/drop", "Dropout"),
        ("block", "Sequential"),
        ("shared", "Dense"),
        ("shared#1", "Dense"),
        ("relu", "ReLU"),
        ("head", "Dense"),
    ]
    assert not frame.missing


@pytest.mark.parametrize("model", [made, functional])
def test_the_path_of_a_site_is_that_of_its_parameters(model):
    model = model()
    dense = {site.path.split("#")[0] for site in captured(model).sites if site.kind == "Dense"}
    kernels = {variable.path for variable in model.trainable_variables if variable.name == "kernel"}
    assert {f"{path}/kernel" for path in dense} == kernels


@pytest.mark.parametrize("model", [made, functional])
def test_outputs_and_gradients_are_bit_equal_to_those_of_the_plain_model(model):
    model = model()
    apply, params = actigrad.observe(model)
    plain = plain_of(model)
    trainable = {"trainable_variables": params["trainable_variables"]}
    value, gradients = jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.square(plain(params, X)))))(trainable)
    frame = captured(model)
    assert_equal_bits(frame.loss, value)
    assert_equal_bits(
        frame.parameter_gradients["trainable_variables"],
        gradients["trainable_variables"],
    )
    np.testing.assert_allclose(apply(params, X), model(X), rtol=1e-6)


def test_a_model_without_other_variables_is_bit_equal_as_a_whole():
    model = made(keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)]))
    assert_bit_equal_to_plain(model, plain_of(model), actigrad.observe(model)[1])


@pytest.mark.parametrize("model", [made, functional])
def test_what_is_captured_is_true_of_the_model(model):
    assert_true(model())


def test_the_model_itself_is_left_as_it_was_after_an_error_too():
    model = functional()
    types = [type(layer) for layer in model.layers]
    captured(model)
    assert [type(layer) for layer in model.layers] == types
    apply, params = actigrad.observe(model)
    with pytest.raises(Exception, match="incompatible"):
        apply(params, jnp.zeros((2, 5)))
    assert [type(layer) for layer in model.layers] == types
    assert "tap" not in str(jax.make_jaxpr(lambda x: model(x))(X))


def test_activations_are_those_of_a_model_with_many_outputs():
    model = functional()
    names = ("block", "relu", "head")
    many = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    frame = captured(model)
    for name, output in zip(names, many(X), strict=True):
        np.testing.assert_allclose(frame.activations[name], output, rtol=1e-6)


def test_training_state_and_seeds_pass_through():
    model = functional()
    apply, params = actigrad.observe(model)
    output, after = apply.with_state(params, X, training=True)  # pyright: ignore[reportFunctionMemberAccess]
    variables = [[variable.value for variable in getattr(model, kind)] for kind in params]
    expected, state, *_ = model.stateless_call(*variables, X, training=True)
    assert_equal_bits(output, expected)
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        node = after["non_trainable_variables"]
        for part in variable.path.split("/"):
            node = node[part]
        assert_equal_bits(node, value)
    assert (after["non_trainable_variables"]["block"]["norm"]["moving_mean"] != 0).any()
    assert (apply(after, X) != apply(params, X)).any()
    assert (captured(model, training=True).gradients["block/norm"] == 0).any()


def test_losses_that_layers_add_are_returned_on_request():
    regularizer = keras.regularizers.L2(0.1)
    model = made(keras.Sequential([keras.layers.Dense(3, kernel_regularizer=regularizer)]))
    apply, params = actigrad.observe(model)
    output, losses = apply(params, X, return_losses=True)
    np.testing.assert_array_equal(output, apply(params, X))
    np.testing.assert_allclose(losses[0], 0.1 * np.sum(np.square(model.trainable_variables[0])), rtol=1e-5)


def test_masks_travel_on_through_taps():
    tokens = np.random.default_rng(0).integers(0, 9, (4, 7))
    inner = keras.Sequential([keras.layers.Embedding(9, 4, mask_zero=True, name="tokens")], name="inner")
    model = keras.Sequential([inner, keras.layers.LSTM(3, return_sequences=True, name="lstm")], name="net")
    model.add(keras.layers.GlobalAveragePooling1D(name="pool"))
    model = made(model, tokens)
    assert (tokens == 0).any()
    np.testing.assert_allclose(actigrad.observe(model)[0](actigrad.observe(model)[1], tokens), model(tokens), rtol=1e-6)
    frame = captured(model, tokens)
    assert {site.path: site.shape for site in frame.sites if "cell" not in site.path} == {
        "net/inner/tokens": (4, 7, 4),
        "net/inner": (4, 7, 4),
        "net/lstm": (4, 7, 3),
        "net/pool": (4, 3),
    }


def test_the_cell_of_a_recurrent_layer_is_seen_at_every_time():
    sequence = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 3)), jnp.float32)
    model = made(keras.Sequential([keras.layers.SimpleRNN(2, return_sequences=True, name="rnn")], name="net"), sequence)
    frame = captured(model, sequence)
    cell = next(path for path in frame.activations if "cell" in path)
    np.testing.assert_allclose(jnp.moveaxis(frame.activations[cell], 0, 1), frame.activations["net/rnn"], rtol=1e-6)
    total = frame.gradients["net/rnn"][:, -1]  # no later step adds to that of the last
    np.testing.assert_allclose(frame.gradients[cell][-1], total, rtol=1e-5)


def test_rematerialised_layers_are_seen_from_within():
    def build():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(3, "tanh", name="a"), keras.layers.Dense(3, "tanh", name="b")]
        head = keras.layers.Dense(2, name="head")
        return made(keras.Sequential([keras.Sequential(layers, name="block"), head], name="net"))

    with keras.RematScope(mode="full"):
        rematerialised = build()
        assert "remat" in str(jax.make_jaxpr(lambda x: rematerialised(x))(X))
    a, b = captured(rematerialised), captured(build())
    assert [path for path, _ in listed(a)] == ["net/block/a", "net/block/b", "net/block", "net/head"]
    assert listed(a) == listed(b)
    for path in a.activations:
        np.testing.assert_allclose(a.activations[path], b.activations[path], rtol=1e-6)
        np.testing.assert_allclose(a.gradients[path], b.gradients[path], rtol=1e-5, atol=1e-6)


def test_params_that_do_not_fit_are_told_by_name():
    apply, params = actigrad.observe(made())
    with pytest.raises(CaptureError, match=r"missing \[.*'non_trainable_variables/"):
        apply({"trainable_variables": params["trainable_variables"]}, X)


def test_a_model_without_variables_yet_is_told_how_to_get_them():
    with pytest.raises(CaptureError, match=r"got the Keras model 'early' before its variables exist; .*build\(shape\)"):
        actigrad.observe(Net(name="early"))


def test_two_variables_of_one_path_are_an_error():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__(name="twins")
            self.a, self.b = keras.layers.Dense(3, name="same"), keras.layers.Dense(3, name="same")

        def call(self, x):
            return self.b(self.a(x))

    with pytest.raises(CaptureError, match=r"two variables of the path 'twins/same/kernel'; expected one"):
        actigrad.observe(made(Twins()))


def test_another_backend_is_told():
    code = (
        "import keras, actigrad\n"
        "try: actigrad.observe(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))\n"
        "except actigrad.errors.CaptureError as error: print(error)"
    )
    environment = {"KERAS_BACKEND": "numpy", "JAX_PLATFORMS": "cpu", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "backend 'numpy'; expected 'jax'. Set KERAS_BACKEND=jax" in done.stdout
