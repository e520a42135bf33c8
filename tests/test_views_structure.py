"""Structure: rows, cells and arcs are those of the store; closed parts tell the largest."""

import holoviews as hv
import numpy as np
import pytest

from actigrad import views
from actigrad.metrics import METRICS
from actigrad.storage.store import open_store, read_sites
from actigrad.views.reading import find_summary


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def test_the_structure_tells_medians_dead_neurons_and_the_work_of_one_sample(store):
    view = views.structure(store, step=2)
    columns = {cells.vdims[0].name: cells for cells in view.traverse(lambda element: element, [hv.Rectangles])}
    for i, site in enumerate(read_sites(store)):
        values = find_summary(store, site)["activation"].values[0]
        rms, zeros = (values[METRICS.index(metric)] for metric in ("rms", "zero_fraction"))
        shown = columns["activation rms colour"].dimension_values(4)[i]
        np.testing.assert_allclose(shown, np.log10(np.median(rms)), rtol=1e-5)
        assert columns["dead colour"].dimension_values(4)[i] == pytest.approx((zeros == 1).mean())
        flops = f"{site.work.flops / site.shape[site.dims.index('sample')]:,.0f}"
        assert columns["dead colour"].dimension_values("FLOPs")[i] == flops
    ends = sorted(path[-1, 1] for path in view.traverse(lambda element: element, [hv.Path])[0].split(datatype="array"))
    assert ends[0] > 0  # nothing leads back to the first site
    assert ends[-1] == len(read_sites(store))
