"""Parts: what a config names, found: its functions, its checkpoints, its data. A `Job` is made of them.

    config = with_checkpoints(config, "run.yaml")
    source = open_data(config, data_factory, "run.yaml")

What cannot be found or fails is told as a problem of the config.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from actigrad.checkpoints import find_checkpoints
from actigrad.checkpoints.finding import is_pattern
from actigrad.config.records import Config
from actigrad.config.references import resolve
from actigrad.errors import ActigradError, ConfigError, Problem
from actigrad.sources import Source, open_path, open_source


def resolve_all(config: Config, where: str) -> list[Any]:
    """The functions of the config, None where it names none, or one error with every reference that is wrong."""
    references: dict[str, str | None] = {
        "model.factory": config.model.factory, "data.factory": config.data.factory, "loss": config.loss,
    }  # fmt: skip
    references["train.factory"] = config.train.factory if config.train else None
    references["objective.function"] = config.objective.function if config.objective else None
    found, problems = [], []
    for key, reference in references.items():
        try:
            found.append(reference and resolve(reference, key=key, where=where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def called(key: str, where: str, factory: Callable[[], Any]) -> Any:
    """What a factory returns; its own failure is told as the config's."""
    try:
        return factory()
    except ActigradError:
        raise
    except Exception as error:
        found = f"a factory that raised {type(error).__name__}: {error}"
        raise ConfigError(Problem(f"{key}.factory", found, "one that accepts these options", where)) from error


def with_checkpoints(config: Config, where: str) -> Config:
    """The config with the checkpoints that are there in place of a pattern: what a later run must find again."""
    asked = config.model.checkpoint
    if asked is None:
        return config
    if config.train is not None and (isinstance(asked, tuple) or is_pattern(asked)):
        hint = "Either record a training that starts from one checkpoint, or several checkpoints without training."
        expected = "one checkpoint, as training is recorded along the same `step` dim"
        raise ConfigError(Problem("model.checkpoint", repr(asked), expected, where, hint))
    model = config.model.model_copy(update={"checkpoint": find_checkpoints(asked)})
    return config.model_copy(update={"model": model})


def open_data(config: Config, factory: Callable[..., Any] | None, where: str) -> Source:
    """The data of the config; a factory that fails is told as such."""
    data = config.data
    if factory is not None:
        key, make = "data.factory", partial(called, "data", where, partial(factory, **data.options))
    else:
        assert data.path is not None
        key, make = "data.path", partial(open_path, data.path, batch_size=data.batch_size, trust=data.trust)
    return open_source(make, key=key, samples=data.samples, batch_size=data.batch_size)


def choose_rows(config: Config, available: int, where: str) -> np.ndarray:
    """The samples to capture, as offsets into the data."""
    asked = config.data.samples
    rows = np.arange(available) if asked is None else np.asarray(asked) if isinstance(asked, list) else np.arange(asked)
    if len(rows) == 0 or rows.max() >= available:
        expected = f"samples among the {available} that the data hold"
        raise ConfigError(Problem("data.samples", str(asked), expected, where))
    return rows
