"""Config files: YAML to a `Config`, or every problem at once, each with its line.

    config = load_config("configs/digits.yaml", ["capture.0.keep=full", "train.steps=100"])

pydantic finds what does not fit; this module says it in the words of someone who wrote a YAML file.
"""

import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel

from actigrad.config.records import Config
from actigrad.config.yamlfile import Document, Location, read_yaml, split_key
from actigrad.errors import ConfigError, Problem, did_you_mean, nearest


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config; overrides are `key.path=value` with YAML values.

    Raises:
        ConfigError: holding every problem of the file and the overrides.
    """
    document = read_yaml(path, overrides)
    problems = list(document.problems)
    try:
        config = Config.model_validate(document.tree)
    except pydantic.ValidationError as error:
        problems += [_problem(document, one) for one in _readable(error)]
    else:
        problems += _beyond_types(config, document)
        if not problems:
            return config
    raise ConfigError(sorted(problems, key=lambda problem: _line_number(problem.where)))


def locate(error: ConfigError, path: str | Path, overrides: Sequence[str] = ()) -> ConfigError:
    """The same error with the line of each key: for problems that are found after the file was read."""
    document = read_yaml(path, overrides)
    return ConfigError([replace(one, where=document.where(split_key(one.key))) for one in error.problems])


def _readable(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """One entry a place, the innermost: a union reports a failure for each of its members."""
    by_place: dict[Location, dict[str, Any]] = {}
    for one in error.errors():
        *front, last = one["loc"]  # between keys, pydantic names the member of a union: 'list[constrained-int]'
        keep_last = one["type"] == "extra_forbidden" or not _is_member(last)
        location = (*(part for part in front if not _is_member(part)), *([last] if keep_last else []))
        entry = by_place.setdefault(location, {**one, "loc": location, "all": []})
        entry["all"].append(one)
    around = {place[:end] for place in by_place for end in range(len(place))}
    return [one for place, one in by_place.items() if place not in around]


def _is_member(part: str | int) -> bool:
    return isinstance(part, str) and (part == "str" or "[" in part or "-" in part)


def _problem(document: Document, error: dict[str, Any]) -> Problem:
    location, kind = error["loc"], error["type"]
    key, where = ".".join(map(str, location)), document.where(location)
    if kind == "extra_forbidden":
        record = _record_at(location[:-1])
        known = list(record.model_fields) if record else []
        hint = did_you_mean(str(location[-1]), known)
        return Problem(key, f"the key {location[-1]!r}", f"one of {', '.join(known)}", where, hint)
    if kind == "missing":
        return Problem(key, "nothing", f"the key {location[-1]!r}", where, _like_missing(document.tree, location))
    value = repr(error["input"])
    if kind == "literal_error":
        expected = error["ctx"]["expected"]
        choices = [choice.strip(" '") for choice in expected.replace(" or ", ",").split(",")]
        return Problem(key, value, expected, where, did_you_mean(str(error["input"]), choices))
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
        return "at least one entry"
    if kind == "value_error":
        return str(context["error"])
    return EXPECTED.get(kind) or error["msg"]


def _beyond_types(config: Config, document: Document) -> list[Problem]:
    """What one key alone cannot tell."""
    train = config.train
    if train and train.record_every > train.steps:
        where = document.where(("train", "record_every"))
        expected = f"at most train.steps, which is {train.steps}"
        return [Problem("train.record_every", str(train.record_every), expected, where, "no step would be recorded")]
    return []


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
