"""Matching: arrays by name into params, all of them or an error that lists what does not fit.

    params = restore_params(params, {"block1.conv.kernel": ..., ...}, "step_100.safetensors")

Names are compared part by part; `/` and `.` both part them. What stands in front may differ: the params may be one
part of a whole training state (`params/…`, `model/…`), or the checkpoint may lack the collection (`params`) that the
model's names begin with. `value` at the end, where Flax NNX keeps an array, is passed over, and so is what else a
training state holds beside the params (`step`, `opt_state`, …). What is no floating number (counters, keys of random
numbers) stays as the factory made it where the checkpoint lacks it. Arrays get the model's dtype; shapes must be
equal.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.errors import ConfigError, Problem, nearest

BESIDE = {"step", "opt_state", "optimizer", "optimizer_state", "opt", "rng", "rngs", "key", "epoch", "metrics"}
LISTED = 8


def restore_params(params: Any, arrays: Mapping[str, np.ndarray], where: str | Path) -> Any:
    """The params with the values of the arrays.

    Args:
        params: a pytree of arrays, as `observe` returns.
        arrays: by name.
        where: the checkpoint's path, for messages.

    Raises:
        ConfigError: with all names that are missing, unexpected, or of another shape.
    """
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    theirs = _canonical(arrays, keep_value=any(name.endswith("/value") for name in leaves))
    needed = {name for name, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size}
    chosen = _choose(leaves, needed, theirs, where)
    shapes = [
        f"{name} is {chosen[name].shape} there and {leaf.shape} in the model"
        for name, leaf in leaves.items()
        if name in chosen and not _is_key(leaf) and chosen[name].shape != leaf.shape
    ]
    if shapes:
        raise _misfit(where, {"of another shape": shapes})

    def restored(path, leaf):
        name = _name(path)
        return leaf if name not in chosen or _is_key(leaf) else jnp.asarray(chosen[name], leaf.dtype)

    return jax.tree_util.tree_map_with_path(restored, params)


def _choose(leaves: Mapping[str, Any], needed: set[str], theirs: Mapping[str, np.ndarray], where: str | Path):
    """The arrays of the checkpoint by the model's names."""
    for ours in (_as_they_are(leaves), _without_collection(leaves)):
        fits = [
            front
            for front in _fronts(theirs, {ours[name] for name in needed})
            if not any(_misnamed(set(ours.values()), {ours[name] for name in needed}, _below(theirs, front)))
        ]
        best = "" if "" in fits else next((f for f in fits if f.rpartition("/")[2] in ("params", "model")), None)
        if best is None and len(fits) > 1:
            places = ", ".join(sorted(fits))
            hint = "Save the one that is meant alone."
            raise ConfigError(Problem("model.checkpoint", f"{where}, which holds the model's arrays under {places}",
                                      "them once", "the config", hint))  # fmt: skip
        if fits:
            below = _below(theirs, fits[0] if best is None else best)
            return {name: below[alias] for name, alias in ours.items() if alias in below}
    fronts = Counter(front for name in needed for front in _fronts(theirs, {name}))
    below = _below(theirs, fronts.most_common(1)[0][0] if fronts else "")
    missing, unexpected = _misnamed(set(leaves), needed, below)
    told = lambda names, known: [
        f"{name}{f' (nearest: {near[0]})' if (near := nearest(name, known, 1)) else ''}" for name in sorted(names)
    ]
    raise _misfit(where, {"missing": told(missing, unexpected), "unexpected": told(unexpected, missing)})


def _misnamed(known: set[str], needed: set[str], theirs: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The names that the checkpoint lacks, and those that the model does."""
    own = {name.partition("/")[0] for name in known}
    beside = {name for name in theirs if (first := name.partition("/")[0]) in BESIDE and first not in own}
    return needed - set(theirs), set(theirs) - known - beside


def _fronts(theirs: Mapping[str, Any], needed: set[str]) -> list[str]:
    """What may stand in front of the model's names in a checkpoint; an optimizer's copies of them do not count."""
    one = min(needed, default="")
    ends = [name.removesuffix(one).removesuffix("/") for name in theirs if name == one or name.endswith(f"/{one}")]
    return [front for front in ends if not BESIDE & set(front.split("/"))]


def _below(theirs: Mapping[str, np.ndarray], front: str) -> dict[str, np.ndarray]:
    start = f"{front}/" if front else ""
    return {name.removeprefix(start): values for name, values in theirs.items() if name.startswith(start)}


def _as_they_are(leaves: Mapping[str, Any]) -> dict[str, str]:
    return {name: name for name in leaves}


def _without_collection(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Without the first part, where names stay apart; else as they are."""
    shorter = {name: name.partition("/")[2] for name in leaves}
    return shorter if len(set(shorter.values())) == len(leaves) and all(shorter.values()) else _as_they_are(leaves)


def _canonical(arrays: Mapping[str, np.ndarray], *, keep_value: bool) -> dict[str, np.ndarray]:
    parted = {"/".join(filter(None, re.split(r"[/.]", name))): values for name, values in arrays.items()}
    return parted if keep_value else {name.removesuffix("/value"): values for name, values in parted.items()}


def _name(path: Any) -> str:
    """A leaf's path as in `layers/0/weight`; parts that are named with dots are parted as well."""
    return jax.tree_util.keystr(path, simple=True, separator="/").replace(".", "/")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _misfit(where: str | Path, lists: Mapping[str, list[str]]) -> ConfigError:
    lines = []
    for title, names in lists.items():
        more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
        lines += [f"{title}: {', '.join(names[:LISTED])}{more}"] if names else []
    found = f"{where}, whose arrays do not fit the model"
    expected = "one array for each of the model's, by its name and of its shape"
    return ConfigError(Problem("model.checkpoint", found, expected, "the config", "\n      ".join(lines)))
