"""Overview and flow: medians, quantiles and layers equal the store."""

import shutil

import holoviews as hv
import numpy as np
import pytest
import zarr

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


def test_the_overview_has_a_row_a_site_in_forward_order_and_a_column_a_step(store):
    view = views.overview(store)
    assert list(dict.fromkeys(view.dimension_values("site"))) == [site.path for site in read_sites(store)]
    assert list(dict.fromkeys(view.dimension_values("step"))) == ["2", "4"]
    rms = store["sites/pool1/summary"]["activation"].values[1, METRICS.index("rms")]
    row = view.select(site="pool1", step="4")
    np.testing.assert_allclose(row.dimension_values("value"), np.median(rms), rtol=1e-6)


def test_the_flow_is_the_quantiles_of_the_neurons_that_have_any_and_counts_the_others(store):
    view = views.flow(store, quantity="activation", step=2)
    line, dots = (
        next(one for one in view if type(one) is kind) for kind in (hv.Curve, hv.Points)
    )  # an Area is a Curve
    for i, site in enumerate(read_sites(store)):
        rms = find_summary(store, site)["activation"].values[0, METRICS.index("rms")]
        middle = np.median(np.log10(rms[rms > 0]))
        np.testing.assert_allclose(line.dimension_values(1)[i], middle, rtol=1e-5)
        assert (dots.dimension_values("neurons")[i], dots.dimension_values("zeros")[i]) == (rms.size, (rms == 0).sum())


def test_where_no_neuron_has_a_gradient_the_flow_says_so(digits_store, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(digits_store, path)
    zarr.open_array(path / "sites/pool1/summary/gradient", mode="r+")[:, METRICS.index("rms")] = 0
    view = views.flow(path)
    gone = [one for one in view if type(one) is hv.Points][-1]
    assert gone.dimension_values("path").tolist() == ["pool1"]
    assert gone.dimension_values("zeros")[0] == gone.dimension_values("neurons")[0] > 0
    views.save(view, tmp_path / "flow.html")
    views.save(view, tmp_path / "flow.png")


def test_the_overview_is_in_decades(store):
    view = views.overview(store)
    np.testing.assert_allclose(view.dimension_values("shown"), np.log10(view.dimension_values("value")), rtol=1e-6)


def test_zero_is_no_shade_of_the_values(digits_store, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(digits_store, path)
    for site in read_sites(open_store(path)):
        if site.path != "pool1" and not site.missing:
            zarr.open_array(path / f"sites/{site.path}/summary/gradient", mode="r+")[:, METRICS.index("rms")] = 0
    view = views.overview(path, quantity="gradient", reduction="rms")
    shown, value = view.dimension_values("shown"), view.dimension_values("value")
    assert (value > 0).any()
    assert shown[value == 0].max() <= shown[value > 0].min() - 1 + 1e-6


def test_the_flow_of_another_step_or_run_is_a_dashed_line_at_the_places_of_this_one(store):
    earlier, last = views.flow(store, step=2), views.flow(store)
    medians = lambda view, i: [one for one in view if type(one) is hv.Points][i].dimension_values("log10 gradient rms")
    both = views.flow(store, other_step=2)
    np.testing.assert_array_equal(medians(both, 0), medians(last, 0))
    np.testing.assert_array_equal(medians(both, 1), medians(earlier, 0))
    (_, theirs) = [one for one in both if type(one) is hv.Curve]
    np.testing.assert_array_equal(theirs.dimension_values(1), medians(earlier, 0))
    some = views.flow(store, store, sites=["block1/**", "head"], step=2)
    (_, theirs) = [one for one in some if type(one) is hv.Curve]
    np.testing.assert_array_equal(theirs.dimension_values(0), np.arange(len(medians(some, 0))))
