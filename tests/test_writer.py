"""The writer: what it says is on the disk is on the disk."""

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr

from actigrad import writer
from actigrad.errors import StoreError
from actigrad.schema import ArraySpec, Template
from actigrad.store import create_store, journal_path
from actigrad.writer import Writer

PRINT = {"config": "a", "data": "b", "weights": "c"}


@pytest.fixture
def path(tmp_path):
    spec = ArraySpec("group/values", ("step", "sample"), (2, 10), (1, 4), "float32", {})
    template = Template({}, {spec.path: spec}, {})
    create_store(tmp_path / "run.zarr", template, {"actigrad_schema": 1})
    return tmp_path / "run.zarr"


def values(path):
    return zarr.open_group(path, mode="r", use_consolidated=False)["group/values"][...]


def test_what_was_committed_is_there_for_the_next_writer(path):
    block = np.asarray([[-0.0, np.nan, np.inf, 1e-45]], np.float32)
    with Writer(path, PRINT) as one:
        one.put("group/values", [(0, 1), (0, 4)], block)
        one.commit("first")
        assert one.is_done("first")
        assert one.bytes_written == 16
    with Writer(path, PRINT) as two:
        assert two.is_done("first")
        assert not two.is_done("second")
    assert values(path)[:1, :4].tobytes() == block.tobytes()
    assert np.isnan(values(path)[1]).all()


def test_all_zero_blocks_are_written_and_not_left_to_the_fill_value(path):
    with Writer(path, PRINT) as one:
        one.put("group/values", [(1, 2), (4, 8)], np.zeros((1, 4), np.float32))
        one.commit("zeros")
    assert (path / "group/values/c/1/1").exists()
    assert not values(path)[1, 4:8].any()


def test_a_region_that_shares_a_chunk_is_refused(path):
    with Writer(path, PRINT) as one, pytest.raises(StoreError, match="group/values: rows 2:6"):
        one.put("group/values", [(0, 1), (2, 6)], np.zeros((1, 4), np.float32))


def test_the_last_ragged_chunk_may_be_written(path):
    with Writer(path, PRINT) as one:
        one.put("group/values", [(0, 1), (8, 10)], np.ones((1, 2), np.float32))
        one.commit("ragged")
    assert values(path)[0, 8:].tolist() == [1, 1]


def test_a_torn_journal_line_is_forgotten_and_the_rest_kept(path):
    with Writer(path, PRINT) as one:
        one.commit("a")
    with journal_path(path).open("ab") as journal:
        journal.write(b'{"done": "b')
    with Writer(path, PRINT) as two:
        assert two.is_done("a")
        assert not two.is_done("b")
        two.commit("c")
    lines = [json.loads(line) for line in journal_path(path).read_text().splitlines()]
    assert lines == [{"fingerprint": PRINT}, {"done": "a"}, {"done": "c"}]


def test_another_run_s_store_is_refused_naming_what_differs(path):
    Writer(path, PRINT).close()
    with pytest.raises(StoreError, match="its data, weights differ"):
        Writer(path, PRINT | {"data": "x", "weights": "y"})


def test_a_second_process_is_refused_while_the_first_writes(path):
    script = f"from actigrad.writer import Writer; Writer({str(path)!r}, {PRINT!r})"
    with Writer(path, PRINT):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "another process is writing" in run.stderr
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_a_write_that_fails_in_a_thread_is_told_at_the_commit_and_not_journaled(path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_sync", full)
    with Writer(path, PRINT) as one:
        one.put("group/values", [(0, 1), (0, 4)], np.zeros((1, 4), np.float32))
        with pytest.raises(StoreError, match=r"No space left on device.*--resume"):
            one.commit("first")
    monkeypatch.undo()
    with Writer(path, PRINT) as two:
        assert not two.is_done("first")


def test_the_queue_is_bounded_in_bytes(path, monkeypatch):
    import threading

    monkeypatch.setattr(writer, "QUEUE_BYTES", 32)
    gate, sync = threading.Event(), writer._sync
    monkeypatch.setattr(writer, "_sync", lambda path: (gate.wait(30), sync(path)))
    block = np.zeros((1, 4), np.float32)
    with Writer(path, PRINT) as one:
        for step in (0, 1):
            one.put("group/values", [(step, step + 1), (0, 4)], block)
        third = threading.Thread(target=one.put, args=("group/values", [(0, 1), (4, 8)], block))
        third.start()
        third.join(0.3)
        assert third.is_alive()
        gate.set()
        third.join(30)
        assert not third.is_alive()
        one.commit("all")
    assert one.bytes_written == 48
