"""State: everything that a person chose on the page, as one value, and the same as the query of a URL.

    state, problems = read_query("site=head/hidden&neuron=7")
    state = state.change(site="head/logits")      # what belonged to the other site is forgotten
    state.query()                                 # "site=head%2Flogits"

A link holds the whole state, so it shows the same picture to whoever opens it. A query is written by strangers: each
field has a reader of its own, what it refuses is left at the default and told, and unknown fields are ignored.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from actigrad.metrics import METRICS

LONGEST = 4096
"""Characters of a value; a longer one is no name that a store has."""

FORGETS: Mapping[str, tuple[str, ...]] = {
    "store": ("site", "step", "group", "neuron", "rows", "window", "versus"),
    "site": ("neuron", "rows", "window"),
    "neurons": ("rows", "window"),
    "x": ("window",),
    "group": ("window",),
    "order": ("window",),
}
"""What a change of one field makes meaningless: other neurons, other columns."""


@dataclass(frozen=True, slots=True)
class State:
    """What is shown.

    Attributes:
        store: which of the stores that the explorer was given.
        site: the site of the heatmap, of the structure's chosen row and of the neuron.
        quantity: activation or gradient.
        metric: the statistic of the overview and of the traces.
        x: what runs from left to right in the heatmap: sample or step.
        step: a recorded step, or None for the last one, which moves while a run is going on.
        group: the samples shown, as `label:3` or `split:1`; "" for all of them.
        order: of the samples: label or natural; "" for by label where there are labels.
        neurons: their order: natural, score, or one that is stored.
        neuron: the neuron on the card.
        rows: the chosen rows of the heatmap, first and stop, in the order of the neurons.
        window: the zoom (left, right, top, bottom) in positions, or None for all.
        versus: what is subtracted: `step:20`, `store:NAME`, or "" for nothing.
        find: what the sites are searched for.
        theme: light, dark, or "" for what the system prefers.
    """

    store: str = ""
    site: str = ""
    quantity: str = "activation"
    metric: str = "rms"
    x: str = "sample"
    step: int | None = None
    group: str = ""
    order: str = ""
    neurons: str = "natural"
    neuron: int | None = None
    rows: tuple[int, int] | None = None
    window: tuple[float, float, float, float] | None = None
    versus: str = ""
    find: str = ""
    theme: str = ""

    def change(self, **changes: Any) -> "State":
        """Another state, without what the changes make meaningless."""
        real = {name: value for name, value in changes.items() if getattr(self, name) != value}
        forgotten = {name for changed in real for name in FORGETS.get(changed, ())} - set(changes)
        return replace(self, **{name: getattr(DEFAULT, name) for name in forgotten}, **real)

    def texts(self) -> dict[str, str]:
        """Every field as it stands in a query."""
        return {field.name: _text(getattr(self, field.name)) for field in fields(self)}

    def query(self) -> str:
        """The query of a URL; what is at its default is left out."""
        plain = DEFAULT.texts()
        return urlencode({name: text for name, text in self.texts().items() if text != plain[name]})


DEFAULT = State()


def read_query(query: str) -> tuple[State, tuple[str, ...]]:
    """The state of a query, and a sentence for each value that could not be used.

    >>> read_query("?step=20&x=sideways")
    (State(... step=20, ...), ("x='sideways' in the address was ignored: it can be sample or step.",))
    """
    return read_texts(dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=64)))


def read_texts(texts: Mapping[str, str]) -> tuple[State, tuple[str, ...]]:
    """The same of the single fields."""
    values, problems = read_fields(texts)
    return replace(DEFAULT, **values), problems


def read_fields(texts: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of those fields that are named and can be read."""
    values, problems = {}, []
    for name, text in texts.items():
        if name in READERS:
            try:
                values[name] = READERS[name](str(text)[:LONGEST])
            except ValueError as error:
                problems.append(f"{name}={str(text)[:80]!r} in the address was ignored: {error}.")
    return values, tuple(problems)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def _one_of(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"it can be {', '.join(filter(None, known[:-1]))} or {known[-1]}")
        return text

    return read


def _matching(pattern: str, told: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(told)
        return text

    return read


def _whole(text: str) -> int | None:
    if text and not re.fullmatch(r"-?\d{1,15}", text):
        raise ValueError("it is a whole number")
    return int(text) if text else None


def _span(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,15}),(\d{1,15})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError("it is a first row and the one after the last, as 0,10")
    return int(found[1]), int(found[2])


def _window(text: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    numbers = tuple(float(part) for part in text.split(",")) if text.count(",") == 3 else ()
    if (
        len(numbers) != 4
        or not all(map(math.isfinite, numbers))
        or numbers[0] >= numbers[1]
        or numbers[2] >= numbers[3]
    ):
        raise ValueError("it is left, right, top and bottom, as 0,10,0,5")
    return numbers


READERS: Mapping[str, Callable[[str], Any]] = {
    "store": str,
    "site": str,
    "quantity": _one_of("activation", "gradient"),
    "metric": _one_of(*METRICS),
    "x": _one_of("sample", "step"),
    "step": _whole,
    "group": _matching(r"|\w+:-?\d+", "it is a name and a number, as label:3"),
    "order": _one_of("", "natural", "label"),
    "neurons": lambda text: text or "natural",
    "neuron": _whole,
    "rows": _span,
    "window": _window,
    "versus": _matching(r"|step:-?\d+|store:.*", "it is step: and a step, or store: and a name"),
    "find": str,
    "theme": _one_of("", "light", "dark"),
}
