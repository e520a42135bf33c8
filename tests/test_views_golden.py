"""Every view beside the picture of it that somebody looked at: tests/golden/<view>.png.

    ACTIGRAD_GOLDEN=new scripts/test tests/test_views_golden.py      draws them anew; look at each before you commit it

They are compared by what is seen: another processor rounds otherwise, and letters move by a pixel.
"""

import os

import holoviews as hv
import numpy as np
import pytest
from PIL import Image

from actigrad import views
from actigrad.storage.store import open_store

DRAW = {
    "overview": lambda s: views.overview(s, quantity="gradient"),
    "structure": lambda s: views.structure(s),
    "heatmap": lambda s: views.heatmap(s, "head/relu", order="score", dynamic=False),
    "feature_maps": lambda s: views.feature_maps(s, "block1/conv", sample=3),
    "flow": lambda s: views.flow(s),
    "distribution": lambda s: views.distribution(s, "head/hidden", quantity="gradient"),
    "activity": lambda s: views.activity(s, "head/relu", dynamic=False),
    "weights": lambda s: views.weights(s, "head/hidden", dynamic=False),
    "saliency": lambda s: views.saliency(s, samples=[0, 1, 2, 3]),
    "traces": lambda s: views.traces(s, "block2/norm", dynamic=False),
    "neuron": lambda s: views.neuron(s, "head/relu", 3),
    "compare": lambda s: views.compare(s, "head/relu", step=4, other_step=2, dynamic=False),
}
DOTS = 50
"""Pixels an inch of a golden picture."""
FAR, MANY = 40, 0.02
"""How far a colour may be off, of 255, and at what share of all pixels it may be further off."""


@pytest.mark.parametrize("name", DRAW)
def test_a_view_looks_as_it_did_when_it_was_looked_at(name, digits_store, root, tmp_path):
    view = DRAW[name](open_store(digits_store))
    figure = hv.render(view, backend="matplotlib")
    figure.savefig(tmp_path / "drawn.png", bbox_inches="tight", pad_inches=0.1, dpi=DOTS)
    drawn, path = Image.open(tmp_path / "drawn.png").convert("RGB"), root / f"tests/golden/{name}.png"
    if os.environ.get("ACTIGRAD_GOLDEN") == "new":
        path.parent.mkdir(exist_ok=True)
        drawn.quantize(128).save(path, optimize=True)
    golden = Image.open(path).convert("RGB")
    assert np.abs(np.subtract(drawn.size, golden.size)).max() <= 3
    # Blurred, so that a letter that moved by a pixel is none that is gone.
    one, other = (np.asarray(picture.resize(golden.size).reduce(2), float) for picture in (drawn, golden))
    assert (np.abs(one - other).max(-1) > FAR).mean() <= MANY
