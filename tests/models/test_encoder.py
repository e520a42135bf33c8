"""The zoo's encoder, with its real weights, beside PyTorch's BERT of the same weights: every site, every gradient.

No line of the two is shared but the weights and the vocabulary, and even the tokens are made by the twin's tokenizer.
"""

# pyright: reportMissingImports=false
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.zoo import encoder
from models.test_hugging_face import assert_twins, by_hooks

SENTENCES = ["The cat slept on the warm roof of the barn.", "Inflation makes every salary worth less.", "Rain!"]
MODULES = {
    "attention": "attention.output.dense", "attention/out": "attention.output.dense",
    "attention/pattern": "attention.self.dropout", "attention/query": "attention.self.query",
    "attention/key": "attention.self.key", "attention/value": "attention.self.value",
    "norm1": "attention.output.LayerNorm", "perceptron/hidden": "intermediate.dense", "perceptron/gelu": "intermediate",
    "perceptron/out": "output.dense", "perceptron": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip
"""By the site in a block, PyTorch's module with the same output."""
OUTSIDE = {
    "embed": "embeddings", "embed/tokens": "embeddings.word_embeddings", "embed/norm": "embeddings.LayerNorm",
    "mean": "mean",
}  # fmt: skip


def module_of(path):
    """PyTorch's module for a site."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    _, layer, *rest = path.split("/")
    return ".".join(["encoder.layer", layer, *([MODULES["/".join(rest)]] if rest else [])])


@pytest.fixture(scope="module")
def files():
    try:
        return encoder.find_files()
    except ModuleNotFoundError as error:
        pytest.skip(f"NO REAL WEIGHTS: {error}")


@pytest.fixture(scope="module")
def twin(files):
    import torch
    from transformers import BertModel

    torch.set_num_threads(1)
    model = BertModel.from_pretrained(files, attn_implementation="eager").eval()
    model.mean = torch.nn.Identity()  # for the hooks
    return model


@pytest.fixture(scope="module")
def flax(twin):
    """(apply, params): the twin's arrays, by this model's names."""
    apply, params = actigrad.observe(encoder.build(pretrained=False))
    arrays = encoder.rename({name: values.numpy() for name, values in twin.state_dict().items()})
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return apply, jax.tree.map_with_path(lambda path, leaf: jnp.asarray(arrays.pop(name(path)), leaf.dtype), params)


@pytest.fixture(scope="module")
def tokens(files):
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(files)(SENTENCES, padding=True, return_tensors="np")


def embeddings_of(twin, tokens):
    """As sentence-transformers makes them: the mean over what is no padding, of length one."""
    import torch

    mask = torch.tensor(tokens["attention_mask"])
    hidden = twin(torch.tensor(tokens["input_ids"]), attention_mask=mask).last_hidden_state
    mean = twin.mean((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.nn.functional.normalize(mean, dim=-1)


def test_its_tokens_are_those_of_the_twin(tokens):
    np.testing.assert_array_equal(encoder.tokenise(SENTENCES), tokens["input_ids"])
    np.testing.assert_array_equal(encoder.tokenise(SENTENCES) != encoder.PADDING, tokens["attention_mask"])


def test_its_embeddings_are_those_of_the_twin(twin, flax, tokens):
    apply, params = flax
    found = apply(params, jnp.asarray(tokens["input_ids"]))
    np.testing.assert_allclose(found, embeddings_of(twin, tokens).detach().numpy(), atol=2e-6)


def test_every_site_of_it_is_the_output_of_the_twins_module_with_its_gradient(twin, flax, tokens):
    apply, params = flax
    weights = np.random.default_rng(3).normal(size=(3, 384)).astype(np.float32)

    def loss(params, batch):
        embedding = apply(params, batch)
        return jnp.sum(embedding * weights) + 0.1 * jnp.sum(jnp.square(embedding))

    frame = actigrad.capture(loss)(params, jnp.asarray(tokens["input_ids"]))
    assert not frame.missing
    import torch

    hooked = by_hooks(torch, twin, lambda twin: embeddings_of(twin, tokens), weights)
    assert_twins(frame, hooked, module_of)
    assert len(frame.sites) == 4 + 13 * 6
