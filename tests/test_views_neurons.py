"""Traces and the single neuron: what is drawn and what hover tells equal the store."""

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


def find(view, kind):
    return [one for one in view.traverse(lambda element: element, [kind]) if type(one) is kind]


def test_every_trace_is_counted_and_the_one_on_top_names_its_neuron(store):
    (image,) = find(views.traces(store, "head/hidden", reduction="mean", dynamic=False), hv.Image)
    values = store["sites/head/hidden/summary"]["activation"].values[:, METRICS.index("mean")]
    count = np.nan_to_num(image.dimension_values("neurons", flat=False))
    assert count.sum(0).max() >= values.shape[1]
    winner, peak = (image.dimension_values(f"its {name}", flat=False) for name in ("neuron", "largest magnitude"))
    seen = winner >= 0
    np.testing.assert_allclose(peak[seen], np.abs(values).max(0)[winner[seen]], rtol=1e-6)
    assert np.abs(values).max(0).argmax() in winner


def test_the_neurons_of_all_layers_are_traced_and_told_apart(decoder):
    (image,) = find(views.traces(decoder, "blocks/norm1", dynamic=False), hv.Image)
    values = decoder["sites/blocks/norm1/summary"]["activation"].values[:, METRICS.index("rms")]
    layer, neuron, peak = (
        image.dimension_values(f"its {name}", flat=False) for name in ("layer", "neuron", "largest magnitude")
    )
    seen = neuron >= 0
    np.testing.assert_allclose(peak[seen], np.abs(values).max(0)[layer[seen], neuron[seen]], rtol=1e-6)
    assert set(layer[seen]) == {0, 1, 2}


def test_a_neuron_shows_its_trace_its_values_and_the_samples_at_both_ends(store):
    view = views.neuron(store, "head/relu", 3)
    summary = store["sites/head/relu/summary"]["activation"].values[:, :, 3]
    (line,), (histogram,) = find(view, hv.Curve), find(view, hv.Histogram)
    np.testing.assert_allclose(line.dimension_values(1), summary[:, METRICS.index("mean")])
    values = store["sites/head/relu/full"]["activation"].values[0, :, 3]
    assert histogram.dimension_values("samples").sum() == values.size
    texts = find(view, hv.Labels)[-1].dimension_values("text")
    shown = [float(text.split("\n")[1]) for text in texts]
    np.testing.assert_allclose(shown[:6], np.sort(values)[::-1][:6], rtol=5e-3)
    np.testing.assert_allclose(shown[6:], np.sort(values)[:6], rtol=5e-3)
    label, image = store["samples"]["label"].values, store["inputs/image/full"]["value"].values[0, ..., 0]
    best = int(np.argsort(values, kind="stable")[-1])
    assert texts[0].startswith(f"{label[best]} →")
    np.testing.assert_array_equal(find(view, hv.Image)[0].dimension_values(2, flat=False)[::-1], image[best])


def test_a_neuron_of_one_layer_is_reduced_over_positions(decoder):
    view = views.neuron(decoder, "blocks/norm1[1]", 2, quantity="gradient")
    values = decoder["sites/blocks/norm1/full"]["gradient"].values[-1, 1, :, :, 2]
    extreme = np.take_along_axis(values, np.abs(values).argmax(1)[:, None], 1)[:, 0]
    (histogram,) = find(view, hv.Histogram)
    counts, _ = np.histogram(extreme, bins=histogram.edges)
    np.testing.assert_array_equal(histogram.dimension_values("samples"), counts)


def test_where_nothing_was_kept_whole_there_is_the_trace(store):
    assert len(views.neuron(store, "pool1", 0)) == 1


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.neuron(s, "head/relu", 400), "neuron is 400.*0 to 31"),
        (lambda s: views.traces(s, "head/relu", reduction="rsm"), "'rsm'.*'rms'"),
        (lambda s: views.neuron(s, "head/relu[2]", 0), "no loop"),
    ],
)
def test_what_is_not_there_is_told(ask, told, store):
    with pytest.raises(ViewError, match=told):
        ask(store)
