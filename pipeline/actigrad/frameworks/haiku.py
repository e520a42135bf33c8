"""Haiku: every module's `__call__` is tapped by an interceptor, Haiku's own public hook.

    apply, params = actigrad.observe(transformed, params)
    output = apply(params, x, rng=key)

    apply, params = actigrad.observe(transformed_with_state, params, state)
    output = apply(params, x)                       # params is {"params": params, "state": state}
    output, after = apply.with_state(params, x)

A site's path is Haiku's own name of the module, by which it keys the parameters: `activations["net/~/linear_0"]`
belongs to `params["net/~/linear_0"]`. The model is the function that was transformed: a module whose output it returns
is a site as any other. `hk.scan`, `hk.remat` and `hk.vmap` are seen from within, and so are transforms that are lifted
into others (`hk.lift`, `hk.layer_stack`), under the names that their parameters have outside.

Limits: with a transparency map, the modules of a `layer_stack` keep their stacked names, which the parameters lack.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax

from actigrad.engine.taps import tap
from actigrad.frameworks import OBSERVED, check_params


def observe(model: Any) -> tuple[Callable[..., Any], Mapping[str, Any]] | None:
    """(apply, params) of a triple (`hk.TransformedWithState`, params, state) or a pair (`hk.Transformed`, params)."""
    if not isinstance(model, tuple) or not model:
        return None
    transformed, *held = model
    kinds = {hk.Transformed: 1, hk.TransformedWithState: 2}
    if kinds.get(type(transformed)) != len(held) or not all(isinstance(one, Mapping) for one in held):
        return None
    has_state = len(held) == 2
    params = {"params": held[0], "state": held[1]} if has_state else held[0]
    expected = jax.tree.structure(params)
    takes_key = _count_parameters(transformed.apply) - _count_parameters(transformed.init) == len(held)

    def run(params, *args, rng: Any = None, **kwargs):
        check_params(expected, params)
        held = (params["params"], params["state"]) if has_state else (params,)
        with OBSERVED(True), hk.intercept_methods(_interceptor(*held)):
            return transformed.apply(*held, *([rng] if takes_key else []), *args, **kwargs)

    def apply(params, *args, rng: Any = None, **kwargs):
        """Call the model; only its output returns."""
        output = run(params, *args, rng=rng, **kwargs)
        return output[0] if has_state else output

    def with_state(params, *args, rng: Any = None, **kwargs):
        """Call the model; returns (output, params after it)."""
        output, state = run(params, *args, rng=rng, **kwargs)
        return output, {**params, "state": state}

    if has_state:
        apply.with_state = with_state  # type: ignore[attr-defined]
    return apply, params


def _interceptor(*held: Mapping[str, Any]):
    """Taps the output of each `__call__`, once where a module calls its parent class' too."""
    running: list[hk.Module] = []
    prefixes = {_names(*held): ""}  # where each transform, told by what it holds, is lifted to
    latest = ""

    def intercept(call, args, kwargs, context):
        nonlocal latest
        module = context.module
        if context.method_name != "__call__" or (running and running[-1] is module):
            return call(*args, **kwargs)
        prefix = prefixes.get(_names(hk.get_params(), hk.get_current_state()), latest)
        running.append(module)
        try:
            output = call(*args, **kwargs)
        finally:
            running.pop()
        if _is_lifting(module):
            prefixes[_names(*output)] = latest = _joined(prefix, module.prefix_name)
            return output
        return tap(output, _joined(prefix, module.module_name), kind=type(module).__name__)

    return intercept


def _is_lifting(module: Any) -> bool:
    """Whether it is Haiku's own module that hands the parameters of a lifted transform on; it has no public name."""
    return type(module).__module__.startswith("haiku.") and hasattr(module, "prefix_name")


def _names(*held: Mapping[str, Any]) -> frozenset[str]:
    return frozenset().union(*held)


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _count_parameters(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)
