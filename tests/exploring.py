"""What the tests of the explorer share: a server in a thread, a page in Debian's Chromium, and what the page holds."""

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np

from actigrad.explorer.reading import read_matrix
from actigrad.explorer.server import Explorer
from actigrad.explorer.state import read_query
from actigrad.explorer.view import fit

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HEATMAP = "Bokeh.documents[0].get_model_by_name('heatmap').data"
IS_DRAWN = "window.Bokeh?.documents.length && Bokeh.documents[0].get_model_by_name('heatmap')?.data.image.length"


@contextmanager
def serving(*stores, port=0):
    """The explorer of some stores, in a thread of its own, with the first look at them done."""
    ready, done = threading.Event(), {}

    async def main():
        done["explorer"] = explorer = Explorer(stores, port=port)
        done["loop"], done["stop"] = asyncio.get_running_loop(), asyncio.Event()
        explorer.start()
        await explorer.follow()
        ready.set()
        await done["stop"].wait()
        explorer.stop()
        await asyncio.sleep(0.2)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield done["explorer"]
    finally:
        done["loop"].call_soon_threadsafe(done["stop"].set)
        thread.join(20)


@contextmanager
def serving_to(page, *stores, port=0):
    """The explorer of some stores for one page, which leaves before the server ends: else it looks for it for ever."""
    with serving(*stores, port=port) as server:
        try:
            yield server
        finally:
            page.goto("about:blank")


def watch(page):
    """Keep what a page asked for, and what its console said."""
    page.heard, page.asked = [], []
    page.on("console", lambda m: page.heard.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("websocket", lambda socket: page.asked.append(socket.url))
    page.set_default_timeout(30_000)
    return page


def open_page(page, server, query=""):
    """Load a page and wait for its heatmap."""
    page.goto(f"{server.url}{query}")
    page.wait_for_function(IS_DRAWN)
    settle(page, server)
    return page


def settle(page, server):
    """Wait until no session has anything to read or to draw, and the page has painted."""
    still, until = 0, time.monotonic() + 30
    while still < 3 and time.monotonic() < until:
        page.wait_for_timeout(50)
        still = still + 1 if not any(session.working for session in list(server.sessions)) else 0
    page.wait_for_timeout(150)


def query(page):
    """The address' query."""
    return page.evaluate("location.search")


def wait_for_query(page, text):
    """Wait until the address says so."""
    page.wait_for_function("text => location.search.includes(text)", arg=text)


def drawn(page):
    """What the browser draws: values and ids of the heatmap's cells."""
    script = f"""() => {{ const d = {HEATMAP};
      const flat = (a) => Array.from(a, (v) => Number.isFinite(v) ? v : null);
      return [flat(d.image[0]), flat(d.neuron[0]), flat(d.column[0])]; }}"""
    return [np.array(one, float) for one in page.evaluate(script)]


def assert_draws_its_address(page, server):
    """The page draws what its address says of the store, at once or when it has caught up; returns the state."""
    until = time.monotonic() + 20
    while True:
        try:
            return _assert_draws(page, server)
        except AssertionError:
            if time.monotonic() > until:
                raise
            page.wait_for_timeout(200)


def _assert_draws(page, server):
    state, problems = read_query(query(page))
    assert problems == ()
    matrix = read_matrix(fit(state, server.sources))
    values, neurons, columns = drawn(page)
    inside = ~np.isnan(values)
    rows = {int(neuron): i for i, neuron in enumerate(matrix.neurons)}
    places = {int(column): i for i, column in enumerate(matrix.columns)}
    assert set(neurons[inside]) <= set(rows)
    assert set(columns[inside]) <= set(places)
    at = [rows[int(n)] for n in neurons[inside]], [places[int(c)] for c in columns[inside]]
    np.testing.assert_allclose(values[inside], matrix.read(slice(None))[at], rtol=1e-6)
    assert inside.sum() >= 20
    return state
