"""Saliency: pictures, maps and their controls are those of the store."""

import holoviews as hv
import numpy as np
import pytest
from scipy.stats import spearmanr

from actigrad import views
from actigrad.errors import ViewError
from actigrad.storage.store import open_store


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


def images_of(view, name):
    """The tiles of one kind, upright: what stands at the largest y is drawn on top."""
    images = view.traverse(lambda element: element, [hv.Image])
    return [image.dimension_values(2, flat=False)[::-1] for image in images if image.vdims[0].name == name]


def test_each_labels_hardest_sample_stands_upright_above_its_gradient_on_a_symmetric_scale(store):
    samples = store["samples"].to_dataset().isel(step=-1)
    loss, label = samples["loss"].values, samples["label"].values
    hardest = [max(np.flatnonzero(label == one), key=lambda i: loss[i]) for one in np.unique(label)]
    view, stored = views.saliency(store, methods=["gradient"]), store["inputs/image/full"]
    inputs, maps = images_of(view, "input"), images_of(view, "map")
    for sample, shown, slope in zip(hardest, inputs, maps, strict=False):
        np.testing.assert_array_equal(shown, stored["value"].values[0, sample, ..., 0])
        np.testing.assert_allclose(slope, stored["gradient"].values[0, sample, ..., 0], rtol=1e-6)
    assert (len(inputs), len(maps)) == (len(hardest), 2 * len(hardest))
    for image in view.traverse(lambda element: element, [hv.Image])[len(hardest) :]:
        low, high = hv.Store.lookup_options("bokeh", image, "plot").kwargs["clim"]
        assert -low == high == np.abs(image.dimension_values(2)).max()


def test_every_map_stands_above_its_control_with_the_rank_correlation_of_both(store):
    view, stored = views.saliency(store, samples=[3, 8]), store["inputs/image/full"].to_dataset().isel(step=0)
    maps = images_of(view, "map")
    read = lambda name: stored[name].values[[3, 8], ..., 0]
    expected = []
    for method in ("gradient", "times", "integrated_gradient", "smoothed_gradient"):
        for suffix in ("", "_randomised"):
            expected += [read("value") * read(f"gradient{suffix}") if method == "times" else read(f"{method}{suffix}")]
    np.testing.assert_allclose(np.array(maps), np.concatenate(expected), rtol=1e-5, atol=1e-12)
    texts = [t for labels in view.traverse(lambda e: e, [hv.Labels]) for t in labels.dimension_values("text")]
    told = [float(text[2:]) for text in texts if text.startswith("ρ")]
    ranks = [spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0] for k in range(0, 8, 2)
             for a, b in zip(expected[k], expected[k + 1], strict=True)]  # fmt: skip
    np.testing.assert_allclose(told, ranks, atol=0.006)


def test_tokens_are_coloured_by_the_gradient_times_the_activation_of_their_vectors(decoder):
    view = views.saliency(decoder, samples=[2, 5], site="embed")
    cells = view.traverse(lambda element: element, [hv.Rectangles])[0]
    full = decoder["sites/embed/full"].to_dataset().isel(step=-1, sample=[2, 5])
    product = (full["gradient"].values.astype(float) * full["activation"].values).sum(-1)
    np.testing.assert_allclose(cells.dimension_values("map"), product.ravel(), rtol=1e-5, atol=1e-9)
    tokens = decoder["inputs/tokens/full"]["value"].values[-1, [2, 5]]
    assert cells.dimension_values("token").tolist() == tokens.ravel().tolist()
    assert cells.dimension_values("text").tolist() == [chr(token) for token in tokens.ravel()]


@pytest.mark.parametrize(
    ("length", "size", "shown"), [(1, "9pt", 1), (16, "9pt", 16), (20, "7pt", 20), (60, "6pt", 25)]
)
def test_long_tokens_have_smaller_letters_and_what_is_still_too_long_is_cut(decoder, length, size, shown):
    view = views.saliency(decoder, samples=[2], site="embed", decode=lambda token: "w" * length)
    labels = view.traverse(lambda element: element, [hv.Labels])
    assert {hv.Store.lookup_options("bokeh", one, "style").kwargs["text_font_size"] for one in labels} == {size}
    assert {len(text) for one in labels for text in one.dimension_values("text")} == {shown}


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s, d: views.saliency(s, methods=["gradients"]), "'gradients'.*'gradient'"),
        (lambda s, d: views.saliency(s, name="audio"), r"\['image'\]"),
        (lambda s, d: views.saliency(d, name="text"), "'text'"),
        (lambda s, d: views.saliency(d, site="blocks/attention/pattern"), "by position"),
        (lambda s, d: views.saliency(s, site="head/hidden"), "no tokens"),
    ],
)
def test_what_the_store_does_not_hold_is_told(ask, told, store, decoder):
    with pytest.raises(ViewError, match=told):
        ask(store, decoder)
