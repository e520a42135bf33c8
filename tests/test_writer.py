"""The writer: what it says is on the disk is on the disk."""

import contextlib
import threading

import numpy as np
import pytest
import zarr

from actigrad.errors import StoreError
from actigrad.storage import writer
from actigrad.storage.create import create_store
from actigrad.storage.journal import Journal, read_commits
from actigrad.storage.places import folder
from actigrad.storage.plain import Layout
from actigrad.storage.template import ArraySpec, Template
from actigrad.storage.writer import Writer


@pytest.fixture
def path(tmp_path):
    spec = ArraySpec("group/values", ("step", "sample"), (2, 10), (1, 4), "float32", {})
    template = Template({}, {spec.path: spec}, {})
    create_store(tmp_path / "run.zarr", template, {"actigrad_schema": 1})
    return tmp_path / "run.zarr"


@contextlib.contextmanager
def writing(path):
    with Journal(path) as opened, Writer(path, opened) as one:
        yield one


def values(path):
    return zarr.open_group(path, mode="r", use_consolidated=False)["group/values"][...]


def test_what_was_committed_is_there_for_the_next_writer(path):
    block = np.asarray([[-0.0, np.nan, np.inf, 1e-45]], np.float32)
    with writing(path) as one:
        one.put("group/values", [(0, 1), (0, 4)], block)
        one.commit(0, 4)
        one.flush()
        assert one.journal.rows(0) == 4
        assert one.bytes_written == 16
    assert read_commits(path) == {0: 4}
    assert values(path)[:1, :4].tobytes() == block.tobytes()
    assert np.isnan(values(path)[1]).all()


@pytest.mark.parametrize("value", [0, np.nan])
def test_blocks_of_zeros_or_of_the_fill_value_are_written(path, value):
    with writing(path) as one:
        one.put("group/values", [(1, 2), (4, 8)], np.full((1, 4), value, np.float32))
    assert (path / "group/values/c/1/1").exists()
    np.testing.assert_array_equal(values(path)[1, 4:8], np.full(4, value))


def test_a_region_that_shares_a_chunk_is_refused(path):
    with writing(path) as one, pytest.raises(StoreError, match="group/values: rows 2:6"):
        one.put("group/values", [(0, 1), (2, 6)], np.zeros((1, 4), np.float32))


def test_the_last_ragged_chunk_may_be_written(path):
    with writing(path) as one:
        one.put("group/values", [(0, 1), (8, 10)], np.ones((1, 2), np.float32))
    assert values(path)[0, 8:].tolist() == [1, 1]


def failing(monkeypatch, what=""):
    """Writing a chunk fails whose name ends so."""
    write = folder.write_file

    def full(path, *content):
        if path.as_posix().endswith(what):
            raise OSError(28, "No space left on device")
        write(path, *content)

    monkeypatch.setattr(folder, "write_file", full)


def held(monkeypatch):
    """Chunks are written when the event is set."""
    gate, write = threading.Event(), folder.write_file
    monkeypatch.setattr(folder, "write_file", lambda *args: (gate.wait(30), write(*args)))
    return gate


def test_a_write_that_fails_in_a_thread_is_told_and_neither_it_nor_what_follows_is_journaled(path, monkeypatch):
    failing(monkeypatch, "c/0/1")
    with Journal(path) as opened:
        one = Writer(path, opened)
        one.put("group/values", [(0, 1), (0, 4)], np.zeros((1, 4), np.float32))
        one.commit(0, 4)
        one.put("group/values", [(0, 1), (4, 8)], np.zeros((1, 4), np.float32))
        told = r"writing group/values \[0:1, 4:8\] to .*No space left on device.*--resume"
        with pytest.raises(StoreError, match=told):
            one.flush()
        with pytest.raises(StoreError, match="No space left"):
            one.commit(1, 4)
        with pytest.raises(StoreError, match="No space left"):
            one.close()
    assert read_commits(path) == {0: 4}


def test_a_failure_is_told_at_the_end_at_the_latest_and_hides_no_other_error(path, monkeypatch):
    failing(monkeypatch)
    block = np.zeros((1, 4), np.float32)
    with pytest.raises(StoreError, match="No space left"), writing(path) as one:
        one.put("group/values", [(0, 1), (0, 4)], block)
    with pytest.raises(ValueError, match="mine"), writing(path) as one:  # noqa: PT012 - the second error is the test
        one.put("group/values", [(0, 1), (0, 4)], block)
        raise ValueError("mine")


def test_commits_are_journaled_in_order_and_only_after_their_blocks(path, monkeypatch):
    gate = held(monkeypatch)
    with writing(path) as one:
        one.put("group/values", [(0, 1), (0, 4)], np.zeros((1, 4), np.float32))
        one.commit(0, 4)
        assert read_commits(path) == {}
        gate.set()
        one.commit(1, 0)
        one.flush()
        assert read_commits(path) == {0: 4, 1: 0}


def test_the_queue_is_bounded_in_bytes(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 32)
    gate = held(monkeypatch)
    block = np.zeros((1, 4), np.float32)
    with writing(path) as one:
        for step in (0, 1):
            one.put("group/values", [(step, step + 1), (0, 4)], block)
        third = threading.Thread(target=one.put, args=("group/values", [(0, 1), (4, 8)], block))
        third.start()
        third.join(0.3)
        assert third.is_alive()
        gate.set()
        third.join(30)
        assert not third.is_alive()
        one.commit(0, 8)
        one.flush()
        assert one.bytes_written == 48


def test_a_commit_that_cannot_be_journaled_is_told_and_none_follows(path, monkeypatch):
    def broken(self, name, content):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folder.Folder, "write", broken)
    with Journal(path) as opened:
        one = Writer(path, opened)
        one.commit(0, 4)
        with pytest.raises(StoreError, match=r"journal of .*Input/output error.*--resume"):
            one.flush()
        monkeypatch.undo()
        one._commit([], 0, 8, None)
        one.close(silent=True)
    assert read_commits(path) == {}


def test_a_worker_thread_that_crashes_is_told_with_the_block_and_what_to_do(path, monkeypatch):
    def crash(self, block):
        raise MemoryError("no room for a buffer")

    with Journal(path) as opened:
        one = Writer(path, opened)
        one.put("group/values", [(0, 1), (0, 4)], np.ones((1, 4), np.float32))
        one.commit(0, 4)
        one.flush()
        monkeypatch.setattr(Layout, "encode", crash)
        one.put("group/values", [(1, 2), (4, 8)], np.ones((1, 4), np.float32))
        with pytest.raises(StoreError, match=r"\[1:2, 4:8\] to .*MemoryError: no room.*--resume"):
            one.flush()
        one.close(silent=True)
    assert read_commits(path) == {0: 4}
    assert values(path)[0, :4].all()


def test_after_ctrl_c_what_is_queued_is_dropped_and_not_journaled(path, monkeypatch):
    monkeypatch.setattr(writer, "THREADS", 1)
    gate = held(monkeypatch)
    with pytest.raises(KeyboardInterrupt), writing(path) as one:  # noqa: PT012 - what was queued before is the test
        for start in (0, 4):
            one.put("group/values", [(0, 1), (start, start + 4)], np.zeros((1, 4), np.float32))
        one.commit(0, 8)
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt
    assert read_commits(path) == {}
    assert not (path / "group/values/c/0/1").exists()


def test_the_state_is_made_when_it_is_journaled_and_of_two_commits_at_most(path, monkeypatch):
    gate, made = held(monkeypatch), []
    with writing(path) as one:
        one.put("group/values", [(0, 1), (0, 4)], np.zeros((1, 4), np.float32))
        one.commit(0, 4, lambda: made.append(4) or b"four")
        second = threading.Thread(target=one.commit, args=(0, 8, lambda: made.append(8) or b"eight"))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        assert made == []
        gate.set()
        second.join(30)
        one.flush()
        assert one.journal.state(0) == b"eight"
    assert made == [4, 8]
