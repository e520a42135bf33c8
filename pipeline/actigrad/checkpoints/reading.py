"""Reading: the arrays of a checkpoint by name, `params/block1/kernel`; what a file is, its first bytes tell.

    arrays = read_checkpoint("step_100.safetensors")

Orbax folders (of a `CheckpointManager` too, whose items are the first part of the names), safetensors (one file, a
folder of shards with its index, or the index), Flax msgpack, and npz. Arrays are NumPy's, on the host. No pickle is
loaded unless told to trust it: PyTorch's archives, `.pkl`, and arrays of objects.
"""

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actigrad.errors import ActigradError, ConfigError, Problem
from actigrad.pickles import check_trust, load_pickle

KEY = "model.checkpoint"
EXPECTED = "an Orbax folder, a safetensors file or folder, a Flax msgpack file, or an .npz file"
INDEX = "model.safetensors.index.json"


def read_checkpoint(path: str | Path, trust: str | None = None) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by name, nested names joined by `/`.

    Raises:
        ConfigError: when it is no checkpoint, cannot be read, or only by pickle.
    """
    path = Path(path)
    try:
        tree = _read_folder(path) if path.is_dir() else _read_file(path, trust)
        return dict(_flattened(tree))
    except ActigradError:
        raise
    except Exception as error:
        found = f"{str(path)!r}, which could not be read: {type(error).__name__}: {error}"
        raise ConfigError(Problem(KEY, found, EXPECTED, "the config")) from error


def _read_folder(path: Path) -> Any:
    items = [child.parent for child in sorted(path.glob("*/_METADATA"))]
    if (path / "_METADATA").exists():
        return _read_orbax(path)
    if items:
        trees = {item.name: _read_orbax(item) for item in items}
        return trees.get("default", trees) if len(trees) == 1 else trees
    shards = [file for file in (path / INDEX, *sorted(path.glob("*.safetensors"))) if file.exists()]
    if shards and (shards[0].name == INDEX or len(shards) == 1):
        return _read_file(shards[0], None)
    numbers = sorted((child.name for child in path.iterdir() if child.name.isdigit()), key=int)
    more = [file.name for file in shards] or numbers
    hint = f"It holds {', '.join(more[:4])}: name one, or all of them as {str(path / '*')!r}." if more else ""
    raise ConfigError(Problem(KEY, f"the folder {str(path)!r}", EXPECTED, "the config", hint))


def _read_orbax(path: Path) -> Any:
    """As NumPy arrays: where they were on devices does not matter here."""
    import jax
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")  # it warns of a file that only the folder above an item has
    level, _ = logger.level, logger.setLevel(logging.ERROR)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path.absolute()).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return checkpointer.restore(path.absolute(), restore_args=as_numpy)
    finally:
        logger.setLevel(level)


def _read_file(path: Path, trust: str | None) -> Any:
    with path.open("rb") as file:
        head = file.read(16)
    if path.name.endswith(".index.json"):
        files = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: value for file in files for name, value in _read_safetensors(path.parent / file).items()}
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path, trust)
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or path.suffix in (".pkl", ".pickle"):
        return load_pickle(KEY, path, trust)
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        from flax.serialization import msgpack_restore

        return msgpack_restore(path.read_bytes())
    raise ConfigError(Problem(KEY, repr(str(path)), EXPECTED, "the config"))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 - bfloat16 for NumPy
    from safetensors.numpy import load_file

    return load_file(path)


def _read_zip(path: Path, trust: str | None) -> Any:
    """An .npz, or what `torch.save` writes, which is a pickle."""
    with zipfile.ZipFile(path) as archive:
        if not all(name.endswith(".npy") for name in archive.namelist()):
            return load_pickle(KEY, path, trust)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError:
        check_trust(KEY, path, "arrays of objects", trust)
        with np.load(path, allow_pickle=True) as arrays:
            return {name: arrays[name][()] for name in arrays}


def _flattened(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, Mapping | list | tuple):
        children = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for name, child in children:
            yield from _flattened(child, (*path, str(name)))
    elif tree is not None and not isinstance(tree, str | bytes):
        yield "/".join(path), np.asarray(tree)
