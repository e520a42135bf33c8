import resource
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from typing import Any

import holoviews as hv
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
import zarr
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import actigrad
from actigrad import views
from actigrad.errors import CaptureError, ConfigError, NoSuchSite, StoreError
from actigrad.metrics import METRICS
from actigrad.pictures import catalogue, levels, matrices, stored, tiles
from actigrad.report import write_report
from actigrad.runs import recorder as recording
from actigrad.runs import scribe
from actigrad.runs.repair import repair
from actigrad.storage.journal import journal_path
from actigrad.storage.store import describe, read_sites
from actigrad.storage.verification import verify


def loss(params, batch):
    """A perceptron with two sites; one loss a sample."""
    hidden = actigrad.tap(jax.nn.relu(batch["x"] @ params["in"]), "hidden")
    out = actigrad.tap(hidden @ params["out"], "out")
    return jnp.square(out[:, 0] - batch["label"].astype(jnp.float32)), {"prediction": jnp.argmax(out, axis=-1)}


@partial(jax.jit, donate_argnums=0)
def update(params, batch):
    """One step of plain descent; the params before it are gone after it."""
    gradient = jax.grad(lambda params: loss(params, batch)[0].mean())(params)
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)


def make_params():
    keys = jax.random.split(jax.random.key(0))
    return {"in": jax.random.normal(keys[0], (5, 8)), "out": jax.random.normal(keys[1], (8, 3))}


def make_batch(seed, samples=16):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(samples, 5)).astype(np.float32),
        "label": random.integers(0, 3, samples).astype(np.int32),
    }


def train(record, steps, params=None, *, start=1, batch=make_batch):
    """Each step's params as NumPy has them, by step."""
    params, seen = make_params() if params is None else params, {}
    for step in range(start, start + steps):
        params = update(params, batch(step))
        seen[step] = jax.tree.map(np.array, params)
        record(step, params, batch(step))
    return seen


def steps_in(path):
    return actigrad.open_store(path)["samples/step"].values.tolist()


def test_a_store_holds_what_the_probe_gives_under_the_params_of_each_step(tmp_path):
    with actigrad.Recorder(tmp_path / "run.zarr", loss, every=3, full="hidden", samples=8) as record:
        seen = train(record, 9)
    tree = xarray.open_datatree(tmp_path / "run.zarr", engine="zarr")  # nothing of ours is needed
    assert tree["samples/step"].values.tolist() == [3, 6, 9]
    probe = jax.tree.map(lambda leaf: leaf[:8], make_batch(1))
    assert tree["samples/label"].values.tolist() == probe["label"].tolist()
    for i, step in enumerate([3, 6, 9]):
        hidden = np.maximum(probe["x"] @ seen[step]["in"], 0)
        out = hidden @ seen[step]["out"]
        slope = 2 * (out[:, :1] - probe["label"][:, None]) * np.array([1.0, 0, 0])
        site = tree["sites/hidden"]
        np.testing.assert_allclose(tree["samples/loss"][i], (out[:, 0] - probe["label"]) ** 2, rtol=1e-4)
        assert tree["samples/prediction"][i].values.tolist() == out.argmax(-1).tolist()
        np.testing.assert_allclose(site["full/activation"][i], hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(site["full/gradient"][i], slope @ seen[step]["out"].T, rtol=1e-4, atol=1e-5)
        rms = site["summary/activation"][i, METRICS.index("rms")]
        np.testing.assert_allclose(rms, np.sqrt((hidden**2).mean(0)), rtol=1e-5)
        special = site["summary/activation_special"][i].values
        assert special[0] == (hidden == 0).sum()
        assert site["summary/activation_histogram"][i].values.sum() + special.sum() == hidden.size
        kernel = tree["parameters/out/summary"]
        means = {name: kernel[name][i, METRICS.index("mean")].values for name in ("value", "gradient", "update")}
        np.testing.assert_allclose(means["value"], seen[step]["out"].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(means["gradient"], (hidden.T @ slope).mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            means["update"], (seen[step]["out"] - seen[step - 1]["out"]).mean(0), rtol=1e-3, atol=1e-6
        )


def test_after_a_restart_it_appends_with_the_probe_of_before(tmp_path):
    path = tmp_path / "run.zarr"
    with actigrad.Recorder(path, loss, every=2) as record:
        seen = train(record, 4)
    with actigrad.Recorder(path, loss, every=2) as record:
        train(record, 5, seen[4], start=5, batch=partial(make_batch, samples=7))  # another size: the probe is the first
    assert steps_in(path) == [2, 4, 6, 8]
    tree = actigrad.open_store(path)
    assert tree.attrs["complete"]
    assert tree["samples/label"].values.tolist() == make_batch(1)["label"][:4].tolist()  # a quarter by default
    assert verify(path).damages == ()
    assert xarray.open_datatree(path, engine="zarr", consolidated=False).equals(tree)


def small(path, **words):
    """What compiles soonest."""
    return actigrad.Recorder(path, loss, **{"every": 1, "sites": "out", "parameters": (), **words})


def test_levels_go_on_with_the_steps_that_are_new_and_touch_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "SMALL", 1)
    monkeypatch.setattr(tiles, "SMALL", 64)
    build, write, written = levels.build_levels, stored.write_level, []
    monkeypatch.setattr(matrices, "build_levels", lambda *a, **k: build(*a, **k, finest=1, coarsest=8))
    monkeypatch.setattr(levels, "write_level", lambda *a, **k: written.append(a[3]) or write(*a, **k))
    path, whole = tmp_path / "run.zarr", tmp_path / "whole.zarr"
    with actigrad.Recorder(path, loss, every=1, levels="natural") as record:
        seen = train(record, 40)
    groups = [f"sites/{site}/levels/natural/{q}/step" for site in ("hidden", "out") for q in ("activation", "gradient")]
    before: Any = zarr.open_group(path, mode="r")
    assert all(before[group].attrs["tile"][1] < 40 for group in groups)
    written.clear()
    with actigrad.Recorder(path, loss, every=1, levels="natural") as record:
        train(record, 3, seen[40], start=41, batch=lambda step: make_batch(1))
    assert written
    assert all(at[1] > 0 for at in written)  # columns at the start of a level are those of the first tile
    with actigrad.Recorder(whole, loss, every=1, levels="natural") as record:
        again = train(record, 40)
        train(record, 3, again[40], start=41, batch=lambda step: make_batch(1))
    assert steps_in(path) == steps_in(whole) == list(range(1, 44))
    for group in groups:
        ours, theirs = (zarr.open_group(store, mode="r")[group] for store in (path, whole))
        assert ours.attrs["shape"] == theirs.attrs["shape"] == [8 if "hidden" in group else 3, 43]
        for name, level in theirs.groups():
            for key, array in level.arrays():
                np.testing.assert_array_equal(ours[f"{name}/{key}"][...], array[...])
    assert verify(path).damages == ()


def test_levels_that_cannot_be_made_are_told_and_the_store_is_whole(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(catalogue, "write_levels", full)
    with (
        pytest.warns(UserWarning, match=r"is whole, but its levels could not be made: No space left"),
        actigrad.Recorder(tmp_path / "run.zarr", loss, every=1, levels=["natural"]) as record,
    ):
        train(record, 2)
    assert steps_in(tmp_path / "run.zarr") == [1, 2]
    with pytest.raises(ConfigError, match=r"(?s)levels.*'size'"):
        actigrad.Recorder("run.zarr", loss, levels=["size"])


def test_outside_of_every_it_returns_at_once(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(recording._Session, "take", lambda self, step, *_: taken.append(step) is None)
    with small(tmp_path / "run.zarr", every=5) as record:
        assert record.wants(1)  # the first call looks at the loss, whatever the step
        train(record, 12)
        assert [step for step in range(20) if record.wants(step)] == [0, 5, 10, 15]
    assert taken == [5, 10]
    with small(tmp_path / "run.zarr", every=5, parameters=("update",)) as record:
        train(record, 1)
        assert [step for step in range(12) if record.wants(step)] == [0, 4, 5, 9, 10]


def test_an_update_is_the_last_one_and_nothing_where_the_params_before_it_were_not_seen(tmp_path):
    params = make_params()
    with small(tmp_path / "run.zarr", parameters=("update",)) as record:
        record(0, params, make_batch(0))  # no update yet
        record(1, jax.tree.map(lambda leaf: leaf + 0.5, params))
        record(5, jax.tree.map(lambda leaf: leaf + 9.0, params))  # four updates since
        record(6, params)
    means = actigrad.open_store(tmp_path / "run.zarr")["parameters/in/summary/update"].isel(metric=0).values
    np.testing.assert_allclose(means[[1, 3]], np.array([[0.5], [-9.0]]) * np.ones((2, 8)), rtol=1e-5)
    assert np.isnan(means[[0, 2]]).all()


def test_params_may_be_sharded_and_batches_too(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("device",))
    split = lambda axis: NamedSharding(mesh, PartitionSpec(*[None] * axis, "device"))
    place = lambda params: {
        "in": jax.device_put(params["in"], split(1)),
        "out": jax.device_put(params["out"], split(0)),
    }
    placed = lambda step: jax.tree.map(lambda leaf: jax.device_put(leaf, split(0)), make_batch(step))
    with small(tmp_path / "split.zarr", parameters=("update",), samples=12) as record:
        seen = train(record, 2, place(make_params()), batch=placed)
    with small(tmp_path / "whole.zarr", parameters=("update",), samples=12) as record:
        train(record, 2)
    ours, whole = (actigrad.open_store(tmp_path / f"{name}.zarr") for name in ("split", "whole"))
    assert len(seen) == 2
    for array in ("samples/loss", "sites/out/summary/gradient", "parameters/in/summary/update"):
        np.testing.assert_allclose(ours[array], whole[array], rtol=1e-4, atol=1e-5)


def test_a_training_by_nnx_jit_is_recorded(tmp_path):
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 1, rngs=nnx.Rngs(1)))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    apply, _ = actigrad.observe(model)

    @nnx.jit
    def descend(model, optimizer, batch):
        gradient = nnx.grad(lambda model: jnp.square(model(batch[0])[:, 0] - batch[1]).mean())(model)
        optimizer.update(model, gradient)

    def objective(params, batch):
        return jnp.square(apply(params, batch[0])[:, 0] - batch[1]).mean()

    batch = (make_batch(0)["x"], np.linspace(0, 1, 16, dtype=np.float32))
    with actigrad.Recorder(tmp_path / "run.zarr", objective, every=2, parameters=("value",)) as record:
        for step in range(1, 5):
            descend(model, optimizer, batch)
            if record.wants(step):
                record(step, nnx.to_pure_dict(nnx.state(model)), batch)
    tree = actigrad.open_store(tmp_path / "run.zarr")
    assert tree.attrs["sites"] == ["layers/0", "layers/1"]
    last = tree["parameters/layers/1/kernel/summary/value"].sel(metric="mean")[-1].values
    np.testing.assert_allclose(last, np.asarray(nnx.state(model)["layers"][1]["kernel"][...]).mean(0), rtol=1e-5)
    losses = tree["samples/loss"].values
    assert (losses == losses[:, :1]).all()  # one loss a batch
    assert losses[1, 0] < losses[0, 0]


def test_all_that_reads_a_store_reads_a_recorders(tmp_path):
    path = tmp_path / "run.zarr"
    with actigrad.Recorder(path, loss, every=1, full="**") as record:
        train(record, 3)
    tree = actigrad.open_store(path)
    facts = describe(path)
    assert facts["steps"] == [1, 2, 3]
    assert facts["kept whole"] == 2
    assert [site.path for site in read_sites(tree)] == ["hidden", "out"]
    for view in (views.overview(tree), views.structure(tree), views.flow(tree), views.heatmap(tree, "hidden")):
        hv.render(view, backend="bokeh")
    hv.render(views.heatmap(tree, "hidden", x="step"), backend="bokeh")
    assert write_report(path, tmp_path / "report.html").stat().st_size > 1e5
    assert tree.attrs["config"]["every"] == 1
    assert tree.attrs["config"]["full"] == ["**"]
    assert tree.attrs["config"]["loss"].endswith("test_recorder.loss")


def test_a_damaged_store_is_told_that_it_cannot_be_captured_again(tmp_path):
    with small(tmp_path / "run.zarr") as record:
        train(record, 1)
    (tmp_path / "run.zarr/samples/loss/c/0/0").unlink()
    with pytest.raises(StoreError, match=r"loop of someone's own, so its 1 damaged parts \(the first: samples/loss\)"):
        repair(tmp_path / "run.zarr")


def test_steps_that_are_there_are_kept_and_told_once(tmp_path):
    path = tmp_path / "run.zarr"
    with small(path) as record:
        train(record, 4)
    before = actigrad.open_store(path)["samples/loss"].values
    with small(path) as record, pytest.warns(UserWarning, match="step 2 is not recorded: .* up to 4") as told:
        train(record, 5, start=2)
    assert len(told) == 1
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(actigrad.open_store(path)["samples/loss"].values[:4], before)


def test_a_store_of_another_layout_probe_or_loss_is_not_continued(tmp_path):
    path = tmp_path / "run.zarr"
    with small(path) as record:
        train(record, 1)
    others = [
        (small(path, sites="**"), make_batch, r"other arrays \(sites/hidden/summary/activation, "),
        (small(path, probe=make_batch(9)), make_batch, "other probe batch"),
        (small(path), lambda step: {**make_batch(step), "more": np.ones(16)}, r"'float32\[5\]'\] a sample, and this"),
        (actigrad.Recorder(path, lambda *args: loss(*args)[0].mean(), sites="out", parameters=()), make_batch,
         r"other arrays \(samples/prediction\) and other kind of loss"),
    ]  # fmt: skip
    for recorder, batch, told in others:
        with pytest.raises(StoreError, match=told), recorder as record:
            record(2, make_params(), batch(1))
    assert steps_in(path) == [1]
    assert actigrad.open_store(path).attrs["complete"]


def test_a_given_probe_is_recorded_whole_and_batches_need_not_be_given(tmp_path):
    for _ in range(2):
        with small(tmp_path / "run.zarr", probe=make_batch(3, samples=40)) as record:
            start = record.path.exists() * 2
            record(start, make_params())
            record(start + 1, make_params())
    tree = actigrad.open_store(tmp_path / "run.zarr")
    assert tree["samples/label"].values.tolist() == make_batch(3, samples=40)["label"].tolist()
    assert steps_in(tmp_path / "run.zarr") == [0, 1, 2, 3]


def test_a_store_whose_journal_is_gone_opens_and_is_continued_only_with_its_probe(tmp_path):
    path = tmp_path / "run.zarr"
    with small(path) as record:
        train(record, 2)
    shutil.rmtree(journal_path(path))
    assert steps_in(path) == [1, 2]
    with pytest.raises(StoreError, match="other probe batch"), small(path) as record:
        record(3, make_params(), make_batch(3))
    with small(path, probe=jax.tree.map(lambda leaf: leaf[:4], make_batch(1))) as record:
        record(3, make_params())
    assert steps_in(path) == [1, 2, 3]


def test_nan_is_recorded_as_what_it_is(tmp_path):
    with small(tmp_path / "run.zarr", full="out") as record:
        record(0, make_params(), make_batch(0))
        record(1, jax.tree.map(lambda leaf: leaf * jnp.nan, make_params()))
    tree = actigrad.open_store(tmp_path / "run.zarr")
    assert np.isnan(tree["samples/loss"][1]).all()
    assert (tree["sites/out/summary/activation"].sel(metric="nonfinite").values == [[0] * 3, [4] * 3]).all()
    assert np.isnan(tree["sites/out/full/activation"][1]).all()
    assert verify(tmp_path / "run.zarr").damages == ()


def test_what_is_wrong_with_the_loss_is_told_in_the_first_call(tmp_path):
    def record_once(function, **words):
        with actigrad.Recorder(tmp_path / "run.zarr", function, **words) as record:
            record(1, make_params(), make_batch(0))  # not even a step to be recorded

    with pytest.raises(CaptureError, match=r"the loss returns float32\[4, 3\]"):
        record_once(lambda params, batch: batch["x"] @ params["in"][:, :3])
    with pytest.raises(NoSuchSite, match=r"'hiden'.*'hidden'"):
        record_once(loss, sites="hiden")
    with pytest.raises(KeyError, match="image"):
        record_once(lambda params, batch: loss(params, batch["image"]))
    with (
        pytest.raises(CaptureError, match=r"needs a batch, or the Recorder a probe"),
        small(tmp_path / "run.zarr") as r,
    ):
        r(1, make_params())
    with pytest.raises(CaptureError, match=r"inside a transformation"), small(tmp_path / "run.zarr") as r:
        jax.jit(lambda params: r(1, params, make_batch(0)))(make_params())
    assert not (tmp_path / "run.zarr").exists()


def test_arguments_without_sense_are_refused_together():
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*every.*found 0.*parameters.*'weight'"):
        actigrad.Recorder("run.zarr", loss, every=0, parameters=("weight",))


def test_a_path_that_is_taken_is_refused_before_training(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(StoreError, match=r"notes\.txt exists and is not an actigrad store"),
        small(tmp_path / "notes.txt"),
    ):
        pass
    with small(tmp_path / "run.zarr") as record:
        with pytest.raises(StoreError, match=r"another process is writing to .*run\.zarr"), small(record.path):
            pass
        train(record, 1)
    with pytest.raises(StoreError, match="inside its `with` block"):
        record(2, make_params(), make_batch(0))
    assert steps_in(tmp_path / "run.zarr") == [1]


@pytest.mark.parametrize("error", [ValueError("a training's own"), KeyboardInterrupt()])
def test_an_exception_in_the_block_passes_and_what_was_recorded_is_there(tmp_path, error):
    def interrupted():
        with small(tmp_path / "run.zarr") as record:
            train(record, 3)
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert steps_in(tmp_path / "run.zarr") == [1, 2, 3]
    assert not actigrad.open_store(tmp_path / "run.zarr").attrs["complete"]
    assert verify(tmp_path / "run.zarr").damages == ()


@contextmanager
def full_disk():
    """No file can be larger than 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_turns_recording_off_with_one_warning_and_training_goes_on(tmp_path):
    path = tmp_path / "run.zarr"

    def fill_up():
        with small(path) as record:
            train(record, 2)
            record.flush()
            with full_disk():
                record(3, make_params())
                record.flush()
                assert len(train(record, 20, start=4)) == 20
            assert not record.wants(50)

    with pytest.warns(UserWarning, match=r"is off from here on, and training goes on: .*File too large") as told:
        fill_up()
    assert len(told) == 1
    assert steps_in(path) == [1, 2]
    assert verify(path).damages == ()
    with small(path) as record:
        train(record, 2, start=3)
    assert steps_in(path) == [1, 2, 3, 4]


def test_a_disk_that_is_full_from_the_start_leaves_nothing_and_training_goes_on(tmp_path):
    def fill_up():
        with small(tmp_path / "run.zarr") as record, full_disk():
            assert len(train(record, 3)) == 3
            record.flush()

    with pytest.warns(UserWarning, match="is off from here on, and training goes on") as told:
        fill_up()
    assert len(told) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.zarr.journal"]


def test_params_that_change_their_shape_turn_recording_off(tmp_path):
    def change():
        with small(tmp_path / "run.zarr") as record:
            train(record, 1)
            record(2, {"in": jnp.ones((5, 2))})
            record(3, make_params())

    with pytest.warns(UserWarning, match="is off from here on") as told:
        change()
    assert len(told) == 1
    assert steps_in(tmp_path / "run.zarr") == [1]


def test_a_disk_that_is_too_slow_leaves_steps_out_and_says_so(tmp_path, monkeypatch):
    waiting, write = threading.Event(), recording._Session._write
    monkeypatch.setattr(scribe, "QUEUE_BYTES", 1)
    monkeypatch.setattr(recording._Session, "_write", lambda self, moments: waiting.wait() and write(self, moments))

    def train_fast():
        with small(tmp_path / "run.zarr") as record:
            train(record, 3)
            waiting.set()
            record.flush()
            train(record, 1, start=9)

    with pytest.warns(UserWarning, match="steps from 2 on are left out") as told:
        train_fast()
    assert len(told) == 1
    assert steps_in(tmp_path / "run.zarr") == [1, 9]
