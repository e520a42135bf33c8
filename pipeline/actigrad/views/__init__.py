"""Views: HoloViews elements of a store. A view's docstring is its legend: what a pixel is, which reduction, which unit.

    store = actigrad.open_store("runs/digits/digits.zarr")
    views.overview(store) + views.flow(store)
    views.heatmap(store, "head/hidden")             # a DynamicMap: zooming re-reads the store at the new resolution

    views.save(views.structure(store), "structure.svg")

Nothing here imports JAX. Names of the arguments are the same everywhere: `site` (a path, or one layer of it as
`blocks/attention[3]`), `quantity` (activation, gradient), `reduction` (of a neuron's values, see `metrics.METRICS`),
`step` (a recorded step, the last by default), `order`. Every view has options for Bokeh and for Matplotlib; `save`
and `hv.extension` choose.
"""

from actigrad.views.compare import compare
from actigrad.views.heatmap import heatmap
from actigrad.views.images import feature_maps
from actigrad.views.inputs import saliency
from actigrad.views.model import flow, overview
from actigrad.views.neurons import neuron, traces
from actigrad.views.parameters import weights
from actigrad.views.structure import structure
from actigrad.views.style import save
from actigrad.views.values import activity, distribution

__all__ = [
    "activity",
    "compare",
    "distribution",
    "feature_maps",
    "flow",
    "heatmap",
    "neuron",
    "overview",
    "saliency",
    "save",
    "structure",
    "traces",
    "weights",
]
