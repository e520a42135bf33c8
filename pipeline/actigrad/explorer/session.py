"""Session: one viewer. A change of the state reads what it needs in worker threads, and draws it; the last wish wins.

    wish ─► state ─► fit ─► for each pane: needs changed? ─► read (thread) ─► show (document) ─► painted

One reading a pane is under way at most, and the heatmap waits until the browser has painted the last one: a viewer that
turns the wheel faster than it can be drawn sees fewer pictures, never older ones.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from bokeh.document import Document

from actigrad.errors import ActigradError
from actigrad.explorer.card import Card
from actigrad.explorer.heatmap import Heatmap
from actigrad.explorer.overview import Overview
from actigrad.explorer.page import Page
from actigrad.explorer.source import Source
from actigrad.explorer.state import read_fields, read_query
from actigrad.explorer.structure import Structure, describe_sites
from actigrad.explorer.view import View, fit, groups_of
from actigrad.metrics import METRICS

PATIENCE = 0.5
"""Seconds to wait for a browser to say that it has painted; a tab in the background never does."""


class Session:
    """The page of one viewer, and what it shows."""

    def __init__(self, sources: Mapping[str, Source], pool: Executor, document: Document, query: str):
        self.sources, self.pool, self.document = sources, pool, document
        self.wish, self.problems = read_query(query)
        self.view: View | None = None
        self.painted, self.closed, self._told_choices = asyncio.Event(), False, None
        self._drawn = asyncio.Event()
        self.heatmap, overview, card = Heatmap(self.change), Overview(self.change), Card()
        self.panes = (self.heatmap, overview, Structure(), card)
        self._keys: dict[str, tuple] = {}
        self._jobs: dict[str, View] = {}
        self._busy: set[asyncio.Task] = set()
        self._working: set[str] = set()
        self.page = Page(
            overview_figure=overview.figure, heatmap_figure=self.heatmap.figure, traces_figure=card.figure,
            bars_figure=card.bars, sizing_mode="stretch_both",
        )  # fmt: skip
        # As a callback of the document: what Panel runs itself does not hold the document's lock.
        self.page.on_msg(lambda event: document.add_next_tick_callback(partial(self.hear, event.data)))
        self.dress(dark=self.wish.theme == "dark")  # a browser that prefers dark says so
        self.heatmap.use("pan")
        self.update()

    @property
    def working(self) -> bool:
        """Whether anything is still to be read or drawn."""
        return bool(self._jobs or self._working)

    def hear(self, message: Any) -> None:
        """What the browser says; anything that it must not say is ignored."""
        if not isinstance(message, dict):
            return
        if "hello" in message:
            self._say_again()
        if "painted" in message:
            self.painted.set()
        if isinstance(message.get("dark"), bool):
            self.dress(message["dark"])
        if message.get("tool") in ("pan", "zoom", "select"):
            self.heatmap.use(message["tool"])
        if isinstance(message.get("query"), str):
            self.wish, self.problems = read_query(message["query"])
            self.update()
        if isinstance(message.get("change"), dict):
            values, self.problems = read_fields(message["change"])
            self.change(**values)

    def _say_again(self) -> None:
        """A page that is there now: what was said while it was loading can have been lost on the way."""
        for name in ("choices", "told", "state", *(pane.name for pane in self.panes)):
            setattr(self.page, name, {**getattr(self.page, name), "heard": True})

    def change(self, **changes: Any) -> None:
        """Another state."""
        self.wish = self.wish.change(**changes)
        self.update()

    def dress(self, dark: bool) -> None:
        """Light or dark."""
        for pane in self.panes:
            pane.paint(dark)

    def close(self) -> None:
        """The viewer has gone."""
        self.closed = True
        for task in self._busy:
            task.cancel()

    def update(self) -> None:
        """Show the wish: say at once what is chosen, and read what is needed."""
        try:
            view = fit(self.wish, self.sources)
        except ActigradError as error:
            self.view = None
            self.page.told = {"fatal": str(error), "notes": [], "live": False}
            return
        self.view = self.heatmap.wanted = view
        self.wish = replace(view.state, x=self.wish.x)
        notes = [*self.problems, *view.notes]
        self.page.told = {"fatal": "", "notes": notes, "live": not view.snapshot.complete}
        if self._told_choices != (told := (view.snapshot.name, view.snapshot.marks)):
            self._told_choices, self.page.choices = told, choices(view, self.sources)
        self.page.state = {**view.state.texts(), "step": str(view.step), "query": self.wish.query()}
        for pane in self.panes:
            if self._keys.get(pane.name) != (key := pane.needs(view)):
                self._keys[pane.name], self._jobs[pane.name] = key, view
                if pane.name not in self._working:
                    self._start(pane)

    def _start(self, pane: Any) -> None:
        self._working.add(pane.name)
        task = asyncio.get_running_loop().create_task(self._work(pane))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _work(self, pane: Any) -> None:
        """Read and show until nothing newer is wanted."""
        loop = asyncio.get_running_loop()
        try:
            if pane is not self.heatmap:  # the first picture comes first
                await self._drawn.wait()
            while not self.closed and (view := self._jobs.pop(pane.name, None)) is not None:
                try:
                    picture = await loop.run_in_executor(self.pool, pane.read, view)
                except Exception as error:  # a damaged chunk fails in any way; the page tells it
                    self._draw(pane, view, None, tell(error, view))
                    continue
                if (
                    pane.name not in self._jobs or pane is self.heatmap
                ):  # a moving picture is better than the last alone
                    self._draw(pane, view, picture, "")
                    if pane is self.heatmap:
                        await self._wait_until_painted()
        finally:
            self._working.discard(pane.name)

    def _draw(self, pane: Any, view: View, picture: Any, error: str) -> None:
        def draw() -> None:
            if self.closed:
                return
            try:
                told = {"error": error} if error else pane.show(picture)
            except Exception as failure:  # one picture that cannot be drawn must not stand for another
                told = {"error": tell(failure, view)}
            self.page.param.update({pane.name: told})
            if pane is self.heatmap:
                self._drawn.set()
                if error or not self.heatmap.is_new:
                    self.painted.set()

        if pane is self.heatmap:
            self.painted.clear()
        self.document.add_next_tick_callback(draw)

    async def _wait_until_painted(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.painted.wait(), PATIENCE)


def tell(error: Exception, view: View) -> str:
    """What went wrong, for a person."""
    if isinstance(error, ActigradError):
        return str(error)
    path = view.snapshot.path
    return f"This could not be read ({type(error).__name__}: {error}). `actigrad verify {path}` tells what is damaged."


def choices(view: View, sources: Mapping[str, Source]) -> dict[str, Any]:
    """What the controls offer for a store."""
    snapshot = view.snapshot
    others = [f"store:{name}" for name in sources if name != snapshot.name]
    steps = [str(step) for step in snapshot.steps]
    return {
        "stores": list(sources), "store": snapshot.name, "title": str(snapshot.tree.attrs.get("title", "")),
        "sites": describe_sites(snapshot), "metrics": list(METRICS), "steps": steps,
        "groups": groups_of(snapshot), "labelled": "label" in snapshot.samples,
        "samples": int(snapshot.samples.sizes["sample"]), "versus": [*others, *(f"step:{step}" for step in steps)],
    }  # fmt: skip
