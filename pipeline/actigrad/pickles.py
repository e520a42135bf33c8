"""Pickles: loaded only where the config says so, because to load one is to run whatever its author put into it.

load_pickle("data.path", Path("samples.pkl"), trust="pickle")
"""

import pickle
from pathlib import Path
from typing import Any

from actigrad.errors import ConfigError, Problem

WHY = (
    "Loading a pickle runs any program that its author put into it. If you made this file, or trust who did, say "
    "{part}.trust: pickle; better, save it as {better}."
)
BETTER = {"data": "plain .npy or .npz arrays, Zarr or Parquet", "model": "safetensors"}


def check_trust(key: str, path: Path, what: str, trust: str | None) -> None:
    """Raise ConfigError unless the config trusts pickles there."""
    if trust != "pickle":
        part = key.partition(".")[0]
        found = f"{str(path)!r}, which holds {what} and can only be read by pickle"
        raise ConfigError(
            Problem(key, found, "a file without pickle", "the config", WHY.format(part=part, better=BETTER[part]))
        )


def load_pickle(key: str, path: Path, trust: str | None) -> Any:
    """What a pickle, or PyTorch's archive of one, holds.

    Raises:
        ConfigError: unless the config trusts it.
    """
    check_trust(key, path, "a pickle", trust)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return pickle.load(file)
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        found = f"{str(path)!r}, an archive that PyTorch wrote"
        raise ConfigError(
            Problem(key, found, "the package torch to read it", "the config", "pip install torch")
        ) from error
    return torch.load(path, map_location="cpu", weights_only=False)
