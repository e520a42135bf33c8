"""Config files: YAML 1.2 to a `Config`, or every problem at once.

    config = load_config("configs/digits.yaml", ["capture.0.keep=full", "train.steps=100"])
    build = resolve("actigrad.zoo.digits:build", key="model.factory", where="configs/digits.yaml:3")

ruamel.yaml, because YAML 1.1 readers take `1e-3` for a string and let duplicate keys pass; its round-trip mode knows
the line of every key, which each `Problem` names.
"""

import sys
import types
import typing
from collections.abc import Iterator, Sequence
from functools import reduce
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from actigrad.config import Config
from actigrad.errors import ConfigError, Problem, nearest

Location = tuple[str | int, ...]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config; overrides are `key.path=value` with YAML values.

    Raises:
        ConfigError: holding every problem of the file and the overrides.
    """
    path = Path(path)
    tree = _read_yaml(path)
    origins = dict(_lines(tree, path))
    plain = _plain(tree)
    problems = [problem for text in overrides if (problem := _override(plain, origins, text))]
    try:
        config = Config.model_validate(plain)
    except pydantic.ValidationError as error:
        problems += [_problem(plain, origins, path, one) for one in _readable(error)]
    else:
        problems += _beyond_types(config, origins, path)
        if not problems:
            return config
    raise ConfigError(sorted(problems, key=lambda problem: _line_number(problem.where)))


def find_origin(path: str | Path, key: str) -> str:
    """`file:line` of a key path such as `model.factory`, for problems that are found later."""
    origins = dict(_lines(_read_yaml(Path(path)), Path(path)))
    return _where(origins, Path(path), tuple(int(part) if part.isdigit() else part for part in key.split(".")))


def resolve(reference: str, *, key: str, where: str) -> Any:
    """The object that `module:name` refers to; the current directory can be imported from.

    Raises:
        ConfigError: naming the nearest module or name.
    """
    module_name, _, name = reference.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"no module named {error.name!r}; is it installed, or in the current directory?"
        raise ConfigError(Problem(key, repr(reference), "a reference to something importable", where, hint)) from error
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as error:
        public = [known for known in dir(module) if not known.startswith("_")]
        hint = _did_you_mean(name, public)
        raise ConfigError(Problem(key, repr(reference), f"a name in module {module_name}", where, hint)) from error


def _read_yaml(path: Path) -> Any:
    yaml = YAML(typ="rt")
    problem = None
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        problem = Problem("", "the same key twice", "each key once", f"{path}:{_mark(error)}", str(error.problem))
    except MarkedYAMLError as error:
        problem = Problem("", str(error.problem), "YAML 1.2", f"{path}:{_mark(error)}")
    except OSError as error:
        problem = Problem("", error.strerror or str(error), "a config file that can be read", str(path))
    else:
        if isinstance(tree, dict):
            return tree
        problem = Problem("", repr(tree), "a mapping of keys such as model, data, loss, store", str(path))
    raise ConfigError(problem)


def _mark(error: MarkedYAMLError) -> int:
    mark: Any = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _lines(node: Any, path: Path, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """`file:line` of every key and list item."""
    is_mapping = isinstance(node, CommentedMap)
    items = node.items() if is_mapping else enumerate(node) if isinstance(node, CommentedSeq) else ()
    for key, value in items:
        line = (node.lc.key(key) if is_mapping else node.lc.item(key))[0]
        yield (*location, key), f"{path}:{line + 1}"
        yield from _lines(value, path, (*location, key))


def _plain(node: Any) -> Any:
    """Without ruamel's types, which strict validation would refuse."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _override(tree: Any, origins: dict[Location, str], text: str) -> Problem | None:
    """Set one `key.path=value` in place, or say what is wrong with it."""
    where = f"--set {text}"
    path, equals, value = text.partition("=")
    if not equals or not path:
        return Problem(path, repr(text), "key.path=value", where, "e.g. --set capture.0.keep=full")
    location: Location = ()
    *front, last = [int(part) if part.isdigit() else part for part in path.strip().split(".")]
    node: Any = tree
    for part in front:
        location = (*location, part)
        if isinstance(part, str) and isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(part, int) and isinstance(node, list) and part < len(node):
            node = node[part]
        else:
            break
    fits = isinstance(node, dict) if isinstance(last, str) else isinstance(node, list) and last < len(node)
    if not fits or len(location) < len(front):
        at = ".".join(map(str, location)) or "the top"
        return Problem(path, repr(text), "the path of a key", where, f"there is nothing at {at} that holds {last!r}")
    try:
        node[last] = _plain(YAML(typ="rt").load(StringIO(value)))
    except MarkedYAMLError as error:
        return Problem(path, repr(value), f"a YAML value ({error.problem})", where)
    origins[(*front, last)] = where
    return None


def _readable(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """One entry a place: a union reports a failure for each of its members."""
    by_place: dict[Location, dict[str, Any]] = {}
    for one in error.errors():
        location = tuple(part for part in one["loc"] if not (isinstance(part, str) and ("[" in part or "-" in part)))
        entry = by_place.setdefault(location, {**one, "loc": location, "all": []})
        entry["all"].append(one)
    return list(by_place.values())


def _problem(tree: Any, origins: dict[Location, str], path: Path, error: dict[str, Any]) -> Problem:
    location, kind = error["loc"], error["type"]
    key = ".".join(map(str, location))
    where = _where(origins, path, location)
    if kind == "extra_forbidden":
        record = _record_at(location[:-1])
        known = list(record.model_fields) if record else []
        hint = _did_you_mean(str(location[-1]), known)
        return Problem(key, f"the key {location[-1]!r}", f"one of {', '.join(known)}", where, hint)
    if kind == "missing":
        return Problem(key, "nothing", f"the key {location[-1]!r}", where, _like_missing(tree, location))
    value = repr(error["input"])
    if kind == "literal_error":
        expected = error["ctx"]["expected"]
        choices = [choice.strip(" '") for choice in expected.replace(" or ", ",").split(",")]
        return Problem(key, value, expected, where, _did_you_mean(str(error["input"]), choices))
    return Problem(key, value, " or ".join(dict.fromkeys(_expected(one) for one in error["all"])), where)


EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path",
    "bool_type": "true or false",
    "none_required": "null (this version supports nothing else here)",
}


def _expected(error: dict[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "greater_than_equal":
        return f"a number of at least {context['ge']}"
    if kind == "too_short":
        return f"at least {context['min_length']} entries"
    if kind == "value_error":
        return str(context["error"])
    return EXPECTED.get(kind, error["msg"])


def _beyond_types(config: Config, origins: dict[Location, str], path: Path) -> list[Problem]:
    """What one key alone cannot tell."""
    train = config.train
    if train and train.record_every > train.steps:
        where = _where(origins, path, ("train", "record_every"))
        expected = f"at most train.steps, which is {train.steps}"
        return [Problem("train.record_every", str(train.record_every), expected, where, "no step would be recorded")]
    return []


def _where(origins: dict[Location, str], path: Path, location: Location) -> str:
    """The line of the nearest enclosing key that stands in the file."""
    for end in range(len(location), 0, -1):
        if location[:end] in origins:
            return origins[location[:end]]
    return f"{path}:1"


def _line_number(where: str) -> int:
    tail = where.rpartition(":")[2]
    return int(tail) if tail.isdigit() else sys.maxsize


def _record_at(location: Location) -> type[BaseModel] | None:
    """The record type that holds the keys at a location."""
    record: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        field = record.model_fields.get(part) if record else None
        record = next(_records(field.annotation), None) if field else None
    return record


def _records(annotation: Any) -> Iterator[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _records(part)


def _like_missing(tree: Any, location: Location) -> str:
    """A key that is there, unknown, and looks like the one that is not."""
    parent = reduce(lambda node, part: node[part], location[:-1], tree)
    record = _record_at(location[:-1])
    unknown = [key for key in parent if record and key not in record.model_fields] if isinstance(parent, dict) else []
    near = nearest(str(location[-1]), unknown, 1)
    return f"is {near[0]!r} meant to be {location[-1]!r}?" if near else ""


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
