"""Places: a store in an object store or a file system of fsspec's is the store that it would be in a folder."""

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import boto3
import numpy as np
import pytest
import xarray
from moto.server import ThreadedMotoServer

from actigrad import views
from actigrad.config.records import Config
from actigrad.errors import StoreError
from actigrad.runs.job import load
from actigrad.runs.repair import repair
from actigrad.runs.run import run
from actigrad.storage import grid
from actigrad.storage.create import check_absent
from actigrad.storage.journal import Journal, read_commits
from actigrad.storage.places import Folder, Place, find_place, lease
from actigrad.storage.store import describe, open_store
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


def config(store):
    return Config.model_validate({
        "model": {"factory": "placed_model:build"},
        "data": {"factory": "placed_model:load", "batch_size": 4},
        "loss": "placed_model:loss",
        "train": {"factory": "placed_model:train", "steps": 4, "record_every": 2},
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "store": store,
    })  # fmt: skip


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server on loopback, and in the environment the credentials that it does not look at."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    address = "http://{}:{}".format(*moto.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
        yield address
    moto.stop()


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory):
    """The folder that the configs resolve from."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "placed_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "SEGMENT_BYTES", 1)
        yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def local(model):
    """The same run in a folder."""
    run(load(config({"path": str(model / "run.zarr")})))
    return Folder(model / "run.zarr")


@pytest.fixture(params=["s3://bucket", "memory://actigrad"])
def url(request, tmp_path):
    if request.param == "s3://bucket":
        request.getfixturevalue("server")
    return f"{request.param}{tmp_path}/run äß.zarr"


def contents(place: Place):
    """Every file of a store but the root's metadata, which tell when it was made."""
    return {name: place.read(name) for name in place.files() if name != "zarr.json"}


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run ends here."""


def test_a_run_that_was_stopped_resumed_damaged_and_repaired_there_has_the_bytes_of_one_in_a_folder(
    url, local, monkeypatch
):
    commit = Writer.commit

    def dying(self, step, rows, state):
        commit(self, step, rows, state)
        if (step, rows) == (4, 8):
            self.flush()
            raise Stopped

    job = load(config({"path": url}))
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", dying)
        with pytest.raises(Stopped):
            run(job)
    assert read_commits(url) == {2: 10, 4: 8}
    half = open_store(url)
    assert not half.attrs["complete"]
    seen = half["sites/hidden/full/activation"].values
    assert (np.isnan(seen[1, 8:]).all(), np.isnan(seen[:, :8]).any()) == (True, False)
    with pytest.raises(StoreError, match=r"\(incomplete\).*--resume finishes it"):
        check_absent(url, overwrite=False)

    assert run(job, resume=True).resumed == 1
    assert contents(job.place) == contents(local)
    assert verify(url).damages == ()
    for node in open_store(local).subtree:
        if node.path != "/":
            xarray.testing.assert_identical(node.to_dataset(), open_store(url)[node.path].to_dataset())
    assert describe(url)["bytes on disk"] == sum(job.place.files().values())
    assert views.heatmap(url, "hidden", dynamic=False) is not None

    chunk = next(name for name in job.place.files("sites/hidden/full") if "/c/" in name)
    whole = job.place.read(chunk)
    job.place.write(chunk, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert len(verify(url).damages) == 1
    assert repair(url).regions == 1
    assert job.place.read(chunk) == whole
    job.place.delete(chunk)
    with pytest.raises(StoreError, match=r"is damaged: sites/hidden/full.*actigrad repair"):
        open_store(url)


def test_plain_xarray_and_zarr_open_it_by_its_url(local, url):
    place = find_place(url)
    for name, content in {name: local.read(name) for name in local.files()}.items():
        place.write(name, content)
    tree = xarray.open_datatree(place.to_zarr(read_only=True), engine="zarr")
    np.testing.assert_array_equal(tree["samples/label"].values, open_store(local)["samples/label"].values)


def test_options_come_from_the_config_and_win_over_the_environment(server, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    place = find_place("s3://bucket/options", {"endpoint": server, "region": "us-east-1"})
    place.write("a", b"1")
    assert (place.read("a"), place.files()) == (b"1", {"a": 1})
    assert load(config({"path": "s3://bucket/x", "options": {"endpoint": server}})).place.options["endpoint"] == server


def test_a_secret_in_the_config_is_refused_because_configs_are_stored():
    with pytest.raises(ValueError, match=r"options without 'secret_access_key'.*environment"):
        config({"path": "s3://bucket/x", "options": {"secret_access_key": "s"}})


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        """Nothing."""


def test_a_store_is_read_over_http(local):
    handler = functools.partial(Quiet, directory=str(local.path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/run.zarr"
        seen = open_store(url)["sites/out/full/gradient"].values
        with pytest.raises(StoreError, match="cannot be listed"):
            verify(url)
        with pytest.raises(StoreError, match="cannot be looked at"):
            check_absent(url, overwrite=False)
        server.shutdown()
    np.testing.assert_array_equal(seen, open_store(local)["sites/out/full/gradient"].values)


@pytest.mark.parametrize(("where", "options", "told"), [
    ("nosuch://x/run.zarr", {}, "nosuch.*Choose another store.path"),
    ("s3://bucket/x", {"no_such_option": 1}, "no_such_option.*endpoint, region"),
    ("s3://no-such-bucket/x", {}, "cannot be (read|looked at)"),
])  # fmt: skip
def test_what_cannot_be_opened_is_told_with_its_address(where, options, told, server):
    with pytest.raises(StoreError, match=told):
        check_absent(find_place(where, options), overwrite=False)


def test_a_store_that_is_not_there_is_told(server):
    with pytest.raises(StoreError, match="there is no store at s3://bucket/nothing"):
        open_store("s3://bucket/nothing")


@pytest.fixture(params=["s3://bucket", "memory://leases"])
def leased(request, tmp_path):
    if request.param == "s3://bucket":
        request.getfixturevalue("server")
    return f"{request.param}{tmp_path}/leased.zarr"


def test_a_second_writer_is_refused_while_the_first_lives_and_told_who_it_is(leased):
    with Journal(leased), pytest.raises(StoreError, match=rf"process {os.getpid()} of .* try again in \d+ s"):
        Journal(leased)
    with Journal(leased) as again:
        again.begin({"config": "a"})


def test_of_many_who_want_it_at_once_at_most_one_gets_it(leased):
    got, start = [], threading.Barrier(6)

    def want():
        start.wait()
        try:
            got.append(Journal(leased))
        except StoreError:
            return

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) <= 1
    for journal in got:
        journal.__exit__()


def test_a_lease_that_was_not_renewed_is_taken_and_its_holder_notices_before_it_commits(leased, monkeypatch):
    first = Journal(leased)
    first.begin({"config": "a"})
    first.commit(1, 4)
    modified = type(first.place).modified
    old = lambda self, name: modified(self, name) - timedelta(seconds=61 * (name == "lock 1"))
    with monkeypatch.context() as patch:
        patch.setattr(type(first.place), "modified", old)
        second = Journal(leased)
    with pytest.raises(StoreError, match=r"the lock was lost.*--resume"):
        first.commit(1, 8)
    assert second.rows(1) == 4
    second.commit(1, 8)
    first.__exit__()
    second.__exit__()
    assert read_commits(leased) == {1: 8}
    with Journal(leased):
        pass


def test_a_lease_is_renewed_as_long_as_its_holder_lives_whatever_the_clocks_say(leased, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with Journal(leased) as journal:
        name = journal._lock.name
        before = journal.place.modified(name)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        deadline = time.monotonic() + 30
        while journal.place.modified(name) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert journal.place.modified(name) > before
        journal.commit(1, 4)


def test_who_was_cut_off_for_longer_than_a_lease_has_lost_it(leased, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with Journal(leased) as journal:
        monkeypatch.setattr(type(journal.place), "write", lambda *_: (_ for _ in ()).throw(OSError("unreachable")))
        monkeypatch.setattr(lease, "LEASE", 0.0)
        time.sleep(0.05)
        with pytest.raises(StoreError, match="could not be heard"):
            journal.commit(1, 4)


def test_the_lease_of_a_process_that_was_killed_ends_by_itself(server, model, tmp_path):
    url = f"s3://bucket{tmp_path}/killed.zarr"
    script = f"""
from actigrad.storage.journal import Journal
import os, signal
kept = Journal({url!r}); kept.begin({{}}); kept.commit(1, 4)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    with pytest.raises(StoreError, match=r"heard 0 s ago|heard [1-9] s ago"):
        Journal(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "LEASE", 0.5)
        time.sleep(1.5)  # the server tells whole seconds
        with Journal(url) as journal:
            assert journal.rows(1) == 4
