"""An object store: S3, Google Cloud Storage, Azure, or what is served over HTTP; by obstore.

A put is whole or not at all, and durable when it returns: all that a journal needs. The lock is a lease (`lease`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from actigrad.errors import StoreError
from actigrad.storage.places.base import Content
from actigrad.storage.places.lease import Remote


class Objects(Remote):
    """The objects below a URL."""

    def __init__(self, url: str, options: dict[str, Any]):
        self.url, self.options = url.rstrip("/"), options
        try:
            self.store = from_url(self.url, **_with_plain_http(options))
        except (BaseError, TypeError, ValueError) as error:
            raise StoreError(
                f"{url} cannot be opened with the options {options}: {_first_line(error)}. They are those of obstore's "
                "store for this scheme (endpoint, region, skip_signature, …)."
            ) from error

    def __str__(self) -> str:
        return self.url

    def beside(self, suffix: str) -> "Objects":
        return Objects(self.url + suffix, self.options)

    def is_empty(self) -> bool:
        with _told(self.url):
            return not any(obstore.list(self.store, chunk_size=1))

    def read(self, name: str) -> bytes:
        with _told(self.url):
            return bytes(obstore.get(self.store, name).bytes())

    def write(self, name: str, *content: Content) -> None:
        with _told(self.url):
            obstore.put(self.store, name, b"".join(content))

    def create(self, name: str, content: bytes) -> bool:
        with _told(self.url):
            try:
                obstore.put(self.store, name, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def modified(self, name: str) -> datetime:
        with _told(self.url):
            return obstore.head(self.store, name)["last_modified"]

    def delete(self, name: str) -> None:
        with _told(self.url):
            try:
                obstore.delete(self.store, name)
            except FileNotFoundError:
                return  # S3 does not tell, others do

    def clear(self) -> None:
        if names := list(self.files()):
            with _told(self.url):
                obstore.delete(self.store, names)

    def files(self, folder: str = "") -> dict[str, int]:
        with _told(self.url):
            listed = obstore.list(self.store, prefix=folder or None)
            return {one["path"]: one["size"] for batch in listed for one in batch}

    def to_zarr(self, *, durable: bool = False, read_only: bool = False) -> Store:
        return _TellingStore(self.store, read_only=read_only)


class _TellingStore(ObjectStore):
    """Zarr's own store, but that what goes wrong is an OSError, as it is on a disk."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read one object."""
        with _told(str(self.store)):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object."""
        with _told(str(self.store)):
            await super().set(key, value)


def _with_plain_http(options: dict[str, Any]) -> dict[str, Any]:
    """A server of one's own is often without TLS; that its address says so is permission enough."""
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if not endpoint.startswith("http://"):
        return options
    return options | {"client_options": {"allow_http": True} | options.get("client_options", {})}


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        raise OSError(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
