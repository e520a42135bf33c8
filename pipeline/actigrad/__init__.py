"""actigrad: activations and gradients of any JAX model, as heatmaps that stay true.

    apply, params = actigrad.observe(model)
    frame = actigrad.capture(loss)(params, batch)

Names are loaded when they are first used, so that importing this package does nothing: no JAX, no HoloViews, no Dask.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actigrad.engine.attribution import gradient_times_activation, integrated_gradients, patch, smooth_gradients
    from actigrad.engine.checking import check
    from actigrad.engine.memory import measure_memory
    from actigrad.engine.per_sample import sample_gradient_norms
    from actigrad.engine.recompute import recompute_between
    from actigrad.engine.taps import tap
    from actigrad.engine.transform import Frame, capture, list_sites
    from actigrad.errors import ActigradError
    from actigrad.frameworks import observe
    from actigrad.runs.keras import CaptureCallback
    from actigrad.runs.recorder import Recorder
    from actigrad.sites import Site
    from actigrad.storage.store import open_store

_HOMES = {
    "ActigradError": "errors",
    "CaptureCallback": "runs.keras",
    "Frame": "engine.transform",
    "Recorder": "runs.recorder",
    "Site": "sites",
    "capture": "engine.transform",
    "check": "engine.checking",
    "gradient_times_activation": "engine.attribution",
    "integrated_gradients": "engine.attribution",
    "list_sites": "engine.transform",
    "measure_memory": "engine.memory",
    "observe": "frameworks",
    "open_store": "storage.store",
    "patch": "engine.attribution",
    "recompute_between": "engine.recompute",
    "sample_gradient_norms": "engine.per_sample",
    "smooth_gradients": "engine.attribution",
    "tap": "engine.taps",
}

__all__ = [
    "ActigradError",
    "CaptureCallback",
    "Frame",
    "Recorder",
    "Site",
    "capture",
    "check",
    "gradient_times_activation",
    "integrated_gradients",
    "list_sites",
    "measure_memory",
    "observe",
    "open_store",
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
