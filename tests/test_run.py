"""The run: what stands in the store is what NumPy makes of the model, however the run went."""

import itertools
import shutil

import jax
import numpy as np
import pytest
import xarray

import actigrad
from actigrad.config.records import Config
from actigrad.errors import CaptureError, ConfigError, StoreError
from actigrad.metrics import METRICS
from actigrad.runs.job import load
from actigrad.runs.record import StepCapture
from actigrad.runs.run import run
from actigrad.storage import grid
from actigrad.storage.journal import journal_path, read_commits
from actigrad.storage.store import open_store
from actigrad.storage.writer import Writer

MODEL = """
import flax.nnx as nnx, jax, jax.numpy as jnp, numpy as np

class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(6, 6, rngs=rngs)
    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))

class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Linear(4, 6, rngs=rngs)
        make = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: Block(rngs=rngs), in_axes=(0,), out_axes=0))
        self.blocks = make(rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)
    def __call__(self, x):
        run = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.out(run(jax.nn.relu(self.stem(x)), self.blocks))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def load(*, n=11, width=4):
    x = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    return {"x": x, "label": np.arange(n, dtype=np.int32) % 3}

def loss(apply, params, batch):
    logits = apply(params, batch["x"])
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)[:, 0]
    return losses, {"prediction": jnp.argmax(logits, axis=-1)}

def logit(apply, params, batch, *, which):
    return apply(params, batch["x"])[:, which]

def mean_loss(apply, params, batch):
    return loss(apply, params, batch)[0].mean()

def train(loss, params, data, *, steps, seed, stop=None):
    gradient = jax.jit(jax.grad(lambda params: loss(params, data)[0].mean()))
    for step in range(1, (stop or steps) + 1):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
        yield step, params
"""
N, STEPS = 11, (2, 4, 6)


@pytest.fixture(scope="module", autouse=True)
def own_module(tmp_path_factory):
    import sys

    folder = tmp_path_factory.mktemp("own")
    (folder / "run_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def config(path, **changes):
    spec = {
        "model": {"factory": "run_model:build"},
        "data": {"factory": "run_model:load", "batch_size": 4},
        "loss": "run_model:loss",
        "train": {"factory": "run_model:train", "steps": 6, "record_every": 2},
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "parameters": {"keep": "full"},
        "store": {"path": str(path)},
    }
    return Config.model_validate(spec | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    job = load(config(tmp_path_factory.mktemp("run") / "run.zarr"))
    result = run(job)
    return job, result, open_store(result.store)


def trained(job):
    """The params at each recorded step, and one update before."""
    return {step: (before, params) for step, before, params in job.recorded()}


def test_the_result_counts_what_was_done(made):
    _, result, _ = made
    assert (result.sites, result.samples, result.steps, result.resumed) == (4, N, 3, 0)
    assert result.bytes > 0


@pytest.mark.parametrize("site", ["stem", "blocks/dense", "blocks", "out"])
def test_whole_arrays_are_what_one_capture_of_all_samples_gives_ragged_last_batch_included(made, site):
    job, _, tree = made
    for i, step in enumerate(STEPS):
        frame = actigrad.capture(job.loss)(trained(job)[step][1], job.batch(0, N))
        for name, found in (("activation", frame.activations), ("gradient", frame.gradients)):
            stored = tree[f"sites/{site}/full"][name]
            assert stored.dims[1:] == next(s.dims for s in job.sites if s.path == site)
            np.testing.assert_allclose(stored.values[i], found[site], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("site", ["stem", "blocks/dense", "out"])
def test_summaries_and_histograms_are_those_of_the_stored_arrays(made, site):
    _, _, tree = made
    summary, full = tree[f"sites/{site}/summary"], tree[f"sites/{site}/full"]
    for quantity in ("activation", "gradient"):
        values = full[quantity].values.astype(np.float64)
        axes = tuple(i for i, dim in enumerate(full[quantity].dims) if dim in ("sample", "position"))
        low, high = values.min(axes), values.max(axes)
        expected = {
            "mean": values.mean(axes), "rms": np.sqrt((values**2).mean(axes)), "std": values.std(axes), "min": low,
            "max": high, "extreme": np.where(abs(low) > abs(high), low, high),
            "zero_fraction": (values == 0).mean(axes), "nonfinite": np.zeros(low.shape),
        }  # fmt: skip
        for i, metric in enumerate(METRICS):
            found = summary[quantity].values[:, i]
            np.testing.assert_allclose(found, expected[metric], rtol=1e-4, atol=1e-6, err_msg=metric)
        counts = summary[f"{quantity}_histogram"].values.sum((1, -1) if "layer" in full[quantity].dims else -1)
        zeros = summary[f"{quantity}_special"].values[..., 0]
        assert (counts + zeros.reshape(3, -1).sum(1) == values[0].size).all()


def test_losses_predictions_inputs_and_labels_are_those_of_the_samples(made):
    job, _, tree = made
    frame = actigrad.capture(job.loss)(trained(job)[6][1], job.batch(0, N))
    samples = tree["samples"]
    np.testing.assert_allclose(samples["loss"].values[-1], frame.losses, rtol=1e-5)
    np.testing.assert_array_equal(samples["prediction"].values[-1], frame.aux["prediction"])
    np.testing.assert_array_equal(samples["label"].values, job.samples()["label"])
    np.testing.assert_array_equal(samples["id"].values, np.arange(N))
    np.testing.assert_array_equal(tree["inputs/x/full"]["value"].values[0], job.batch(0, N)["x"])
    np.testing.assert_allclose(
        tree["inputs/x/full"]["gradient"].values[0], frame.input_gradients["x"], rtol=1e-4, atol=1e-6
    )


def test_parameters_have_their_value_summed_gradient_and_last_update(made):
    job, _, tree = made
    before, after = trained(job)[6]
    gradient = jax.grad(lambda params: job.loss(params, job.batch(0, N))[0].sum())(after)
    full = tree["parameters/blocks/dense/kernel/full"]
    of = lambda tree: np.asarray(tree["blocks"]["dense"]["kernel"])
    np.testing.assert_allclose(full["value"].values[0], of(after), rtol=1e-6)
    np.testing.assert_allclose(full["gradient"].values[0], of(gradient), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(full["update"].values[0], of(after) - of(before), rtol=1e-5, atol=1e-7)
    summary = tree["parameters/out/bias/summary"]["value"]
    np.testing.assert_allclose(summary.sel(metric="mean").values[-1], after["out"]["bias"], rtol=1e-6)


def test_the_structure_is_in_the_store(made):
    _, _, tree = made
    assert tree.attrs["sites"] == ["stem", "blocks/dense", "blocks", "out"]
    assert [tuple(edge) for edge in tree.attrs["edges"]][-1] == ("out", "loss")
    assert tree.attrs["gradients_of"] == "each sample's own loss"


def test_another_batch_size_gives_the_same_store_but_for_round_off(made, tmp_path):
    _, _, tree = made
    other = open_store(
        run(load(config(tmp_path / "b.zarr", data={"factory": "run_model:load", "batch_size": 11}))).store
    )
    for node in tree.subtree:
        if "metric" in node.dims:
            xarray.testing.assert_allclose(node.to_dataset(), other[node.path].to_dataset(), rtol=1e-4, atol=1e-5)


def test_a_run_that_is_repeated_writes_the_same_bytes(made, tmp_path):
    _, _, tree = made
    again = open_store(run(load(config(tmp_path / "again.zarr"))).store)
    for node in tree.subtree:
        xarray.testing.assert_identical(node.to_dataset(), again[node.path].to_dataset()) if node.path != "/" else None


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run ends here."""


@pytest.fixture
def one_batch_a_segment(monkeypatch):
    monkeypatch.setattr(grid, "SEGMENT_BYTES", 1)


def stop_after(monkeypatch, commits):
    """The run dies after so many commits; the ones before are on the disk."""
    count, commit = itertools.count(1), Writer.commit

    def dying(self, *args):
        commit(self, *args)
        if next(count) == commits:
            self.flush()
            raise Stopped

    monkeypatch.setattr(Writer, "commit", dying)


@pytest.mark.parametrize("commits", range(1, 9))
def test_a_run_goes_on_in_the_middle_of_a_step_and_captures_only_what_is_missing(
    commits, tmp_path, monkeypatch, one_batch_a_segment, made
):
    job = load(config(tmp_path / "stopped.zarr"))
    assert job.template().segment == 4
    with monkeypatch.context() as patch:
        stop_after(patch, commits)
        with pytest.raises(Stopped):
            run(job)
    there = read_commits(job.config.store.path)
    assert sum(there.values()) == N * (commits // 3) + 4 * (commits % 3)
    captured, frames = [], StepCapture.frames

    def counted(self, *args):
        for one in frames(self, *args):
            captured.append(one[0])
            yield one

    monkeypatch.setattr(StepCapture, "frames", counted)
    result = run(load(config(tmp_path / "stopped.zarr")), resume=True)
    assert len(captured) == 9 - commits
    assert result.resumed == commits // 3
    _, _, expected = made
    found = open_store(result.store)
    for node in expected.subtree:
        for name, array in node.data_vars.items():
            assert array.values.tobytes() == found[node.path][name].values.tobytes(), (node.path, name)


def test_a_complete_store_whose_journal_was_deleted_is_still_complete(made, tmp_path):
    _, result, _ = made
    path = tmp_path / "copy.zarr"
    shutil.copytree(result.store, path)
    assert run(load(config(result.store)), resume=True).resumed == 3
    copied = load(config(path))
    assert run(copied, resume=True).resumed == 3
    with pytest.raises(StoreError, match="differs in its config, weights"):
        run(load(config(tmp_path / "copy.zarr", seed=1)), resume=True)


def test_a_store_of_which_nothing_was_committed_is_begun_anew(tmp_path, monkeypatch):
    job = load(config(tmp_path / "x.zarr"))
    with monkeypatch.context() as patch:
        patch.setattr(StepCapture, "record", lambda *args, **kwargs: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            run(job)
    shutil.rmtree(journal_path(tmp_path / "x.zarr"))
    assert run(job, resume=True).resumed == 0
    assert open_store(tmp_path / "x.zarr").attrs["complete"]


def test_resuming_a_complete_run_does_nothing(made):
    job, result, _ = made
    assert run(job, resume=True).resumed == 3
    with pytest.raises(StoreError, match=r"exists \(complete\)"):
        run(job)
    assert result.store.exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"capture": [{"sites": "out"}]}, "config"),
        ({"data": {"factory": "run_model:load", "batch_size": 4, "options": {"n": 12}}}, "data"),
        ({"seed": 1}, "weights"),
    ],
)
def test_a_run_of_something_else_is_not_resumed(made, changes, part):
    _, result, _ = made
    with pytest.raises(StoreError, match=part):
        run(load(config(result.store, **changes)), resume=True)


def test_a_subset_of_samples_keeps_their_ids(tmp_path):
    data = {"factory": "run_model:load", "batch_size": 4, "samples": [7, 2, 9]}
    samples = open_store(run(load(config(tmp_path / "s.zarr", data=data))).store)["samples"]
    assert samples["id"].values.tolist() == [7, 2, 9]
    assert samples["label"].values.tolist() == [1, 2, 0]


def test_a_scalar_loss_and_no_training_give_one_step(tmp_path):
    job = load(config(tmp_path / "m.zarr", train=None, loss="run_model:mean_loss"))
    tree = open_store(run(job).store)
    assert tree["samples"]["step"].values.tolist() == [0]
    assert tree.attrs["gradients_of"] == "the loss of the sample's batch"


def test_gradients_can_be_those_of_an_objective_while_losses_and_predictions_stay(tmp_path, made):
    job, _, plain = made
    objective = {"function": "run_model:logit", "options": {"which": 2}}
    path = tmp_path / "x.zarr"
    tree = open_store(run(load(config(path, objective=objective, parameters={"keep": "full"}))).store)
    logit = lambda params, batch: job.loss.args[0](params, batch["x"])[:, 2]
    frame = actigrad.capture(logit)(trained(job)[6][1], job.batch(0, N))
    gradients = tree["sites/stem/full"]["gradient"]
    np.testing.assert_allclose(gradients.values[-1], frame.gradients["stem"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(tree["samples"]["objective"].values[-1], frame.losses, rtol=1e-5)
    for name in ("loss", "prediction"):
        np.testing.assert_allclose(tree["samples"][name].values, plain["samples"][name].values, rtol=1e-5)
    kernel = tree["parameters/stem/kernel/full"]["gradient"]
    np.testing.assert_allclose(kernel.values[-1], frame.parameter_gradients["stem"]["kernel"], rtol=2e-5, atol=1e-6)
    assert tree.attrs["gradients_of"] == "each sample's own run_model:logit"
    assert "gradient of the objective run_model:logit" in gradients.attrs["long_name"]


def test_an_objective_that_is_not_there_is_told_with_all_else_that_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="'logit'") as caught:
        load(config(tmp_path / "x.zarr", loss="run_model:los", objective={"function": "run_model:logt"}))
    assert [problem.key for problem in caught.value.problems] == ["loss", "objective.function"]


def test_norms_of_the_samples_gradients_are_kept_where_they_are_asked_for(tmp_path, made):
    job, _, plain = made
    tree = open_store(run(load(config(tmp_path / "x.zarr", parameters={"sample_norms": True}))).store)
    params, by_hand = trained(job)[6][1], []
    for i in range(N):
        frame = actigrad.capture(job.loss)(params, job.batch(i, i + 1))
        by_hand.append(np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(frame.parameter_gradients))))
    np.testing.assert_allclose(tree["samples"]["gradient_norm"].values[-1], by_hand, rtol=1e-4)
    assert "gradient_norm" not in plain["samples"]


def test_a_batch_that_does_not_fit_the_model_is_told_with_its_shapes(tmp_path):
    data = {"factory": "run_model:load", "batch_size": 4, "options": {"width": 5}}
    with pytest.raises((CaptureError, ConfigError), match=r"x float32\[4, 5\]"):
        load(config(tmp_path / "x.zarr", data=data))


def test_a_training_that_stops_early_is_told(tmp_path):
    train = {"factory": "run_model:train", "steps": 6, "record_every": 2, "options": {"stop": 3}}
    with pytest.raises(ConfigError, match="stopped after step 3"):
        run(load(config(tmp_path / "x.zarr", train=train)))


def test_a_site_without_a_sample_axis_cannot_be_kept_whole(tmp_path):
    import sys

    module = sys.modules["run_model"]
    module.odd = lambda apply, params, batch: actigrad.tap(apply(params, batch["x"]).sum(0), "total").sum()
    job = load(config(tmp_path / "x.zarr", loss="run_model:odd", train=None))
    with pytest.raises((CaptureError, ConfigError), match="'total'"):
        job.plans()
