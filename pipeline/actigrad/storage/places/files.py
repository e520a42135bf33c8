"""Any other file system that fsspec knows: `memory://`, `sftp://`, `hdfs://`, and what its plug-ins bring."""

from datetime import datetime
from typing import Any

import fsspec
from zarr.abc.store import Store
from zarr.storage import FsspecStore

from actigrad.errors import StoreError
from actigrad.storage.places.base import Content
from actigrad.storage.places.lease import Remote


class Files(Remote):
    """The files below a URL of fsspec."""

    def __init__(self, url: str, options: dict[str, Any]):
        self.url, self.options = url.rstrip("/"), options
        try:
            self.system, self.root = fsspec.core.url_to_fs(self.url, **options)
        except ValueError as error:
            raise StoreError(f"{url} cannot be opened: {error}. Choose another store.path.") from error

    def __str__(self) -> str:
        return self.url

    def beside(self, suffix: str) -> "Files":
        return Files(self.url + suffix, self.options)

    def is_empty(self) -> bool:
        return not self.system.exists(self.root) or not self.files()

    def read(self, name: str) -> bytes:
        return self.system.cat_file(self._at(name))

    def write(self, name: str, *content: Content) -> None:
        self.system.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(self._at(name), b"".join(content))

    def create(self, name: str, content: bytes) -> bool:
        try:
            self.system.makedirs(self.root, exist_ok=True)
            self.system.pipe_file(self._at(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def modified(self, name: str) -> datetime:
        return self.system.modified(self._at(name))

    def delete(self, name: str) -> None:
        if self.system.exists(self._at(name)):
            self.system.rm_file(self._at(name))

    def clear(self) -> None:
        if self.system.exists(self.root):
            self.system.rm(self.root, recursive=True)

    def files(self, folder: str = "") -> dict[str, int]:
        found = self.system.find(self._at(folder) if folder else self.root, detail=True)
        return {name.removeprefix(f"{self.root}/"): one["size"] for name, one in found.items()}

    def to_zarr(self, *, durable: bool = False, read_only: bool = False) -> Store:
        return FsspecStore.from_url(self.url, storage_options=self.options or None, read_only=read_only)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"
