"""Saliency: pictures, maps and the control are those of the store."""

import holoviews as hv
import numpy as np
import pytest

from actigrad import views
from actigrad.storage.store import open_store


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def test_saliency_shows_each_labels_hardest_sample_upright_above_its_gradient_on_a_symmetric_scale(store):
    samples = store["samples"].to_dataset().isel(step=-1)
    loss, label = samples["loss"].values, samples["label"].values
    hardest = [max(np.flatnonzero(label == one), key=lambda i: loss[i]) for one in np.unique(label)]
    images = list(views.saliency(store))
    stored = store["inputs/image/full"]
    assert len(images) == 2 * len(hardest)
    for name, row in (("value", images[: len(hardest)]), ("gradient", images[len(hardest) :])):
        for sample, image in zip(hardest, row, strict=True):
            # From the bottom up: what stands at the largest y is drawn on top.
            shown = image.dimension_values(name, flat=False)[::-1]
            np.testing.assert_array_equal(shown, stored[name].values[0, sample, ..., 0])
            if name == "gradient":
                low, high = hv.Store.lookup_options("bokeh", image, "plot").kwargs["clim"]
                assert -low == high == np.abs(shown).max()
