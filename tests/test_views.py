"""Views: what is drawn and what hover tells equal the store."""

import subprocess
import sys

import holoviews as hv
import pytest
from bokeh.models import Title

from actigrad import views
from actigrad.errors import ViewError
from actigrad.storage.store import open_store
from actigrad.views.reading import describe_quantity


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


VIEWS = {
    "overview": lambda s: views.overview(s, quantity="gradient", reduction="zero_fraction"),
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


def test_a_title_says_what_a_gradient_is_of(store):
    assert describe_quantity(store, "activation") == "activation"
    store = store.assign({})
    store.attrs["gradients_of"] = "each sample's own logit"
    assert describe_quantity(store, "gradient") == "gradient (of each sample's own logit)"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: views.overview(s, reduction="median"), "zero_fraction"),
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
