"""Compare: each cell is the difference of what both stores hold, under A's order."""

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


def cells(view, *names):
    image = view.traverse(lambda element: element, [hv.Image])[0]
    return [image.dimension_values(name, flat=False) for name in names]


def test_without_another_run_a_step_is_less_the_first(store):
    view = views.compare(store, "head/hidden", order="score", dynamic=False)
    value, neuron, step = cells(view, "value", "its neuron", "its step")
    rms = store["sites/head/hidden/summary"]["activation"].values[:, METRICS.index("rms")].astype(float)
    np.testing.assert_allclose(value, (rms - rms[0])[(step == 4).astype(int), neuron], rtol=1e-6)
    assert (np.diff(rms[1][neuron[:, 0]]) <= 0).all()
    low, high = hv.Store.lookup_options("bokeh", view, "plot").kwargs["clim"]
    assert -low == high == pytest.approx(np.abs(rms[1] - rms[0]).max())


def test_a_run_less_itself_is_nothing(decoder):
    for x in ("step", "sample"):
        (value,) = cells(views.compare(decoder, "blocks/norm1", decoder, x=x, dynamic=False), "value")
        assert (value == 0).all()


def test_samples_of_one_step_less_those_of_another_are_the_differences_of_their_extremes(decoder):
    view = views.compare(decoder, "blocks/norm1[1]", x="sample", step=4, other_step=2, dynamic=False)
    value, neuron, sample = cells(view, "value", "its neuron", "its sample")
    stored = decoder["sites/blocks/norm1/full"]["activation"].values[:, 1]
    extreme = np.take_along_axis(stored, np.abs(stored).argmax(2)[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(value, (extreme[1] - extreme[0])[sample, neuron], rtol=1e-5)


def test_the_neurons_of_all_layers_stand_under_each_other(decoder):
    layer, neuron = cells(views.compare(decoder, "blocks/norm1", dynamic=False), "its layer", "its neuron")
    assert layer[:, 0].tolist() == np.repeat([0, 1, 2], 8).tolist()
    assert neuron[:, 0].tolist() == [*range(8)] * 3


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda a, b: views.compare(a, "head/relu", b), "no site 'head/relu'"),
        (lambda a, b: views.compare(a, "head", b), "do not compare"),
        (lambda a, b: views.compare(a, "head/relu", x="time"), "'time'.*step, sample"),
        (lambda a, b: views.compare(a, "head/relu", x="sample"), r"\[4\], not at 2"),
        (lambda a, b: views.compare(a, "head/relu", other_step=3), "3 was not recorded"),
    ],
)
def test_what_does_not_compare_is_told(ask, told, store, decoder):
    with pytest.raises(ViewError, match=told):
        ask(store, decoder)
