"""The journal: it says what is in a store, never more, and one process at a time writes it."""

import os
import subprocess
import sys

import pytest

from actigrad.errors import StoreError
from actigrad.storage.journal import Journal, journal_path, read_commits

PRINT = {"config": "a", "data": "b"}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "run.zarr"


def test_what_was_committed_is_known_to_the_next(store):
    with Journal(store) as one:
        assert not one.begun
        one.begin(PRINT)
        one.commit(20, 64, b"so far")
        one.commit(-3, 8)
    with Journal(store) as two:
        assert two.begun
        assert two.fingerprint() == PRINT
        assert (two.rows(20), two.rows(-3), two.rows(40)) == (64, 8, 0)
    assert read_commits(store) == {20: 64, -3: 8}


def test_the_state_is_that_of_the_last_commit_and_older_ones_are_gone(store):
    with Journal(store) as one:
        one.commit(1, 4, b"four")
        one.commit(1, 8, b"eight")
        assert one.state(1) == b"eight"
        one.commit(1, 10)
        assert one.state(1) is None
        assert not [name for name in os.listdir(journal_path(store)) if name.startswith("state")]


def test_a_commit_that_was_cut_short_counts_for_nothing(store, monkeypatch):
    with Journal(store) as one:
        one.commit(1, 4, b"four")

        def cut(path):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", cut)
        with pytest.raises(StoreError, match=r"Input/output error.*--resume"):
            one.commit(1, 8, b"eight")
        monkeypatch.undo()
        assert one.rows(1) == 4
    (journal_path(store) / "0123.partial").write_bytes(b"torn")
    with Journal(store) as two:
        assert two.rows(1) == 4
        assert two.state(1) == b"four"


def test_beginning_forgets_everything(store):
    with Journal(store) as one:
        one.commit(1, 4, b"four")
        one.begin(PRINT)
        assert (one.rows(1), one.state(1)) == (0, None)
    assert read_commits(store) == {}


def test_a_journal_that_was_being_cleared_when_it_was_killed_is_not_begun(store, monkeypatch):
    with Journal(store) as one:
        one.begin(PRINT)
        one.commit(1, 4)
        monkeypatch.setattr(type(one.place), "files", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one.clear()
        monkeypatch.undo()
    with Journal(store) as two:
        assert not two.begun


def test_a_second_process_is_refused_while_the_first_holds_it_and_a_dead_one_holds_nothing(store):
    script = f"from actigrad.storage.journal import Journal; kept = Journal({str(store)!r})"
    code = f"{script}; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with Journal(store):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "another process is writing" in run.stderr
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (journal_path(store) / "lock").exists()
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_a_store_without_a_journal_has_no_commits(store):
    assert read_commits(store) == {}


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot create the store .*file/run\.zarr.*another store\.path"):
        Journal(tmp_path / "file" / "run.zarr")
