"""Flax Linen: what is captured of models of others is what Linen itself captures, and probes by hand say the same.

The gradients are compared with those of explicit probes: zeros that Linen's interceptor adds to each module's output,
by which the loss is differentiated.
"""

# pyright: reportMissingImports=false
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import actigrad
from models.foreign import assert_same, assert_true, assert_whole, bare, images, randomised, some, tokens, uneven


def name_leaves(path, output):
    """The sites of a module's output, by name: one leaf has the path, several have theirs behind it."""
    leaves = jax.tree_util.tree_leaves_with_path(output)
    if len(leaves) == 1:
        return {path: leaves[0][1]}
    return {f"{path}.{jax.tree_util.keystr(keys, simple=True, separator='.')}": leaf for keys, leaf in leaves}


def of_linen(module, variables, *args, mutable=(), **options):
    """What `capture_intermediates` holds, under the names of the sites."""
    run = lambda variables: module.apply(
        variables, *args, **options, capture_intermediates=True, mutable=["intermediates", *mutable]
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


def assert_captured(module, variables, *args, output=lambda out: out, has_tangents=True, **options):
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
    if has_tangents:
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


def test_a_vision_transformer_of_transformers():
    from transformers import FlaxViTModel, ViTConfig

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    model = FlaxViTModel(config)
    variables = {"params": randomised(model.params)}
    x = images((2, 16, 16, 3))
    frame = assert_captured(model.module, variables, x, output=lambda out: out.last_hidden_state)
    assert len(frame.sites) > 25


@pytest.mark.parametrize("training", [False, True])
def test_a_resnet_of_transformers_at_rest_and_in_training(training):
    from transformers import FlaxResNetModel, ResNetConfig

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", hidden_act="swish")
    model = FlaxResNetModel(config, input_shape=(1, 16, 16, 3))
    variables = randomised(model.params)
    options = {"deterministic": False, "mutable": ["batch_stats"]} if training else {}
    output = lambda out: (out[0] if training else out).last_hidden_state
    frame = assert_captured(model.module, variables, images((4, 16, 16, 3)), output=output, **options)
    assert {site.kind for site in frame.sites} >= {"Conv", "BatchNorm", "FlaxResNetBasicLayer"}


def test_a_griffin_decoder_with_remat_of_recurrentgemma():
    bare("recurrentgemma", "recurrentgemma.jax")
    from recurrentgemma import common
    from recurrentgemma.jax.griffin import Griffin

    config = common.GriffinConfig(
        vocab_size=30, width=16, mlp_expanded_width=32, num_heads=2, lru_width=16, attention_window_size=4,
        block_types=(common.TemporalBlockType.RECURRENT, common.TemporalBlockType.ATTENTION),
        embeddings_scale_by_sqrt_dim=True, logits_soft_cap=30.0,
    )  # fmt: skip
    module = Griffin(config, gradient_checkpointing=True)
    ids = tokens(30)
    positions = jnp.broadcast_to(jnp.arange(6), ids.shape)
    variables = module.init(jax.random.key(0), ids, positions)
    # The recurrence has a `jax.custom_vjp`, which has no forward mode, and so no check.
    frame = assert_captured(
        module, variables, ids, positions, output=lambda out: out[0], has_tangents=False, return_cache=False
    )
    assert len(frame.sites) > 20


@pytest.fixture
def dalle(monkeypatch):
    """The modules of dalle-mini, of the time of JAX 0.3; it loads its weights by wandb."""
    monkeypatch.setattr(jnp, "DeviceArray", jax.Array, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    bare("dalle_mini", "dalle_mini.model")
    from dalle_mini.model import configuration, modeling

    def build(**options):
        config = configuration.DalleBartConfig(
            encoder_vocab_size=40, image_vocab_size=30, image_length=6, max_text_length=6, encoder_layers=3,
            decoder_layers=3, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
            decoder_attention_heads=2, d_model=16, **options,
        )  # fmt: skip
        return modeling.FlaxBartForConditionalGenerationModule(config)

    return build


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_decoder_behind_a_scanned_encoder_of_dalle_mini(dalle, remat):
    scanned = dalle(use_scan=True, gradient_checkpointing=remat)
    unrolled = dalle(use_scan=False, gradient_checkpointing=False)
    ids, mask, positions = tokens(40), jnp.ones((2, 6), jnp.int32), jnp.broadcast_to(jnp.arange(6), (2, 6))
    arguments = (ids, mask, tokens(30, seed=2), mask, positions, positions)
    variables = randomised(scanned.init(jax.random.key(0), *arguments))
    params = jax.tree.map(lambda x: x, variables["params"])
    for half, name in (("encoder", "FlaxBartEncoderLayer"), ("decoder", "FlaxBartDecoderLayer")):
        stacked = params["model"][half]["layers"].pop(f"{name}s")
        layers = {f"{name}_{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(3)}
        params["model"][half]["layers"].update(layers)

    apply, _ = actigrad.observe(scanned, variables)
    loss = lambda params, batch: uneven(apply(params, *arguments).logits)
    frame = actigrad.capture(loss)(variables, {})
    assert_whole(frame)
    assert not frame.missing
    layered = [site for site in frame.sites if "Layers" in site.path]
    assert len(layered) > 25
    assert all(site.dims[0] == "layer" for site in layered)

    activations = of_linen(unrolled, {"params": params}, *arguments)
    loss_of = lambda apply, params: uneven(apply(params, *arguments).logits)
    gradients = probed_gradients(loss_of, unrolled, {"params": params}, activations)
    assert_same(frame.activations, stack_layers(activations))
    assert_same(frame.gradients, stack_layers(gradients))
    assert_true(loss, variables, {}, sites=some(frame))


def stack_layers(found):
    """`…Layer_0/…` to `…Layer_2/…` become the one `…Layers/…`."""
    of = lambda path, i: path.replace("Layers", f"Layer_{i}")
    paths = dict.fromkeys(re.sub(r"(Encoder|Decoder)Layer_\d", r"\1Layers", path) for path in found)
    return {p: np.stack([found[of(p, i)] for i in range(3)]) if "Layers" in p else found[p] for p in paths}
