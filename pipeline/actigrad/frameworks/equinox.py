"""Equinox: every module's `__call__` is tapped by a subclass that only this trace sees.

    apply, params = actigrad.observe(model)
    output = jax.vmap(apply, in_axes=(None, 0))(params, x)
    output, state = jax.vmap(apply, axis_name="batch", in_axes=(None, 0, None), out_axes=(0, None))(params, x, state)

`params` is what `eqx.filter_grad` differentiates: the model with its floating arrays, None elsewhere, so optax and
`eqx.combine` take it. All else stays in `apply`, which is the model's own `__call__`: keys, flags and an `eqx.nn.State`
pass through. A site's path is that of the module in the pytree: `activations["layers/0"]` belongs to
`params.layers[0]`. Sites see through `jax.vmap`: what is called on one sample has the batch in front.

Each call puts the model together anew, and gives every module in it a subclass of its own class, whose `__call__` taps.
The class travels in the pytree's structure, so layers that are stacked, partitioned and scanned keep their taps.

Limits: a module in two places of the tree is two modules, as everywhere in Equinox (`eqx.nn.Shared` is one). A layer
that is kept as `eqx.filter_jit(layer)` is one site: what stands within is no part of the pytree. The same holds for
modules in static fields.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import equinox as eqx
import jax

from actigrad.engine.taps import tap
from actigrad.errors import CaptureError
from actigrad.frameworks import check_params

JITTED = (
    "observe got what equinox.filter_jit returned, in which no module can be seen; expected the equinox.Module that it "
    "wraps. Jit the function that calls apply; capture does so by itself."
)


def observe(model: Any) -> tuple[Callable[..., Any], Any] | None:
    """(apply, params) of an `eqx.Module`; `params` is the model with its floating arrays alone."""
    if not isinstance(model, eqx.Module):
        return None
    if type(model) is type(eqx.filter_jit(observe)):
        raise CaptureError(JITTED)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    expected = jax.tree.structure(params)

    def apply(params, *args, method: str = "__call__", **kwargs):
        """Call the model, or another of its methods; returns what that returns."""
        check_params(expected, params)
        whole = eqx.combine(params, static)
        for path, module in _modules_within(whole):
            if callable(module) and not isinstance(module, eqx.nn.Shared):  # Shared returns modules, no output
                object.__setattr__(module, "__class__", _tapped(type(module), path))
        return getattr(whole, method)(*args, **kwargs)

    return apply, params


def _modules_within(module: eqx.Module, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[str, eqx.Module]]:
    is_child = lambda node: isinstance(node, eqx.Module) and node is not module
    for keys, child in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_child):
        if is_child(child):
            yield jax.tree_util.keystr((*prefix, *keys), simple=True, separator="/"), child
            yield from _modules_within(child, (*prefix, *keys))


@cache
def _tapped(module_type: Any, path: str) -> type:
    """A subclass that taps what `__call__` returns; one a (class, path), so that pytree structures compare equal."""

    def __call__(self, *args, **kwargs):  # noqa: N807 - it becomes the method of the subclass
        output = super(subclass, self).__call__(*args, **kwargs)
        is_state = lambda x: isinstance(x, eqx.nn.State)  # the whole model's, handed on
        arrays, rest = eqx.partition(output, eqx.is_array, is_leaf=is_state)
        return eqx.combine(tap(arrays, path, kind=module_type.__name__), rest, is_leaf=is_state)

    namespace = {"__call__": __call__, "__module__": module_type.__module__, "__doc__": module_type.__doc__}
    subclass = type(module_type)(module_type.__name__, (module_type,), namespace)
    return subclass
