"""Parts: what a report is made of, before anything is drawn."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from actigrad.errors import ViewError
from actigrad.findings import Finding


@dataclass(frozen=True)
class Table:
    """Numbers as texts.

    Attributes:
        heads: of the columns.
        rows: one text a column.
        note: which rows these are, where they are not all.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: for files and links; letters, digits and dashes.
        draw: makes the view; a `ViewError` means that the store does not hold what it shows.
        alt: what is seen, in words and with its numbers.
        table: the numbers behind it.
    """

    name: str
    draw: Callable[[], Any]
    alt: str
    table: Table


@dataclass(frozen=True)
class Part:
    """One section.

    Attributes:
        id: for links.
        title: the heading.
        text: how to read the pictures.
        pictures: the figures, in order.
        findings: what is known of the site that it is about.
        code: whether the title is a name, set in fixed width.
    """

    id: str
    title: str
    text: str
    pictures: Sequence[Picture] = ()
    findings: Sequence[Finding] = ()
    code: bool = False


@dataclass(frozen=True)
class Report:
    """A whole report; the template `report.html` shows it.

    Attributes:
        title, subtitle: of the page.
        warnings: what a person must know before reading on.
        facts: a few numbers with their names.
        findings: the gravest first.
        fine: what was looked at and found in order.
        first: what is told first where there are no findings, as in a comparison.
        parts: sections.
        table: all sites in numbers.
        table_text: what the numbers are.
        about: the config and versions, as text.
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Part]
    table: Table
    table_text: str
    about: str
    warnings: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    fine: Sequence[str] = ()
    first: Sequence[str] = field(default_factory=list)


def slug(*words: str) -> str:
    """A name of plain letters for a link or a file, from anything.

    >>> slug("heatmap", "../block1/Conv 0")
    'heatmap-block1-conv-0'
    """
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")[:80]


def drawn(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, Any]]:
    """The pictures of what the store holds, with their views."""
    for picture in pictures:
        try:
            view = picture.draw()
        except ViewError:
            continue
        yield picture, view
