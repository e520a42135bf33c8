"""One site's neurons as lines over the steps (`traces`)."""

from typing import Any

import holoviews as hv
import numpy as np
from holoviews.operation.datashader import rasterize

from actigrad.pictures.palette import MAGNITUDE
from actigrad.storage.store import read_samples
from actigrad.views.reading import Store, describe_quantity, find_site, frame, open_tree, read_metric


def traces(store: Store, site: str, *, quantity: str = "activation", metric: str = "rms") -> Any:
    """All neurons of a site over the recorded steps, drawn by Datashader: the darker, the more neurons pass there."""
    tree = open_tree(store)
    values = read_metric(tree, find_site(tree, site), quantity, metric)
    steps, values = read_samples(tree)["step"].values, values.reshape(values.shape[0], -1)
    lines = hv.Path([np.column_stack([steps, values[:, i]]) for i in range(values.shape[1])], ["step", metric])
    counted = rasterize(lines, aggregator="count", dynamic=True)
    return counted.opts(
        **frame(height=300), cmap=list(reversed(MAGNITUDE)), cnorm="log", colorbar=True,
        clipping_colors={"min": "#ffffff00"},
        title=f"{site} · {describe_quantity(tree, quantity)}: {metric} of every neuron", backend="bokeh",
    )  # fmt: skip
