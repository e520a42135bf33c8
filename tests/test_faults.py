"""Faults: a run that is stopped, killed or out of room loses nothing, and ends with the bytes of one that was not."""

import contextlib
import importlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import actigrad
from actigrad.config.records import Config
from actigrad.errors import ConfigError, DataError, StoreError
from actigrad.runs.job import load
from actigrad.runs.run import Silent, run
from actigrad.storage import grid
from actigrad.storage.journal import Journal, journal_path, read_commits
from actigrad.storage.store import open_store
from actigrad.storage.verification import whole_steps
from actigrad.storage.writer import Writer
from stores import NET, chunks, wrong_parts

MODEL = f"""{NET}
import time

def train(loss, params, data, *, steps, seed):
    gradient = jax.jit(jax.grad(lambda params: loss(params, data).mean()))
    for step in range(1, steps + 1):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
        time.sleep(0.05)
        yield step, params
"""
CONFIG = """
model:   {factory: "fault_model:build"}
data:    {factory: "fault_model:load", batch_size: 4, options: {n: 10}}
loss:    "fault_model:loss"
train:   {factory: "fault_model:train", steps: 60, record_every: 3}
capture: [{sites: "**", keep: full, steps: all}]
store:   {path: run.zarr}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fault_model.py").write_text(MODEL)
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path


def start(folder, *options):
    command = [sys.executable, "-m", "actigrad.cli", "run", "run.yaml", *options]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(folder, *options):
    process = start(folder, *options)
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


def committed(folder) -> int:
    """How many commits the journal tells of."""
    return len(list(journal_path(folder / "run.zarr").glob("step=*")))


def wait_for(process, folder, steps, more=0.0):
    """Until so many steps are committed, and a little longer."""
    deadline = time.monotonic() + 120
    while committed(folder) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "fault_model.py").write_text(MODEL)
    (folder / "run.yaml").write_text(CONFIG)
    code, text = finish(folder)
    assert code == 0, text
    return folder / "run.zarr"


def test_ctrl_c_leaves_an_incomplete_store_that_resume_finishes_to_the_same_bytes(folder, whole):
    process = start(folder)
    wait_for(process, folder, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "--resume" in err
    assert "Traceback" not in err
    assert not open_store(folder / "run.zarr").attrs["complete"]
    before = committed(folder)
    assert 3 <= before < 20
    code, text = finish(folder)
    assert code == 1
    assert "--resume finishes it" in text
    code, text = finish(folder, "--resume")
    assert code == 0, text
    assert f"{before} of them before" in text
    assert open_store(folder / "run.zarr").attrs["complete"]
    assert chunks(folder / "run.zarr") == chunks(whole)


def kill_often(root, *words):
    command = [sys.executable, root / "tests/killing.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_killed_at_25_random_moments_ends_with_the_same_bytes(root):
    told = kill_often(root, "--kills", "25", "--seed", "4")
    assert "seed 4" in told
    assert "25 kills in " in told


@pytest.mark.heavy
def test_a_run_killed_at_200_random_moments_ends_with_the_same_bytes(root):
    assert "200 kills in " in kill_often(root)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_while_one_process_writes_a_store_another_is_refused_whatever_it_wants(folder, whole, option):
    process = start(folder)
    wait_for(process, folder, 2)
    process.kill()
    process.communicate()
    with Journal(folder / "run.zarr"):  # as the other process holds it
        code, text = finish(folder, option)
    assert code == 1
    assert "another process is writing" in text
    assert committed(folder) >= 2
    assert wrong_parts(folder / "run.zarr", whole) == []


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(folder):
    (folder / "file").write_text("not a folder")
    code, text = finish(folder, "--set", "store.path=file/run.zarr")
    assert code == 1
    assert "cannot create the store" in text
    assert "Traceback" not in text


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A small file system, where this machine lets us have one."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("NOT RUN: mounting a file system of its own needs root")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        pytest.skip("NOT RUN: this machine does not let its root mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_read_only_disk_is_told_before_anything_runs(folder):
    with mounted(folder / "disk", "size=1m,ro"):
        code, text = finish(folder, "--set", "store.path=disk/run.zarr")
    assert code == 1
    assert "Read-only file system" in text
    assert "Traceback" not in text


def test_a_disk_that_is_too_small_is_told_before_anything_runs(folder):
    with mounted(folder / "disk", "size=1m"):
        code, text = finish(folder, "--set", "store.path=disk/run.zarr", "--set", "data.options.n=100000")
    assert code == 1
    assert "disk has 0.00 GB free" in text


def test_a_disk_that_fills_up_in_the_middle_keeps_what_was_committed(folder, whole):
    options = ("--set", "store.path=disk/run.zarr")
    with mounted(folder / "disk", "size=3m") as disk:
        process = start(folder, *options)
        deadline = time.monotonic() + 120
        while not read_commits(disk / "run.zarr") and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb") as ballast:
            while True:
                ballast.write(b"x" * 4096)
                ballast.flush()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, out + err
        assert "No space left" in err
        assert "--resume" in err
        assert "Traceback" not in err
        assert not open_store(disk / "run.zarr").attrs["complete"]
        (disk / "ballast").unlink()
        code, text = finish(folder, *options, "--resume")
        assert code == 0, text
        assert chunks(disk / "run.zarr") == chunks(whole)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The model, importable in this process."""
    (tmp_path / "fault_model.py").write_text(MODEL.replace("time.sleep(0.05)", "pass"))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("fault_model")
    sys.modules.pop("fault_model")


def ready(path, **changes):
    """A run of two steps, three batches each."""
    spec = {
        "model": {"factory": "fault_model:build"},
        "data": {"factory": "fault_model:load", "batch_size": 4},
        "loss": "fault_model:loss",
        "train": {"factory": "fault_model:train", "steps": 2, "record_every": 1},
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "store": {"path": str(path)},
    }
    return load(Config.model_validate(spec | changes))


STREAM = {"factory": "fault_model:load", "batch_size": 4, "samples": 10}
"""A stream does not tell its length."""


class Interrupting(Silent):
    """Presses Ctrl-C so often after the first batch."""

    def __init__(self, times):
        self.times = times

    def advance(self, handle, n=1):
        if n == 4:
            for _ in range(self.times):
                self.times -= 1
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_once_ends_at_the_next_commit_and_twice_at_once(tmp_path, module, monkeypatch, capsys):
    monkeypatch.setattr(grid, "SEGMENT_BYTES", 1)
    run(ready(tmp_path / "whole.zarr"))
    for times, rows in ((1, {1: 4}), (2, {})):
        path = tmp_path / f"{times}.zarr"
        with pytest.raises(KeyboardInterrupt):
            run(ready(path), progress=Interrupting(times))
        assert "Ctrl-C again stops now" in capsys.readouterr().err
        assert read_commits(path) == rows
        assert not open_store(path).attrs["complete"]
        run(ready(path), resume=True)
        assert chunks(path) == chunks(tmp_path / "whole.zarr")


def test_while_it_trains_one_ctrl_c_stops_a_run_and_what_was_captured_is_kept(tmp_path, module):
    train = module.train

    def interrupted(*args, **options):
        for step in train(*args, **options):
            yield step
            if step[0] == 1:
                signal.raise_signal(signal.SIGINT)

    module.train = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(ready(tmp_path / "run.zarr"))
    assert read_commits(tmp_path / "run.zarr") == {1: 10}


def test_without_its_journal_a_run_goes_on_from_the_steps_that_are_whole(tmp_path, module, monkeypatch, capsys):
    monkeypatch.setattr(grid, "SEGMENT_BYTES", 1)
    path, commit = tmp_path / "run.zarr", Writer.commit
    run(ready(tmp_path / "whole.zarr"))

    def dying(self, step, rows, state=None):
        commit(self, step, rows, state)
        if (step, rows) == (2, 4):
            self.flush()
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", dying)
        with pytest.raises(RuntimeError):
            run(ready(path))
    shutil.rmtree(journal_path(path))
    with pytest.raises(StoreError, match="differs in its config"):
        run(ready(path, seed=1), resume=True)
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(path, damaged)
    assert run(ready(path), resume=True).resumed == 1
    assert "has no journal; 1 of its 2 steps are whole" in capsys.readouterr().err
    assert chunks(path) == chunks(tmp_path / "whole.zarr")
    file = next(file for file in damaged.glob("sites/hidden/full/activation/c/0/**/*") if file.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    assert whole_steps(damaged) == set()


def test_a_store_that_was_being_replaced_when_the_run_died_is_made_anew(tmp_path, module, monkeypatch):
    path = tmp_path / "run.zarr"
    run(ready(path))
    whole = chunks(path)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", lambda *args: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError):
            run(ready(path), overwrite=True)
    assert run(ready(path), resume=True).resumed == 0
    assert chunks(path) == whole


def test_resuming_in_a_folder_that_is_no_store_leaves_it_alone(tmp_path, module):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    with pytest.raises(StoreError, match="is not an actigrad store; it is left alone"):
        run(ready(tmp_path / "mine"), resume=True)
    assert (tmp_path / "mine/precious").exists()


def test_a_clock_that_jumps_changes_nothing(tmp_path, module, monkeypatch):
    run(ready(tmp_path / "whole.zarr"))
    jumps = itertools.cycle([0.0, 4e9, 1.0, 2e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    assert run(ready(tmp_path / "run.zarr")).seconds < 600
    monkeypatch.undo()
    assert chunks(tmp_path / "run.zarr") == chunks(tmp_path / "whole.zarr")


def test_nan_of_the_data_and_of_the_model_are_stored_as_they_are_and_counted(tmp_path, module):
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    x[4] = np.nan
    module.load = lambda: {"x": x}
    module.loss = lambda apply, params, batch: jax.numpy.log(apply(params, batch["x"]).sum(axis=1))  # NaN below zero
    tree = open_store(run(ready(tmp_path / "run.zarr", train=None)).store)
    full, summary = tree["sites/hidden/full"], tree["sites/hidden/summary"]
    params = ready(tmp_path / "run.zarr").params
    expected = x @ np.asarray(params["hidden"]["kernel"]) + np.asarray(params["hidden"]["bias"])
    np.testing.assert_allclose(full["activation"].values[0], expected, rtol=1e-5)
    losses = np.asarray(tree["samples"]["loss"].values[0])
    assert np.isnan(losses[4])
    assert 1 < np.isnan(losses).sum() < 10
    for quantity in ("activation", "gradient"):
        found = full[quantity].values[0]
        counted = summary[quantity].sel(metric="nonfinite").values[0]
        assert counted.tolist() == (~np.isfinite(found)).sum(axis=0).tolist()
        finite = np.where(np.isfinite(found), found, np.nan)
        np.testing.assert_allclose(summary[quantity].sel(metric="max").values[0], np.nanmax(finite, axis=0), rtol=1e-5)


def test_no_samples_are_told_before_anything_runs(tmp_path, module):
    module.load = lambda: {"x": np.zeros((0, 3), np.float32)}
    with pytest.raises(ConfigError, match="found one without samples, expected at least one sample"):
        ready(tmp_path / "run.zarr")
    assert not (tmp_path / "run.zarr").exists()


def test_a_site_may_be_named_in_any_script(tmp_path, module):
    name = "слой/層 0/🧠"
    module.loss = lambda apply, params, batch: actigrad.tap(apply(params, batch["x"]), name).sum(axis=1)
    tree = open_store(run(ready(tmp_path / "run.zarr", train=None)).store)
    assert name in tree.attrs["sites"]
    assert tree[f"sites/{name}/full"]["activation"].shape == (1, 10, 8)


def test_a_loader_that_fills_one_buffer_again_and_again_loses_nothing(tmp_path, module):
    x = module.load()["x"]

    def reused():
        buffer = np.empty((3, 3), np.float32)
        for start in range(0, 9, 3):
            buffer[:] = x[start : start + 3]
            yield {"x": buffer}
        yield {"x": x[9:]}

    run(ready(tmp_path / "whole.zarr", train=None))
    module.load = reused
    tree = open_store(run(ready(tmp_path / "run.zarr", train=None, data=STREAM)).store)
    np.testing.assert_array_equal(tree["inputs/x/full"]["value"].values[0], x)
    assert chunks(tmp_path / "run.zarr") == chunks(tmp_path / "whole.zarr")


def test_a_loader_that_raises_in_the_middle_keeps_what_was_committed_and_names_the_batch(tmp_path, module, monkeypatch):
    monkeypatch.setattr(grid, "SEGMENT_BYTES", 1)
    x, broken = module.load()["x"], []

    def batches():
        for start in range(0, 10, 4):
            if start == 8 and broken:
                raise RuntimeError("the disk is gone")
            yield {"x": x[start : start + 4]}

    module.load = batches
    run(ready(tmp_path / "whole.zarr", train=None, data=STREAM))
    path, job = tmp_path / "run.zarr", ready(tmp_path / "run.zarr", train=None, data=STREAM)
    job.fingerprint()
    broken.append(True)
    with pytest.raises(DataError, match=r"batch 2 of .* could not be read: RuntimeError: the disk is gone"):
        run(job)
    assert read_commits(path) == {0: 8}
    assert not open_store(path).attrs["complete"]
    broken.clear()
    run(ready(path, train=None, data=STREAM), resume=True)
    assert chunks(path) == chunks(tmp_path / "whole.zarr")


def test_a_loader_that_changes_its_dtype_is_told_with_the_batch(tmp_path, module):
    module.load = lambda: iter([{"x": np.ones((4, 3), np.float32)}, {"x": np.ones((4, 3), np.float64)}])
    with pytest.raises(DataError, match=r"batch 1 of .*float64"):
        run(ready(tmp_path / "run.zarr", train=None, data=STREAM | {"samples": 8}))
