"""A decoder shaped like GPT-2, and bytes of real English to train it on: Python's own reference of its language.

    model = build(seed=0, layers=4, width=128, heads=4)
    data = load(length=64)                              # tokens and next (1024, 64), split
    apply, params = actigrad.observe(model)
    for step, params in train(partial(loss, apply), params, data, steps=200, seed=0): ...

Pre-norm blocks of causal attention and a two-layer perceptron, learned positions, an output matrix of its own (GPT-2's
is its embedding, which would be no module's output). `scan=True` runs the blocks as one `nnx.scan` over stacked
weights, so that compile time does not grow with depth and every site within has a `layer` axis; `remat=True`
recomputes each block in the backward pass. One seed gives one set of weights, whichever way the blocks are run.

Text comes from `pydoc_data.topics` (half a megabyte, a little different from one Python to the next), one token a byte.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from actigrad.zoo.training import TEST, descend, make_split

Stream = Float[Array, "sample position neuron"]
Heads = Float[Array, "sample head query key"]


class Embedding(nnx.Module):
    """A vector for the token plus a vector for its position."""

    def __init__(self, vocab: int, context: int, width: int, *, dtype: Any, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(vocab, width, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (context, width)))

    def __call__(self, tokens: Int[Array, "sample position"]) -> Stream:
        """Raises ValueError where there are more positions than vectors: JAX would read past the end in silence."""
        context, length = self.positions.shape[0], tokens.shape[1]
        if length > context:
            raise ValueError(f"{length} tokens a sample, but the model was built for context={context}.")
        x = self.tokens(tokens)
        return x + self.positions[None, :length].astype(x.dtype)


class CausalSoftmax(nnx.Module):
    """Softmax over the keys that are not in the future, as a module, so that attention's pattern is a site."""

    def __call__(self, scores: Heads) -> Heads:
        """In float32 whatever comes in, as rounding here is felt everywhere."""
        past = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
        return jax.nn.softmax(scores.astype(jnp.float32), axis=-1, where=past).astype(scores.dtype)


class Attention(nnx.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
        self.heads = heads
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        # No bias: it would add the same to all scores of a query, which softmax does not see; its gradient is rounding.
        self.key = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.pattern = CausalSoftmax()
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Stream) -> Stream:
        """Each position reads from itself and from those before it."""
        split = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = jnp.einsum("sqhd,skhd->shqk", query, key) / math.sqrt(query.shape[-1])
        read = jnp.einsum("shqk,skhd->sqhd", self.pattern(scores), value)
        return self.out(read.reshape(x.shape))


class Gelu(nnx.Module):
    """GELU (its tanh form, as in GPT-2) as a module, so that what passes it is a site."""

    def __call__(self, x: Stream) -> Stream:
        """Any shape in, the same out."""
        return nnx.gelu(x, approximate=True)


class Perceptron(nnx.Module):
    """Out to four times the width and back."""

    def __init__(self, width: int, *, dtype: Any, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.gelu = Gelu()
        self.out = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Stream) -> Stream:
        """Each position alone."""
        return self.out(self.gelu(self.hidden(x)))


class Block(nnx.Module):
    """Attention, then a perceptron, each behind a norm and added to the stream."""

    def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.perceptron = Perceptron(width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Stream) -> Stream:
        """The stream after this block."""
        x = x + self.attention(self.norm1(x))
        return x + self.perceptron(self.norm2(x))


class Decoder(nnx.Module):
    """Embedding, blocks, norm, head: (sample, position) tokens to (sample, position, vocab) logits."""

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        vocab: int,
        context: int,
        scan: bool,
        remat: bool,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.scan, self.remat = scan, remat
        self.embed = Embedding(vocab, context, width, dtype=dtype, rngs=rngs)
        make = lambda key: Block(width, heads, dtype=dtype, rngs=nnx.Rngs(key))
        keys = jax.random.split(rngs.params(), layers)
        self.blocks: Any = nnx.vmap(make)(keys) if scan else nnx.List([make(key) for key in keys])
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, vocab, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Int[Array, "sample position"]) -> Float[Array, "sample position vocab"]:
        """The logits of each next token."""
        run = lambda x, block: block(x)
        if self.remat:
            run = nnx.remat(run, prevent_cse=not self.scan)  # inside a scan nothing can be merged across passes
        x = self.embed(tokens)
        if self.scan:
            x = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)
        else:
            for block in self.blocks:
                x = run(x, block)
        return self.head(self.norm(x))


def build(
    *,
    seed: int = 0,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    vocab: int = 256,
    context: int = 256,
    scan: bool = True,
    remat: bool = False,
    dtype: str = "float32",
) -> Decoder:
    """A decoder. The smallest GPT-2 has layers=12, width=768, heads=12, vocab=50257, context=1024.

    Args:
        seed: of the weights.
        layers: how many blocks.
        width: neurons of the stream; a multiple of heads.
        heads: attention heads a block.
        vocab: how many tokens there are.
        context: the most positions that a sample can have.
        scan: run the blocks as one loop over stacked weights, or else one after another.
        remat: recompute each block in the backward pass.
        dtype: what is computed in; weights are float32.

    Raises:
        ValueError: when the width is no multiple of the heads, or a size is not positive.
    """
    sizes = {"layers": layers, "width": width, "heads": heads, "vocab": vocab, "context": context}
    if min(sizes.values()) < 1 or width % heads:
        raise ValueError(f"sizes are {sizes}; expected all of them positive and width a multiple of heads.")
    return Decoder(**sizes, scan=scan, remat=remat, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(seed))


def load(*, length: int = 64, samples: int = 1024, test_share: float = 0.1) -> dict[str, np.ndarray]:
    """Pieces of text that do not overlap: tokens and next (samples, length) int32, split (samples,) int8.

    Raises:
        ValueError: when there is not that much text.
    """
    from pydoc_data.topics import topics

    text = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), np.uint8)
    available = (len(text) - 1) // length
    if not 0 < samples <= available:
        raise ValueError(f"samples={samples}; the text holds 1 to {available} pieces of {length} bytes.")
    starts = length * np.sort(np.random.default_rng(0).permutation(available)[:samples])
    pieces = text[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return {"tokens": pieces[:, :-1], "next": pieces[:, 1:], "split": make_split(samples, test_share)}


def loss(apply: Callable[..., Any], params: Any, batch: dict[str, Any]) -> Float[Array, " sample"]:
    """The mean over positions of the cross entropy of the next token, in nats, one a sample."""
    logits = apply(params, batch["tokens"]).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["next"]).mean(axis=-1)


def train(
    loss: Callable[..., Any],
    params: Any,
    data: dict[str, np.ndarray],
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
) -> Iterator[tuple[int, Any]]:
    """Train by AdamW on the train split, ten updates of warm-up and a cosine; yields (updates done, params)."""
    # A cosine must be longer than its warm-up, however few the steps.
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(10, steps), max(steps, 11))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))
    return descend(optimizer, loss, params, data, steps=steps, seed=seed, batch_size=batch_size)


def held_out_loss(apply: Callable[..., Any], params: Any, data: dict[str, np.ndarray]) -> float:
    """The mean loss of the samples that are not trained on, in nats a byte."""
    rows = data["split"] == TEST
    return float(jax.jit(partial(loss, apply))(params, {name: values[rows] for name, values in data.items()}).mean())
