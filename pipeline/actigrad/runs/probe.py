"""Probe: the batch that a Recorder looks at: made once, owned, and the same after a restart.

    probe = own(first(batch, samples=32))    # copied: the training may donate or change its batch
    save(file, probe); load(file, like=probe)
    name_samples(probe)                      # {"id": …, "label": …}, what a store knows of each sample

Any pytree of arrays will do: images with labels, tokens, random keys.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.engine.program import count_samples
from actigrad.errors import StoreError

SHARE = 4
"""By default a probe is the fourth part of a batch: capture of a sample takes two or three times its training."""


def first(batch: Any, samples: int | None = None) -> Any:
    """The first samples of a batch, by default a quarter of them; all where its arrays share no sample axis."""
    n = count_samples(batch)
    cut = samples or max(1, (n or 0) // SHARE)
    return batch if n is None else jax.tree.map(lambda leaf: leaf[:cut] if np.ndim(leaf) else leaf, batch)


def own(batch: Any) -> Any:
    """A copy of a batch, on the device."""
    return jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else jnp.asarray(np.array(x)), batch)


def save(file: Path, probe: Any) -> None:
    """Write its arrays; the structure is that of every batch."""
    np.savez(file, allow_pickle=False, **{str(i): _bits(leaf) for i, leaf in enumerate(jax.tree.leaves(probe))})


def load(file: Path, like: Any) -> Any:
    """The probe that was saved, for batches like `like`.

    Raises:
        StoreError: when it has another structure, or its arrays have other shapes or dtypes beside the sample axis.
    """
    leaves, structure = jax.tree.flatten(like)
    with np.load(file, allow_pickle=False) as arrays:
        saved = [arrays[str(i)] for i in range(len(arrays))]
    told = [[f"{one.dtype}{list(one.shape[1:])}" for one in some] for some in (saved, map(_bits, leaves))]
    if told[0] != told[1]:
        raise StoreError(
            f"the probe batch that was recorded before has arrays {told[0]} a sample, and this training's batches have "
            f"{told[1]}: it is another training. Choose another path for the Recorder."
        )
    return jax.tree.unflatten(structure, [_from_bits(*pair) for pair in zip(saved, leaves, strict=True)])


def digest(probe: Any) -> str:
    """SHA-256 of its values."""
    digest = hashlib.sha256()
    for leaf in map(_bits, jax.tree.leaves(probe)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def name_samples(probe: Any) -> dict[str, np.ndarray]:
    """The position of each sample, and its whole numbers by their place in the batch.

    In a batch without names, `(image, label)`, the only whole number is called `label`.
    """
    n = count_samples(probe) or 1
    found = {}
    for path, leaf in jax.tree.leaves_with_path(probe):
        if leaf.shape == (n,) and np.dtype(leaf.dtype).kind in "iub":
            found[jax.tree_util.keystr(path, simple=True, separator="_")] = np.asarray(leaf)
    if len(found) == 1 and (name := next(iter(found))).isdecimal():
        found = {"label": found[name]}
    return {"id": np.arange(n)} | found


def _bits(leaf: jax.Array) -> np.ndarray:
    """As NumPy can save it: random keys as their data, bfloat16 and its like as whole numbers of the same size."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    values = np.asarray(leaf)
    return values if values.dtype.kind in "biufc" else values.view(f"u{values.dtype.itemsize}")


def _from_bits(saved: np.ndarray, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(like))
    return jnp.asarray(saved.view(like.dtype))
