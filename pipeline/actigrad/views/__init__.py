"""Views: HoloViews elements of a store. A view's docstring is its legend: what a pixel is, which reduction, which unit.

    store = actigrad.open_store("runs/digits/digits.zarr")
    views.overview(store) + views.flow(store)
    views.heatmap(store, "head/hidden")             # a DynamicMap: zooming re-reads the store at the new resolution

Nothing here imports JAX. Names of the arguments are the same everywhere: `quantity` (activation, gradient), `metric`
(see `metrics.METRICS`), `step` (a recorded step, the last by default), `order`.
"""

import holoviews.plotting.bokeh  # noqa: F401 - registers the backend

from actigrad.views.heatmap import heatmap
from actigrad.views.inputs import saliency
from actigrad.views.model import flow, overview, structure
from actigrad.views.neurons import traces

__all__ = ["flow", "heatmap", "overview", "saliency", "structure", "traces"]
