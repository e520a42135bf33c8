"""What stands in a store that was not written to its end, against one that was.

Chunks of whole arrays belong to one step, so each is right to the byte or not there. Chunks of several steps are
written anew with each of them: what counts there are the values of what was committed.
"""

from pathlib import Path

import numpy as np
import zarr

from actigrad.storage.journal import read_commits

NET = """
import jax, jax.numpy as jnp, numpy as np
import flax.nnx as nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
    def __call__(self, x):
        return jnp.tanh(self.hidden(x))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def load(*, n=10):
    return {"x": np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)}

def loss(apply, params, batch):
    return jnp.square(apply(params, batch["x"])).sum(axis=1)
"""
"""What a run of a config observes, but for how it trains."""


def chunks(store: Path) -> dict[str, bytes]:
    """Every chunk of a store by its name."""
    files = (file for file in store.rglob("*") if file.is_file() and file.name != "zarr.json")
    return {str(file.relative_to(store)): file.read_bytes() for file in files if not file.name.endswith(".partial")}


def wrong_parts(store: Path, whole: Path) -> list[str]:
    """Committed values of `store` that are not those of `whole`, and chunks of one step that are not its bytes."""
    ours, theirs = (zarr.open_group(path, mode="r", use_consolidated=False) for path in (store, whole))
    committed, n = read_commits(store), theirs["samples/sample"].shape[0]
    there, right, wrong = chunks(store), chunks(whole), []
    for name, array in theirs.members(max_depth=None):
        if not isinstance(array, zarr.Array):
            continue
        dims: tuple[str, ...] = array.metadata.dimension_names  # pyright: ignore
        if dims[0] != "step" or (array.shards or array.chunks)[0] == 1 or array.ndim == 1:
            mine = (chunk for chunk in there if chunk.startswith(f"{name}/c"))
            wrong += [chunk for chunk in mine if there[chunk] != right.get(chunk)]
        if dims[0] == "step" and array.ndim > 1:
            for at, step in enumerate(np.asarray(theirs[f"{name.rpartition('/')[0]}/step"])):
                rows = committed.get(int(step), 0)
                part = (at, *(slice(rows) if dim == "sample" else slice(None) for dim in dims[1:]))
                if ("sample" in dims or rows == n) and ours[name][part].tobytes() != array[part].tobytes():
                    wrong.append(f"{name} at step {step}, {rows} samples")
    return wrong + sorted(set(there) - set(right))
