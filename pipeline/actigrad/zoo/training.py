"""Training for the zoo: rows drawn at random from the train split, one jitted optax update a step.

    for step, params in descend(optax.adam(1e-3), loss, params, data, steps=400, seed=0, batch_size=128): ...

`data` is a dict of arrays with one sample axis in front; its `split` says which samples may be trained on.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

TRAIN, TEST = 0, 1


def make_split(samples: int, test_share: float) -> np.ndarray:
    """(samples,) int8: TEST at a share of the samples, the same ones every time, TRAIN at the rest."""
    split = np.full(samples, TRAIN, np.int8)
    split[np.random.default_rng(0).permutation(samples)[: round(test_share * samples)]] = TEST
    return split


def descend(
    optimizer: optax.GradientTransformation,
    loss: Callable[..., Any],
    params: Any,
    data: Mapping[str, np.ndarray],
    *,
    steps: int,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[int, Any]]:
    """Minimise the mean of `loss(params, batch)` over random batches; yields (updates done, params) after each update.

    Args:
        optimizer: what turns gradients into updates.
        loss: returns one loss a sample, or a pair of those and an auxiliary value.
        params: where to start.
        data: arrays by name, and `split`.
        steps: how many updates.
        seed: of the draw of samples.
        batch_size: samples an update, without repetition.

    Raises:
        ValueError: when there are fewer training samples than a batch takes.
    """
    chosen = np.flatnonzero(data["split"] == TRAIN)
    if len(chosen) < batch_size:
        raise ValueError(f"batch_size={batch_size} is more than the {len(chosen)} training samples; make it smaller.")
    random = np.random.default_rng(seed)

    def mean_loss(params, batch):
        value = loss(params, batch)
        return (value[0] if isinstance(value, tuple) else value).mean()

    @jax.jit
    def update(params, state, batch):
        updates, state = optimizer.update(jax.grad(mean_loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step in range(1, steps + 1):
        rows = random.choice(chosen, batch_size, replace=False)
        params, state = update(params, state, {name: values[rows] for name, values in data.items()})
        yield step, params
