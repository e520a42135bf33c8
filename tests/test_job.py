"""A job: data and weights of any kind give the store that arrays in memory give; other data are not gone on with."""

import gc
import sys
import threading
from contextlib import closing

import jax
import numpy as np
import pytest
import safetensors.numpy

from actigrad.config.records import Config
from actigrad.errors import ConfigError, DataError, StoreError
from actigrad.runs.job import load, named_leaves
from actigrad.runs.repair import repair
from actigrad.runs.run import run
from actigrad.storage.journal import read_commits
from actigrad.storage.store import open_store
from sourcing import FACTORIES, PATHS, UNTOLD, N, samples

MODEL = """
import flax.nnx as nnx, jax, jax.numpy as jnp, numpy as np
import sourcing

class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
    def __call__(self, x):
        return jnp.tanh(self.hidden(x))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def loss(apply, params, batch):
    return jnp.square(apply(params, batch["x"])).sum(axis=1) * (1 + batch["label"].astype(jnp.float32))

def load(*, kind="dict", seed=0, nan=False):
    data = sourcing.samples()
    data["x"] = data["x"] + np.float32(seed)
    if nan:
        data["x"][4:8] = np.nan
    if broken:
        broken["after"] -= 1
        return failing(sourcing.cut(data, 3, 3, 3), broken["batch"] if broken["after"] < 0 else None)
    return sourcing.FACTORIES[kind](data)

broken = {}

def failing(parts, at):
    for number, part in enumerate(parts):
        if number == at:
            raise OSError("the share is gone")
        yield part

def train(loss, params, data, *, steps, seed):
    given.append(data)
    for step in range(1, steps + 1):
        params = jax.tree.map(lambda p: p * 0.5, params)
        yield step, params

given = []
"""


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "job_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    import job_model  # pyright: ignore[reportMissingImports]

    yield job_model
    sys.path.remove(str(folder))


def config(path, data=None, model=None, **changes):
    spec = {
        "model": {"factory": "job_model:build"} | (model or {}),
        "data": {"factory": "job_model:load", "batch_size": 4} | (data or {}),
        "loss": "job_model:loss",
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "parameters": {"keep": "full"},
        "store": {"path": str(path)},
    }
    return Config.model_validate(spec | changes)


def of_kind(path, kind, **options):
    untold = {"samples": N} if kind in UNTOLD else {}
    return config(path, {"options": {"kind": kind, **options}, **untold})


def of_path(path, data):
    return config(path, {"factory": None, "path": str(data)})


def chunks(store):
    files = (file for file in store.rglob("*") if file.is_file() and file.name != "zarr.json")
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The chunks of a store made of a dict of arrays."""
    store = tmp_path_factory.mktemp("whole") / "run.zarr"
    run(load(of_kind(store, "dict")))
    return chunks(store)


CHEAP = ["generator", "samples"]


@pytest.mark.parametrize(
    "kind", [kind if kind in CHEAP else pytest.param(kind, marks=pytest.mark.heavy) for kind in FACTORIES]
)
def test_a_source_of_any_kind_makes_the_store_of_the_dict_of_arrays(kind, whole, tmp_path):
    run(load(of_kind(tmp_path / "run.zarr", kind)))
    assert chunks(tmp_path / "run.zarr") == whole


@pytest.mark.parametrize(
    "kind", [kind if kind == "parquet" else pytest.param(kind, marks=pytest.mark.heavy) for kind in PATHS]
)
def test_a_path_of_any_kind_makes_the_store_of_the_dict_of_arrays(kind, whole, tmp_path):
    run(load(of_path(tmp_path / "run.zarr", PATHS[kind](samples(), tmp_path))))
    without = {"samples/name"} if kind == "zarr by xarray" else set()
    assert chunks(tmp_path / "run.zarr") == {k: v for k, v in whole.items() if k.rpartition("/c")[0] not in without}


def test_ids_labels_and_text_stand_beside_the_samples(whole, tmp_path):
    job = load(config(tmp_path / "run.zarr", {"samples": [3, 1, 9], "options": {"kind": "dict"}}))
    data = samples()
    assert set(job.samples()) == {"id", "label", "flag", "name"}
    for name in ("label", "flag", "name"):
        np.testing.assert_array_equal(job.samples()[name], data[name][[3, 1, 9]])
    run(job)
    stored = open_store(tmp_path / "run.zarr")["samples"]
    assert stored["name"].values.tolist() == data["name"][[3, 1, 9]].tolist()
    assert stored["id"].values.tolist() == [3, 1, 9]


def test_fields_that_are_called_as_what_the_run_keeps_get_one_underscore(tmp_path, own, monkeypatch):
    extra = {"loss": np.arange(N), "a/b": np.arange(N)}
    monkeypatch.setattr(own, "load", lambda **_: samples() | extra)
    assert {"loss_", "a_b"} <= set(load(config(tmp_path / "run.zarr")).samples())


# Batches


@pytest.mark.parametrize("kind", ["dict", "generator"])
def test_batches_are_those_that_start_from_done_on_and_before_until(kind, tmp_path):
    job = load(of_kind(tmp_path / "run.zarr", kind))
    assert [block for block, _ in job.batches()] == [(0, 4), (4, 8), (8, 11)]
    assert [block for block, _ in job.batches(4)] == [(4, 8), (8, 11)]
    assert [block for block, _ in job.batches(4, 8)] == [(4, 8)]
    assert list(job.batches(11)) == []
    for (start, stop), batch in job.batches(4):
        np.testing.assert_array_equal(batch["x"], samples()["x"][start:stop])
        np.testing.assert_array_equal(batch["x"], job.batch(start, stop)["x"])
    assert len(job.batch(8, 99)["x"]) == 3
    with closing(job.batches()) as batches:
        next(batches)
    gc.collect()
    assert not [one for one in threading.enumerate() if one.name.startswith("actigrad-data")]


def test_a_loader_that_raises_in_the_middle_leaves_no_thread_and_can_be_resumed(own, whole, tmp_path, monkeypatch):
    # Looking at the first batch, tracing, the survey, judging what is sparse, and then the run
    monkeypatch.setattr(own, "broken", {"batch": 2, "after": 4})
    with pytest.raises(DataError, match=r"batch 2 of data.factory could not be read: OSError: the share is") as told:
        run(load(of_kind(tmp_path / "run.zarr", "generator")))
    assert isinstance(told.value.__cause__, OSError)
    assert not [one for one in threading.enumerate() if one.name.startswith("actigrad-data")]
    assert not open_store(tmp_path / "run.zarr").attrs["complete"]
    own.broken.clear()
    run(load(of_kind(tmp_path / "run.zarr", "generator")), resume=True)
    assert chunks(tmp_path / "run.zarr") == whole


def test_a_batch_of_nan_is_counted_and_kept(tmp_path):
    run(load(of_kind(tmp_path / "run.zarr", "generator", nan=True)))
    tree = open_store(tmp_path / "run.zarr")
    found = tree["sites/hidden/full"]["activation"].values[0]
    assert np.isnan(found[4:8]).all()
    assert np.isfinite(found[[0, 1, 2, 3, 8, 9, 10]]).all()
    nonfinite = tree["sites/hidden/summary"]["activation"].sel(metric="nonfinite").values
    np.testing.assert_array_equal(nonfinite, np.full((1, 5), 4))


def test_other_data_are_not_gone_on_with(whole, tmp_path):
    store, data = tmp_path / "run.zarr", tmp_path / "a.npz"
    np.savez(data, **samples())
    job = load(of_path(store, data))

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, progress=type("Stop", (), {"start": lambda *_: None, "advance": stop})())
    assert read_commits(store) is not None
    changed = samples()
    changed["x"][7, 2] += 1
    np.savez(data, **changed)
    with pytest.raises(StoreError, match="differs in its data"):
        run(load(of_path(store, data)), resume=True)
    np.savez(data, **samples())
    run(load(of_path(store, data)), resume=True)
    assert chunks(store) == whole


def test_a_damaged_store_of_a_stream_is_repaired(whole, tmp_path):
    store = tmp_path / "run.zarr"
    run(load(of_kind(store, "generator")))
    (victim,) = [file for file in store.rglob("*") if "hidden/full/activation/c/0/0" in str(file) and file.is_file()]
    victim.unlink()
    assert repair(store).regions == 1
    assert chunks(store) == whole


def test_training_is_given_arrays_where_they_fit_and_else_the_stream(own, tmp_path):
    train = {"factory": "job_model:train", "steps": 1, "record_every": 1}
    for kind in ("dict", "arrow", "generator"):
        untold = {"samples": N} if kind in UNTOLD else {}
        own.given.clear()
        list(load(config(tmp_path / "r.zarr", {"options": {"kind": kind}, **untold}, train=train)).recorded())
        (given,) = own.given
        xs = [batch["x"] for batch in given] if kind == "generator" else [given["x"]]
        np.testing.assert_array_equal(np.concatenate(xs), samples()["x"])


# The config


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "exactly one of factory"),
        ({"factory": "m:f", "path": "p"}, "exactly one of factory"),
        ({"path": "p", "options": {"a": 1}}, "options with a factory only"),
    ],
)
def test_data_come_from_exactly_one_place(data, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        Config.model_validate(config(tmp_path).model_dump() | {"data": data}, strict=False)


def test_samples_that_the_data_lack_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="found 12, expected samples among the 11 that the data hold"):
        load(config(tmp_path, {"samples": 12}))


# Checkpoints


@pytest.fixture
def saved(tmp_path, own):
    """Three checkpoints, and their params by step."""
    _, params = __import__("actigrad").observe(own.build(seed=0))
    states = {}
    for step in (3, 20, 100):
        states[step] = jax.tree.map(lambda leaf, step=step: leaf * step, params)
        arrays = {name.replace("/", "."): np.asarray(leaf) for name, leaf in named_leaves(states[step]).items()}
        safetensors.numpy.save_file(arrays, tmp_path / f"step_{step}.safetensors")
    return states


def assert_params(found, expected):
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_array_equal(named_leaves(found)[name], leaf)


def test_a_checkpoint_is_loaded_into_the_model(saved, tmp_path):
    one = str(tmp_path / "step_20.safetensors")
    job = load(config(tmp_path / "run.zarr", model={"checkpoint": one}))
    assert_params(job.params, saved[20])
    assert job.config.steps == (0,)
    assert job.fingerprint()["weights"] != load(config(tmp_path / "run.zarr")).fingerprint()["weights"]


def test_checkpoints_become_the_step_dim_and_updates_are_since_the_one_before(saved, tmp_path):
    asked = str(tmp_path / "step_*.safetensors")
    job = load(config(tmp_path / "run.zarr", model={"checkpoint": asked}))
    assert job.config.steps == (3, 20, 100)
    run(job)
    tree = open_store(tmp_path / "run.zarr")
    assert tree["samples"]["step"].values.tolist() == [3, 20, 100]
    assert len(tree.attrs["config"]["model"]["checkpoint"]) == 3
    kernel = tree["parameters/hidden/kernel/summary"]
    assert kernel["update"].attrs["long_name"] == "change of the parameter since the checkpoint before, summarised for each neuron"  # fmt: skip  # noqa: E501
    values = kernel["value"].sel(metric="mean").values
    expected = [saved[step]["hidden"]["kernel"].mean(0) for step in (3, 20, 100)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)
    updates = np.diff(np.stack([expected[0], *expected]), axis=0)
    np.testing.assert_allclose(kernel["update"].sel(metric="mean").values, updates, rtol=1e-4, atol=1e-5)

    (victim,) = [f for f in (tmp_path / "run.zarr").rglob("*") if str(f).endswith("hidden/full/activation/c/1/0/0")]
    before = victim.read_bytes()
    victim.unlink()
    assert repair(tmp_path / "run.zarr").steps == (20,)
    assert victim.read_bytes() == before

    (tmp_path / "step_7.safetensors").write_bytes((tmp_path / "step_3.safetensors").read_bytes())
    with pytest.raises(StoreError, match="differs in its config, weights"):
        run(load(config(tmp_path / "run.zarr", model={"checkpoint": asked})), resume=True)


def test_a_later_checkpoint_that_does_not_fit_is_told_before_anything_is_written(saved, tmp_path):
    safetensors.numpy.save_file({"hidden.kernel": np.ones((4, 5), np.float32)}, tmp_path / "step_200.safetensors")
    job = load(config(tmp_path / "run.zarr", model={"checkpoint": str(tmp_path / "step_*")}))
    with pytest.raises(ConfigError, match=r"step_200.safetensors, whose arrays do not fit(.|\n)*missing: hidden/bias"):
        run(job)
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("several", [True, False])
def test_training_starts_from_one_checkpoint_and_not_from_several(several, saved, tmp_path):
    train = {"factory": "job_model:train", "steps": 1, "record_every": 1}
    asked = str(tmp_path / "step_*") if several else str(tmp_path / "step_20.safetensors")
    wanted = config(tmp_path / "run.zarr", model={"checkpoint": asked}, train=train)
    if several:
        with pytest.raises(ConfigError, match=r"step_\*', expected one checkpoint, as training is recorded along"):
            load(wanted)
    else:
        ((step, before, _),) = load(wanted).recorded()
        assert step == 1
        assert_params(before, saved[20])
