"""Digests: samples to a fingerprint, the same however they are cut into batches and wherever they come from.

    digest = Digest(source.fields)
    digest.update(first); digest.update(second)
    digest.hexdigest()                                 # SHA-256 of names, dtypes, shapes, and all values in order

Each field is hashed on its own, so the result does not depend on the size of the batches.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from actigrad.sources.base import Batch, Field


class Digest:
    """A running SHA-256 of samples."""

    def __init__(self, fields: Mapping[str, Field], note: str = ""):
        self._head = f"{note}{sorted((name, field.dtype, field.shape) for name, field in fields.items())}"
        self._fields = {name: hashlib.sha256() for name in sorted(fields)}
        self._samples = 0

    def update(self, batch: Batch) -> None:
        """The next samples."""
        self._samples += len(next(iter(batch.values())))
        for name, digest in self._fields.items():
            for part in _bytes_of(batch[name]):
                digest.update(part)

    def hexdigest(self) -> str:
        """Of all samples so far."""
        parts = [digest.hexdigest() for digest in self._fields.values()]
        return hashlib.sha256(f"{self._head} {self._samples} {parts}".encode()).hexdigest()


def batch_mark(batch: Batch) -> bytes:
    """16 bytes that tell one batch from another."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(batch):
        for part in _bytes_of(batch[name]):
            digest.update(part)
    return digest.digest()


def _bytes_of(values: np.ndarray) -> Iterable[bytes | memoryview]:
    if values.dtype.kind in "OUT":
        return (f"{len(text)}:{text}".encode() for text in map(str, values.flat))
    # As bytes: bfloat16 has no buffer of its own.
    return [np.ascontiguousarray(values).reshape(-1).view(np.uint8).data]
