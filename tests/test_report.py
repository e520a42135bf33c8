"""The report: one file, offline, honest about what it shows, in bounds; opened in a real browser, and on paper."""

import re
import shutil

import numpy as np
import pytest
import zarr

from actigrad.errors import ViewError
from actigrad.findings import Finding, Measures, Numbers, Record
from actigrad.report import make_report, read_width, write_figures, write_report
from actigrad.report.choice import choose_sites
from actigrad.report.page import LIMIT
from actigrad.report.parts import drawn
from actigrad.storage.create import finalize_store
from actigrad.storage.store import open_store

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def few(digits_store):
    """Fewer pictures, so that a browser draws them in seconds: two sites."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actigrad.report.choice.SITES", 2)
        patch.setattr("actigrad.report.changes.SITES", 1)
        yield digits_store


@pytest.fixture(scope="module")
def report(few, tmp_path_factory):
    return write_report(few, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("NO CHROMIUM: the report is not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser, path, figures):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.heard, page.asked = [], []
    page.on(
        "console", lambda message: page.heard.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        f"window.Bokeh && document.querySelectorAll('.bk-Figure').length >= {figures}", timeout=90000
    )
    page.wait_for_timeout(1000)
    return page


@pytest.fixture(scope="module")
def page(browser, report):
    return opened(browser, report, report.read_text().count('class="plot"'))


def test_it_opens_without_an_error_and_without_a_request(page, report):
    assert page.heard == []
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]


def test_every_picture_is_drawn_and_fits_the_page(page):
    sizes = page.eval_on_selector_all(".bk-Figure", "nodes => nodes.map(n => [n.clientWidth, n.clientHeight])")
    assert len(sizes) > 10
    assert all(width > 50 and height > 50 for width, height in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1100


def test_what_the_browser_holds_is_what_the_store_holds(page, digits_store):
    stored = open_store(digits_store)["sites/head/relu/full"]["activation"].values
    script = """() => {
      const sources = Bokeh.documents.flatMap(d => Array.from(d._all_models.values()).map(m => m.data));
      const images = sources.filter(d => d && d.image && d.its_neuron).map(d => Array.from(d.image[0]));
      return images.map(image => Math.max(...image.filter(Number.isFinite).map(Math.abs)));
    }"""
    assert any(np.isclose(peak, np.abs(stored).max(), rtol=1e-5) for peak in page.evaluate(script))


def test_links_lead_to_their_sections(page):
    targets = page.eval_on_selector_all("nav a", "nodes => nodes.map(n => n.getAttribute('href'))")
    assert len(targets) == 7
    assert all(page.query_selector(target) for target in targets)


def test_every_picture_has_words_and_a_table_behind_it(page):
    words = page.eval_on_selector_all("figure .plot", "nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert all(len(text.split()) > 6 for text in words)
    rows = "nodes => nodes.map(n => n.querySelectorAll('details table tbody tr').length)"
    counts = page.eval_on_selector_all("figure", rows)
    assert len(counts) == len(words)
    assert min(counts) > 0


def test_the_table_of_sites_is_searched_as_one_types(page):
    page.fill("#search", "ReLU")
    shown = page.eval_on_selector_all("#all tbody tr:not([hidden]) th", "nodes => nodes.map(n => n.textContent)")
    assert shown == ["block1/relu", "block2/relu", "head/relu"]
    assert page.text_content("#found") == "3 of 14 sites"
    page.fill("#search", "")
    assert page.locator("#all tbody tr:not([hidden])").count() == 14


def test_hover_tells_the_neuron(page):
    plot = page.locator("figure[id^='activation-by-sample'] .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 400, box["y"] + 200)
    page.mouse.move(box["x"] + 405, box["y"] + 204)
    page.locator(".bk-Tooltip:visible").first.wait_for(timeout=10000)
    told = page.locator(".bk-Tooltip:visible").first.evaluate("node => (node.shadowRoot || node).textContent")
    assert "neuron" in told


def test_axe_finds_nothing_serious(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
    ] == []


def test_on_paper_pictures_are_whole_and_controls_are_gone(page):
    drawn = "nodes => nodes.map(n => [n.clientWidth, n.clientHeight])"
    before = page.eval_on_selector_all(".bk-Figure", drawn)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 between its margins, at 96 dots an inch
    wide = page.eval_on_selector_all(".plot", "nodes => nodes.map(n => n.getBoundingClientRect().width)")
    inner = page.eval_on_selector_all(".bk-Figure", "nodes => nodes.map(n => n.getBoundingClientRect().right)")
    assert max(wide) <= 703
    assert max(inner) <= 703
    page.wait_for_timeout(500)
    assert page.eval_on_selector_all(".bk-Figure", drawn) == before, "drawn anew, a title is cut"
    assert not page.locator("#search").is_visible()
    assert not any(bar.is_visible() for bar in page.locator(".bk-Toolbar").all())
    assert page.pdf(prefer_css_page_size=True, print_background=True).startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1100, "height": 900})


def test_it_begins_with_what_to_know_then_the_overview_and_tells_its_rule(report):
    text = report.read_text()
    order = [
        "accuracy, held out",
        'id="first"',
        "25% of the neurons are dead",
        'id="overview"',
        'id="sites"',
        'id="table"',
    ]
    assert sorted(order, key=text.index) == order
    assert "Shown are 2 of 14 sites: those with findings" in text
    assert "found in order" in text


def test_sites_with_findings_come_first_then_those_that_changed_most(monkeypatch):
    monkeypatch.setattr("actigrad.report.choice.SITES", 3)
    one = np.ones(2)
    numbers = lambda last: Numbers(np.array([1, last]), one, one, one, one, one, one)
    sites = [Measures(name, {"activation": numbers(last)}) for name, last in zip("abcd", (1, 5, 0.1, 1), strict=True)]
    record = Record((1, 2), tuple(sites), (), one, one)
    findings = [Finding("dead", "d", 2, "warning", ""), Finding("loss", "", 2, "note", "")]
    assert [site.path for site in choose_sites(record, findings)] == ["d", "c", "b"]


def test_a_module_whose_output_is_that_of_its_last_part_is_shown_once(monkeypatch):
    monkeypatch.setattr("actigrad.report.choice.SITES", 3)
    one, more = np.ones(2), np.array([1.0, 2.0])
    numbers = lambda low: Numbers(more, low, one, one, one, one, np.array([np.nan, 1.0]))
    inner, outer = (Measures(path, {"activation": numbers(one), "gradient": numbers(more)}) for path in ("a/b", "a"))
    other = Measures("c", {"activation": numbers(one), "gradient": numbers(one)})
    less = Measures("d", {"activation": numbers(one)})
    record = Record((1, 2), (inner, outer, other, less), (), one, one)
    assert [site.path for site in choose_sites(record, [])] == ["a/b", "c", "d"]


def test_what_does_not_fit_is_told_in_words_with_its_table(few, tmp_path, monkeypatch):
    monkeypatch.setattr("actigrad.report.page.LIMIT", 1_900_000)
    path = write_report(few, tmp_path / "report.html")
    text = path.read_text()
    assert path.stat().st_size <= 1_900_000
    left_out = text.count("Not drawn, to keep this file small.")
    assert 0 < left_out < text.count("<figure")
    assert text.count("The numbers behind it") == text.count("<figure")
    assert LIMIT == 15_000_000


def test_hostile_names_are_text_and_never_run(few, tmp_path):
    hostile = tmp_path / "hostile.zarr"
    shutil.copytree(few, hostile)
    group = zarr.open_group(hostile, mode="r+", use_consolidated=False)
    group.update_attributes({"title": HOSTILE, "device": HOSTILE})
    group["sites/head/relu"].update_attributes({"kind": HOSTILE})
    finalize_store(hostile)
    text = write_report(hostile, tmp_path / "report.html").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("journal", [True, False])
def test_an_incomplete_store_is_reported_as_such(few, tmp_path, journal):
    cut = tmp_path / "cut.zarr"
    shutil.copytree(few, cut)
    if journal:
        shutil.copytree(f"{few}.journal", f"{cut}.journal")
    zarr.open_group(cut, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    assert "incomplete" in make_report(cut, None, None, lambda done, total: None).warnings[0]


@pytest.fixture(scope="module")
def doubled(few, tmp_path_factory):
    """The same run with a gradient ten times as large at one site."""
    path = tmp_path_factory.mktemp("doubled") / "b.zarr"
    shutil.copytree(few, path)
    array = zarr.open_group(path, mode="r+", use_consolidated=False)["sites/block2/conv/summary/gradient"]
    array[...] = array[...] * 10
    return path


def test_two_runs_are_compared_the_site_that_differs_most_first(few, doubled, tmp_path):
    compared = make_report(few, doubled, None, lambda done, total: None)
    assert next(row[0] for row in compared.table.rows) == "block2/conv"
    assert compared.table.rows[0][-1] == "10"
    assert any("differs most at block2/conv, 10 times" in text for text in compared.first)
    assert any(row[-1] == "1" for row in compared.table.rows[1:])
    names = [picture.name for part in compared.parts for picture, _ in drawn(part.pictures)]
    assert "difference-gradient-step-block2-conv" in names
    text = write_report(few, tmp_path / "ab.html", other=doubled).read_text()
    assert "A − B of the gradient at block2/conv" in text


def test_two_steps_of_a_run_are_compared(few):
    compared = make_report(few, None, (2, 4), lambda done, total: None)
    stored = open_store(few)["sites/head/relu/summary"]["activation"].values[:, 1]
    row = next(row for row in compared.table.rows if row[0] == "head/relu")
    assert row[1:3] == [f"{np.median(values):.3g}" for values in stored]
    assert "step 2 (A) and step 4 (B)" in compared.title
    with pytest.raises(ViewError, match=r"step 3 was not recorded; the store has \[2, 4\]"):
        make_report(few, None, (2, 3), lambda done, total: None)


def test_two_runs_without_a_site_in_common_are_refused(few, tmp_path):
    other = tmp_path / "other.zarr"
    shutil.copytree(few, other)
    group = zarr.open_group(other, mode="r+", use_consolidated=False)
    for name in open_store(few).attrs["sites"]:
        group[f"sites/{name}"].update_attributes({"path": f"another/{name}"})
    finalize_store(other)
    with pytest.raises(ViewError, match=r"no site in common: A has block1/conv, …, B another/block1/conv"):
        make_report(few, other, None, lambda done, total: None)


def test_figures_for_a_paper_have_the_width_that_was_asked_for(few, tmp_path):
    from matplotlib.image import imread

    made = sorted(write_figures(few, tmp_path / "png", "png", width=85).iterdir())
    assert len(made) > 10
    assert {imread(path).shape[1] for path in made} <= {1003, 1004, 1005}  # 85 mm at 300 dots an inch
    assert all(re.fullmatch(r"\d\d-[a-z0-9-]+\.png", path.name) for path in made)


def test_fonts_are_embedded_and_each_picture_is_a_page(few, tmp_path):
    pdf = write_figures(few, tmp_path / "figures.pdf", "pdf", width=170).read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert pdf.count(b"/Type /Page ") > 10 or len(re.findall(rb"/Type /Page\b", pdf)) > 10
    svg = next(write_figures(few, tmp_path / "svg", "svg", width=85).glob("01-*.svg")).read_text()
    (width,) = re.findall(r'<svg[^>]* width="([\d.]+)pt"', svg)
    assert float(width) == pytest.approx(85 / 25.4 * 72, abs=0.5)
    assert "<text" not in svg, "letters are outlines"


@pytest.mark.parametrize(("text", "width"), [("85mm", 85), ("17 cm", 170), ("3.5in", 88.9)])
def test_a_width_is_read_with_its_unit(text, width):
    assert read_width(text) == pytest.approx(width)


def test_a_width_without_a_unit_out_of_range_and_another_kind_are_told(few, tmp_path):
    with pytest.raises(ViewError, match=r"a width is '85'; expected a number and mm, cm or in"):
        read_width("85")
    with pytest.raises(ViewError, match="a width of 1000 mm is out of range; expected 40 to 400 mm"):
        write_figures(few, tmp_path / "x", "png", width=1000)
    with pytest.raises(ViewError, match=r"no figures of kind 'gif'; expected pdf, png, svg"):
        write_figures(few, tmp_path / "x", "gif")
