"""Flax Linen: what is captured of models of others is what Linen itself captures, and probes by hand say the same.

The gradients are compared with those of explicit probes: zeros that Linen's interceptor adds to each module's output,
by which the loss is differentiated.
"""

# pyright: reportMissingImports=false
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from models.foreign import assert_same, assert_true, assert_whole, bare, images, randomised, some, tokens, uneven

import actigrad


def name_leaves(path, output):
    """The sites of a module's output, by name: one leaf has the path, several have theirs behind it."""
    leaves = jax.tree_util.tree_leaves_with_path(output)
    if len(leaves) == 1:
        return {path: leaves[0][1]}
    return {f"{path}.{jax.tree_util.keystr(keys, simple=True, separator='.')}": leaf for keys, leaf in leaves}


def of_linen(module, variables, *args, **options):
    """What `capture_intermediates` holds, under the names of the sites."""
    run = lambda variables: module.apply(
        variables, *args, **options, capture_intermediates=True, mutable=["intermediates"]
    )
    _, beside = jax.jit(run)(variables)
    found = {}

    def walk(node, path):
        for name, below in node.items():
            if name == "__call__" and path:
                for i, output in enumerate(below):
                    found.update(name_leaves("/".join(path) + (f"#{i}" if i else ""), output))
            elif name != "__call__":
                walk(below, (*path, name))

    walk(beside["intermediates"], ())
    return found


def probed_gradients(loss_of, module, variables, activations):
    """The gradients at all sites, by probes that an interceptor adds."""

    def loss(probes):
        calls = {}

        def add(call, args, kwargs, context):
            output = call(*args, **kwargs)
            path = "/".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return output
            calls[path] = calls.get(path, -1) + 1
            name = path + (f"#{calls[path]}" if calls[path] else "")
            probe = name_leaves(name, output)
            leaves = [leaf + probes[key] for key, leaf in probe.items()]
            return jax.tree.unflatten(jax.tree.structure(output), leaves)

        with nn.intercept_methods(add):
            return loss_of(module.apply, variables)

    return jax.jit(jax.grad(loss))({path: jnp.zeros_like(x) for path, x in activations.items()})


def assert_captured(module, variables, *args, output=lambda out: out, **options):
    """A model's frame equals what Linen captures and what probes by hand say; returns the frame."""
    apply, params = actigrad.observe(module, variables)

    def loss_of(apply, params):
        return uneven(output(apply(params, *args, **options)))

    loss = lambda params, batch: loss_of(apply, params)
    frame = actigrad.capture(loss)(params, {})
    assert_whole(frame)
    assert not frame.missing
    assert_same(frame.activations, of_linen(module, variables, *args, **options))
    assert_same(frame.gradients, probed_gradients(loss_of, module, variables, frame.activations))
    assert_true(loss, params, {}, sites=some(frame))
    return frame


@pytest.mark.parametrize("remat", [False, True])
def test_a_bert_encoder_of_transformers(remat):
    from transformers import BertConfig, FlaxBertModel

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8,
    )  # fmt: skip
    model = FlaxBertModel(config, input_shape=(1, 6), gradient_checkpointing=remat)
    ids = tokens(50)
    mask = jnp.ones_like(ids).at[0, 4:].set(0)
    positions = jnp.broadcast_to(jnp.arange(6), ids.shape)
    heads = jnp.ones((3, 2))
    variables = {"params": randomised(model.params)}
    frame = assert_captured(
        model.module, variables, ids, mask, jnp.zeros_like(ids), positions, heads,
        output=lambda out: out.last_hidden_state,
    )  # fmt: skip
    assert len(frame.sites) > 40
