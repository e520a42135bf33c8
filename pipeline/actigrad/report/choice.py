"""Choice: which sites matter, by a rule that the page tells."""

from collections.abc import Sequence

import numpy as np

from actigrad.findings import Finding, Measures, Record

SITES = 8
RULE = (
    "Shown are {shown} of {all} sites: those with findings, the gravest first, then those whose activation or gradient "
    "changed its size most between the first and the last recorded step. A module whose output is that of its last "
    "part stands there once. The others are in the table below."
)


def choose_sites(record: Record, findings: Sequence[Finding]) -> list[Measures]:
    """The sites to show, at most `SITES`, the one that matters most first."""
    rank: dict[str, int] = {}
    for place, finding in enumerate(findings):
        rank.setdefault(finding.site, place)
    key = lambda site: (rank.get(site.path, len(findings)), -change_of(site))
    return [site for (site,) in without_twins([(site,) for site in sorted(record.sites, key=key)], SITES)]


def without_twins(rows: Sequence[tuple[Measures, ...]], most: int) -> list[tuple[Measures, ...]]:
    """The first rows, without those that show again what one before them shows: a module's output is its last part's.

    Args:
        rows: each a site, or the same site of several runs.
        most: how many to keep.
    """
    kept: list[tuple[Measures, ...]] = []
    for row in rows:
        if len(kept) == most:
            break
        if not any(all(map(_is_twin, row, other)) for other in kept):
            kept.append(row)
    return kept


def _is_twin(a: Measures, b: Measures) -> bool:
    if a.numbers.keys() != b.numbers.keys():
        return False
    pairs = [(vars(a.numbers[name]), vars(b.numbers[name])) for name in a.numbers]
    return all(np.array_equal(one[key], other[key], equal_nan=True) for one, other in pairs for key in one)


def change_of(site: Measures) -> float:
    """By how many decades the rms of the activation or of the gradient changed, whichever did more; 0 if unknown."""
    decades = [0.0]
    for numbers in site.numbers.values():
        first, last = numbers.rms[0], numbers.rms[-1]
        if np.isfinite([first, last]).all() and first > 0 and last > 0:
            decades.append(float(abs(np.log10(last / first))))
    return max(decades)
