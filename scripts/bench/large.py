"""A store of 4 GB, made by a run as any other: what `explorer.py` is measured on.

    .venv/bin/python scripts/bench/large.py runs/large.zarr          # 200,000 neurons x 5,000 samples, with its levels
    .venv/bin/python scripts/bench/large.py runs/large.zarr --neurons 2000 --samples 500

A residual network of 12 blocks and one wide layer, trained on noise that it can tell apart. The wide layer's activation
is kept whole at the last of 3 recorded steps, everything else as summaries; levels come with it. With them the store
takes about 9 GB of disk.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from actigrad.config.records import Config
from actigrad.pictures.catalogue import write_levels
from actigrad.runs.job import load as load_job
from actigrad.runs.run import run
from actigrad.zoo.training import descend, make_split

INPUTS, WIDTH, CLASSES = 32, 256, 10


class Gelu(nnx.Module):
    """GELU as a module, so that what passes it is a site."""

    def __call__(self, x: Any) -> Any:
        """Any shape."""
        return nnx.gelu(x)


class Block(nnx.Module):
    """x + down(gelu(up(x)))."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.up, self.gelu = nnx.Linear(INPUTS, WIDTH, rngs=rngs), Gelu()
        self.down = nnx.Linear(WIDTH, INPUTS, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """(sample, INPUTS)."""
        return x + self.down(self.gelu(self.up(x)))


class Wide(nnx.Module):
    """Blocks, then one layer of very many neurons."""

    def __init__(self, blocks: int, neurons: int, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(blocks)])
        self.wide, self.gelu = nnx.Linear(INPUTS, neurons, rngs=rngs), Gelu()
        self.logits = nnx.Linear(neurons, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """(sample, INPUTS) to (sample, CLASSES)."""
        for block in self.blocks:
            x = block(x)
        return self.logits(self.gelu(self.wide(x)))


def build(*, seed: int, neurons: int, blocks: int = 12) -> Wide:
    """The model."""
    return Wide(blocks, neurons, rngs=nnx.Rngs(seed))


def load(*, samples: int) -> dict[str, np.ndarray]:
    """Noise about one centre a class."""
    random = np.random.default_rng(0)
    label = random.integers(0, CLASSES, samples).astype(np.int32)
    centres = random.normal(size=(CLASSES, INPUTS))
    x = (centres[label] + random.normal(size=(samples, INPUTS))).astype(np.float32)
    return {"x": x, "label": label, "split": make_split(samples, 0.2)}


def loss(apply: Callable[..., Any], params: Any, batch: dict[str, Any]) -> Any:
    """The cross entropy of each sample, and the predicted class."""
    logits = apply(params, batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses, {"prediction": jnp.argmax(logits, axis=-1)}


def train(loss: Any, params: Any, data: Any, *, steps: int, seed: int = 0) -> Iterator[tuple[int, Any]]:
    """By Adam."""
    return descend(optax.adam(1e-3), loss, params, data, steps=steps, seed=seed, batch_size=64)


def main() -> None:
    """Read the words, run, make the levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--neurons", type=int, default=200_000)
    parser.add_argument("--samples", type=int, default=5000)
    words = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    config = Config.model_validate({
        "model": {"factory": "large:build", "options": {"neurons": words.neurons}},
        "data": {"factory": "large:load", "options": {"samples": words.samples}, "batch_size": 250},
        "loss": "large:loss",
        "train": {"factory": "large:train", "steps": 12, "record_every": 4},
        "capture": [
            {"sites": ["**"], "exclude": ["wide"], "keep": "summary"},
            {"sites": ["gelu"], "quantities": ["activation"], "keep": "full"},
        ],
        "store": {"path": str(words.store)},
    })  # fmt: skip
    run(load_job(config), overwrite=True)
    write_levels(words.store, ["natural"], told=print)


if __name__ == "__main__":
    main()
