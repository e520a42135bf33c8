"""Estimate: what a run will need of disk and of memory, before anything is computed.

estimate(load(config)).stored_bytes          # from shapes alone
estimate_memory(load(config)).variants       # compiles the captured step, and what would make it smaller
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import psutil

from actigrad.engine.memory import Memory, largest_batch, measure_memory
from actigrad.engine.recompute import recompute_between
from actigrad.runs.job import Job
from actigrad.runs.record import StepCapture, make_capture
from actigrad.sites import exactly, outermost
from actigrad.storage.blocks import BLOCK_BYTES, block_counts
from actigrad.storage.create import compressed_share
from actigrad.storage.names import blocks_group, site_group


@dataclass(frozen=True)
class SiteCost:
    """What one site costs: dims and shape of a sample, and the bytes that are kept of it."""

    path: str
    kind: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    sample_bytes: int
    kept: str
    stored_bytes: int
    returned_bytes: int
    """Bytes of its whole arrays that a captured batch returns: what a summary alone would save of memory."""


@dataclass(frozen=True)
class Estimate:
    """What a run will need, from shapes alone; bytes are before compression."""

    sites: tuple[SiteCost, ...]
    stored_bytes: int
    free_bytes: int | None
    """None where nobody knows, as of an object store."""
    captured_bytes: int
    """Bytes that pass the loop: whole activations and gradients of all samples at all recorded steps."""

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as anyone knows."""
        return self.free_bytes is None or self.stored_bytes <= self.free_bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """What the captured step of one batch needs, as XLA compiled it.

    Attributes:
        samples: in a batch.
        variants: memory by what would be done, as configured first.
        available: bytes that the device has.
        device: its kind.
        largest: the most samples that fit, at most all of the data; (0, None) when not one does.
    """

    samples: int
    variants: dict[str, Memory]
    available: int
    device: str
    largest: tuple[int, Memory | None]


def estimate(job: Job) -> Estimate:
    """What the run will need, without computing anything."""
    template, n = job.template(), len(job.rows)
    costs = []
    for plan in job.plans():
        site, prefix = plan.site, site_group(plan.site.path)
        groups = {f"{prefix}/full", f"{prefix}/summary", *(blocks_group(site.path, one) for one in plan.levels)}
        stored = sum(spec.nbytes for path, spec in template.arrays.items() if path.rpartition("/")[0] in groups)
        kept = "summary" + "".join(
            f", {what} {' and '.join(quantities)}"
            for what, quantities in (("levels of", plan.levels), ("whole", plan.full)) if quantities
        )  # fmt: skip
        sample_bytes = site.nbytes // max(1, dict(zip(site.dims, site.shape, strict=True)).get("sample", 1))
        values = site.nbytes // site.item_size
        returned = sum(values * {"float32": 4, "bfloat16": 2}[rule.dtype] for rule in plan.full.values())
        returned += job.traced * BLOCK_BYTES * len(block_counts(site)) * len(plan.levels)
        shape = (site.path, site.kind, site.dims, site.shape, site.dtype)
        costs.append(SiteCost(*shape, sample_bytes, kept, stored, returned))
    passing = sum(cost.sample_bytes * len(plan.summary) for cost, plan in zip(costs, job.plans(), strict=True))
    return Estimate(tuple(costs), template.nbytes, job.place.free_bytes(), passing * n * len(job.config.steps))


@dataclass(frozen=True)
class Probed:
    """What one captured batch told of the run.

    Attributes:
        stored: bytes that will be stored of each site, its whole arrays compressed as those of the batch were.
        total: bytes of the whole store.
        batch_seconds: to capture one batch, compiled, and copy it to the host.
        batches: how many there are, at all recorded steps.
    """

    stored: dict[str, int]
    total: int
    batch_seconds: float
    batches: int


def probe(job: Job) -> Probed:
    """Capture the first batch under the initial weights, and encode what is kept whole of it as the store will."""
    capture, batch = StepCapture(job), job.batch(0, job.traced)
    capturing = lambda: jax.device_get(capture.captures[True](job.params, batch).rows)
    rows, seconds = capturing(), []
    for _ in range(3):
        began = time.perf_counter()
        rows = capturing()
        seconds.append(time.perf_counter() - began)
    stored, saved = {}, 0
    for plan, cost in zip(job.plans(), estimate(job).sites, strict=True):
        less = 0
        for quantity in plan.full:
            array = f"{site_group(plan.site.path)}/full/{quantity}"
            spec = capture.template.arrays[array]
            less += round(spec.nbytes * (1 - compressed_share(spec, np.asarray(rows[array], np.float32))))
        stored[plan.site.path], saved = cost.stored_bytes - less, saved + less
    batches = -(-len(job.rows) // job.config.data.batch_size) * len(job.config.steps)
    return Probed(stored, capture.template.nbytes - saved, statistics.median(seconds), batches)


def estimate_memory(job: Job) -> MemoryEstimate:
    """What the captured step needs, and would need otherwise; compiles it about eight times."""
    batch = job.batch(0, job.traced)
    modules = exactly(site.path for site in outermost(job.sites))
    as_configured = make_capture(job, job.objective, whole=True)
    steps = {
        "as configured": as_configured,
        "summaries only": make_capture(job, job.objective, whole=False),
        "recomputing inside modules": make_capture(job, recompute_between(job.objective, modules), whole=True),
    }
    if any(rule.dtype != "bfloat16" for plan in job.plans() for rule in plan.full.values()):
        steps["whole arrays in bfloat16"] = make_capture(job, job.objective, whole=True, dtype="bfloat16")
    variants = {name: measure_memory(step, job.params, batch) for name, step in steps.items()}
    device = jax.local_devices()[0]
    available = _available_bytes(device)
    largest = largest_batch(as_configured, job.params, batch, limit=available, most=len(job.rows))
    return MemoryEstimate(job.traced, variants, available, device.device_kind, largest)


def _available_bytes(device: Any) -> int:
    """What the device has left; a CPU has the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return psutil.virtual_memory().available
