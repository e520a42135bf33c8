"""Feature maps: every tile is the stored channel, upright, with its ids under each cell."""

import holoviews as hv
import numpy as np
import pytest

from actigrad import views
from actigrad.errors import ViewError
from actigrad.storage.store import open_store
from actigrad.views.images import _wall


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def cells(view, *names):
    image = view.traverse(lambda element: element, [hv.Image])[0]
    return [image.dimension_values(name, flat=False) for name in names]


def test_every_cell_is_the_value_of_its_channel_at_its_place(store):
    value, neuron, y, x = cells(
        views.feature_maps(store, "block1/conv", sample=4), "value", "its neuron", "its y", "its x"
    )
    stored = store["sites/block1/conv/full"]["activation"].values[0, 4]
    inside = neuron >= 0
    assert inside.sum() == stored.size
    np.testing.assert_array_equal(value[inside], stored[y[inside], x[inside], neuron[inside]])
    assert np.isnan(value[~inside]).all()


@pytest.mark.parametrize(("count", "rows"), [(4, 2), (6, 2), (12, 3), (32, 4)])
def test_the_rows_of_a_wall_are_as_even_as_they_can_be(count, rows):
    _, (channel, *_), *_ = _wall(np.zeros((count, 8, 8), np.float32), np.arange(count))
    tiles = [len(set(row[row >= 0].tolist())) for row in channel if (row >= 0).any()]
    assert len(tiles) == 8 * rows
    assert min(tiles) == max(tiles) == count // rows


def test_the_first_row_of_a_tile_is_drawn_on_top(store):
    view = views.feature_maps(store, "block1/conv")
    (y,) = cells(view, "its y")
    assert y[0, 0] == 0
    assert hv.Store.lookup_options("bokeh", view, "plot").kwargs["invert_yaxis"]


def test_by_score_the_channels_fall_by_their_rms_in_the_sample(store):
    (neuron,) = cells(views.feature_maps(store, "block1/relu", sample=2, order="score", most=4), "its neuron")
    stored = store["sites/block1/relu/full"]["activation"].values[0, 2]
    rms = np.sqrt((stored.astype(float) ** 2).mean((0, 1)))
    shown = list(dict.fromkeys(neuron[neuron >= 0].tolist()))
    assert sorted(shown) == sorted(np.argsort(-rms, kind="stable")[:4].tolist())


def test_an_attention_pattern_is_seen_by_heads_of_one_layer(decoder):
    view = views.feature_maps(decoder, "blocks/attention/pattern[1]", sample=3)
    value, head, query, key = cells(view, "value", "its y", "its x", "its neuron")
    stored = decoder["sites/blocks/attention/pattern/full"]["activation"].values[-1, 1, 3]
    inside = head >= 0
    np.testing.assert_array_equal(value[inside], stored[head[inside], query[inside], key[inside]])
    assert "2 maps along y of 6 × 6" in hv.Store.lookup_options("bokeh", view, "plot").kwargs["title"]


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.feature_maps(s, "head/relu"), "three dims"),
        (lambda s: views.feature_maps(s, "pool1"), "keep: full"),
        (lambda s: views.feature_maps(s, "block1/conv", sample=64), "0 to 63"),
        (lambda s: views.feature_maps(s, "block1/conv", along="head"), "'head'.*y, x, neuron"),
        (lambda s: views.feature_maps(s, "block1/conv", order="size"), "'size'.*score"),
    ],
)
def test_what_is_not_there_is_told(ask, told, store):
    with pytest.raises(ViewError, match=told):
        ask(store)
