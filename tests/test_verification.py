"""verify finds every kind of damage, repair captures again what was damaged and nothing else."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from actigrad.config.records import Config
from actigrad.errors import StoreError
from actigrad.runs.job import load
from actigrad.runs.record import StepCapture
from actigrad.runs.repair import repair
from actigrad.runs.run import run
from actigrad.storage import grid
from actigrad.storage.journal import journal_path
from actigrad.storage.store import open_store
from actigrad.storage.verification import verify
from actigrad.storage.writer import Writer

MODEL = """
import flax.nnx as nnx, jax, jax.numpy as jnp, numpy as np

class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def load():
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    return {"x": x, "label": np.arange(10, dtype=np.int32) % 2}

def loss(apply, params, batch):
    return jnp.square(apply(params, batch["x"])).sum(axis=1)

def train(loss, params, data, *, steps, seed):
    gradient = jax.jit(jax.grad(lambda params: loss(params, data).mean()))
    for step in range(1, steps + 1):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
        yield step, params
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 2 steps and 10 samples in chunks of 4, and the folder that its config resolves from."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "verified_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "SEGMENT_BYTES", 1)
        run(load(config(folder / "run.zarr")))
        yield folder / "run.zarr"
    sys.path.remove(str(folder))


def config(path):
    return Config.model_validate({
        "model": {"factory": "verified_model:build"},
        "data": {"factory": "verified_model:load", "batch_size": 4},
        "loss": "verified_model:loss",
        "train": {"factory": "verified_model:train", "steps": 4, "record_every": 2},
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "store": {"path": str(path)},
    })  # fmt: skip


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "run.zarr")
    shutil.copytree(journal_path(made), journal_path(tmp_path / "run.zarr"))
    return tmp_path / "run.zarr"


def files(store):
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def flip(file):
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def cut(file):
    file.write_bytes(file.read_bytes()[:7])


ACTIVATION = "sites/hidden/full/activation"
HURT = {
    "a flipped byte": (ACTIVATION, "c/1/2/0", flip, ((1, 2), (8, 10), (0, 8))),
    "a truncated chunk": (ACTIVATION, "c/0/1/0", cut, ((0, 1), (4, 8), (0, 8))),
    "an empty chunk": ("samples/loss", "c/1/0", lambda file: file.write_bytes(b""), ((1, 2), (0, 4))),
    "a chunk that is gone": ("sites/out/full/gradient", "c/0/0/0", Path.unlink, ((0, 1), (0, 4), (0, 2))),
    "a summary": ("sites/out/summary/gradient", "c/0/0/0", flip, ((0, 2), (0, 8), (0, 2))),
    "a histogram": ("sites/hidden/summary/activation_histogram", "c/0/0", Path.unlink, ((0, 2), (0, 147))),
    "a parameter": ("parameters/out/kernel/summary/update", "c/0/0/0", flip, ((0, 2), (0, 8), (0, 2))),
    "an input": ("inputs/x/full/gradient", "c/0/2/0", flip, ((0, 1), (8, 10), (0, 3))),
    "a coordinate": ("samples/label", "c/0", Path.unlink, ((0, 10),)),
    "an array's metadata": (ACTIVATION, "zarr.json", lambda file: file.write_bytes(file.read_bytes()[:50]), None),
    "metadata of another shape": (
        ACTIVATION, "zarr.json", lambda file: file.write_text(file.read_text().replace('"float32"', '"float64"')), None,
    ),
    "metadata that are gone": (ACTIVATION, "zarr.json", Path.unlink, None),
    "a group's metadata": ("sites/hidden", "zarr.json", Path.unlink, None),
}  # fmt: skip


def test_a_whole_store_has_nothing_wrong_and_every_chunk_is_read(store):
    told = []
    found = verify(store, lambda *done: told.append(done))
    chunks = [file for file in store.rglob("c/**/*") if file.is_file()]
    assert (found.complete, found.damages, found.chunks) == (True, (), len(chunks))
    assert found.committed == {2: 10, 4: 10}
    assert told[-1] == (len(chunks), len(chunks))
    arrays = [array for _, array in zarr.open_group(store, mode="r").members(max_depth=None) if hasattr(array, "shape")]
    assert found.bytes == sum(array.nbytes for array in arrays)
    assert repair(store).damages == ()


@pytest.mark.parametrize("kind", HURT)
def test_damage_is_found_told_and_repaired_to_the_same_bytes(kind, store, made):
    array, file, hurt, region = HURT[kind]
    hurt(store / array / file)
    before = files(store)
    (damage,) = verify(store).damages
    assert (damage.array, damage.region) == (array, region)
    assert damage.what.startswith(("missing", "damaged: "))
    result = repair(store)
    assert result.damages == (damage,)
    assert verify(store).damages == ()
    after, original = files(store), files(made)
    assert after.keys() == original.keys()
    differs = {name for name in after if after[name] != before.get(name)}
    assert differs - {"zarr.json"} == {f"{array}/{file}"}
    assert {name for name in after if after[name] != original[name]} <= {"zarr.json"}
    for node in open_store(made).subtree:
        xarray.testing.assert_identical(
            node.to_dataset(), open_store(store)[node.path].to_dataset()
        ) if node.path != "/" else None


def test_only_the_samples_that_are_needed_are_captured_again(store, monkeypatch):
    (store / ACTIVATION / "c/1/1/0").unlink()
    captured, frames = [], StepCapture.frames

    def counted(self, *args):
        for one in frames(self, *args):
            captured.append(one[0])
            yield one

    monkeypatch.setattr(StepCapture, "frames", counted)
    assert repair(store).steps == (4,)
    assert captured == [(4, 8)]


def test_everything_damaged_at_once_is_repaired_at_once(store, made):
    for array, file, hurt, _ in HURT.values():
        if (store / array / file).exists():
            hurt(store / array / file)
    assert len(verify(store).damages) >= 6
    repair(store)
    for node in open_store(made).subtree:
        for name, array in node.data_vars.items():
            np.testing.assert_array_equal(array.values, open_store(store)[node.path][name].values)


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run ends here."""


def test_of_an_incomplete_store_what_was_committed_is_expected_and_no_more(made, tmp_path, monkeypatch):
    commit = Writer.commit

    def dying(self, step, rows, state):
        commit(self, step, rows, state)
        if (step, rows) == (4, 8):
            self.flush()
            raise Stopped

    job = load(config(tmp_path / "run.zarr"))
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", dying)
        with pytest.raises(Stopped):
            run(job)
    found = verify(tmp_path / "run.zarr")
    assert (found.complete, found.damages, found.committed) == (False, (), {2: 10, 4: 8})
    (tmp_path / "run.zarr" / ACTIVATION / "c/1/1/0").unlink()
    (tmp_path / "run.zarr/samples/loss/c/0/2").unlink()
    assert [damage.array for damage in verify(tmp_path / "run.zarr").damages] == ["samples/loss", ACTIVATION]
    repair(tmp_path / "run.zarr")
    assert not open_store(tmp_path / "run.zarr").attrs["complete"]
    run(job, resume=True)
    theirs, ours = files(made), files(tmp_path / "run.zarr")
    assert {name for name in theirs if theirs[name] != ours[name]} <= {"zarr.json"}


def test_a_store_of_other_weights_is_not_repaired(store):
    (store / ACTIVATION / "c/1/1/0").unlink()
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.update_attributes({"fingerprint": dict(group.attrs["fingerprint"]) | {"weights": "others"}})
    with pytest.raises(StoreError, match="gives now in its weights"):
        repair(store)
    assert not (store / ACTIVATION / "c/1/1/0").exists()


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        verify(tmp_path / "nothing.zarr")
