"""References: `module:name` in a config to the function that it names, or the nearest names that exist.

    build = resolve("actigrad.zoo.digits:build", key="model.factory", where="configs/digits.yaml:3")

The current directory can be imported from, so that a config and the Python file beside it need no installing.
"""

import pkgutil
import sys
from collections.abc import Callable, Iterable
from functools import reduce
from importlib import import_module
from typing import Any

from actigrad.errors import ConfigError, Problem, did_you_mean


def resolve(reference: str, *, key: str, where: str) -> Callable[..., Any]:
    """The function that `module:name` refers to.

    Raises:
        ConfigError: when the module cannot be imported, has no such name, or the name is of something else.
    """

    def refuse(expected: str, hint: str = "", found: str = "") -> ConfigError:
        return ConfigError(Problem(key, found or repr(reference), expected, where, hint))

    module_name, _, name = reference.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        hint = "Is it installed, or in the current directory?"
        hint = " ".join(filter(None, [did_you_mean(missing, _siblings(missing)), hint]))
        raise refuse(f"a module that can be imported (there is no module {missing!r})", hint) from error
    except Exception as error:
        found = f"{reference!r}, whose module raised {type(error).__name__}: {error}"
        raise refuse("a module that can be imported", found=found) from error
    try:
        value = reduce(getattr, name.split("."), module)
    except AttributeError as error:
        public = [known for known in dir(module) if not known.startswith("_")]
        raise refuse(f"a name in module {module_name}", did_you_mean(name, public)) from error
    if not callable(value):
        raise refuse("a function", found=f"{reference!r}, which is a {type(value).__name__}")
    return value


def _siblings(missing: str) -> Iterable[str]:
    """The modules that stand where the missing one should."""
    package, _, _ = missing.rpartition(".")
    if not package:
        return [found.name for found in pkgutil.iter_modules()]
    path = getattr(sys.modules.get(package), "__path__", [])
    return [f"{package}.{found.name}" for found in pkgutil.iter_modules(path)]
