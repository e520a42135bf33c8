"""Keras 3 on its JAX backend: every layer's `call` is tapped by a subclass that only this trace sees.

    apply, params = actigrad.observe(model)
    output = apply(params, x, training=True)
    output, after = apply.with_state(params, x)               # batch-norm averages and seeds after the call
    output, losses = apply(params, x, return_losses=True)     # what regularizers and add_loss ask for

`params` holds the variables as two trees, `trainable_variables` and `non_trainable_variables`, nested by Keras' own
variable paths. A site's path is `layer.path`, so `activations["functional/dense"]` belongs to
`params["trainable_variables"]["functional"]["dense"]`. `apply` is `model.stateless_call`, whose keywords pass through.
The cell of a recurrent layer is seen from within the loop over time. The model's own output is what `apply` returns,
and no site.

Layers are objects of the user's: for the time of a trace each has a subclass of its own class, and its own class again
after it, errors included; traces take turns. Limits: a layer that is called by its `call` method of another name, or
quantized, is no site.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import keras

from actigrad.engine.taps import tap
from actigrad.errors import CaptureError
from actigrad.frameworks import OBSERVED, check_params

KINDS = ("trainable_variables", "non_trainable_variables")
ONE_TRACE = threading.RLock()


def observe(model: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """(apply, params) of a built `keras.Layer` or `keras.Model`; `params` are its variables as nested dicts."""
    if not isinstance(model, keras.Layer):
        return None
    if keras.config.backend() != "jax":
        raise CaptureError(
            f"Keras runs on its backend {keras.config.backend()!r}; expected 'jax'. Set KERAS_BACKEND=jax in the "
            "environment before Keras is imported."
        )
    if not model.built:
        raise CaptureError(
            f"observe got the Keras model {model.name!r} before its variables exist; expected a built one. Call it "
            "once on data, or model.build(shape)."
        )
    paths = {kind: [variable.path.split("/") for variable in getattr(model, kind)] for kind in KINDS}
    params = {kind: _nested(paths[kind], [variable.value for variable in getattr(model, kind)]) for kind in KINDS}
    expected = jax.tree.structure(params)

    def run(params, *args, **kwargs):
        check_params(expected, params)
        variables = [[_at(params[kind], path) for path in paths[kind]] for kind in KINDS]
        with ONE_TRACE, OBSERVED(True), _tapping(model):
            return model.stateless_call(*variables, *args, **kwargs)

    def apply(params, *args, **kwargs):
        """Call the model; only its output returns, with `return_losses=True` a pair of it and the losses."""
        output, _, *losses = run(params, *args, **kwargs)
        return (output, *losses) if losses else output

    def with_state(params, *args, **kwargs):
        """Call the model; returns (output, params after it)."""
        output, state, *_ = run(params, *args, **kwargs)
        return output, {**params, KINDS[1]: _nested(paths[KINDS[1]], state)}

    apply.with_state = with_state  # type: ignore[attr-defined]
    return apply, params


@contextmanager
def _tapping(model: keras.Layer) -> Iterator[None]:
    own = [(layer, type(layer), path) for layer, path in _layers_within(model)]
    try:
        for layer, layer_type, path in own:
            object.__setattr__(layer, "__class__", _tapped(layer_type, path))  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for layer, layer_type, _ in own:
            object.__setattr__(layer, "__class__", layer_type)


def _layers_within(model: keras.Layer) -> list[tuple[keras.Layer, str]]:
    """Every layer below the model with its path, once."""
    found: dict[int, tuple[keras.Layer, str]] = {id(model): (model, model.path or "")}
    waiting = [model]
    while waiting:
        parent = waiting.pop()
        children = _children(parent)
        # Keras gives a path to what it builds, and layers without variables may never be built: theirs is as that of
        # a sister. Not always the parent's: a functional model is made after its layers and is not in their paths.
        known = (str(child.path).removesuffix(child.name) for child in children if child.path)
        prefix = next(known, f"{parent.path}/" if parent.path else "")
        for child in children:
            if id(child) not in found:
                found[id(child)] = child, child.path or prefix + child.name
                waiting.append(child)
    return list(found.values())[1:]


def _children(layer: keras.Layer) -> list[keras.Layer]:
    """A model lists its layers; a layer has them in attributes, lists and dicts."""
    values = layer.layers if isinstance(layer, keras.Model) else keras.tree.flatten(list(vars(layer).values()))
    return [value for value in values if isinstance(value, keras.Layer)]


@cache
def _tapped(layer_type: Any, path: str) -> type:
    """A subclass that taps what `call` returns. Not `__call__`: Keras hangs masks on what leaves `call`."""

    def call(self, *args, **kwargs):
        output = super(subclass, self).call(*args, **kwargs)
        tapped = tap(output, path, kind=layer_type.__name__)
        for before, after in zip(jax.tree.leaves(output), jax.tree.leaves(tapped), strict=True):
            if (mask := getattr(before, "_keras_mask", None)) is not None:  # of an inner layer
                after._keras_mask = mask
        return tapped

    subclass = type(layer_type.__name__, (layer_type,), {"call": call, "__module__": layer_type.__module__})
    return subclass


def _nested(paths: list[list[str]], values: list[Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if path[-1] in node:
            raise CaptureError(
                f"the Keras model has two variables of the path {'/'.join(path)!r}; expected one. Give its layers "
                "different names (name=...)."
            )
        node[path[-1]] = value
    return tree


def _at(tree: dict[str, Any], path: list[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree
