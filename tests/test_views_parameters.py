"""Weights: each cell is the stored connection, whichever way the framework lays its matrices out."""

import holoviews as hv
import numpy as np
import pytest

from actigrad import views
from actigrad.errors import ViewError
from actigrad.storage.store import open_store
from actigrad.views.parameters import _as_matrix


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def cells(view, *names):
    image = view.traverse(lambda element: element, [hv.Image])[0]
    return [image.dimension_values(name, flat=False) for name in names]


@pytest.mark.parametrize("quantity", ["value", "gradient", "update"])
def test_a_cell_is_the_connection_from_its_input_to_its_output_neuron(quantity, decoder):
    view = views.weights(decoder, "head", quantity=quantity, order="score", dynamic=False, pixels=(400, 400))
    value, out, into = cells(view, "value", "its out neuron", "its in neuron")
    stored = decoder["parameters/head/kernel/full"][quantity].values[0]
    np.testing.assert_array_equal(value, stored[into, out])
    rms = np.sqrt((stored.astype(float) ** 2).mean(0))
    assert (np.diff(rms[out[:, 0]]) <= 1e-12).all()
    low, high = hv.Store.lookup_options("bokeh", view, "plot").kwargs["clim"]
    assert -low == high == np.abs(stored).max()


def test_a_layer_of_stacked_weights_is_shown_alone(decoder):
    stored = decoder["parameters/blocks/attention/query/kernel/full"]["value"].values[0]
    for name, layer in (("blocks/attention/query[1]", 1), ("blocks/attention/query/kernel", 2)):
        value, out, into = cells(
            views.weights(decoder, name, dynamic=False), "value", "its out neuron", "its in neuron"
        )
        np.testing.assert_array_equal(value, stored[layer][into, out])


def test_a_kernel_of_a_convolution_is_reduced_to_its_largest_magnitude():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 2, 5, 7))
    shown = _as_matrix(kernel, "conv/kernel")
    assert shown.shape == (7, 5)
    flat = kernel.reshape(6, 5, 7)
    np.testing.assert_array_equal(np.abs(shown), np.abs(flat).max(0).T)
    assert (_as_matrix(np.moveaxis(kernel, (3, 2), (0, 1)), "conv/weight") == shown).all()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.weights(s, "haed"), "head"),
        (lambda s: views.weights(s, "head[1]"), "in no loop"),
        (lambda s: views.weights(s, "blocks/attention/query[3]"), r"\(3,\)"),
        (lambda s: views.weights(s, "head", quantity="values"), "'values'.*'value'"),
        (lambda s: views.weights(s, "head", step=2), r"\[4\], not at 2"),
    ],
)
def test_what_is_not_there_is_told(ask, told, decoder):
    with pytest.raises(ViewError, match=told):
        ask(decoder)


def test_weights_that_were_not_kept_whole_are_told_with_the_cure(decoder):
    tree = decoder.copy()
    del tree["parameters/head/kernel"]["full"]
    with pytest.raises(ViewError, match="keep: full"):
        views.weights(tree, "head")
