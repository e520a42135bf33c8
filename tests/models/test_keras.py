"""Keras 3 on JAX: what is captured is what a Keras model with many outputs gives, and probes by hand say the same.

The gradients are compared with those of explicit probes: zeros that each layer's `call` adds to its output, by which
the loss is differentiated. So are the activations of layers within layers, which no Keras model has as outputs.
"""

# pyright: reportMissingImports=false
import jax
import jax.numpy as jnp
import keras
import pytest

import actigrad
from models.foreign import assert_same, assert_true, assert_whole, images, randomised, some, tokens, uneven


def named_layers(model):
    """Every layer within the model by its path; layers without variables may have none, and are in that of a sister."""
    found = {}
    for layer in model._flatten_layers(recursive=False, include_self=False):
        beside = [one.path for one in model._flatten_layers(recursive=False, include_self=False) if one.path]
        place = beside[0].rpartition("/")[0] if beside else ""
        found[layer.path or f"{place}/{layer.name}".lstrip("/")] = layer
        found |= named_layers(layer)
    return found


def noted(model, loss, patch):
    """What every layer's `call` gives, and the gradients there, by probes that it adds."""
    layers = named_layers(model)
    paths = {id(layer): path for path, layer in layers.items()}
    given, probes, running = {}, {}, []

    def noting(plain):
        def call(self, *args, **kwargs):
            outermost = not (running and running[-1] is self)  # not its parent class' call within its own
            running.append(self)
            output = plain(self, *args, **kwargs)
            running.pop()
            if id(self) not in paths or not outermost:
                return output
            path = paths[id(self)]
            path += f"#{n}" if (n := sum(one.split("#")[0] == path for one in given)) else ""
            output = output + probes[path] if path in probes else output
            given[path] = output
            return output

        return call

    def again(zeros):
        given.clear()
        probes.clear()
        probes.update(zeros)
        return loss(), dict(given)

    for layer_type in {type(layer) for layer in layers.values()}:
        patch.setattr(layer_type, "call", noting(layer_type.call))
    activations = jax.jit(lambda: again({})[1])()
    zeros = {path: jnp.zeros_like(x) for path, x in activations.items()}
    return activations, jax.jit(jax.grad(lambda zeros: again(zeros)[0]))(zeros)


def assert_captured(model, x, patch, output=lambda out: out, checked=True, **options):
    for variable in model.trainable_variables:
        variable.assign(randomised(variable.value, seed=len(variable.path)))
    apply, params = actigrad.observe(model)
    loss = lambda params, batch: uneven(output(apply(params, batch, **options)))
    frame = actigrad.capture(loss)(params, x)
    assert_whole(frame)
    assert not frame.missing

    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    many = keras.Model(model.inputs, {layer.path or layer.name: layer.output for layer in layers})
    variables = [[variable.value for variable in v] for v in (many.trainable_variables, many.non_trainable_variables)]
    outputs, _ = jax.jit(lambda x: many.stateless_call(*variables, x, **options))(x)
    assert_same({path: frame.activations[path] for path in outputs}, outputs)

    variables = [[variable.value for variable in v] for v in (model.trainable_variables, model.non_trainable_variables)]
    with patch.context() as patch:
        plain = lambda: uneven(output(model.stateless_call(*variables, x, **options)[0]))
        activations, gradients = noted(model, plain, patch)
    assert_same(frame.activations, activations)
    assert_same(frame.gradients, gradients)
    if checked:
        assert_true(loss, params, x, sites=some(frame))
    return frame


@pytest.mark.parametrize("training", [False, True])
def test_a_mobile_net_of_keras_applications_at_rest_and_in_training(training, monkeypatch):
    model = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=5)
    # In training, 52 batch norms make the loss so steep that no central difference in float32 shows its slope.
    frame = assert_captured(model, images((4, 64, 64, 3)), monkeypatch, checked=not training, training=training)
    assert len(frame.sites) > 100


def test_a_bert_encoder_of_keras_hub(monkeypatch):
    import keras_hub

    model = keras_hub.models.BertBackbone(
        vocabulary_size=50, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=8
    )
    ids = tokens(50)
    x = {"token_ids": ids, "segment_ids": jnp.zeros_like(ids), "padding_mask": jnp.ones_like(ids).at[0, 4:].set(0)}
    frame = assert_captured(model, x, monkeypatch, output=lambda out: out["sequence_output"])
    assert len(frame.sites) > 20
