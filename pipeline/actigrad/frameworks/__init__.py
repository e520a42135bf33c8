"""Frameworks: a model of any of them becomes a pure function with a tap on every module's output.

    apply, params = actigrad.observe(model)
    output = apply(params, x)

`params` is a pytree of arrays under the framework's own names; the path of a site is the path of its module there, so
`activations["head/0"]` and `params["head"]["0"]` belong together. A module that is called again has `#1` behind its
path; the model's own output is what `apply` returns, and no site.

One adapter a framework, each a function `observe(model) -> (apply, params) | None` that says None to what is not its
own. An adapter is loaded only when its framework is. Third parties join by the entry point group
`actigrad.frameworks`.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import jax

from actigrad.errors import CaptureError

# Keras first: it can be told to make its layers NNX modules.
BUILT_IN = {"keras": "keras", "flax.nnx": "nnx", "flax.linen": "linen", "equinox": "equinox", "haiku": "haiku"}
EXPECTED = (
    "a flax.nnx.Module, a pair (flax.linen.Module, variables), an equinox.Module, a built keras.Model or keras.Layer, "
    "a pair (haiku.Transformed, params), or a triple (haiku.TransformedWithState, params, state)"
)
# True where modules are tapped. It is part of the key of JAX's caches: what a model jits within itself is traced anew
# here though the user called it before, and what is traced here is not met outside.
OBSERVED = jax.make_user_context(False)


def observe(model: Any, *parts: Any) -> tuple[Callable[..., Any], Any]:
    """A pure `apply(params, *inputs)` and its params.

    Args:
        model: a `flax.nnx.Module`, a pair (`flax.linen.Module`, variables), an `equinox.Module`, a built
            `keras.Model` or `keras.Layer`, a pair (`haiku.Transformed`, params), a triple
            (`haiku.TransformedWithState`, params, state), or what an adapter of a third party knows. The adapters in
            this folder tell more of each.
        parts: the rest of such a tuple, so that `observe(module, variables)` is `observe((module, variables))`.

    Raises:
        CaptureError: when no adapter knows the object.
    """
    model = (model, *parts) if parts else model
    for adapter in _adapters():
        found = adapter(model)
        if found is not None:
            return found
    raise CaptureError(_unknown(model))


def check_params(expected: Any, params: Any) -> None:
    """Raise unless `params` has the structure that `observe` returned; the message names what differs."""
    found = jax.tree.structure(params)
    if found == expected:
        return
    names = [
        {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)}
        for tree in (jax.tree.unflatten(expected, [0] * expected.num_leaves), params)
    ]
    lacking, surplus = sorted(names[0] - names[1])[:5], sorted(names[1] - names[0])[:5]
    differs = f"missing {lacking}, unexpected {surplus}" if lacking or surplus else f"{found}, expected {expected}"
    raise CaptureError(
        f"the params do not match the model: {differs} "
        f"({found.num_leaves} arrays, expected {expected.num_leaves}). Pass what observe(model) returned, or its like."
    )


def _adapters():
    """Those whose framework is loaded: an object of one that is not cannot exist."""
    for package, module in BUILT_IN.items():
        if package in sys.modules:
            yield import_module(f"actigrad.frameworks.{module}").observe
    for entry in entry_points(group="actigrad.frameworks"):
        yield entry.load()


def _unknown(model: Any) -> str:
    found = "a tuple of " + ", ".join(map(_type_name, model)) if type(model) is tuple else f"a {_type_name(model)}"
    return (
        f"observe got {found}; expected {EXPECTED}. Any other JAX function needs no observing: name its values with "
        "actigrad.tap(x, name) or jax.ad_checkpoint.checkpoint_name."
    )


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
