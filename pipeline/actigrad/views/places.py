"""Places: the sites of a store with every loop unrolled, and the module tree that they make.

A site inside `scan` is one array with a `layer` axis, but a person looks for layer 3. So each of its iterations is a
`Place` of its own, `blocks/attention[3]`, in the order in which they run: all sites of layer 0, then all of layer 1.
In the tree the layer stands behind the part of the path that the loop's sites share, `blocks` → `[3]` → `attention`.
A tree of more places than a picture has room for is closed from the bottom up (`rows_of`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from posixpath import commonpath

from actigrad.errors import ViewError, nearest
from actigrad.sites import Site

LOOP = re.compile(r"(?P<path>.+)\[(?P<at>-?\d+(,-?\d+)*)\]")


@dataclass(frozen=True)
class Place:
    """A site, or one iteration of a site inside loops.

    Attributes:
        site: the site.
        at: an index for each of its loops; () outside of loops.
        segments: where it stands in the module tree.
    """

    site: Site
    at: tuple[int, ...] = ()
    segments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The site's path, and the iteration as a pattern of sites has it: `blocks/attention[3]`."""
        return self.site.path + (f"[{','.join(map(str, self.at))}]" if self.at else "")

    def narrowed(self) -> "Place":
        """One iteration: this one, or the last where none is named."""
        return self if self.at else replace(self, at=tuple(size - 1 for size in loops_of(self.site)))


@dataclass(frozen=True)
class Row:
    """One line of a picture of the model: a place, or a part of the tree with all places in it.

    Attributes:
        name: of the place, or of the part.
        places: one, or several in forward order.
        segments: where it stands in the module tree.
    """

    name: str
    places: tuple[Place, ...]
    segments: tuple[str, ...]

    @property
    def own(self) -> Place | None:
        """The part's own output, where that is a site."""
        return next((place for place in reversed(self.places) if place.segments == self.segments), None)


def loops_of(site: Site) -> tuple[int, ...]:
    """How often each of the loops around a site runs, outermost first."""
    return tuple(size for dim, size in zip(site.dims, site.shape, strict=True) if dim.startswith(("layer", "shard")))


def places_of(sites: Iterable[Site]) -> tuple[Place, ...]:
    """Every place, in the order in which they run."""
    runs = [(loops, part) for loops, run in groupby(sites, loops_of) for part in _apart(list(run))]
    return tuple(place for loops, run in runs for place in _unrolled(loops, run))


def find_place(sites: Sequence[Site], name: str) -> Place:
    """The place of that name; a site inside a loop may be named alone, and then stands for all its iterations.

    Raises:
        ViewError: with the nearest names.
    """
    by_path = {site.path: site for site in sites}
    if name in by_path:
        return Place(by_path[name])
    parts = LOOP.fullmatch(name)
    site = by_path.get(parts["path"]) if parts else None
    if parts is None or site is None:
        near = ", ".join(nearest(parts["path"] if parts else name, by_path) or list(by_path)[:8])
        raise ViewError(f"the store has no site {name!r}. The nearest: {near}.")
    at, loops = tuple(map(int, parts["at"].split(","))), loops_of(site)
    if len(at) != len(loops) or any(not -size <= i < size for i, size in zip(at, loops, strict=False)):
        has = f"loops of {', '.join(map(str, loops))} iterations" if loops else "no loop"
        raise ViewError(f"{name!r} asks for iteration {at}; around site {site.path!r} there is {has}.")
    return Place(site, tuple(i % size for i, size in zip(at, loops, strict=True)))


def rows_of(places: Sequence[Place], most: int, opened: Iterable[tuple[str, ...]] = ()) -> tuple[Row, ...]:
    """At most so many rows in forward order: the module tree cut at the greatest depth that fits.

    A tree too wide for that even at its top is cut into runs of neighbours.

    Args:
        places: what to show.
        most: how many rows there may be before the parts in `opened` are opened.
        opened: parts of the tree, by segments, that show what is in them.
    """
    deepest = max((len(place.segments) for place in places), default=1)
    depth = next((d for d in range(deepest, 0, -1) if len({p.segments[:d] for p in places}) <= most), 1)
    shown, parts, last = set(opened), {}, {}
    for i, place in enumerate(places):
        k = depth
        while place.segments[:k] in shown and k < len(place.segments):
            k += 1
        own = place.segments in shown and len(place.segments) <= k  # an opened part's own output is a row of its own
        key = place.segments[:k], own
        parts.setdefault(key, []).append(place)
        last[key] = i
    rows = [_row(key[0], tuple(parts[key])) for key in sorted(parts, key=last.__getitem__)]
    if len(rows) <= most or shown:
        return tuple(rows)
    every = -(-len(rows) // most)
    return tuple(_run(rows[i : i + every]) for i in range(0, len(rows), every))


def edges_of(places: Sequence[Place]) -> Iterator[tuple[Place, Place | None]]:
    """The data flow between places; to None for the loss. What leaves one iteration enters the next."""
    of = {(place.site.path, place.at): place for place in places}
    loops = {place.site.path: loops_of(place.site) for place in places}
    for place in places:
        path = place.site.path
        for target in place.site.feeds:
            if target == "loss":
                yield place, None
            elif target in loops and loops[target] == loops[path]:
                yield place, of[target, place.at]
            elif target in loops and place.at == tuple(size - 1 for size in loops[path]):
                yield place, of[target, (0,) * len(loops[target])]
    yield from _carried(places, of, loops)


def _carried(places, of, loops) -> Iterator[tuple[Place, Place]]:
    sites = {place.site.path: place.site for place in places}
    pairs = [(s, t) for s in sites.values() for t in s.feeds if t in sites and loops[t] != loops[s.path]]
    for size in {size for size in loops.values() if size}:
        entries = {t for _, t in pairs if loops[t] == size}
        leaving = {s.path for s in sites.values() if loops[s.path] == size and _leaves(s, loops)}
        steps = list(product(*map(range, size)))
        for now, after in pairwise(steps):
            yield from ((of[path, now], of[entry, after]) for path in sorted(leaving) for entry in sorted(entries))


def _leaves(site: Site, loops: dict[str, tuple[int, ...]]) -> bool:
    return any(target == "loss" or (target in loops and loops[target] != loops[site.path]) for target in site.feeds)


def _apart(run: list[Site]) -> Iterator[list[Site]]:
    """Neighbours in loops of one length: two loops, where they are two modules with sites of their own."""
    modules = [list(part) for _, part in groupby(run, lambda site: site.path.split("/")[0])]
    yield from modules if all(len(part) > 1 for part in modules) else [run]


def _unrolled(loops: tuple[int, ...], run: list[Site]) -> Iterator[Place]:
    shared = commonpath([site.path for site in run]).split("/") if loops else []
    shared = [part for part in shared if part]
    for at in product(*map(range, loops)):
        mark = (f"[{','.join(map(str, at))}]",) if at else ()
        for site in run:
            rest = site.path.split("/")[len(shared) :]
            yield Place(site, at, (*shared, *mark, *rest))


def _row(segments: tuple[str, ...], places: tuple[Place, ...]) -> Row:
    if len(places) == 1:
        return Row(places[0].name, places, places[0].segments)
    return Row("/".join(segments).replace("/[", "["), places, segments)


def _run(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    return Row(f"{rows[0].name} … {rows[-1].name}", tuple(p for row in rows for p in row.places), rows[0].segments)
