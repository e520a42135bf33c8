"""Finding: `model.checkpoint` to the checkpoints that are there, in the order of their steps.

    find_checkpoints("runs/step_*")                    # ("runs/step_20", "runs/step_100")
    find_checkpoints("weights.safetensors")            # "weights.safetensors"

A pattern or a list gives a tuple, which becomes the `step` dim; a plain path stays one. Folders that Orbax has not
finished are passed over by patterns.
"""

import glob
import os

from actigrad.config.records import numbered
from actigrad.errors import ConfigError, Problem

KEY = "model.checkpoint"
UNFINISHED = ".orbax-checkpoint-tmp"


def find_checkpoints(asked: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """What was asked for, patterns replaced by what they match.

    Raises:
        ConfigError: when a path does not exist, or a pattern matches nothing.
    """
    if isinstance(asked, str) and not is_pattern(asked):
        return _existing(asked)
    found = [path for one in ([asked] if isinstance(asked, str) else asked) for path in _expanded(one)]
    if not found:
        raise ConfigError(Problem(KEY, "an empty list", "at least one checkpoint", "the config"))
    return tuple(path for _, path in sorted(zip(numbered(tuple(found)), found, strict=True), key=lambda pair: pair[0]))


def is_pattern(path: str) -> bool:
    """Whether it is a pattern and no file of that very name."""
    return glob.has_magic(path) and not os.path.exists(path)


def _expanded(path: str) -> list[str]:
    if not is_pattern(path):
        return [_existing(path)]
    found = sorted(match for match in glob.glob(path, recursive=True) if UNFINISHED not in match)
    if not found:
        raise ConfigError(Problem(KEY, repr(path), "a pattern that matches a checkpoint", "the config"))
    return found


def _existing(path: str) -> str:
    if not os.path.exists(path):
        hint = "There is nothing at that path; is it relative to another folder?"
        raise ConfigError(Problem(KEY, repr(path), "a checkpoint's file or folder", "the config", hint))
    return path
