"""The structure with values: for each site three cells at the step, as colours and texts that the page lists.

log10 rms of the activation, log10 rms of the gradient (medians over neurons), share of neurons that are zero for every
sample; each column has a colour scale of its own.
"""

from typing import Any

import numpy as np

from actigrad.errors import ViewError
from actigrad.explorer.overview import medians
from actigrad.explorer.snapshot import Snapshot
from actigrad.explorer.view import View, orders_of

REDS = ["", "#fde0c8", "#f8a97a", "#e5622f", "#a02a0a"]


class Structure:
    """The pane; it has no figure, the page draws the list."""

    name = "structure"

    def needs(self, view: View) -> tuple:
        """What of a view it depends on."""
        return view.snapshot.name, view.snapshot.marks, view.step

    def read(self, view: View) -> dict[str, Any]:
        """The cells of every site, in forward order."""
        from actigrad.pictures.palette import MAGNITUDE  # colours are imported when something is drawn

        snapshot, at = view.snapshot, view.snapshot.steps.index(view.step)
        columns = [
            _logs(snapshot, "activation", at), _logs(snapshot, "gradient", at),
            [_dead(snapshot, path, at) for path in snapshot.sites],
        ]  # fmt: skip
        palettes = (MAGNITUDE, MAGNITUDE, REDS)
        texts = [_texts(columns[0]), _texts(columns[1]), ["" if np.isnan(v) else f"{v:.0%}" for v in columns[2]]]
        colours = [_colours(c, p, (0.0, 1.0) if p is REDS else None) for c, p in zip(columns, palettes, strict=True)]
        return {"texts": texts, "colours": colours, "step": view.step}

    def show(self, picture: dict[str, Any]) -> dict[str, Any]:
        """The page draws it."""
        return picture

    def paint(self, dark: bool) -> None:
        """The page does."""


def describe_sites(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What the list says of a site whatever the step: where it stands, what it is, what it feeds."""
    feeds_it: dict[str, list[str]] = {}
    for site in snapshot.sites.values():
        for target in site.feeds:
            feeds_it.setdefault(target, []).append(site.path)
    return [
        {
            "path": site.path, "kind": site.kind, "shape": "×".join(map(str, site.sample_shape)) or "scalar",
            "whole": any(path == site.path for path, _ in snapshot.kept), "orders": orders_of(snapshot, site.path),
            "from": feeds_it.get(site.path, []), "to": list(site.feeds),
        } for site in snapshot.sites.values()
    ]  # fmt: skip


def _logs(snapshot: Snapshot, quantity: str, at: int) -> list[float]:
    found = medians(snapshot, quantity, "rms")
    with np.errstate(divide="ignore"):
        return [float(np.log10(found[path][at])) if path in found else np.nan for path in snapshot.sites]


def _dead(snapshot: Snapshot, path: str, at: int) -> float:
    try:
        return float(np.mean(snapshot.metric(path, "activation", "zero_fraction")[at] == 1))
    except ViewError:
        return np.nan


def _texts(column: list[float]) -> list[str]:
    return ["" if np.isnan(v) else "0" if np.isinf(v) else f"{round(v, 1) + 0.0:.1f}" for v in column]


def _colours(column: list[float], palette: list[str], limits: tuple[float, float] | None) -> list[str]:
    values = np.array(column)
    finite = values[np.isfinite(values)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    span = (high - low) or 1.0
    place = lambda v: int(np.clip((v - low) / span * (len(palette) - 1), 0, len(palette) - 1))
    return [palette[place(v)] if np.isfinite(v) else "" for v in values]
