"""Flax NNX: every module's `__call__` is tapped by a subclass that only this trace sees.

`nnx.merge` makes fresh module objects at each call; each gets a subclass of its own class, whose `__call__` taps the
output under the module's path. Nothing of the user's is patched, inherited `__call__` methods are seen, and because
the class travels in the graph definition, modules inside `nnx.scan`, `nnx.vmap` and `nnx.remat` keep their taps.

State that changes in a call (batch-norm averages, dropout's counter) starts from `params` each time, so a call is a
pure function; `apply.with_state` also returns the state after it. The model's own output is what `apply` returns, and
no site.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from flax import nnx

from actigrad.engine.taps import tap
from actigrad.frameworks import check_params


def observe(model: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """(apply, params) of an `nnx.Module`; `params` is its whole state as a nested dict."""
    if not isinstance(model, nnx.Module):
        return None
    graph, state = nnx.split(model)
    structure, pure = jax.tree.structure(state), nnx.to_pure_dict(state)
    expected = jax.tree.structure(pure)

    def merged(params):
        check_params(expected, params)
        # Both flatten by sorted key, level by level, so the leaves stand in the same order.
        module = nnx.merge(graph, jax.tree.unflatten(structure, jax.tree.leaves(params)))
        for path, part in nnx.iter_modules(module):
            if path and callable(part):
                object.__setattr__(part, "__class__", _tapped(type(part), "/".join(map(str, path))))
        return module

    def apply(params, *args, method: str = "__call__", **kwargs):
        """Call the model; only its output returns."""
        return getattr(merged(params), method)(*args, **kwargs)

    def with_state(params, *args, method: str = "__call__", **kwargs):
        """Call the model; returns (output, params after it)."""
        module = merged(params)
        output = getattr(module, method)(*args, **kwargs)
        return output, nnx.to_pure_dict(nnx.state(module))

    apply.with_state = with_state  # type: ignore[attr-defined]
    return apply, pure


@cache
def _tapped(module_type: Any, path: str) -> type:
    """A subclass that taps what `__call__` returns; one a (class, path), so that graph definitions compare equal."""

    def __call__(self, *args, **kwargs):  # noqa: N807 - it becomes the method of the subclass
        return tap(super(subclass, self).__call__(*args, **kwargs), path, kind=module_type.__name__)

    subclass = type(module_type.__name__, (module_type,), {"__call__": __call__, "__module__": module_type.__module__})
    return subclass
