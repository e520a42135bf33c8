"""The explorer in a real browser: every control is used, and what is drawn is compared with the store."""

import re
import shutil

import numpy as np
import pandas
import psutil
import pytest
import zarr

from actigrad.explorer.reading import read_matrix
from actigrad.explorer.state import read_query
from actigrad.explorer.view import fit
from exploring import (
    CHROMIUM,
    FLAGS,
    IS_DRAWN,
    assert_draws_its_address,
    drawn,
    open_page,
    query,
    serving,
    serving_to,
    settle,
    wait_for_query,
    watch,
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM: the explorer is not opened in a browser"),
    # A page that is left while it is drawn: Bokeh drops what it had still to send.
    pytest.mark.filterwarnings("ignore:.*send_message:pytest.PytestUnraisableExceptionWarning"),
]
HOSTILE = ["<img src=x onerror=alert(1)>", "$$\\href{javascript:alert(2)}{x}$$", "<script>alert(3)</script>"]


@pytest.fixture(scope="module")
def server(digits_store):
    with serving(digits_store) as explorer:
        yield explorer


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = watch(context.new_page())
    yield page
    page.wait_for_timeout(300)
    page.goto("about:blank")
    context.close()
    assert page.heard == []
    assert [url for url in page.asked if "://127.0.0.1:" not in url and not url.startswith(("data:", "about:"))] == []


def choose(page, label, value):
    page.get_by_label(label, exact=True).select_option(value)


def spot(page, pane, x, y):
    """A place in the frame of a figure, as shares of its width and height."""
    box = page.locator(f".pane.{pane} .bk-Canvas, .pane.{pane} canvas").first.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def download(page, name):
    """The file behind a link of the card, saved under the name that the page gives it."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name=name, exact=False).click()
    path = waiting.value.path().with_name(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    return path


def test_every_control_moves_the_address_and_the_picture_with_it(page, server):
    open_page(page, server)
    assert_draws_its_address(page, server)
    moves = [
        ("Quantity", "gradient", "quantity=gradient"), ("Samples", "label:3", "group=label%3A3"),
        ("Sample order", "natural", "order=natural"), ("Neuron order", "score", "neurons=score"),
        ("Statistic", "std", "metric=std"), ("Samples", "", "neurons=score"), ("Left to right", "step", "x=step"),
        ("Minus", "step:2", "versus=step%3A2"), ("Step", "2", "step=2"),
    ]  # fmt: skip
    for label, value, told in moves:
        choose(page, label, value)
        wait_for_query(page, told)
        settle(page, server)
        assert_draws_its_address(page, server)
    page.get_by_label("Step after").click()
    wait_for_query(page, "step=4")
    page.locator(".row", has_text="logits").click()
    wait_for_query(page, "site=head%2Flogits")
    settle(page, server)
    state = assert_draws_its_address(page, server)
    assert (state.site, state.quantity, state.versus) == ("head/logits", "gradient", "step:2")
    page.locator(".pane.heatmap h2", has_text="head/logits").wait_for()
    page.locator(".row.here", has_text="logits").wait_for()
    page.go_back()
    wait_for_query(page, "site=head%2Fhidden")
    settle(page, server)
    assert_draws_its_address(page, server)


def test_zoom_tap_and_box_choose_and_a_link_shows_the_same(page, server):
    open_page(page, server, "?site=head/hidden")
    page.mouse.move(*spot(page, "heatmap", 0.4, 0.5))
    page.mouse.wheel(0, -400)
    wait_for_query(page, "window=")
    settle(page, server)
    zoomed = assert_draws_its_address(page, server)
    left, right, *_ = zoomed.window or (0.0, 64.0)
    assert right - left < 64
    page.mouse.click(*spot(page, "heatmap", 0.4, 0.5))
    wait_for_query(page, "neuron=")
    settle(page, server)
    neuron = read_query(query(page))[0].neuron
    page.locator(".pane.card h2", has_text=f"Neuron {neuron}").wait_for()
    page.get_by_role("button", name="Select", exact=True).click()
    page.wait_for_timeout(200)
    page.mouse.move(*spot(page, "heatmap", 0.3, 0.4))
    page.mouse.down()
    page.mouse.move(*spot(page, "heatmap", 0.5, 0.6), steps=4)
    page.mouse.up()
    wait_for_query(page, "rows=")
    settle(page, server)
    state = read_query(query(page))[0]
    first, stop = state.rows or (0, 0)
    page.locator(".ends h3", has_text=f"{stop - first} chosen neuron").wait_for()
    before, link = drawn(page), page.url
    matrix = read_matrix(fit(state, server.sources))
    chosen, neurons = matrix.read(slice(first, stop)), matrix.neurons[first:stop]
    np.testing.assert_array_equal(np.load(download(page, "npy")), chosen)
    for table in (pandas.read_csv(download(page, "csv")), pandas.read_parquet(download(page, "parquet"))):
        assert table.columns.tolist() == ["neuron", *(f"sample_{column}" for column in matrix.columns.tolist())]
        np.testing.assert_array_equal(table["neuron"], neurons)
        np.testing.assert_allclose(table.to_numpy(np.float32)[:, 1:], chosen, rtol=1e-6)
    page.goto("about:blank")
    open_page(page, server, link.partition("/?")[2] and f"?{link.partition('/?')[2]}")
    for mine, theirs in zip(before, drawn(page), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    page.locator(".pane.card h2", has_text=f"Neuron {neuron}").wait_for()
    page.get_by_role("button", name="Whole", exact=True).click()
    page.wait_for_function("() => !location.search.includes('window=')")


@pytest.mark.parametrize("x", ["step", "sample"])
def test_hover_tells_neuron_column_and_value(page, server, x):
    open_page(page, server, f"?site=head/hidden&x={x}")
    for share in (0.40, 0.41):
        page.mouse.move(*spot(page, "heatmap", share, 0.5))
    tip = page.locator(".bk-Tooltip:visible").first
    tip.wait_for()
    page.wait_for_timeout(300)
    leaves = """node => [...(node.shadowRoot || node).querySelectorAll("*:not(style)")]
      .filter(one => !one.children.length).map(one => one.textContent).join(" ")"""
    told = tip.evaluate(leaves)
    found = re.search(rf"neuron:\s*(\d+)\s+{x}:\s*(\d+)\s.*value:\s*([-+.e\d]+)", told, re.DOTALL)
    assert found, told
    matrix = read_matrix(fit(read_query(query(page))[0], server.sources))
    row, column = matrix.place(int(found[1])), matrix.columns.tolist().index(int(found[2]))
    assert float(found[3]) == pytest.approx(matrix.read(slice(None))[row, column], abs=1e-4)


def test_the_overview_chooses_site_and_step(page, server):
    open_page(page, server)
    page.mouse.click(*spot(page, "overview", 0.25, 0.065))
    wait_for_query(page, "step=2")
    settle(page, server)
    state, _ = read_query(query(page))
    assert (state.site, state.step) == (next(iter(server.sources["digits"].snapshot().sites)), 2)


def test_keys_search_steps_sites_theme_and_help(page, server):
    open_page(page, server, "?theme=light")
    page.keyboard.press("/")
    page.keyboard.type("logits")
    page.wait_for_timeout(300)
    assert page.locator(".row").count() == 1
    page.keyboard.press("Enter")
    wait_for_query(page, "site=head%2Flogits")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.search.includes('find=')")
    page.keyboard.press("[")
    wait_for_query(page, "site=head%2Frelu")
    page.keyboard.press("]")
    wait_for_query(page, "site=head%2Flogits")
    page.keyboard.press("ArrowLeft")
    wait_for_query(page, "step=2")
    page.keyboard.press("ArrowRight")
    wait_for_query(page, "step=4")
    page.keyboard.press("t")
    wait_for_query(page, "theme=dark")
    settle(page, server)
    assert "#1b1f26" in {session.heatmap.figure.styles["background"] for session in server.sessions}
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.get_by_role("button", name="Close").click()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(page, server, theme):
    from axe_playwright_python.sync_playwright import Axe

    open_page(page, server, f"?site=head/hidden&neuron=2&rows=0,4&theme={theme}")
    found = Axe().run(page).response["violations"]
    bad = [(one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:4]) for one in found
           if one["impact"] in ("serious", "critical")]  # fmt: skip
    assert bad == []


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768)])
def test_nothing_is_cut_or_covered(page, server, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    open_page(page, server, "?neuron=2&rows=0,4")
    boxes = [one.bounding_box() for one in page.locator(".pane, aside").all()]
    assert all(
        box["x"] >= 0 and box["x"] + box["width"] <= size[0] and box["y"] + box["height"] <= size[1] for box in boxes
    )
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = (a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
                     or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"])  # fmt: skip
            assert apart
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_hostile_names_are_text_and_never_run(page, digits_store, tmp_path):
    hostile = tmp_path / f"{HOSTILE[0].replace('/', '')}.zarr"
    shutil.copytree(digits_store, hostile)
    root = zarr.open_group(hostile, mode="r+", use_consolidated=False)
    root.update_attributes({"title": HOSTILE[2], "complete": False})
    for name, bad in zip(("head/hidden", "head/relu", "head/logits"), HOSTILE, strict=True):
        path = name if name == "head/hidden" else bad
        root[f"sites/{name}"].update_attributes({"path": path, "kind": bad, "missing": bad, "feeds": [bad]})
    journal = hostile.with_name(hostile.name + ".journal")
    journal.mkdir()
    for step in (2, 4):
        (journal / f"step={step} rows=64").touch()
    page.on("dialog", lambda dialog: page.heard.append(f"ran: {dialog.message}"))
    with serving_to(page, hostile) as server:
        open_page(page, server, "?find=" + "%3Cimg%20src=x%20onerror=alert(4)%3E")
        page.keyboard.press("Escape")
        page.locator(".list", has_text=HOSTILE[1].rpartition("/")[2][:10]).wait_for()
        settle(page, server)
        assert page.locator("img, .list script").count() == 0


def test_a_store_that_vanishes_and_comes_back_and_a_run_that_goes_on(page, digits_store, tmp_path):
    path, away, journal = tmp_path / "run.zarr", tmp_path / "away", tmp_path / "run.zarr.journal"
    shutil.copytree(digits_store, path)
    zarr.open_group(path, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    journal.mkdir()
    (journal / "step=2 rows=64").touch()
    with serving_to(page, path) as server:
        open_page(page, server, "?x=step")
        assert (
            page.locator(".badge").inner_text() == "● recording" or "recording" in page.locator(".badge").inner_text()
        )
        assert page.get_by_label("Step", exact=True).locator("option").all_inner_texts() == ["2"]
        (journal / "step=4 rows=64").touch()
        page.get_by_label("Step", exact=True).locator("option[value='4']").wait_for(state="attached")
        settle(page, server)
        assert page.get_by_label("Step", exact=True).input_value() == "4"
        assert_draws_its_address(page, server)
        path.rename(away)
        page.locator(".fatal", has_text="there is no store at").wait_for()
        away.rename(path)
        page.locator(".fatal").wait_for(state="hidden")
        settle(page, server)
        assert_draws_its_address(page, server)


def test_a_damaged_chunk_is_told_where_its_picture_would_be(page, digits_store, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(digits_store, path)
    for chunk in (path / "sites/head/hidden/full/activation/c").rglob("*"):
        if chunk.is_file():
            content = bytearray(chunk.read_bytes())
            content[len(content) // 2] ^= 1
            chunk.write_bytes(content)
    with serving_to(page, path) as server:
        page.goto(f"{server.url}?site=head/hidden")
        page.locator(".pane.heatmap .error", has_text="actigrad verify").wait_for()
        page.locator(".row", has_text="logits").click()
        wait_for_query(page, "site=head%2Flogits")
        settle(page, server)
        assert_draws_its_address(page, server)


def test_a_truncated_store_is_told_and_shown_when_it_is_whole_again(page, digits_store, tmp_path):
    path, aside = tmp_path / "run.zarr", tmp_path / "chunk"
    shutil.copytree(digits_store, path)
    chunk = next(p for p in (path / "sites/head/hidden/full/activation/c").rglob("*") if p.is_file())
    chunk.rename(aside)
    with serving_to(page, path) as server:
        page.goto(server.url)
        page.locator(".fatal", has_text="damaged: sites/head/hidden/full/activation has").wait_for()
        assert "actigrad repair" in page.locator(".fatal").inner_text()
        aside.rename(chunk)
        (path / "zarr.json").touch()  # what a repair writes last
        page.locator(".fatal").wait_for(state="hidden")
        page.wait_for_function(IS_DRAWN)
        settle(page, server)
        assert_draws_its_address(page, server)


def test_two_stores_are_chosen_between_and_subtracted(page, digits_store, tmp_path):
    path = tmp_path / "other.zarr"
    shutil.copytree(digits_store, path)
    array = zarr.open_array(path / "sites/head/hidden/full/activation", mode="r+")
    more = np.arange(array.size, dtype=np.float32).reshape(array.shape)
    array[:] = array[:] - more
    with serving_to(page, digits_store, path) as server:
        open_page(page, server, "?store=digits&site=head/hidden&order=natural&neurons=natural")
        choose(page, "Minus", "store:other")
        wait_for_query(page, "versus=store%3Aother")
        settle(page, server)
        state = assert_draws_its_address(page, server)
        matrix = read_matrix(fit(state, server.sources))
        steps = zarr.open_array(path / "sites/head/hidden/full/step")[:].tolist()
        np.testing.assert_allclose(matrix.read(slice(None)), more[steps.index(4)].T, rtol=1e-4, atol=1e-3)
        assert "minus" in page.locator(".pane.heatmap .legend").inner_text()
        choose(page, "Minus", "")
        page.wait_for_function("() => !location.search.includes('versus=')")
        choose(page, "Store", "other")
        wait_for_query(page, "store=other")
        settle(page, server)
        assert assert_draws_its_address(page, server).store == "other"
        page.locator(".pane.heatmap h2", has_text="head/hidden").wait_for()


def test_a_browser_that_loses_its_server_goes_on_where_it_was(browser, digits_store):
    page = browser.new_page()
    page.set_default_timeout(40_000)
    with serving(digits_store) as server:
        open_page(page, server, "?site=head/logits&neuron=3")
        port = server.port
    page.locator(".lost").wait_for()
    with serving_to(page, digits_store, port=port) as server:
        page.locator(".lost").wait_for(state="hidden")
        page.wait_for_function(IS_DRAWN)
        settle(page, server)
        assert assert_draws_its_address(page, server).neuron == 3
    page.close()


@pytest.mark.heavy
def test_eight_viewers_at_once_each_see_their_own(browser, server):
    sites = list(server.sources["digits"].snapshot().sites)[-8:]
    pages = [watch(browser.new_page()) for _ in sites]
    for page, site in zip(pages, sites, strict=True):
        page.goto(f"{server.url}?site={site}&x=step")
    for _ in range(2):
        for page in pages:
            page.keyboard.press("ArrowLeft")
        for page in pages:
            page.keyboard.press("ArrowRight")
    for page, site in zip(pages, sites, strict=True):
        page.wait_for_function(IS_DRAWN)
        settle(page, server)
        assert assert_draws_its_address(page, server).site == site
        assert page.heard == []
    for page in pages:
        page.goto("about:blank")
        page.close()


@pytest.mark.heavy
def test_memory_is_flat_over_a_thousand_interactions(page, server):
    process, resident = psutil.Process(), []
    open_page(page, server, "?site=head/hidden&neuron=1")
    page.mouse.move(*spot(page, "heatmap", 0.5, 0.5))
    keys = ["ArrowLeft", "]", "ArrowRight", "["]
    for i in range(1000):
        if i % 2:
            page.mouse.wheel(0, -240 if i % 40 < 20 else 240)
        else:
            page.keyboard.press(keys[i // 2 % len(keys)])
        if i % 50 == 49:
            settle(page, server)
            resident.append(process.memory_info().rss)
    first, last = np.median(resident[5:10]), np.median(resident[-5:])
    assert last - first <= 20e6, f"{(last - first) / 1e6:.1f} MB more"
    page.keyboard.press("r")
    page.locator(".row", has_text="hidden").click()
    settle(page, server)
    assert_draws_its_address(page, server)
