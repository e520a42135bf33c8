"""Run: train, capture at each recorded step, write; the streaming loop.

    result = run(load(config), progress=bars)
    result = run(load(config), resume=True)          # goes on where a killed run stopped, and ends with the same bytes

The device never waits for the disk: batch i + 1 is dispatched before batch i is copied, copies are asynchronous, and
blocks go to writer threads through a queue bounded in bytes. A step is the unit that is committed: after a kill, the
step that was under way is captured again, and no other.
"""

import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from actigrad.job import Job
from actigrad.record import Recorder
from actigrad.schema import SCHEMA_VERSION, work_attrs
from actigrad.store import create_store, disk_usage, finalize_store, has_commits, journal_path
from actigrad.writer import Writer


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

    store: Path
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
    """
    began, path = time.monotonic(), job.config.store.path
    told = progress or Silent()
    recorder = Recorder(job)
    if not (resume and has_commits(path)):
        # Killed before its first commit, a store may lack anything: it is begun anew.
        begun = resume and journal_path(path).exists()
        create_store(path, recorder.template, _attributes(job), overwrite=overwrite or begun)
    steps = job.config.steps
    with Writer(path, job.fingerprint()) as writer:
        there = [step for step in steps if writer.is_done(f"step {step}")]
        if len(there) < len(steps):
            bar = told.start("steps", len(steps), "step")
            told.advance(bar, len(there))
            samples = told.start("samples", (len(steps) - len(there)) * len(job.rows), "sample")
            for step, before, params in job.recorded():
                if step not in there:
                    recorder.record(writer, step, before, params, partial(told.advance, samples))
                    writer.commit(f"step {step}")
                    told.advance(bar)
        finalize_store(path)
    return Result(
        path, len(recorder.plans), len(job.rows), len(steps), disk_usage(path), time.monotonic() - began, len(there)
    )


def _attributes(job: Job) -> dict[str, Any]:
    packages = ("actigrad", "jax", "flax", "numpy", "xarray", "zarr")
    what = job.config.objective.function if job.config.objective else "loss"
    gradients_of = f"each sample's own {what}" if job.per_sample else f"the {what} of the sample's batch"
    return {
        "actigrad_schema": SCHEMA_VERSION,
        "title": f"actigrad: {job.config.model.factory}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": job.config.model_dump(mode="json"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
        "fingerprint": job.fingerprint(),
        "seed": job.config.seed,
        "gradients_of": gradients_of,
        "sites": [plan.site.path for plan in job.plans()],
        "after_the_sites": work_attrs(job.rest, job.traced),
        "edges": [[site.path, target] for site in job.sites for target in site.feeds],
    }
