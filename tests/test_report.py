"""The report: one file, offline, honest about what it shows; opened in a real browser."""

import shutil

import pytest
import zarr

from actigrad.report import write_report
from actigrad.storage.create import finalize_store

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def report(digits_store, tmp_path_factory):
    return write_report(digits_store, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def page(report):
    if CHROMIUM is None:
        pytest.skip("NO CHROMIUM: the report is not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.heard, page.asked = [], []
        page.on(
            "console", lambda message: page.heard.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_function("window.Bokeh && document.querySelectorAll('.bk-Figure').length > 15")
        page.wait_for_timeout(1000)
        yield page
        browser.close()


def test_it_opens_without_an_error_and_without_a_request(page, report):
    assert page.heard == []
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]


def test_every_picture_is_drawn_and_fits_the_page(page):
    sizes = page.eval_on_selector_all(".bk-Figure", "nodes => nodes.map(n => [n.clientWidth, n.clientHeight])")
    assert len(sizes) > 15
    assert all(width > 50 and height > 50 for width, height in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1100


def test_what_the_browser_holds_is_what_the_store_holds(page, digits_store):
    import numpy as np

    from actigrad.storage.store import open_store

    stored = open_store(digits_store)["sites/head/logits/full"]["activation"].values
    script = """() => {
      const sources = Bokeh.documents.flatMap(d => Array.from(d._all_models.values()).map(m => m.data));
      const images = sources.filter(d => d && d.image && d.its_neuron).map(d => Array.from(d.image[0]));
      return images.map(image => Math.max(...image.filter(Number.isFinite).map(Math.abs)));
    }"""
    assert any(np.isclose(peak, np.abs(stored).max(), rtol=1e-5) for peak in page.evaluate(script))


def test_links_lead_to_their_sections_and_figures_have_words(page):
    targets = page.eval_on_selector_all("nav a", "nodes => nodes.map(n => n.getAttribute('href'))")
    assert len(targets) == 5
    assert all(page.query_selector(target) for target in targets)
    assert all(page.eval_on_selector_all("figure[role=group]", "nodes => nodes.map(n => n.getAttribute('aria-label'))"))


def test_it_weighs_at_most_15_megabytes_and_begins_with_what_to_know(report):
    text = report.read_text()
    assert len(text.encode()) <= 15e6
    assert text.index('id="first"') < text.index('id="overview"')
    assert "accuracy, held out" in text


def test_hostile_names_are_text_and_never_run(digits_store, tmp_path):
    hostile = tmp_path / "hostile.zarr"
    shutil.copytree(digits_store, hostile)
    group = zarr.open_group(hostile, mode="r+", use_consolidated=False)
    group.update_attributes({"title": HOSTILE, "device": HOSTILE})
    group["sites/head/relu"].update_attributes({"kind": HOSTILE})
    finalize_store(hostile)
    text = write_report(hostile, tmp_path / "report.html").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_an_incomplete_store_is_reported_as_such(digits_store, tmp_path):
    cut = tmp_path / "cut.zarr"
    shutil.copytree(digits_store, cut)
    shutil.copytree(f"{digits_store}.journal", f"{cut}.journal")
    zarr.open_group(cut, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    assert "incomplete" in write_report(cut, tmp_path / "report.html").read_text()


def test_what_does_not_fit_is_left_out_and_named(digits_store, tmp_path, monkeypatch):
    monkeypatch.setattr("actigrad.report.BUDGET", 1)
    text = write_report(digits_store, tmp_path / "report.html").read_text()
    assert "Left out to keep this file small: block1/relu, block2/conv" in text
