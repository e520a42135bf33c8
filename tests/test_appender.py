import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray
import zarr

from actigrad.errors import StoreError
from actigrad.storage.appender import Appender, create_growing, growing, layout_of
from actigrad.storage.store import open_store
from actigrad.storage.template import ArraySpec, Template
from actigrad.storage.verification import verify

SAMPLES = 6
GROUPS = ("samples", "sites/a/summary", "sites/b/summary")


def make_template():
    """Samples and two sites: one with chunks of many steps, one with chunks of one."""
    specs = [ArraySpec("samples/id", ("sample",), (SAMPLES,), (SAMPLES,), "int64")]
    specs += [ArraySpec(f"{group}/step", ("step",), (1,), (1,), "int64") for group in GROUPS]
    specs += [ArraySpec("samples/loss", ("step", "sample"), (1, SAMPLES), (1, SAMPLES))]
    specs += [ArraySpec("sites/a/summary/activation", ("step", "neuron"), (1, 700), (1, 700))]
    specs += [ArraySpec("sites/b/summary/gradient", ("step", "neuron"), (1, 20_000), (1, 20_000))]
    coords = {"samples/id": list(range(SAMPLES))} | {f"{group}/step": [0] for group in GROUPS}
    return growing(Template({"sites/a": {"path": "a"}}, {spec.path: spec for spec in specs}, coords))


def rows_of(steps):
    """Values that tell their step."""
    sizes = {"samples/loss": SAMPLES, "sites/a/summary/activation": 700, "sites/b/summary/gradient": 20_000}
    return {name: np.repeat(np.float32(steps)[:, None], size, 1) for name, size in sizes.items()}


def create(path, steps):
    create_growing(path, make_template(), {"actigrad_schema": 1}, steps, rows_of(steps))


def check(tree, steps):
    """Every step is whole and no other is there."""
    for group in GROUPS:
        assert tree[group]["step"].values.tolist() == steps
    for name, rows in rows_of(steps).items():
        np.testing.assert_array_equal(tree[name].values, rows)


def test_steps_grow_in_chunks_that_fit_their_size_whoever_reads(tmp_path):
    path = tmp_path / "run.zarr"
    create(path, [0])
    appender, steps = Appender(path), [0]
    for more in ([1], [2, 3], list(range(10, 60)), [100]):
        appender.append(more, rows_of(more))
        steps += more
        check(open_store(path), steps)
        check(xarray.open_datatree(path, engine="zarr"), steps)
        assert zarr.open_group(path, mode="r")["samples/loss"].shape == (len(steps), SAMPLES)
        assert verify(path).damages == ()
    chunks = {name: len(list((path / name / "c").iterdir())) for name in rows_of([0])}
    assert chunks == {"samples/loss": 1, "sites/a/summary/activation": 3, "sites/b/summary/gradient": len(steps)}
    appender.close(complete=True)
    check(xarray.open_datatree(path, engine="zarr", consolidated=False), steps)
    assert open_store(path).attrs["complete"]
    assert verify(path).damages == ()


def test_one_that_is_opened_again_goes_on_and_clears_what_was_not_committed(tmp_path):
    path = tmp_path / "run.zarr"
    create(path, [0])
    root = (path / "zarr.json").read_bytes()
    Appender(path).append(list(range(1, 40)), rows_of(range(1, 40)))
    (path / "zarr.json").write_bytes(root)  # killed before the commit
    (path / "samples/loss/c/0/1234.partial").touch()
    appender = Appender(path)
    assert appender.steps == [0]
    assert [file.name for file in (path / "sites/b/summary/gradient/c").iterdir()] == ["0"]
    appender.append([7], rows_of([7]))
    appender.close(complete=True)
    check(open_store(path), [0, 7])
    assert not list(path.rglob("*.partial"))


def test_steps_that_do_not_ascend_and_rows_that_do_not_fit_change_nothing(tmp_path):
    path = tmp_path / "run.zarr"
    create(path, [5])
    appender = Appender(path)
    with pytest.raises(StoreError, match=r"steps \[5\] do not ascend from \[5\], the last in .*run\.zarr"):
        appender.append([5], rows_of([5]))
    with pytest.raises(StoreError, match=r"steps \[7, 6\] do not ascend"):
        appender.append([7, 6], rows_of([7, 6]))
    with pytest.raises(StoreError, match=r"samples/loss got rows of shape \(1, 6\), expected \(2, 6\)"):
        appender.append([6, 7], rows_of([6]))
    with pytest.raises(StoreError, match=r"samples/loss got nothing, expected \(1, 6\)"):
        appender.append([6], {})
    check(open_store(path), [5])


def test_a_store_that_cannot_be_created_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match="got nothing"):
        create_growing(tmp_path / "run.zarr", make_template(), {"actigrad_schema": 1}, [0], {})
    assert not list(tmp_path.iterdir())


def test_what_an_array_holds_is_the_same_in_a_template_and_in_a_store(tmp_path):
    create(tmp_path / "run.zarr", [0])
    template = make_template()
    assert Appender(tmp_path / "run.zarr").layout() == {name: layout_of(one) for name, one in template.arrays.items()}


APPEND = """
import sys; from pathlib import Path
sys.path[:0] = {path}
from test_appender import Appender, create, rows_of
store = Path(sys.argv[1])
if not store.exists():
    create(store, [0])
appender = Appender(store)
print("ready", flush=True)
while True:
    more = [appender.steps[-1] + 1, appender.steps[-1] + 2]
    appender.append(more, rows_of(more))
    print(appender.steps[-1], flush=True)
"""


def kill_at_random_moments(folder, kills, seed):
    """Each time, what was told to be in is in, and everything that is shown is whole."""
    draw, path, told = random.Random(seed), folder / "run.zarr", 0
    code = APPEND.format(path=[os.path.dirname(__file__)])
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        # Now and then at once; mostly in the midst of some appends, after as many as one can see.
        for _ in range(draw.randrange(4)):
            told = int(process.stdout.readline())
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        told = int(rest[-1]) if rest else told
        tree = xarray.open_datatree(path, engine="zarr")
        last = int(tree["samples/step"].values[-1])
        assert told <= last <= told + 2
        check(tree, list(range(last + 1)))
        assert verify(path).damages == ()
        told = last
    return told


def test_killed_at_any_moment_it_opens_with_whole_steps_and_goes_on(tmp_path):
    assert kill_at_random_moments(tmp_path, kills=5, seed=0) > 0


@pytest.mark.heavy
def test_killed_a_hundred_times_it_opens_with_whole_steps_and_goes_on(tmp_path):
    assert kill_at_random_moments(tmp_path, kills=100, seed=1) > 100


def test_a_flipped_byte_is_found(tmp_path):
    path = tmp_path / "run.zarr"
    create(path, [0])
    Appender(path).close(complete=True)
    chunk = path / "samples/loss/c/0/0"
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 1
    chunk.write_bytes(data)
    (damage,) = verify(path).damages
    assert damage.array == "samples/loss"
    metadata = path / "sites/b/summary/gradient/zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"shape": [9, 20_000]}))
    assert "it is not what was consolidated" in {one.what.partition(": ")[2] for one in verify(path).damages}
