"""Changes: the report of what differs between two runs, or between two steps of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray

from actigrad import views
from actigrad.errors import ViewError
from actigrad.findings import Measures, Record, measure
from actigrad.report.choice import SITES, without_twins
from actigrad.report.overview import INCOMPLETE, about, facts, subtitle
from actigrad.report.parts import Part, Picture, Report, Table, slug
from actigrad.report.tables import SITE_ROWS, number
from actigrad.storage.store import read_samples

QUANTITIES = ("activation", "gradient")
TABLE = (
    "The rms (median over the site's neurons) of A and of B, and B as a multiple of A. Only sites that both have, "
    "those that differ most first."
)


@dataclass(frozen=True)
class Side:
    """One of the two: its numbers, and the position of its step among those that were looked at."""

    tree: xarray.DataTree
    record: Record
    at: int

    @property
    def step(self) -> int:
        """The step."""
        return self.record.steps[self.at]


def compare_runs(
    a: xarray.DataTree, b: xarray.DataTree, names: tuple[str, str], advance: Callable[[int, int], None],
    steps: tuple[int, int] | None = None,
) -> Report:  # fmt: skip
    """B beside A, at their last steps, or at one step of each."""
    if steps:
        _require(a, steps[:1])
        _require(b, steps[1:])
    wanted = [(step,) if step is not None else () for step in steps or (None, None)]
    records = [measure(tree, advance, also=also) for tree, also in zip((a, b), wanted, strict=True)]
    left, right = (
        Side(tree, record, record.steps.index(also[0]) if also else -1)
        for tree, record, also in zip((a, b), records, wanted, strict=True)
    )
    title = f"A {names[0]} and B {names[1]}"
    both = [f"{name}: {text}" for name, text in zip("AB", (subtitle(a), subtitle(b)), strict=True)]
    mine, theirs = facts(a, records[0]), dict(facts(b, records[1]))
    numbers = [(f"{name}, A | B", f"{value} | {theirs[name]}") for name, value in mine if name in theirs]
    return _report(left, right, title, " · ".join(both), numbers, other=True)


def compare_steps(tree: xarray.DataTree, steps: tuple[int, int], advance: Callable[[int, int], None]) -> Report:
    """The second step beside the first."""
    _require(tree, steps)
    record = measure(tree, advance, also=steps)
    left, right = (Side(tree, record, record.steps.index(step)) for step in steps)
    title = f"{tree.attrs['title']}: step {steps[0]} (A) and step {steps[1]} (B)"
    loss = [(f"mean loss at step {side.step}", number(float(record.loss[side.at]))) for side in (left, right)]
    return _report(left, right, title, subtitle(tree), loss, other=False)


def _require(tree: xarray.DataTree, steps: Sequence[int]) -> None:
    known = read_samples(tree)["step"].values.tolist()
    missing = [step for step in steps if step not in known]
    if missing:
        raise ViewError(f"step {missing[0]} was not recorded; the store has {known}.")


def _report(a: Side, b: Side, title: str, line: str, numbers: Sequence[tuple[str, str]], *, other: bool) -> Report:
    theirs = {site.path: site for site in b.record.sites}
    pairs = [(site, theirs[site.path]) for site in a.record.sites if site.path in theirs]
    if not pairs:
        raise ViewError(
            f"the two stores have no site in common: A has {a.record.sites[0].path}, …, B {b.record.sites[0].path}, …."
            if a.record.sites and b.record.sites
            else "a store without sites cannot be compared."
        )
    pairs.sort(key=lambda pair: -_decades(a, b, *pair))
    alone = len(a.record.sites) + len(b.record.sites) - 2 * len(pairs)
    parts = [_where(a, b, pairs), *_sites(a, b, without_twins(pairs, SITES), other=other)]
    sides = ((name, side.tree) for name, side in zip("AB", (a, b), strict=True))
    return Report(
        title, line, numbers, parts, _table(a, b, pairs[:SITE_ROWS]), TABLE, about(a.tree),
        warnings=[f"{name}: {INCOMPLETE}" for name, tree in sides if not tree.attrs["complete"]],
        first=[*_sentences(a, b, pairs), *([f"{alone} sites are in one of the two alone."] if alone else [])],
    )  # fmt: skip


def _ratio(a: Side, b: Side, left: Measures, right: Measures, quantity: str) -> float:
    """How many times larger the rms is in B; NaN where either has none."""
    first, second = left.get(quantity), right.get(quantity)
    if not (first and second and first.rms[a.at] > 0):
        return float("nan")
    return float(second.rms[b.at] / first.rms[a.at])


def _decades(a: Side, b: Side, left: Measures, right: Measures) -> float:
    """The larger change of the two quantities, in decades."""
    ratios = np.array([_ratio(a, b, left, right, quantity) for quantity in QUANTITIES])
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    return float(np.abs(np.log10(ratios)).max(initial=0.0))


def _sentences(a: Side, b: Side, pairs: Sequence[tuple[Measures, Measures]]) -> list[str]:
    """For each quantity where it differs most, and by how much in the middle."""
    out = []
    for quantity in QUANTITIES:
        ratios = {left.path: _ratio(a, b, left, right, quantity) for left, right in pairs}
        known = {path: ratio for path, ratio in ratios.items() if np.isfinite(ratio) and ratio > 0}
        if known:
            worst = max(known, key=lambda path: abs(np.log10(known[path])))
            out.append(
                f"{quantity}: the median site's rms in B is {np.median(list(known.values())):.3g} times that in A; it "
                f"differs most at {worst}, {known[worst]:.3g} times."
            )
    broken = [name for name, side in zip("AB", (a, b), strict=True) if _broken(side)]
    out += [f"{' and '.join(broken)} {'hold' if len(broken) > 1 else 'holds'} values that are not finite."] * bool(
        broken
    )
    loss = [float(side.record.loss[side.at]) for side in (a, b)]
    return [f"The mean loss is {loss[0]:.3g} in A (step {a.step}) and {loss[1]:.3g} in B (step {b.step}).", *out]


def _broken(side: Side) -> bool:
    return any(numbers.nonfinite[side.at] for site in side.record.sites for numbers in site.numbers.values())


def _table(a: Side, b: Side, pairs: Sequence[tuple[Measures, Measures]]) -> Table:
    heads = ["site", *(f"{quantity}, {what}" for quantity in QUANTITIES for what in ("A", "B", "B / A"))]
    rows = []
    for left, right in pairs:
        row = [left.path]
        for quantity in QUANTITIES:
            first, second = left.get(quantity), right.get(quantity)
            row += [
                number(float(first.rms[a.at])) if first else "",
                number(float(second.rms[b.at])) if second else "",
                number(_ratio(a, b, left, right, quantity)),
            ]
        rows.append(row)
    return Table(heads, rows)


def _where(a: Side, b: Side, pairs: Sequence[tuple[Measures, Measures]]) -> Part:
    table = _table(a, b, pairs[:40])
    text = "The gradient's size at each site, in the forward order of A."
    picture = Picture(
        slug("flow"),
        lambda: views.flow(a.tree, b.tree, step=a.step, other_step=b.step),
        f"Gradient size by depth: A at step {a.step} with quantile ribbons, and the median of B at step {b.step}.",
        table,
    )
    return Part("where", "Gradient flow in A and in B", text, [picture])


def _sites(a: Side, b: Side, pairs: Sequence[tuple[Measures, ...]], *, other: bool) -> list[Part]:
    text = (
        f"The {len(pairs)} sites that differ most. Red is where A is larger, blue where B is, white where nothing "
        "changed. Hover tells which neuron it is."
    )
    parts = [Part("sites", "The sites that differ most", text)]
    for left, right in pairs:
        table = _table(a, b, [(left, right)])
        pictures = [
            Picture(
                slug("difference", quantity, across, left.path),
                lambda q=quantity, x=across, path=left.path: views.compare(
                    a.tree, path, b.tree if other else None, quantity=q, x=x, dynamic=False,
                    **_when(a, b, x, other=other),
                ),
                f"A − B of the {quantity} at {left.path}, neurons by {across}s; B's rms is "
                f"{number(_ratio(a, b, left, right, quantity)) or 'an unknown number of'} times A's.",
                table,
            )
            for quantity in QUANTITIES
            for across in ("step", "sample")
        ]  # fmt: skip
        parts.append(Part(slug("site", left.path), left.path, "", pictures, code=True))
    return parts


def _when(a: Side, b: Side, across: str, *, other: bool) -> dict[str, Any]:
    """What a picture compares: by sample a step of each, by step all of A with all of B or with one step of A."""
    if across == "sample":
        return {"step": a.step, "other_step": b.step}
    return {} if other else {"other_step": b.step}
