"""Attributions: the maps of the inputs that a run keeps beside their gradient, and the control of each of them.

    inputs: {keep: full, methods: [integrated, smoothed, randomised]}

A map may look like the input whatever the model has learned (J. Adebayo et al., 2018, arXiv:1810.03292). So the control
is the same map under randomised weights: the values of every parameter, shuffled within it. It keeps how large weights
are, needs no second model, and knows nothing. Where it looks like the map itself, the map tells of the input alone.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from actigrad.engine.attribution import integrated_gradients, smooth_gradients
from actigrad.engine.transform import capture
from actigrad.runs.job import Job

Maps = dict[str, Any]
"""By the name of the method, a pytree like the batch."""


def make_attributions(job: Job) -> Callable[[Any, Any, int], Maps]:
    """`(params, batch, first sample)` to the maps that the config asks for, beside the gradient itself.

    Cost of one batch: 32 gradients for `integrated`, 16 for `smoothed`, and all of these and one more again for
    `randomised`; one after another, so memory is that of one.
    """
    methods, loss = job.config.inputs.methods, job.objective
    gradient = capture(loss, sites=(), gradients=False, parameters=False)
    ways: dict[str, Callable[[Any, Any, jax.Array], Any]] = {}
    if "integrated" in methods:
        ways["integrated_gradient"] = lambda params, batch, key: integrated_gradients(loss)(params, batch)
    if "smoothed" in methods:
        ways["smoothed_gradient"] = lambda params, batch, key: (
            smooth_gradients(loss, sites=())(params, batch, key).input_gradients
        )
    controlled = {"gradient": lambda params, batch, key: gradient(params, batch).input_gradients} | ways

    @jax.jit
    def attribute(params: Any, shuffled: Any, batch: Any, key: jax.Array) -> Maps:
        maps = {name: way(params, batch, key) for name, way in ways.items()}
        if "randomised" in methods:
            maps |= {f"{name}_randomised": way(shuffled, batch, key) for name, way in controlled.items()}
        return maps

    held: list[tuple[Any, Any]] = []  # shuffling is done once for the params of a step

    def of_batch(params: Any, batch: Mapping[str, Any], start: int) -> Maps:
        if "randomised" in methods and not (held and held[0][0] is params):
            held[:] = [(params, shuffle(params, job.config.seed))]
        key = jax.random.fold_in(jax.random.key(job.config.seed), start)
        return attribute(params, held[0][1] if held else None, batch, key)

    return of_batch


def shuffle(params: Any, seed: int) -> Any:
    """The params with the values of each floating array in a random order of their own."""

    def one(path: Any, leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        # A key by name, so that what an array becomes does not depend on which others there are.
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jax.random.permutation(key, jnp.ravel(leaf)).reshape(jnp.shape(leaf))

    return jax.tree.map_with_path(one, params)
