"""actigrad: activations and gradients of any JAX model, as heatmaps that stay true.

    apply, params = actigrad.observe(model)
    frame = actigrad.capture(loss)(params, batch)

Names are loaded when they are first used, so that importing this package does nothing: no JAX, no HoloViews, no Dask.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actigrad.attribution import gradient_times_activation, integrated_gradients, patch, smooth_gradients
    from actigrad.checking import check
    from actigrad.errors import ActigradError
    from actigrad.frameworks import observe
    from actigrad.memory import measure_memory
    from actigrad.per_sample import sample_gradient_norms
    from actigrad.recompute import recompute_between
    from actigrad.sites import Site
    from actigrad.taps import tap
    from actigrad.transform import Frame, capture, list_sites

_HOMES = {
    "ActigradError": "errors",
    "Frame": "transform",
    "Site": "sites",
    "capture": "transform",
    "check": "checking",
    "gradient_times_activation": "attribution",
    "integrated_gradients": "attribution",
    "list_sites": "transform",
    "measure_memory": "memory",
    "observe": "frameworks",
    "patch": "attribution",
    "recompute_between": "recompute",
    "sample_gradient_norms": "per_sample",
    "smooth_gradients": "attribution",
    "tap": "taps",
}

__all__ = [
    "ActigradError",
    "Frame",
    "Site",
    "capture",
    "check",
    "gradient_times_activation",
    "integrated_gradients",
    "list_sites",
    "measure_memory",
    "observe",
    "patch",
    "recompute_between",
    "sample_gradient_norms",
    "smooth_gradients",
    "tap",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'actigrad' has no attribute {name!r}; it has {', '.join(__all__)}")
    # No module may be called like a name here: importing it would hide the function behind the module.
    value = globals()[name] = getattr(import_module(f"actigrad.{_HOMES[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
