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
from collections.abc import Callable, Iterator
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
from actigrad.storage.names import SCHEMA_VERSION
from actigrad.storage.places import Place
from actigrad.storage.schema import work_attrs
from actigrad.storage.store import check_version, disk_usage, is_store, read_attributes
from actigrad.storage.verification import whole_steps
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
    check_absent(path, overwrite=resume or overwrite)
    with Journal(path) as journal:
        if not (resume and _goes_on(path, journal, job)):
            journal.clear()
            create_store(path, capture.template, _attributes(job), overwrite=resume or overwrite)
            journal.begin(job.fingerprint())
        there = [step for step in steps if journal.rows(step) == n]
        if len(there) < len(steps):
            _capture_missing(job, capture, journal, told)
        finalize_store(path)
    seconds = time.monotonic() - began
    return Result(job.config.store.path, len(capture.plans), n, len(steps), disk_usage(path), seconds, len(there))


def _capture_missing(job: Job, capture: StepCapture, journal: Journal, told: Progress) -> None:
    """Capture and write all that the journal does not tell of."""
    steps, n = job.config.steps, len(job.rows)
    bar = told.start("steps", len(steps), "step")
    told.advance(bar, sum(journal.rows(step) == n for step in steps))
    samples = told.start("samples", len(steps) * n - sum(map(journal.rows, steps)), "sample")
    with _Interrupt() as interrupt, Writer(job.place, journal) as writer:
        try:
            for step, before, params in interrupt.between(job.recorded()):
                if (done := journal.rows(step)) < n:
                    sink, advance = _Interruptible(writer, interrupt), partial(told.advance, samples)
                    capture.record(sink, step, before, params, done=done, state=journal.state(step), advance=advance)
                    told.advance(bar)
        except KeyboardInterrupt:
            if interrupt.asked == 1:
                writer.flush()
            raise
        writer.flush()


def _goes_on(path: Place, journal: Journal, job: Job) -> bool:
    """Whether a store is there that this run can go on with; another run's is an error."""
    if journal.begun:
        theirs = journal.fingerprint()
    elif is_store(path):
        theirs = read_attributes(path)["fingerprint"]
    else:
        return False
    check_version(path, writing=True)
    ours = job.fingerprint()
    differs = [part for part in ours if theirs.get(part) != ours[part]]
    if differs:
        raise StoreError(
            f"the store {path} was begun by another run, which differs in its {', '.join(differs)}. Resume with what "
            "it was begun with, or start over: --overwrite."
        )
    return journal.begun or _read_back(path, journal, job)


def _read_back(path: Place, journal: Journal, job: Job) -> bool:
    """Make a journal that was deleted again, of the steps that are whole; False where none is."""
    whole = whole_steps(path)
    if whole:
        print(f"{path} has no journal; {len(whole)} of its {len(job.config.steps)} steps are whole.", file=sys.stderr)
        journal.begin(job.fingerprint())
        for step in sorted(whole):
            journal.commit(step, len(job.rows))
    return bool(whole)


class _Interrupt:
    """Ctrl-C asks the loop to stop where it can go on from; the second stops at once.

    Training is repeated by a run that goes on, so while it trains the first stops it too. Elsewhere than in the main
    thread signals are not ours.
    """

    def __init__(self):
        self.asked, self.capturing = 0, True

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "before"):
            signal.signal(signal.SIGINT, self.before)

    def between(self, steps: Iterator[Any]) -> Iterator[Any]:
        """The same; what happens until the next one is there may be stopped at once."""
        while True:
            self.capturing = False
            if self.asked:
                raise KeyboardInterrupt
            try:
                step = next(steps)
            except StopIteration:
                return
            finally:
                self.capturing = True
            yield step

    def _ask(self, *_: object) -> None:
        self.asked += 1
        if self.asked > 1 or not self.capturing:
            raise KeyboardInterrupt
        print("\nStopping when the samples under way are on the disk; Ctrl-C again stops now.", file=sys.stderr)


@dataclass(frozen=True)
class _Interruptible:
    """A writer that stops after a commit when that was asked for."""

    writer: Writer
    interrupt: _Interrupt

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        self.writer.put(array, region, block)

    def commit(self, step: int, rows: int, state: Callable[[], bytes] | None) -> None:
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
