"""Distribution and activity: counts, shares and winners equal the store."""

import holoviews as hv
import numpy as np
import pytest

from actigrad import views
from actigrad.errors import ViewError
from actigrad.metrics import METRICS
from actigrad.storage.store import open_store


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def image_of(view):
    return view.traverse(lambda element: element, [hv.Image])[0]


def layer(image, name):
    return image.dimension_values(name, flat=False)


def test_the_distribution_counts_every_value_and_each_in_its_bin(store):
    image = image_of(views.distribution(store, "head/relu"))
    values = store["sites/head/relu/full"]["activation"].values[0]
    counts, low, high = (layer(image, name)[:, -1] for name in ("count", "from", "to"))
    assert np.nansum(counts) == values.size
    for count, left, right in zip(counts, low, high, strict=True):
        inside = (values >= left) & (values < right)
        # What was kept is rounded to bfloat16 and may have crossed the edge of a bin.
        assert np.nan_to_num(count) == pytest.approx(inside.sum(), abs=0.02 * values.size)
        assert left != 0
    zero = np.flatnonzero((low < 0) & (high > 0))[0]
    assert counts[zero] == (values == 0).sum()
    np.testing.assert_allclose(np.nansum(layer(image, "share"), axis=0), 1)


def test_layers_are_counted_together_or_one_alone(decoder):
    stored = decoder["sites/blocks/perceptron/gelu/summary"]["activation_histogram"].values.sum((0, 2))
    for name, expected in (("blocks/perceptron/gelu", stored.sum()), ("blocks/perceptron/gelu[1]", stored[1])):
        counts = np.nansum(layer(image_of(views.distribution(decoder, name)), "count"))
        zeros = decoder["sites/blocks/perceptron/gelu/summary"]["activation_special"].values[..., 0].sum()
        assert counts == pytest.approx(expected, abs=int(zeros))


def test_values_that_are_not_finite_have_loud_rows_of_their_own(store):
    broken = store.copy()
    summary = broken["sites/head/relu/summary"].to_dataset().compute()
    summary["activation_special"][1, 1] = 7
    broken["sites/head/relu/summary"] = summary
    view = views.distribution(broken, "head/relu")
    loud = view.traverse(lambda element: element, [hv.Rectangles])[0]
    assert (loud.dimension_values("kind").tolist(), loud.dimension_values("count").tolist()) == (["nan"], [7])


def test_every_neuron_is_a_point_at_its_share_and_gradient_and_hover_names_one_that_is_there(store):
    image = image_of(views.activity(store, "head/relu", dynamic=False, pixels=(200, 200)))
    last = store["sites/head/relu/summary"].to_dataset().isel(step=-1)
    active = 1 - last["activation"].values[METRICS.index("zero_fraction")]
    slope = last["gradient"].values[METRICS.index("rms")]
    count, winner = layer(image, "neurons"), layer(image, "its neuron")
    assert np.nansum(count) == active.size
    for i, j in np.argwhere(winner >= 0):
        one = winner[i, j]
        dx = np.diff(image.dimension_values(0, expanded=False))[0]
        assert abs(image.dimension_values(0, expanded=False)[j] - active[one]) <= dx
        assert layer(image, "its gradient rms")[i, j] == pytest.approx(slope[one])
    assert f"{(active == 0).sum()} dead" in hv.Store.lookup_options("bokeh", image, "plot").kwargs["title"]


def test_colours_by_rank_come_only_when_asked_for_and_say_so(store):
    for asked in (False, True):
        image = image_of(views.activity(store, "head/relu", dynamic=False, equalise=asked))
        options = hv.Store.lookup_options("bokeh", image, "plot").kwargs
        assert options["cnorm"] == ("eq_hist" if asked else "log")
        assert ("do not compare" in options["title"].replace("\n", " ")) == asked


def test_a_quantity_that_nobody_knows_is_told_with_the_nearest(store):
    with pytest.raises(ViewError, match=r"'activaton'.*Did you mean 'activation'"):
        views.distribution(store, "head/relu", quantity="activaton")
