"""Equinox has no means of its own to look inside: here every module's `__call__` is replaced by one that notes.

What is noted of the plain model, or of its layers one by one where it scans them, is what is captured; what it notes
has probes added, by which the loss is differentiated, and these are the gradients.
"""

# pyright: reportMissingImports=false
import sys
import types
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from models.foreign import assert_same, assert_true, assert_whole, bare, images, randomised, some, tokens, uneven


def named_modules(module, prefix):
    """Every module below, and itself, with its place in the tree."""
    yield prefix, module
    is_child = lambda node: isinstance(node, eqx.Module) and node is not module
    for path, child in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_child):
        if is_child(child):
            yield from named_modules(child, f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}")


def noted(patch, named, run, loss_of, batch=None, kinds=()):
    """What the named modules (of these classes) give in `run`, and the gradients there, by probes that they add.

    With a batch, `run` takes a sample of it.
    """
    named = list(named)
    paths = {id(module): path.lstrip("/") for path, module in named}
    given, probes = {}, {}

    def noting(plain):
        def call(self, *args, **kwargs):
            output = plain(self, *args, **kwargs)
            path = paths.get(id(self))
            if path is None:
                return output
            path += f"#{n}" if (n := sum(one.split("#")[0] == path for one in given)) else ""
            output = jax.tree.map(lambda x: x + probes[path], output) if path in probes else output
            (given[path],) = jax.tree.leaves(output)
            return output

        return call

    def once(zeros, *sample):
        given.clear()
        probes.clear()
        probes.update(zeros)
        return run(*sample), dict(given)

    both = once if batch is None else lambda zeros: jax.vmap(once)(zeros, batch)
    for module_type in {type(module) for _, module in named if callable(module)}:
        if not kinds or module_type.__name__ in kinds:
            patch.setattr(module_type, "__call__", noting(module_type.__call__))
    activations = jax.jit(lambda: both({})[1])()
    zeros = {path: jnp.zeros_like(x) for path, x in activations.items()}
    return activations, jax.jit(jax.grad(lambda zeros: loss_of(both(zeros)[0])))(zeros)


@pytest.fixture
def gpt2():
    """levanter's GPT-2 and haliax, its arrays with named axes."""
    bare("levanter")
    # It stands between the models and levanter's trainer, and loads and saves their weights.
    hub = sys.modules["levanter.compat.hf_checkpoints"] = types.ModuleType("levanter.compat.hf_checkpoints")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from levanter.models.lm_model import LmConfig, LmHeadModel

        hub.HFCompatConfig, hub.LmWithHfSerializationMixin = LmConfig, LmHeadModel
        hub.HFCheckpointConverter = list  # an annotation
        import haliax
        from levanter.models import gpt2

    config = gpt2.Gpt2Config(hidden_dim=16, num_layers=3, num_heads=2, seq_len=6, gradient_checkpointing=True)
    return gpt2.Gpt2LMHeadModel.init(haliax.Axis("vocab", 30), config, key=jax.random.key(0))


@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:(haliax|levanter)\..*")
def test_a_scanned_decoder_with_remat_of_levanter(gpt2, monkeypatch):
    import haliax
    from levanter.layers.attention import AttentionMask

    model, mask = randomised(gpt2), AttentionMask.causal()
    ids = haliax.named(tokens(30), ("batch", "position"))
    apply, params = actigrad.observe(model)
    loss = lambda params, batch: uneven(apply(params, ids, attn_mask=mask, key=None).array)
    frame = actigrad.capture(loss)(params, {})
    assert_whole(frame)
    # haliax names by itself what goes into a scan: the layers' weights, their counter, and the carry.
    assert frame.missing == {("scan(layers)__input#12", "gradient"): "its dtype is int32, which has no gradient"}

    blocks = model.transformer.blocks.unstacked()
    named = list(named_modules(model, ""))
    for i, block in enumerate(blocks):
        named += named_modules(block, f"transformer/blocks/{i}")
    named = [(path, module) for path, module in named if "dot_general" not in path]  # all one object

    def unrolled():
        x = model.embeddings.embed(ids, pos_ids=haliax.arange(ids.resolve_axis("position")), key=None)
        for i, block in enumerate(blocks):
            x = block(x, mask, i, key=None)
        x = model.transformer.ln_f(x)
        return haliax.dot(x, model.get_lm_head(), axis="embed")

    with monkeypatch.context() as patch:
        activations, gradients = noted(patch, named, unrolled, lambda logits: uneven(logits.array))
    for found, expected in ((frame.activations, activations), (frame.gradients, gradients)):
        layered = [path for path in expected if "/0" in path]
        layers = {path: [expected.pop(path.replace("0", str(i), 1)) for i in range(3)] for path in layered}
        stacked = {path.replace("0", "stacked", 1): np.stack(layer) for path, layer in layers.items()}
        between = [expected["embeddings/dropout"], *layers["transformer/blocks/0"][:-1]]
        expected |= stacked | {"scan(layers)__carry": np.stack(between), "transformer": expected["transformer/ln_f"]}
        assert len(stacked) == 11
        assert_same(
            {path: x for path, x in found.items() if not ("__input" in path or "dot_general" in path)}, expected
        )
    assert_true(loss, params, {}, sites=["**/dot_general", *some(frame)])


def test_a_vision_transformer_of_equimo(monkeypatch):
    from equimo.models.vit import VisionTransformer

    model = VisionTransformer(
        img_size=16, in_channels=3, dim=16, patch_size=8, num_heads=[2], depths=[2], num_classes=5, init_values=0.1,
        key=jax.random.key(0),
    )  # fmt: skip
    model, x = randomised(model), images((3, 3, 16, 16))
    apply, params = actigrad.observe(model)
    loss = lambda params, batch: uneven(jax.vmap(lambda one: apply(params, one, inference=True))(batch))
    frame = actigrad.capture(loss)(params, x)
    assert_whole(frame)
    assert not frame.missing
    assert len(frame.sites) > 40

    # What stands within a vmap over the tokens cannot be noted.
    whole = {"PatchEmbedding", "LearnedPosEmbed", "Attention", "Mlp", "LayerScale", "DropPathAdd", "Dropout"}
    whole |= {"AttentionBlock", "BlockChunk"}
    with monkeypatch.context() as patch:
        run = lambda one: model(one, inference=True)
        activations, gradients = noted(patch, named_modules(model, ""), run, uneven, x, kinds=whole)
    assert len(activations) > 15
    for found, expected in ((frame.activations, activations), (frame.gradients, gradients)):
        assert_same({path: found[path] for path in expected}, expected)

    # So these are called by hand, on what stands before them.
    held, by_hand = frame.activations, {}
    for i, before in enumerate(["blocks/0/posemb", "blocks/0/blocks/0"]):
        block, path = model.blocks[0].blocks[i], f"blocks/0/blocks/{i}"
        for name, module, source in (
            ("prenorm", block.prenorm, before),
            ("attn/qkv", block.attn.qkv, f"{path}/prenorm"),
            ("norm", block.norm, f"{path}/drop_path1"),
            ("mlp/fc1", block.mlp.fc1, f"{path}/norm"),
        ):
            by_hand[f"{path}/{name}"] = jax.vmap(jax.vmap(module))(held[source])
    by_hand["norm"] = jax.vmap(jax.vmap(model.norm))(held["blocks/0"])
    assert_same({path: held[path] for path in by_hand}, by_hand)
    assert_true(loss, params, x, sites=[*by_hand])
