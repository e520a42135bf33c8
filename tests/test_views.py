"""Views: what is drawn and what hover tells equal the store."""

import subprocess
import sys

import holoviews as hv
import numpy as np
import pytest
from bokeh.models import Title

from actigrad import views
from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.storage.store import open_store, read_sites
from actigrad.views.reading import describe_quantity, find_summary


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


VIEWS = {
    "overview": lambda s: views.overview(s, quantity="gradient", metric="zero_fraction"),
    "structure": lambda s: views.structure(s, step=2),
    "flow": lambda s: views.flow(s),
    "saliency": lambda s: views.saliency(s, samples=[0, 5]),
    "heatmap": lambda s: views.heatmap(s, "head/hidden", dynamic=False),
    "live heatmap": lambda s: views.heatmap(s, "block1/conv", quantity="gradient"),
    "steps": lambda s: views.heatmap(s, "head/relu", x="step", dynamic=False),
    "traces": lambda s: views.traces(s, "head/hidden"),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_renders_from_a_tree_and_has_a_title(view, store):
    model = hv.render(view(store), backend="bokeh")
    titles = [title.text for title in model.select({"type": Title})]
    assert all(titles)
    assert titles


@pytest.mark.parametrize("name", ["overview", "flow", "heatmap", "saliency"])
def test_every_view_says_in_its_docstring_what_is_seen(name):
    assert len(getattr(views, name).__doc__.split()) > 30


def test_the_overview_has_a_row_a_site_in_forward_order_and_a_column_a_step(store):
    view = views.overview(store)
    assert list(dict.fromkeys(view.dimension_values("site"))) == [site.path for site in read_sites(store)]
    assert list(dict.fromkeys(view.dimension_values("step"))) == ["2", "4"]
    rms = store["sites/pool1/summary"]["activation"].values[1, METRICS.index("rms")]
    row = view.select(site="pool1", step="4")
    np.testing.assert_allclose(row.dimension_values("value"), np.median(rms), rtol=1e-6)


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


def test_the_overview_is_in_decades(store):
    view = views.overview(store)
    np.testing.assert_allclose(view.dimension_values("shown"), np.log10(view.dimension_values("value")), rtol=1e-6)


def test_a_title_says_what_a_gradient_is_of(store):
    assert describe_quantity(store, "activation") == "activation"
    store = store.assign({})
    store.attrs["gradients_of"] = "each sample's own logit"
    assert describe_quantity(store, "gradient") == "gradient (of each sample's own logit)"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.overview(s, metric="median"), "zero_fraction"),
        (lambda s: views.saliency(s, name="audio"), r"\['image'\]"),
    ],
)
def test_what_the_store_does_not_hold_is_told(ask, told, store):
    with pytest.raises(ViewError, match=told):
        ask(store)


def test_a_view_opens_in_a_process_that_never_imports_jax(digits_store):
    script = f"import sys; from actigrad import views; views.flow({str(digits_store)!r}); print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
