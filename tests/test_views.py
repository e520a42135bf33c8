"""Views: what is drawn and what hover tells equal the store."""

import re
import subprocess
import sys
from inspect import signature

import holoviews as hv
import pytest
from bokeh.models import HoverTool, Title

from actigrad import views
from actigrad.errors import ViewError
from actigrad.storage.store import open_store
from actigrad.views.reading import describe_quantity


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def decoder(decoder_store):
    return open_store(decoder_store)


VIEWS = {
    "overview": lambda s, d: views.overview(s, quantity="gradient", reduction="zero_fraction"),
    "overview of layers": lambda s, d: views.overview(d, reduction="mean", rows=9),
    "structure": lambda s, d: views.structure(s, step=2),
    "structure of layers": lambda s, d: views.structure(d, rows=12),
    "structure on tap": lambda s, d: views.structure(d, rows=12, dynamic=True),
    "flow": lambda s, d: views.flow(s),
    "flow of layers": lambda s, d: views.flow(d, quantity="activation"),
    "saliency": lambda s, d: views.saliency(s, samples=[0, 5], methods=["gradient"]),
    "saliency of tokens": lambda s, d: views.saliency(d),
    "distribution": lambda s, d: views.distribution(s, "head/hidden", quantity="gradient"),
    "distribution of layers": lambda s, d: views.distribution(d, "blocks/norm1[2]"),
    "activity": lambda s, d: views.activity(s, "head/relu"),
    "activity of layers": lambda s, d: views.activity(d, "blocks/perceptron/gelu", equalise=True),
    "traces": lambda s, d: views.traces(s, "head/hidden"),
    "traces of layers": lambda s, d: views.traces(d, "blocks/norm1", dynamic=False),
    "neuron": lambda s, d: views.neuron(s, "head/relu", 3),
    "neuron of a layer": lambda s, d: views.neuron(d, "blocks/attention/pattern[1]", 3),
    "feature maps": lambda s, d: views.feature_maps(s, "block1/conv", most=7),
    "heads": lambda s, d: views.feature_maps(d, "blocks/attention/pattern[0]", along="y"),
    "weights": lambda s, d: views.weights(d, "blocks/perceptron/hidden", quantity="update"),
    "compare": lambda s, d: views.compare(s, "head/relu"),
    "compare layers": lambda s, d: views.compare(d, "blocks/norm1", x="sample"),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_is_drawn_by_both_backends_no_label_is_cut_and_hover_tells_values(view, store, decoder, tmp_path):
    shown = view(store, decoder)
    figure = hv.render(shown, backend="bokeh")
    for tool in figure.select({"type": HoverTool}):
        held = set.intersection(*(set(renderer.data_source.data) for renderer in tool.renderers))
        cells = [cell for _, cell in tool.tooltips]
        assert not any("$" in cell for cell in cells), "where the mouse is, is no value"
        assert {cell.strip("@{}") for cell in cells} <= held - {"x0", "y0", "x1", "y1"}
    titles = [title.text for title in figure.select({"type": Title})]
    assert titles
    assert max(len(line) for title in titles for line in title.split("\n")) <= 95
    path = views.save(shown, tmp_path / "view.svg")
    assert path.read_text().startswith("<?xml")


@pytest.mark.parametrize("name", ["overview", "flow", "distribution", "neuron", "compare"])
def test_a_view_of_a_run_with_one_recorded_step_is_drawn(name, store, decoder):
    one = store.map_over_datasets(lambda data: data.isel(step=[-1]) if "step" in data.dims else data)
    hv.render(VIEWS[name](one, decoder), backend="bokeh")


def test_a_saved_page_makes_no_request_and_an_unknown_suffix_is_told(store, tmp_path):
    page = views.save(views.flow(store), tmp_path / "flow.html").read_text()
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
    with pytest.raises(ViewError, match=r"'\.jpg'.*html, \.pdf, \.png, \.svg"):
        views.save(views.flow(store), tmp_path / "flow.jpg")


TWELVE = ("overview", "structure", "heatmap", "feature_maps", "flow", "distribution", "activity", "weights", "saliency",
          "traces", "neuron", "compare")  # fmt: skip


@pytest.mark.parametrize("name", TWELVE)
def test_every_view_says_in_its_docstring_what_is_seen_and_its_arguments_have_the_names_of_all(name):
    view = getattr(views, name)
    assert len(view.__doc__.split()) > 60
    known = {"store", "site", "sites", "quantity", "reduction", "step", "order", "dynamic", "pixels", "rows", "opened",
             "x", "neurons", "samples", "sample", "methods", "name", "decode", "along", "most", "equalise", "neuron",
             "other", "other_step"}  # fmt: skip
    assert set(signature(view).parameters) <= known


def test_a_title_says_what_a_gradient_is_of(store):
    assert describe_quantity(store, "activation") == "activation"
    store = store.assign({})
    store.attrs["gradients_of"] = "each sample's own logit"
    assert describe_quantity(store, "gradient") == "gradient (of each sample's own logit)"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.overview(s, reduction="median"), "zero_fraction"),
    ],
)
def test_what_the_store_does_not_hold_is_told(ask, told, store):
    with pytest.raises(ViewError, match=told):
        ask(store)


def test_a_view_opens_in_a_process_that_never_imports_jax(digits_store):
    script = (
        "import sys; from actigrad import views; store = sys.argv[1]; views.flow(store); views.saliency(store); "
        "views.neuron(store, 'head/relu', 3); print('jax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(digits_store)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
