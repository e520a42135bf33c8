"""The heatmap: what is drawn and what hover tells equal the store."""

import inspect
import json
import re

import holoviews as hv
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.ndimage
from bokeh.document import Document
from bokeh.models import ColumnDataSource
from dask.config import set as configured
from dask.local import get_sync
from matplotlib.colors import to_rgb

from actigrad import views
from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.pictures import matrices
from actigrad.pictures.palette import NOT_FINITE, Scale
from actigrad.pictures.raster import rasterise
from actigrad.storage.store import open_store
from actigrad.views.heatmap import _dress, _image, _whole


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


def image_of(view):
    """The one image of a static heatmap."""
    return view.traverse(lambda element: element, [hv.Image])[0]


def ids(image, name):
    return image.dimension_values(f"its {name}", flat=False)


def test_a_heatmap_at_full_resolution_is_the_stored_array_with_its_ids(store):
    image = image_of(views.heatmap(store, "head/hidden", samples="natural", dynamic=False, pixels=(4000, 4000)))
    stored = store["sites/head/hidden/full"]["activation"].values[0]
    np.testing.assert_array_equal(image.dimension_values("value", flat=False), stored.T)
    np.testing.assert_array_equal(ids(image, "neuron"), np.indices(stored.T.shape)[0])
    np.testing.assert_array_equal(ids(image, "sample"), np.indices(stored.T.shape)[1])


def test_what_hover_tells_is_in_the_store_after_grouping_sorting_and_aggregating(store):
    picture = views.heatmap(store, "head/hidden", order="score", dynamic=False, pixels=(5, 9))
    image = image_of(picture)
    stored, label = store["sites/head/hidden/full"]["activation"].values[0], store["samples"]["label"].values
    neuron, sample = ids(image, "neuron"), ids(image, "sample")
    assert image.dimension_values("value", flat=False).shape[0] <= 5
    np.testing.assert_array_equal(image.dimension_values("value", flat=False), stored[sample, neuron])
    np.testing.assert_array_equal(ids(image, "label"), label[sample])


def test_positions_are_reduced_to_the_value_of_largest_magnitude(store):
    picture = views.heatmap(
        store, "block1/conv", quantity="gradient", samples="natural", dynamic=False, pixels=(4000, 4000)
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
    live = views.heatmap(store, "head/hidden", samples="natural")
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
    image = image_of(views.heatmap(broken, "head/hidden", samples="natural", dynamic=False, pixels=(8, 8)))
    shown, count = image.dimension_values("value", flat=False), image.dimension_values("not finite", flat=False)
    assert count.sum() == 1
    assert np.isnan(shown[count == 1]).all()
    assert hv.Store.lookup_options("bokeh", image, "plot").kwargs["clipping_colors"]["NaN"] == NOT_FINITE


def test_lines_stand_between_the_labels(store):
    picture = views.heatmap(store, "head/hidden", dynamic=False)
    label = np.sort(store["samples"]["label"].values)
    lines = picture.traverse(lambda element: element, [hv.VLines])[0]
    np.testing.assert_array_equal(lines.dimension_values(0), np.flatnonzero(np.diff(label)) + 0.5)


def test_neurons_by_score_fall_by_their_rms(store):
    picture = views.heatmap(store, "head/hidden", quantity="gradient", order="score", dynamic=False, pixels=(400, 400))
    rms = store["sites/head/hidden/summary"]["gradient"].values[-1, METRICS.index("rms")]
    assert (np.diff(rms[ids(image_of(picture), "neuron")[:, 0]]) <= 0).all()


def test_a_range_covers_every_element_that_it_touches():
    assert [_whole(span) for span in ((-0.5, 7.5), (-0.2, 7.2), (0.6, 1.4), (0.4, 1.6))] == [
        (0, 8), (0, 8), (1, 2), (0, 3),
    ]  # fmt: skip


def test_every_lone_value_of_a_large_matrix_is_in_the_png(tmp_path):
    """As many spikes as there are; each in a cell of its own, far from the others; at HoloViews' own resolution."""
    random = np.random.default_rng(0)
    values = np.zeros((30_000, 5800), np.float32)
    rows, columns = 200 + random.permutation(40) * 740 + random.integers(0, 99, 40), 60 + random.permutation(40) * 140
    values[rows, columns] = random.choice([-1, 1], 40)
    values[15_000, 30] = np.inf
    view = rasterise(values, None, inspect.signature(views.heatmap).parameters["pixels"].default)
    image = _image(view, {"sample": None}, "sample", "extreme")
    drawn = _dress(image, Scale(-1.0, 1.0, ["#0000ff", "#ffffff", "#ff0000"], 0.0), "spikes", {}, "sample", len(values))
    hv.save(drawn.opts(colorbar=False, backend="matplotlib"), tmp_path / "spikes.png", backend="matplotlib")
    red, green, blue, _ = np.moveaxis(plt.imread(tmp_path / "spikes.png"), 2, 0)
    found = [scipy.ndimage.label((part > 0.9) & (green < 0.1), np.ones((3, 3)))[1] for part in (red, blue)]
    assert found == [(values == 1).sum(), (values == -1).sum()]
    loud = np.isclose(np.stack([red, green, blue], -1), to_rgb(NOT_FINITE), atol=0.01).all(-1)
    assert scipy.ndimage.label(loud)[1] == 1


def test_a_saved_page_holds_what_hover_tells_and_it_is_in_the_store_in_any_order(store, tmp_path):
    view = views.heatmap(store, "head/hidden", order="selectivity", dynamic=False, pixels=(7, 9))
    hv.save(view, tmp_path / "heatmap.html", backend="bokeh")
    scripts = re.findall(
        r"<script type=.application/json.[^>]*>(.*?)</script>", (tmp_path / "heatmap.html").read_text(), re.S
    )
    (page,) = [json.loads(one) for one in scripts if '"roots"' in one]
    document = Document.from_json(next(iter(page.values())))
    (data,) = [one.data for one in document.select({"type": ColumnDataSource}) if "its_neuron" in one.data]
    stored = store["sites/head/hidden/full"]["activation"].values[0]
    neuron, sample, label, value = (data[name][0] for name in ("its_neuron", "its_sample", "its_label", "image"))
    np.testing.assert_array_equal(value, stored[sample, neuron])
    np.testing.assert_array_equal(label, store["samples"]["label"].values[sample])


def test_panels_of_one_step_have_one_scale_whatever_their_order_window_and_size(store):
    limits = {
        hv.Store.lookup_options("bokeh", image_of(view), "plot").kwargs["clim"]
        for view in (
            views.heatmap(store, "head/hidden", dynamic=False),
            views.heatmap(store, "head/hidden", order="score", samples="natural", dynamic=False, pixels=(3, 5)),
            views.heatmap(store, "head/hidden", step=4, reduction="mean", dynamic=False),
        )
    }
    assert len(limits) == 1


def test_an_event_of_a_live_heatmap_is_one_compute_and_gives_no_more_cells_than_pixels(store, monkeypatch):
    monkeypatch.setattr(matrices, "SMALL", 10)
    live = views.heatmap(store, "head/hidden", order="score", samples="natural")
    picture = live.traverse(lambda one: one, [hv.DynamicMap])[0]
    range_, size = picture.streams
    computed = []

    def scheduler(graph, keys, **options):
        computed.append(keys)
        return get_sync(graph, keys, **options)

    with configured(scheduler=scheduler):
        for ratio in (1.0, 2.0):
            size.event(width=6, height=4, scale=ratio)
            range_.event(x_range=(3.2, 50.1), y_range=(-0.5, 15.5))
            computed.clear()
            shape = image_of(picture[()]).dimension_values("value", flat=False).shape
            assert len(computed) == 1
            assert shape[0] <= 4 * ratio
            assert shape[1] <= 6 * ratio


def test_a_zoom_script_keeps_the_colours_and_comes_back_to_the_picture_that_it_left(store):
    live = views.heatmap(store, "head/hidden", quantity="gradient", samples="natural")
    picture = live.traverse(lambda one: one, [hv.DynamicMap])[0]
    range_, size = picture.streams
    size.event(width=11, height=7, scale=1.0)
    random, rows = np.random.default_rng(0), store["sites/head/hidden/full"].sizes
    seen, limits = [], set()
    windows = [np.sort(random.uniform(-3, n + 3, (12, 2))) for n in (rows["sample"], rows["neuron"])]
    windows = [np.concatenate([one, one[:1]]) for one in windows]
    for x, y in zip(*windows, strict=True):
        range_.event(x_range=tuple(x), y_range=tuple(y))
        image = image_of(picture[()])
        limits.add(hv.Store.lookup_options("bokeh", image, "plot").kwargs["clim"])
        seen.append(image)
    assert len(limits) == 1
    for name in map(str, seen[0].vdims):
        first, last = (image.dimension_values(name, flat=False) for image in (seen[0], seen[-1]))
        np.testing.assert_array_equal(first, last)


def test_places_are_exact_beyond_what_a_float32_counts():
    values = np.broadcast_to(np.float32(1), (2**26, 3))
    image = _image(rasterise(values, ((2**26 - 5, 2**26), (0, 3)), (50, 50)), {"sample": None}, "sample", "extreme")
    assert image.dimension_values("neuron", expanded=False).tolist() == [float(i) for i in range(2**26 - 5, 2**26)]
    assert ids(image, "neuron")[:, 0].tolist() == list(range(2**26 - 5, 2**26))


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.heatmap(s, "head/hiden"), "head/hidden"),
        (lambda s: views.heatmap(s, "pool1"), "keep: full"),
        (lambda s: views.heatmap(s, "head/relu", step=3), r"\[2, 4\]"),
        (lambda s: views.heatmap(s, "head/relu", step=2), r"\[4\], not at 2"),
        (lambda s: views.heatmap(s, "head/relu", x="time"), "'time'"),
        (lambda s: views.heatmap(s, "head/relu", order="size"), "'size'"),
        (lambda s: views.heatmap(s, "head/relu", samples="size"), "'size'"),
    ],
)
def test_what_the_store_does_not_hold_is_told(ask, told, store):
    with pytest.raises(ViewError, match=told):
        ask(store)
