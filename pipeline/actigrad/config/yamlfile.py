"""YAML files in which every key knows its line, and everything that is wrong is found at once.

    document = read_yaml("configs/digits.yaml", ["train.steps=100"])
    document.tree                           # plain dicts, lists and scalars
    document.where(("train", "steps"))      # 'configs/digits.yaml:6', or '--set train.steps=100'
    document.problems                       # duplicate keys, overrides that fit nowhere

ruamel.yaml, because YAML 1.1 readers take `1e-3` for a string. Lines come from the composed nodes and not from the
loaded tree, so that a duplicate key is told with both of its lines, and beside all other problems.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.scalarbool import ScalarBoolean

from actigrad.errors import ConfigError, Problem

Location = tuple[str | int, ...]


@dataclass
class Document:
    """What a file and the overrides say.

    Attributes:
        path: the file.
        tree: plain dicts, lists and scalars.
        origins: `file:line`, or the `--set` text, of every key and list item.
        problems: what is wrong with the text itself.
    """

    path: Path
    tree: dict[str, Any]
    origins: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, location: Location) -> str:
        """The line of the key, or of the nearest key around it that stands in the file."""
        for end in range(len(location), 0, -1):
            if location[:end] in self.origins:
                return self.origins[location[:end]]
        return f"{self.path}:1"

    def override(self, text: str) -> None:
        """Set one `key.path=value`, or note why it cannot be."""
        problem = _override(self, text)
        self.problems += [problem] if problem else []


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a mapping and apply `key.path=value` overrides, whose values are YAML.

    Raises:
        ConfigError: when the file cannot be read or parsed, or holds no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = _yaml().compose(text)
        tree = _plain(_yaml().load(text))
    except OSError as error:
        found = f"{error.strerror or error}"
        raise ConfigError(Problem("", found, "a config file that can be read", str(path))) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Problem("", f"{error}", "text in UTF-8", str(path))) from error
    except YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        problem = Problem("", "text that is no YAML", "YAML 1.2", f"{path}:{line}", _sentence(error))
        raise ConfigError(problem) from error
    if not isinstance(tree, dict):
        expected = "a mapping of keys such as model, data, loss, store"
        raise ConfigError(Problem("", repr(tree), expected, f"{path}:1"))
    document = Document(path, tree)
    for location, line in _walk(root):
        _note(document, location, f"{path}:{line}")
    for override in overrides:
        document.override(override)
    return document


def split_key(key: str) -> Location:
    """`capture.0.keep` as a location.

    >>> split_key("capture.0.keep")
    ('capture', 0, 'keep')
    """
    return tuple(int(part) if part.isdecimal() else part for part in key.strip().split("."))


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = True  # told by `_note`, with both lines
    return yaml


def _sentence(error: YAMLError) -> str:
    return str(error.problem) if isinstance(error, MarkedYAMLError) and error.problem else str(error)


def _walk(node: Any, location: Location = ()) -> Iterator[tuple[Location, int]]:
    """The location and line of every key and list item; a key that stands twice comes twice."""
    items: Any = ()
    if isinstance(node, MappingNode):
        items = [(key.value, key, value) for key, value in node.value if isinstance(key, ScalarNode)]
    elif isinstance(node, SequenceNode):
        items = [(index, item, item) for index, item in enumerate(node.value)]
    for part, place, child in items:
        yield (*location, part), place.start_mark.line + 1
        yield from _walk(child, (*location, part))


def _note(document: Document, location: Location, where: str) -> None:
    if location not in document.origins:
        document.origins[location] = where
        return
    inside_a_duplicate = any(problem.key == _dotted(location[:-1]) for problem in document.problems)
    if not inside_a_duplicate:
        hint = f"the same key stands in {document.origins[location]}; keep one of the two"
        document.problems.append(Problem(_dotted(location), "the key a second time", "each key once", where, hint))


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _plain(node: Any) -> Any:
    """Without ruamel's types, which strict validation would refuse."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool | ScalarBoolean):  # with an anchor, ruamel's is an int
        return bool(node)
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _override(document: Document, text: str) -> Problem | None:
    where = f"--set {text}"
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        return Problem(key, repr(text), "key.path=value", where, "as in --set capture.0.keep=full")
    *front, last = split_key(key)
    node: Any = document.tree
    for depth, part in enumerate(front):
        if isinstance(part, str) and isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(part, int) and isinstance(node, list) and part < len(node):
            node = node[part]
        else:
            return _no_place(key, part, front[:depth], node, where)
    fits = isinstance(node, dict) if isinstance(last, str) else isinstance(node, list) and last < len(node)
    if not fits:
        return _no_place(key, last, front, node, where)
    try:
        cast(Any, node)[last] = _plain(_yaml().load(value))
    except YAMLError as error:
        return Problem(key, repr(value), "a value in YAML", where, _sentence(error))
    document.origins[(*front, last)] = where
    return None


def _no_place(key: str, part: str | int, front: Sequence[str | int], node: Any, where: str) -> Problem:
    there = (
        f"a list of {len(node)}" if isinstance(node, list) else "a mapping" if isinstance(node, dict) else repr(node)
    )
    at = f"at {_dotted(tuple(front))}" if front else "at the top"
    return Problem(key, f"no place for {part!r}", "the path of a key", where, f"{at} stands {there}")
