"""Faults: a run that is stopped, killed or out of room loses nothing, and ends with the bytes of one that was not."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actigrad.storage.journal import Journal, journal_path, read_commits
from actigrad.storage.store import open_store
from stores import chunks, wrong_parts

MODEL = """
import time
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


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(folder, whole):
    for kill, more in enumerate((0.0, 0.013, 0.031, 0.047)):
        process = start(folder, "--resume")
        wait_for(process, folder, committed(folder) + 1 + kill % 2, more)
        process.kill()
        process.communicate()
        if (folder / "run.zarr").exists():
            assert not open_store(folder / "run.zarr").attrs["complete"]
    code, text = finish(folder, "--resume")
    assert code == 0, text
    assert chunks(folder / "run.zarr") == chunks(whole)


def test_a_run_killed_while_it_makes_its_store_can_be_resumed(folder, whole):
    for more in (0.0, 0.02, 0.05):
        process = start(folder, "--resume")
        deadline = time.monotonic() + 120
        while not (folder / "run.zarr").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(more)
        process.kill()
        process.communicate()
    code, text = finish(folder, "--resume")
    assert code == 0, text
    assert chunks(folder / "run.zarr") == chunks(whole)


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
