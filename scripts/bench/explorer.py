"""How soon the explorer answers, in Chromium: start, first picture, zoom, step, memory over many interactions.

    .venv/bin/python scripts/bench/explorer.py runs/digits/digits.zarr
    .venv/bin/python scripts/bench/explorer.py runs/large.zarr --zooms 1000 --viewers 8        # made by large.py

`start` is from the launch of `actigrad explore` to the first answer over HTTP; `first picture` from there, at once and
in a browser that runs already, to the first heatmap that is painted; `another page` the same of a page that is opened
later. `zoom` and `step` are from the event in the browser to the frame after the data of the answer; `of viewers` the
same while so many pages are open, each zoomed in turn. Medians with the 90th percentile; memory is the resident set of
the server before and after, beyond the first fifth of the interactions. Absolute times are those of this machine:
`load` tells what else ran, and `processor` what the server itself took.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request

import psutil
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
IS_DRAWN = "window.Bokeh?.documents.length && Bokeh.documents[0].get_model_by_name('heatmap')?.data.image.length"
# From the next event of a kind to the frame after the heatmap's next data.
ARM = """(kind) => {
  const source = Bokeh.documents[0].get_model_by_name('heatmap');
  let from = NaN;
  document.addEventListener(kind, () => { from = performance.now(); }, {capture: true, once: true});
  window.painted = new Promise((done) => {
    const heard = () => {
      source.properties.data.change.disconnect(heard);
      requestAnimationFrame(() => setTimeout(() => done(performance.now() - from)));
    };
    source.properties.data.change.connect(heard);
    setTimeout(() => done(NaN), 5000);
  });
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--zooms", type=int, default=60)
    parser.add_argument("--viewers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    asked = parser.parse_args()
    browser_path = next(p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        process, url, start, busy = launch(asked.store)
        try:
            begun = time.perf_counter()
            page.goto(url)
            page.wait_for_function(IS_DRAWN)
            first = time.perf_counter() - begun
            page.wait_for_timeout(1500)
            found = {"idle, processor ms a second": idle(page, psutil.Process(process.pid))}
            found |= measure(page, psutil.Process(process.pid), asked.zooms)
            found |= share(browser, url, asked.viewers)
            browser.close()
        finally:
            process.terminate()
    found = {"start s": start, "start, processor s": busy, "first picture s": first, **found}
    print(json.dumps(found) if asked.json else "\n".join(f"{name:32} {value:10.3f}" for name, value in found.items()))


def launch(store: str) -> tuple[subprocess.Popen, str, float, float]:
    """The server, its address, and the seconds until it answered: of the clock and of the processor."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "actigrad.cli", "explore", store, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    urllib.request.urlopen(f"{url}alive").read()
    used = psutil.Process(process.pid).cpu_times()
    return process, url, time.perf_counter() - begun, used.user + used.system


def zoom(page, i: int) -> float:
    """Milliseconds of one turn of the wheel: five in, five out, and as out is more than in, all of it again."""
    if i % 10 == 0:
        page.keyboard.press("r")
        page.wait_for_timeout(400)
    page.evaluate(ARM, "wheel")
    page.mouse.wheel(0, -240 if i % 10 < 5 else 240)
    return page.evaluate("window.painted")


def share(browser, url: str, viewers: int) -> dict[str, float]:
    """Pages beside each other: how soon the first shows its picture, and a zoom of each in turn."""
    pages, opened = [browser.new_page(viewport={"width": 1440, "height": 900}) for _ in range(viewers)], []
    for page in pages:
        begun = time.perf_counter()
        page.goto(url)
        page.wait_for_function(IS_DRAWN)
        opened.append(time.perf_counter() - begun)
        page.wait_for_timeout(1500)
        box = page.locator(".pane.heatmap .figure").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    times = sorted(one for i in range(5) for page in pages if (one := zoom(page, i)) == one)
    name = f"zoom ms, of {viewers} viewers"
    return {
        "another page s": statistics.median(opened), f"{name}, median": statistics.median(times),
        f"{name}, p90": times[int(0.9 * len(times))],
    }  # fmt: skip


def idle(page, server: psutil.Process, seconds: int = 10) -> float:
    """What the server takes of a processor while one page is open and nobody does anything."""
    before = server.cpu_times()
    page.wait_for_timeout(1000 * seconds)
    after = server.cpu_times()
    return 1000 * (after.user + after.system - before.user - before.system) / seconds


def measure(page, server: psutil.Process, zooms: int) -> dict[str, float]:
    """Zooms in and out, steps back and forth, and what they cost."""
    times, steady, before = [], 0, server.cpu_times()
    box = page.locator(".pane.heatmap .figure").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for i in range(zooms):
        times.append(zoom(page, i))
        if i == zooms // 5:
            steady = server.memory_info().rss
    grown, after = server.memory_info().rss - steady, server.cpu_times()
    busy = after.user + after.system - before.user - before.system
    steps = []
    for key in ("ArrowLeft", "ArrowRight") * 10:
        page.evaluate(ARM, "keydown")
        page.keyboard.press(key)
        steps.append(page.evaluate("window.painted"))
    known = sorted(one for one in times if one == one)
    stepped = sorted(one for one in steps if one == one)
    return {
        "zoom ms, median": statistics.median(known), "zoom ms, p90": known[int(0.9 * len(known))],
        "zoom, processor ms": 1000 * busy / len(times), "load": os.getloadavg()[0],
        "step ms, median": statistics.median(stepped) if stepped else float("nan"), "zooms": float(len(times)),
        "without an answer": float(len(times) - len(known)), "resident MB": steady / 1e6, "grown MB": grown / 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    main()
