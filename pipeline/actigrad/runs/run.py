"""Run: train, capture at each recorded step, write; the streaming loop.

    result = run(load(config), progress=bars)
    result = run(load(config), resume=True)          # goes on where a killed run stopped, and ends with the same bytes

The device never waits for the disk: batch i + 1 is dispatched before batch i is copied, copies are asynchronous, and
blocks go to writer threads through a queue bounded in bytes. A segment of samples is what is committed: after a kill,
the segment that was under way is captured again, and no other.
"""

import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from actigrad.errors import StoreError
from actigrad.runs.job import Job, provenance
from actigrad.runs.record import StepCapture
from actigrad.storage.create import check_absent, create_store, finalize_store
from actigrad.storage.grid import Region
from actigrad.storage.journal import Journal
from actigrad.storage.places import Place
from actigrad.storage.schema import SCHEMA_VERSION, work_attrs
from actigrad.storage.store import check_version, disk_usage, is_store, read_attributes
from actigrad.storage.writer import Writer


@runtime_checkable
class Progress(Protocol):
    """Where a run tells how far it is."""

    def start(self, task: str, total: int, unit: str) -> Any:
        """A new task; returns a handle."""

    def advance(self, handle: Any, n: int = 1) -> None:
        """`n` units are done."""


class Silent:
    """Tells nothing."""

    def start(self, task: str, total: int, unit: str) -> None:
        """Nothing."""

    def advance(self, handle: Any, n: int = 1) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Result:
    """What a run made."""

    store: Path | str
    """As the config has it."""
    sites: int
    samples: int
    steps: int
    bytes: int
    seconds: float
    resumed: int
    """Steps that were there already."""


def run(job: Job, *, resume: bool = False, overwrite: bool = False, progress: Progress | None = None) -> Result:
    """Run the job to its end; see the module's docstring.

    Raises:
        StoreError: when the store exists and neither flag is given, belongs to another run, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, when the segment under way is committed; at once after the second.
    """
    began, path, n = time.monotonic(), job.place, len(job.rows)
    told = progress or Silent()
    capture, steps = StepCapture(job), job.config.steps
    if not resume:
        check_absent(path, overwrite=overwrite)
    with Journal(path) as journal:
        if not (resume and _goes_on(path, journal, job)):
            create_store(path, capture.template, _attributes(job), overwrite=resume or overwrite)
            journal.begin(job.fingerprint())
        there = [step for step in steps if journal.rows(step) == n]
        samples_there = sum(journal.rows(step) for step in steps)
        if len(there) < len(steps):
            bar = told.start("steps", len(steps), "step")
            told.advance(bar, len(there))
            samples = told.start("samples", len(steps) * n - samples_there, "sample")
            with _Interrupt() as interrupt, Writer(path, journal) as writer:
                sink = _Interruptible(writer, interrupt)
                for step, before, params in job.recorded():
                    if step not in there:
                        done, state = journal.rows(step), journal.state(step)
                        advance = partial(told.advance, samples)
                        capture.record(sink, step, before, params, done=done, state=state, advance=advance)
                        told.advance(bar)
                writer.flush()
        finalize_store(path)
    seconds = time.monotonic() - began
    return Result(job.config.store.path, len(capture.plans), n, len(steps), disk_usage(path), seconds, len(there))


def _goes_on(path: Place, journal: Journal, job: Job) -> bool:
    """Whether a store is there that this run can go on with; another run's is an error."""
    if not journal.begun:
        # Killed before its first commit, a store may lack anything, and is begun anew; so it is where its journal was
        # deleted, unless it is complete.
        if not (is_store(path) and (attrs := read_attributes(path)).get("complete")):
            return False
        theirs = attrs["fingerprint"]
        journal.begin(theirs)
        for step in job.config.steps:
            journal.commit(step, len(job.rows))
    else:
        theirs = journal.fingerprint()
    check_version(path, writing=True)
    ours = job.fingerprint()
    differs = [part for part in ours if theirs.get(part) != ours[part]]
    if differs:
        raise StoreError(
            f"the store {path} was begun by another run, which differs in its {', '.join(differs)}. Resume with what "
            "it was begun with, or start over: --overwrite."
        )
    return True


class _Interrupt:
    """Ctrl-C asks the loop to stop where it can go on from; the second stops at once.

    Elsewhere than in the main thread signals are not ours.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "before"):
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping when the samples under way are on the disk; Ctrl-C again stops now.", file=sys.stderr)


@dataclass(frozen=True)
class _Interruptible:
    """A writer that stops after a commit when that was asked for."""

    writer: Writer
    interrupt: _Interrupt

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        self.writer.put(array, region, block)

    def commit(self, step: int, rows: int, state: bytes | None) -> None:
        self.writer.commit(step, rows, state)
        if self.interrupt.asked:
            self.writer.flush()
            raise KeyboardInterrupt


def _attributes(job: Job) -> dict[str, Any]:
    what = job.config.objective.function if job.config.objective else "loss"
    gradients_of = f"each sample's own {what}" if job.per_sample else f"the {what} of the sample's batch"
    return {
        "actigrad_schema": SCHEMA_VERSION,
        "title": f"actigrad: {job.config.model.factory}",
        **provenance(),
        "config": job.config.model_dump(mode="json"),
        "fingerprint": job.fingerprint(),
        "seed": job.config.seed,
        "gradients_of": gradients_of,
        "sites": [plan.site.path for plan in job.plans()],
        "after_the_sites": work_attrs(job.rest, job.traced),
        "edges": [[site.path, target] for site in job.sites for target in site.feeds],
    }
