"""Hugging Face: a Flax model and its PyTorch twin, on the same weights and inputs, layer by layer.

What capture says of the Flax model is what PyTorch's forward and backward hooks say of the other implementation: no
line of it is shared but the weights.
"""

# pyright: reportMissingImports=false
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from models.foreign import assert_whole, randomised, tokens

CLOSE = 1e-4  # of the largest element at each site


@pytest.fixture
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def by_hooks(torch, model, output, weights):
    """(output by module, gradient by module, loss), by PyTorch's hooks."""
    outputs, gradients, hooks = {}, {}, []

    def at(name):
        def forward(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, torch.Tensor):
                outputs[name] = output.detach().numpy()
                output.register_hook(lambda gradient: gradients.__setitem__(name, gradient.numpy()))

        return forward

    for name, module in model.named_modules():
        if name:
            hooks.append(module.register_forward_hook(at(name)))
    hidden = output(model)
    loss = (hidden * torch.tensor(weights)).sum() + 0.1 * hidden.square().sum()
    loss.backward()
    for hook in hooks:
        hook.remove()
    return outputs, gradients, loss.item()


def captured(model, params, arguments, output, weights):
    """The frame of the Flax model, of the same loss."""
    apply, variables = actigrad.observe(model.module, {"params": params})

    def loss(variables, batch):
        hidden = output(apply(variables, *arguments))
        return jnp.sum(hidden * weights) + 0.1 * jnp.sum(jnp.square(hidden))

    frame = actigrad.capture(loss)(variables, {})
    assert_whole(frame)
    assert not frame.missing
    return frame


def assert_twins(frame, hooked, module_of):
    """At every site, activation and gradient are those of PyTorch's module."""
    outputs, gradients, loss = hooked
    assert abs(float(frame.loss) - loss) <= CLOSE * abs(loss)
    apart = {}
    for site in frame.sites:
        module = module_of(site.path)
        activation, gradient = frame.activations[site.path], frame.gradients[site.path]
        if outputs[module].shape[0] == 1:  # PyTorch looks positions up once for the whole batch
            activation, gradient = activation[:1], gradient.sum(0, keepdims=True)
        for name, found, expected in (
            ("activation", activation, outputs[module]),
            ("gradient", gradient, gradients[module]),
        ):
            assert found.shape == expected.shape
            apart[site.path, name] = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert not (wrong := {place: value for place, value in apart.items() if not value <= CLOSE}), wrong


def twin_of(flax, pytorch):
    """A PyTorch model with the Flax model's weights, drawn anew; returns (it, the weights)."""
    from transformers.modeling_flax_pytorch_utils import load_flax_weights_in_pytorch_model

    params = jax.tree.map(np.array, randomised(flax.params))  # PyTorch takes writable arrays
    return load_flax_weights_in_pytorch_model(pytorch.eval(), params), params


def test_bert_by_flax_and_by_pytorch(torch):
    from transformers import BertConfig, BertModel, FlaxBertModel

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, attn_implementation="eager",
    )  # fmt: skip
    flax = FlaxBertModel(config, input_shape=(1, 6))
    pytorch, params = twin_of(flax, BertModel(config))
    ids = tokens(50)
    mask = jnp.ones_like(ids).at[0, 4:].set(0)
    weights = np.random.default_rng(3).normal(size=(2, 7, 16)).astype(np.float32)

    arguments = (ids, mask, jnp.zeros_like(ids), jnp.broadcast_to(jnp.arange(6), ids.shape), jnp.ones((3, 2)))
    both = lambda out: jnp.concatenate([out.last_hidden_state, out.pooler_output[:, None]], axis=1)
    frame = captured(flax, params, arguments, both, weights)

    def output(model):
        out = model(torch.tensor(np.array(ids)), attention_mask=torch.tensor(np.array(mask)))
        return torch.cat([out.last_hidden_state, out.pooler_output[:, None]], dim=1)

    # PyTorch's encoder returns a record, and its list of layers is not called.
    last = {"encoder": "encoder.layer.2", "encoder/layer": "encoder.layer.2"}
    hooked = by_hooks(torch, pytorch, output, weights)
    assert_twins(frame, hooked, lambda path: last.get(path, path.replace("/", ".")))
    assert len(frame.sites) == 58


def test_gpt2_by_flax_and_by_pytorch(torch):
    from transformers import FlaxGPT2Model, GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=8, attn_implementation="eager")
    flax = FlaxGPT2Model(config, input_shape=(1, 6))
    pytorch, params = twin_of(flax, GPT2Model(config))
    ids = tokens(50)
    weights = np.random.default_rng(3).normal(size=(2, 6, 16)).astype(np.float32)

    arguments = (ids, jnp.ones_like(ids), jnp.broadcast_to(jnp.arange(6), ids.shape))
    frame = captured(flax, params, arguments, lambda out: out.last_hidden_state, weights)
    hooked = by_hooks(torch, pytorch, lambda model: model(torch.tensor(np.array(ids))).last_hidden_state, weights)
    others = {"dropout": "drop", "h": "h.2"}  # PyTorch's list of layers is not called
    assert_twins(frame, hooked, lambda path: others.get(path, path.replace("/", ".")))
    assert len(frame.sites) == 38
