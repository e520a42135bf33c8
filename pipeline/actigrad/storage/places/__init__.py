"""Places: where a store can be. A folder, an object store, or whatever else fsspec knows.

    find_place("runs/digits.zarr")                              # a Folder
    find_place("s3://bucket/digits.zarr", {"region": "eu-west-1"})
    find_place("memory://digits.zarr")                          # by fsspec, and so is every scheme not named below

`s3`, `gs`, `az`, `http` and their like are read and written by obstore; its options (`endpoint`, `region`,
`skip_signature`) come from the config's `store.options` or from the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, …),
credentials from the environment alone, because the config is stored in every store.

Limits: there is no free space to be known of a URL, and over HTTP nothing can be listed, locked or written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from actigrad.errors import StoreError
from actigrad.storage.places.base import Lock, Place
from actigrad.storage.places.folder import Folder

__all__ = ["OBJECT_STORES", "Folder", "Lock", "Place", "Where", "find_place", "is_url"]

Where = str | Path | Place
OBJECT_STORES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")


def is_url(where: str | Path) -> bool:
    """Whether it names a scheme.

    >>> is_url("s3://bucket/run.zarr"), is_url("runs/run.zarr")
    (True, False)
    """
    return isinstance(where, str) and "://" in where


def find_place(where: Where, options: Mapping[str, Any] | None = None) -> Place:
    """The place of that path or URL.

    Args:
        where: a path, a URL, or a place, which is returned as it is.
        options: of the object store or the file system, as obstore or fsspec name them.

    Raises:
        StoreError: when nobody knows the scheme, what reads it is not installed, or an option is wrong.
    """
    if isinstance(where, Place):
        return where
    if not is_url(where):
        return Folder(Path(where))
    url, scheme = str(where), str(where).partition("://")[0]
    if scheme == "file":
        return Folder(Path(unquote(urlsplit(url).path)))
    try:
        if scheme in OBJECT_STORES:
            from actigrad.storage.places.objects import Objects

            return Objects(url, dict(options or {}))
        from actigrad.storage.places.files import Files

        return Files(url, dict(options or {}))
    except ImportError as error:
        raise StoreError(
            f"{url} cannot be opened: {error}. `pip install 'actigrad[remote]'` brings what reads object stores; other "
            "schemes need their own package for fsspec."
        ) from error
