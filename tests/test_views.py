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
from actigrad.pictures.palette import NOT_FINITE
from actigrad.storage.store import open_store, read_sites
from actigrad.views.neurons import _whole
from actigrad.views.reading import describe_quantity, find_summary


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


def image_of(view):
    """The one image of a static heatmap."""
    return view.traverse(lambda element: element, [hv.Image])[0]


def ids(image, name):
    return image.dimension_values(f"its {name}", flat=False)


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


def test_a_heatmap_at_full_resolution_is_the_stored_array_with_its_ids(store):
    image = image_of(views.heatmap(store, "head/hidden", order="natural", dynamic=False, pixels=(4000, 4000)))
    stored = store["sites/head/hidden/full"]["activation"].values[0]
    np.testing.assert_array_equal(image.dimension_values("value", flat=False), stored.T)
    np.testing.assert_array_equal(ids(image, "neuron"), np.indices(stored.T.shape)[0])
    np.testing.assert_array_equal(ids(image, "sample"), np.indices(stored.T.shape)[1])


def test_what_hover_tells_is_in_the_store_after_grouping_sorting_and_aggregating(store):
    picture = views.heatmap(store, "head/hidden", neurons="score", dynamic=False, pixels=(5, 9))
    image = image_of(picture)
    stored, label = store["sites/head/hidden/full"]["activation"].values[0], store["samples"]["label"].values
    neuron, sample = ids(image, "neuron"), ids(image, "sample")
    assert image.dimension_values("value", flat=False).shape[0] <= 5
    np.testing.assert_array_equal(image.dimension_values("value", flat=False), stored[sample, neuron])
    np.testing.assert_array_equal(ids(image, "label"), label[sample])


def test_positions_are_reduced_to_the_value_of_largest_magnitude(store):
    picture = views.heatmap(
        store, "block1/conv", quantity="gradient", order="natural", dynamic=False, pixels=(4000, 4000)
    )
    stored = store["sites/block1/conv/full"]["gradient"].values[0]
    flat = stored.reshape(len(stored), -1, stored.shape[-1])
    expected = np.take_along_axis(flat, np.abs(flat).argmax(1)[:, None], 1)[:, 0]
    np.testing.assert_array_equal(np.abs(image_of(picture).dimension_values("value", flat=False)), np.abs(expected.T))


def test_neurons_over_steps_are_the_stored_extremes(store):
    image = image_of(views.heatmap(store, "head/relu", x="step", dynamic=False))
    stored = store["sites/head/relu/summary"]["activation"].values[:, METRICS.index("extreme")]
    np.testing.assert_array_equal(image.dimension_values("value", flat=False), stored.T)


def test_the_first_neuron_stands_at_the_top(store):
    figure = hv.render(image_of(views.heatmap(store, "head/relu", x="step", dynamic=False)), backend="bokeh")
    assert figure.y_range.start > figure.y_range.end


def test_zooming_in_splits_cells_and_keeps_the_colours(store):
    live = views.heatmap(store, "head/hidden", order="natural")
    picture = live.traverse(lambda element: element, [hv.DynamicMap])[0]
    range_, size = picture.streams
    size.event(width=8, height=8, scale=1.0)
    coarse = image_of(picture[()])
    range_.event(x_range=(-0.5, 7.5), y_range=(-0.5, 7.5))
    fine = image_of(picture[()])
    assert fine.dimension_values("value", flat=False).shape == (8, 8)
    stored = store["sites/head/hidden/full"]["activation"].values[0]
    np.testing.assert_array_equal(fine.dimension_values("value", flat=False), stored[:8, :8].T)
    limits = [hv.Store.lookup_options("bokeh", image, "plot").kwargs["clim"] for image in (coarse, fine)]
    assert limits[0] == limits[1]


def test_a_value_that_is_not_finite_is_loud_and_counted(digits_store, tmp_path):
    import shutil

    import zarr

    broken = tmp_path / "broken.zarr"
    shutil.copytree(digits_store, broken)
    array = zarr.open_group(broken, mode="r+", use_consolidated=False)["sites/head/hidden/full/activation"]
    array[0, 3, 5] = np.inf
    image = image_of(views.heatmap(broken, "head/hidden", order="natural", dynamic=False, pixels=(8, 8)))
    shown, count = image.dimension_values("value", flat=False), image.dimension_values("not finite", flat=False)
    assert count.sum() == 1
    assert np.isnan(shown[count == 1]).all()
    assert hv.Store.lookup_options("bokeh", image, "plot").kwargs["clipping_colors"]["NaN"] == NOT_FINITE


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


def test_lines_stand_between_the_labels(store):
    picture = views.heatmap(store, "head/hidden", dynamic=False)
    label = np.sort(store["samples"]["label"].values)
    lines = picture.traverse(lambda element: element, [hv.VLines])[0]
    np.testing.assert_array_equal(lines.dimension_values(0), np.flatnonzero(np.diff(label)) + 0.5)


def test_neurons_by_score_fall_by_their_rms(store):
    picture = views.heatmap(
        store, "head/hidden", quantity="gradient", neurons="score", dynamic=False, pixels=(400, 400)
    )
    rms = store["sites/head/hidden/summary"]["gradient"].values[-1, METRICS.index("rms")]
    assert (np.diff(rms[ids(image_of(picture), "neuron")[:, 0]]) <= 0).all()


def test_a_range_covers_every_element_that_it_touches():
    assert [_whole(span) for span in ((-0.5, 7.5), (-0.2, 7.2), (0.6, 1.4), (0.4, 1.6))] == [
        (0, 8), (0, 8), (1, 2), (0, 3),
    ]  # fmt: skip


def test_a_title_says_what_a_gradient_is_of(store):
    assert describe_quantity(store, "activation") == "activation"
    store = store.assign({})
    store.attrs["gradients_of"] = "each sample's own logit"
    assert describe_quantity(store, "gradient") == "gradient (of each sample's own logit)"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.heatmap(s, "head/hiden"), "head/hidden"),
        (lambda s: views.heatmap(s, "pool1"), "keep: full"),
        (lambda s: views.heatmap(s, "head/relu", step=3), r"\[2, 4\]"),
        (lambda s: views.heatmap(s, "head/relu", step=2), r"\[4\], not at 2"),
        (lambda s: views.heatmap(s, "head/relu", x="time"), "'time'"),
        (lambda s: views.heatmap(s, "head/relu", order="size"), "'size'"),
        (lambda s: views.heatmap(s, "head/relu", neurons="size"), "'size'"),
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
