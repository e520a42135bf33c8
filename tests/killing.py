"""Kill -9 at random moments, resumed until done: at the end every byte is that of a run that nothing befell.

    scripts/faults                            # 200 kills
    scripts/faults --kills 1000 --seed 7

Each try is a fork of one process that has imported everything and started nothing, and takes its programs from JAX's
compilation cache; so a kill costs a second and not ten. The moment is counted from where the run opens its journal, and
is anywhere between that and its end: while the store is made, in the middle of a step, at a commit, at the very end.
After every kill the store opens, and no value of what was committed and no whole chunk differs from what it should be.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a fork would inherit locks of threads that it does not have
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from actigrad.config.records import Config
from actigrad.runs import job, run
from actigrad.storage import grid
from actigrad.storage.journal import Journal, journal_path
from actigrad.storage.store import is_store, open_store
from stores import NET, chunks, wrong_parts

MODEL = f"""{NET}
def train(loss, params, data, *, steps, seed):
    for step in range(1, steps + 1):
        params = jax.tree.map(lambda p: p * np.float32(0.9), params)
        yield step, params
"""


def config(store: Path) -> Config:
    """Four steps of three batches, each batch a segment of its own."""
    return Config.model_validate({
        "model": {"factory": "killing_model:build"},
        "data": {"factory": "killing_model:load", "batch_size": 4},
        "loss": "killing_model:loss",
        "train": {"factory": "killing_model:train", "steps": 4, "record_every": 1},
        "capture": [{"sites": "**", "keep": "full", "steps": "all"}],
        "store": {"path": str(store)},
    })  # fmt: skip


class Told(Journal):
    """A journal that tells its parent when it is opened."""

    pipe = -1

    def __init__(self, store: Path):
        os.write(self.pipe, b".")
        super().__init__(store)


@dataclass(frozen=True)
class Try:
    """One run in a process of its own.

    Attributes:
        killed: whether it was, before its end.
        seconds: from the opening of its journal to its end.
    """

    killed: bool
    seconds: float


def attempt(store: Path, after: float | None) -> Try:
    """Start or go on with the run; kill it so many seconds after it has opened its journal."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reads)
            Told.pipe = writes
            setattr(run, "Journal", Told)  # noqa: B010 - a type checker takes the plain assignment for an import
            run.run(job.load(config(store)), resume=True)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writes)
    if not os.read(reads, 1):
        raise SystemExit("the run failed before it began")
    os.close(reads)
    began = time.monotonic()
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the run failed")
    return Try(os.WIFSIGNALED(status), time.monotonic() - began)


def check(store: Path, whole: Path, *, ended: bool) -> None:
    """What stands in a store is right, and all of it is there when the run has ended."""
    if ended:
        if chunks(store) != chunks(whole) or not open_store(store).attrs["complete"]:
            raise SystemExit("a run that ended left another store than one that nothing befell")
    elif is_store(store) and (journal_path(store) / "run.json").exists():
        open_store(store)
        if wrong := wrong_parts(store, whole):
            raise SystemExit(f"after a kill these are wrong: {wrong}")


def main() -> None:
    """Read the words, kill, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    words = parser.parse_args()
    print(f"seed {words.seed}", flush=True)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    grid.SEGMENT_BYTES = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "killing_model.py").write_text(MODEL)
        sys.path.insert(0, name)
        kill_often(folder, words.kills, random.Random(words.seed))


def kill_often(folder: Path, kills: int, chance: random.Random) -> None:
    """So many kills, over as many runs as that takes."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    attempt(folder / "first.zarr", None)  # fills the cache
    whole_run = attempt(folder / "whole.zarr", None)
    whole, store, done, runs, tries = folder / "whole.zarr", folder / "run.zarr", 0, 0, 0
    while done < kills or store.exists():
        one = attempt(store, chance.uniform(0, whole_run.seconds) if done < kills else None)
        done, tries = done + one.killed, tries + 1
        check(store, whole, ended=not one.killed)
        if not one.killed:
            runs += 1
            shutil.rmtree(store)
            shutil.rmtree(journal_path(store))
    print(f"{done} kills in {tries} tries of {runs} runs; each ended with the bytes of one that nothing befell")


if __name__ == "__main__":
    main()
