"""Errors: what can go wrong, in the words of the person who called.

    ActigradError
     ├── ConfigError      a config that cannot be run; holds every problem at once
     ├── CaptureError     a loss, a site or a primitive that cannot be captured
     │    └── NoSuchSite  a pattern that matches nothing
     ├── DataError        samples that cannot be read, or are not what they were
     ├── StoreError       a store that exists, is incomplete, locked, damaged, or of another version
     ├── ViewError        a view of what the store does not hold
     └── ExportError      a format that is not known, or a place that is taken

Every message tells the value, what was expected, where, and the cure.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class ActigradError(Exception):
    """The root of all errors that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a config.

    Attributes:
        key: the path of the key (`capture.0.keep`).
        value: what stands there, as written.
        expected: what should stand there.
        where: `file:line`, or the `--set` text that it came from.
        hint: the nearest valid name or the cure, or "".
    """

    key: str
    value: str
    expected: str
    where: str
    hint: str = ""

    def __str__(self) -> str:
        """One line for the place, one for the finding, one for the cure."""
        hint = f"\n      {self.hint}" if self.hint else ""
        place = ": ".join(filter(None, (self.where, self.key)))
        return f"  {place}\n      found {self.value}, expected {self.expected}{hint}"


class ConfigError(ActigradError):
    """A config that cannot be run. `problems` holds all that is wrong with it, in file order."""

    def __init__(self, problems: Sequence[Problem] | Problem):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        count = len(self.problems)
        title = f"{count} problem{'s' if count != 1 else ''} in the config; nothing was run or written:"
        super().__init__("\n".join([title, *map(str, self.problems)]))


class CaptureError(ActigradError):
    """A loss, a site or a primitive that cannot be captured."""


class NoSuchSite(CaptureError):  # noqa: N818 - read as a sentence where it is raised
    """A pattern that matches no site."""


class DataError(ActigradError):
    """Samples that cannot be read, or are not what they were."""


class StoreError(ActigradError):
    """A store that exists, is incomplete, locked, damaged, or of another version."""


class ViewError(ActigradError):
    """A view of what the store does not hold."""


class ExportError(ActigradError):
    """A format that is not known or whose library is not installed, or a place that is taken or cannot be written."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names most like `name`, best first.

    >>> nearest("hed/0", ["conv1", "head/0", "head/1"])
    ['head/0', 'head/1']
    """
    return difflib.get_close_matches(name, list(known), n, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest names as a question, or "" when none is near.

    >>> did_you_mean("kepp", ["keep", "steps"])
    "did you mean 'keep'?"
    """
    near = nearest(name, known)
    return f"did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
