"""Flax Linen: every module's `__call__` is tapped by an interceptor, Linen's own public hook.

    apply, params = actigrad.observe((module, variables))
    output = apply(params, x)
    output, changed = apply(params, x, rngs={"dropout": key}, mutable=["batch_stats"])

`apply` is `module.apply` with taps: `params` are all the variables, by collection, and every keyword of `module.apply`
passes through. A site's path is `module.path`, under which each collection holds the module's variables:
`activations["Block_0/Dense_0"]` belongs to `params["params"]["Block_0"]["Dense_0"]`. Lifted transformations (`nn.scan`,
`nn.vmap`, `nn.remat`) are seen from within, so a scanned module has one site with a `layer` axis.

Limits: a `__call__` under `nn.nowrap` cannot be intercepted. Modules under `nn.jit` that are equal in all but their
name share one trace, and with it the path of the first.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from actigrad.engine.taps import tap
from actigrad.frameworks import OBSERVED, check_params


def observe(model: Any) -> tuple[Callable[..., Any], Mapping[str, Any]] | None:
    """(apply, params) of a pair (`linen.Module`, variables); `params` are the variables, as they are."""
    if not (isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], nn.Module)):
        return None
    module, variables = model
    if not isinstance(variables, Mapping):
        return None
    expected = jax.tree.structure(variables)

    def apply(params, *args, **kwargs):
        """Call the model, with the keywords of `module.apply`; returns what that returns."""
        check_params(expected, params)
        with OBSERVED(True), nn.intercept_methods(_interceptor()):
            return module.apply(params, *args, **kwargs)

    return apply, variables


def _interceptor():
    """Taps the output of each `__call__` but the root's, once where a module calls its parent class' too."""
    running: list[nn.Module] = []

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or (running and running[-1] is module):
            return call(*args, **kwargs)
        running.append(module)
        try:
            output = call(*args, **kwargs)
        finally:
            running.pop()
        # A child that shares the root's scope has the root's empty path, but a name.
        path = "/".join(module.path) or (module.name if running else "")
        return tap(output, path, kind=type(module).__name__) if path else output

    return intercept
