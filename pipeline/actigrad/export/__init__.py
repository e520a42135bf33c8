"""Export: a store in the formats of other tools, one room a format.

    export("runs/digits/digits.zarr", "parquet")              # runs/digits/digits.parquet
    export("runs/digits/digits.zarr", "tensorboard", "logs/digits")

Every format is written piece by piece, so memory does not grow with the store, and under a temporary name that becomes
the real one at the end: an export that was stopped leaves nothing that looks whole. Nothing that is there is replaced.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from actigrad.errors import ExportError, did_you_mean
from actigrad.storage.places import Where
from actigrad.storage.store import open_store


@dataclass(frozen=True)
class Format:
    """How a format is written.

    Attributes:
        suffix: of the file or the folder beside the store.
        holds: what of the store is in it, for help.
        needs: the module that writes it, where it comes with an extra.
    """

    suffix: str
    holds: str
    needs: str = ""


FORMATS = {
    "tensorboard": Format(".tensorboard", "scalars, histograms and heatmaps along the step", "tensorboard"),
    "parquet": Format(".parquet", "summaries as one tidy table", "pyarrow"),
    "netcdf": Format(".nc", "everything, group by group", "h5netcdf"),
    "npz": Format(".npz", "everything, array by array"),
    "treescope": Format(".treescope.html", "the arrays of the last step as one page", "treescope"),
}
"""By name; `actigrad.export.to_<name>` has a function `write(tree, path, advance)`."""


def export(store: Where, to: str, path: str | Path | None = None, *, progress: Any = None) -> Path:
    """Write a store in another format; returns where it is.

    Args:
        store: the path or the URL of the store.
        to: a name of `FORMATS`.
        path: the file (for TensorBoard the folder) to make; by default beside the store, named like it, or where this
            runs when the store is remote.
        progress: as `run` takes it, or None.

    Raises:
        ExportError: when the format is not known, its library is not installed, or something is there already.
        StoreError: when there is no store.
    """
    if to not in FORMATS:
        hint = did_you_mean(to, FORMATS)
        raise ExportError(f"there is no format {to!r}; expected one of {', '.join(FORMATS)}." + f" {hint}".rstrip())
    chosen = FORMATS[to]
    target = Path(path) if path is not None else _beside(str(store), chosen.suffix)
    if os.path.lexists(target):
        raise ExportError(f"{target} exists; nothing was changed. Remove it, or give another place with --output.")
    tree, write = open_store(store), _writer(to, chosen)
    with _whole_or_nothing(target) as partial:
        write(tree, partial, _counting(progress, to))
    return target


def _beside(store: str, suffix: str) -> Path:
    name = store.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + suffix
    return Path(name) if "://" in store else Path(store).with_name(name)


def _writer(name: str, chosen: Format) -> Callable[..., None]:
    try:
        return import_module(f"actigrad.export.to_{name}").write
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != chosen.needs:
            raise
        raise ExportError(
            f"{name} needs {chosen.needs}, which is not installed: pip install 'actigrad[export]'."
        ) from error


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A name beside the target to write at; it becomes the target when all went well, and is gone otherwise."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error.strerror or error}. Give another place with --output."
        ) from error
    finally:
        with suppress(OSError):  # where nothing could be made, nothing is to be removed
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _counting(progress: Any, name: str) -> Callable[[int, int], None]:
    """A function of (done, total) that moves the bar."""
    return progress.counting(name, "piece") if progress else lambda done, total: None
