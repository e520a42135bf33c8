"""Run: train, capture at each recorded step, write; the streaming loop.

    result = run(load(config), progress=bars)
    result = run(load(config), resume=True)          # goes on where a killed run stopped, and ends with the same bytes

The device never waits for the disk: batch i + 1 is dispatched before batch i is copied, copies are asynchronous, and
blocks go to writer threads through a queue bounded in bytes. A step is the unit that is committed: after a kill, the
step that was under way is captured again, and no other.
"""

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from actigrad import reduce as reductions
from actigrad.grid import blocks
from actigrad.job import Batch, Job, named_leaves
from actigrad.metrics import METRICS, SPECIAL
from actigrad.reduce import Full, Histogram, Summary
from actigrad.schema import SCHEMA_VERSION, Plan, Template, site_group, with_codecs, work_attrs
from actigrad.store import create_store, disk_usage, finalize_store, free_space, has_commits, journal_path
from actigrad.transform import Frame, capture
from actigrad.writer import Writer

SPARSE_SHARE = 0.3
"""From this share of zeros on, zstd is denser than a plain array by more than it costs (docs/store.md)."""


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


@dataclass(frozen=True)
class Estimate:
    """What a run will need, from shapes alone; bytes are before compression."""

    sites: tuple[SiteCost, ...]
    stored_bytes: int
    free_bytes: int
    captured_bytes: int
    """Bytes that pass the loop: whole activations and gradients of all samples at all recorded steps."""


def estimate(job: Job) -> Estimate:
    """What the run will need, without computing anything."""
    template, n = job.template(), len(job.rows)
    costs = []
    for plan in job.plans():
        site, prefix = plan.site, site_group(plan.site.path)
        groups = (f"{prefix}/full", f"{prefix}/summary")
        stored = sum(spec.nbytes for path, spec in template.arrays.items() if path.rpartition("/")[0] in groups)
        kept = "+".join(["summary", *(f"full {quantity}" for quantity in plan.full)])
        sample_bytes = site.nbytes // max(1, dict(zip(site.dims, site.shape, strict=True)).get("sample", 1))
        costs.append(SiteCost(site.path, site.kind, site.dims, site.shape, site.dtype, sample_bytes, kept, stored))
    passing = sum(cost.sample_bytes * len(plan.summary) for cost, plan in zip(costs, job.plans(), strict=True))
    path = job.config.store.path
    return Estimate(tuple(costs), template.nbytes, free_space(path), passing * n * len(job.config.steps))


def run(job: Job, *, resume: bool = False, overwrite: bool = False, progress: Progress | None = None) -> Result:
    """Run the job to its end; see the module's docstring.

    Raises:
        StoreError: when the store exists and neither flag is given, belongs to another run, or cannot be written.
    """
    began, path = time.monotonic(), job.config.store.path
    told = progress or Silent()
    recorder = _Recorder(job)
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


class _Recorder:
    """Captures one step at a time; holds what is the same at all of them."""

    def __init__(self, job: Job):
        self.job, self.plans = job, job.plans()
        self.by_path = {plan.site.path: plan for plan in self.plans}
        options = {
            "sites": ["re:" + "|".join(_literally(plan.site.path) for plan in self.plans)] if self.plans else "**",
            "parameters": job.config.parameters.keep != "none",
            "inputs": job.config.inputs.keep != "none",
        }
        self.capture_summary = capture(job.loss, reduce=partial(self.reduction, False), **options)
        self.capture_full = capture(job.loss, reduce=partial(self.reduction, True), **options)
        self.template = with_codecs(job.template(), self.sparse_arrays())

    def reduction(self, whole: bool, site: Any, quantity: str) -> dict[str, reductions.Reduction]:
        """What to take of a site; nothing, where nothing was asked for."""
        plan = self.by_path.get(site.path)
        if plan is None or quantity not in plan.summary:
            return {}
        kept: dict[str, reductions.Reduction] = {"summary": Summary(), "histogram": Histogram()}
        if whole and quantity in plan.full:
            kept["full"] = Full(plan.full[quantity].dtype)
        return kept

    def sparse_arrays(self) -> set[str]:
        """The arrays kept whole that are mostly zeros, judged by the first batch under the initial weights."""
        if not any(plan.full for plan in self.plans):
            return set()
        frame = self.capture_summary(self.job.params, self.job.batch(0, self.job.config.data.batch_size))
        sparse = set()
        for plan in self.plans:
            for quantity in plan.full:
                state = _values(frame, quantity)[plan.site.path]["summary"]
                if np.asarray(state["zeros"]).sum() >= SPARSE_SHARE * max(1, np.asarray(state["finite"]).sum()):
                    sparse.add(f"{site_group(plan.site.path)}/full/{quantity}")
        return sparse

    def record(self, writer: Writer, step: int, before: Any, params: Any, advance) -> None:
        """Capture all samples at one step and queue everything that is kept of them."""
        write = _StepWriter(writer, self.template, self.job.config.steps, step)
        whole = any(write.has(f"{site_group(p.site.path)}/full/{q}") for p in self.plans for q in p.full)
        keeper = _Keeper(self.plans, write, whole)
        gradient_sum = None
        for (start, stop), batch, frame in _one_ahead(
            self.frames(params, self.capture_full if whole else self.capture_summary)
        ):
            keeper.take(frame, start)
            self.take_samples(write, frame, start, stop)
            self.take_inputs(write, batch, frame, start)
            gradient_sum = _add_trees(gradient_sum, frame.parameter_gradients)
            advance(stop - start)
        keeper.close()
        self.take_parameters(write, before, params, gradient_sum)
        write.close()

    def frames(self, params: Any, captured) -> Iterator[tuple[tuple[int, int], Batch, Frame]]:
        """Dispatch batch after batch; what is yielded may still be on its way."""
        for start, stop in blocks(len(self.job.rows), self.job.config.data.batch_size):
            batch = self.job.batch(start, stop)
            frame = captured(params, batch)
            for leaf in jax.tree.leaves(
                (frame.losses, frame.aux, frame.activations, frame.gradients, frame.input_gradients)
            ):
                leaf.copy_to_host_async()
            yield (start, stop), batch, frame

    def take_samples(self, write: "_StepWriter", frame: Frame, start: int, stop: int) -> None:
        losses = frame.losses if frame.losses is not None else jnp.broadcast_to(frame.loss, (stop - start,))
        write.rows("samples/loss", np.asarray(losses, np.float32), start)
        if self.job.predicts:
            write.rows("samples/prediction", np.asarray(frame.aux["prediction"], np.int32), start)

    def take_inputs(self, write: "_StepWriter", batch: Batch, frame: Frame, start: int) -> None:
        for name in self.job.tensors().inputs:
            if write.has(f"inputs/{name}/full/value"):
                write.rows(f"inputs/{name}/full/value", batch[name], start)
                write.rows(f"inputs/{name}/full/gradient", np.asarray(frame.input_gradients[name]), start)

    def take_parameters(self, write: "_StepWriter", before: Any, params: Any, gradient_sum: Any) -> None:
        quantities = self.job.config.parameters.quantities if self.job.config.parameters.keep != "none" else ()
        trees = {
            "value": lambda: params,
            "gradient": lambda: gradient_sum,
            "update": lambda: _subtract_trees(params, before),
        }
        for quantity in quantities:
            leaves = named_leaves(trees[quantity]())
            for path, state in jax.device_get(_summarise(leaves)).items():
                group = site_group(path, "parameters")
                write.whole(f"{group}/summary/{quantity}", _stacked(Summary().finalize(state), METRICS))
                if write.has(f"{group}/full/{quantity}"):
                    write.whole(f"{group}/full/{quantity}", np.asarray(leaves[path], np.float32))


class _Keeper:
    """Gathers what the sites' frames bring during one step."""

    def __init__(self, plans: tuple[Plan, ...], write: "_StepWriter", whole: bool):
        self.plans, self.write, self.whole = plans, write, whole
        self.states: dict[tuple[str, str, str], Any] = {}

    def take(self, frame: Frame, start: int) -> None:
        """One batch: states are merged, whole arrays are queued."""
        for plan in self.plans:
            for quantity in plan.summary:
                state = _values(frame, quantity)[plan.site.path]
                for name, reduction in (("summary", Summary()), ("histogram", Histogram())):
                    key = (plan.site.path, quantity, name)
                    new = jax.tree.map(np.asarray, state[name])
                    self.states[key] = reduction.combine(self.states[key], new) if key in self.states else new
                if "full" in state:
                    axis = plan.site.dims.index("sample")
                    array = f"{site_group(plan.site.path)}/full/{quantity}"
                    self.write.rows(array, np.asarray(state["full"], np.float32), start, axis)

    def close(self) -> None:
        """All batches are in: write the summaries."""
        for (path, quantity, name), state in self.states.items():
            group = f"{site_group(path)}/summary"
            if name == "summary":
                self.write.whole(f"{group}/{quantity}", _stacked(Summary().finalize(state), METRICS))
            else:
                counts = Histogram().finalize(state)
                self.write.whole(f"{group}/{quantity}_histogram", counts["counts"])
                special = np.stack([counts[key] for key in SPECIAL], axis=-1)
                self.write.whole(f"{group}/{quantity}_special", special)


class _StepWriter:
    """Puts the arrays of one step where the template says, gathering rows until they make a whole block."""

    def __init__(self, writer: Writer, template: Template, steps: tuple[int, ...], step: int):
        self.writer, self.template, self.steps, self.step = writer, template, steps, step
        self.waiting: dict[str, tuple[int, int, list[np.ndarray]]] = {}

    def has(self, array: str) -> bool:
        """Whether the array exists and keeps this step."""
        spec = self.template.arrays.get(array)
        return spec is not None and (spec.shape[0] == len(self.steps) or self.step == self.steps[-1])

    def whole(self, array: str, values: np.ndarray) -> None:
        """All of one step."""
        spec, at = self.template.arrays[array], self._index(array)
        values = np.asarray(values, spec.dtype).reshape(spec.shape[1:])
        self.writer.put(array, [(at, at + 1), *((0, size) for size in spec.shape[1:])], values[None])

    def rows(self, array: str, values: np.ndarray, start: int, axis: int = 0) -> None:
        """Some samples of one step; rows come in order."""
        spec = self.template.arrays[array]
        first, _, parts = self.waiting.get(array, (start, axis, []))
        parts.append(values)
        held = sum(part.shape[axis] for part in parts)
        if held >= spec.chunks[axis + 1] or start + values.shape[axis] == spec.shape[axis + 1]:
            self._put_rows(array, np.concatenate(parts, axis) if len(parts) > 1 else values, first, axis)
            self.waiting.pop(array, None)
        else:
            self.waiting[array] = (first, axis, parts)

    def close(self) -> None:
        """Nothing may be left: rows that never made a block would be lost."""
        assert not self.waiting, f"rows left over: {list(self.waiting)}"

    def _put_rows(self, array: str, block: np.ndarray, first: int, axis: int) -> None:
        at, spec = self._index(array), self.template.arrays[array]
        region = [(0, size) for size in spec.shape[1:]]
        region[axis] = (first, first + block.shape[axis])
        self.writer.put(array, [(at, at + 1), *region], block.astype(spec.dtype, copy=False)[None])

    def _index(self, array: str) -> int:
        return self.steps.index(self.step) if self.template.arrays[array].shape[0] == len(self.steps) else 0


def _attributes(job: Job) -> dict[str, Any]:
    packages = ("actigrad", "jax", "flax", "numpy", "xarray", "zarr")
    normalised = "each sample's own loss" if job.per_sample else "the loss of the sample's batch"
    return {
        "actigrad_schema": SCHEMA_VERSION,
        "title": f"actigrad: {job.config.model.factory}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": job.config.model_dump(mode="json"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
        "fingerprint": job.fingerprint(),
        "seed": job.config.seed,
        "gradients_of": normalised,
        "sites": [plan.site.path for plan in job.plans()],
        "after_the_sites": work_attrs(job.rest, job.traced),
        "edges": [[site.path, target] for site in job.sites for target in site.feeds],
    }


def _values(frame: Frame, quantity: str) -> Mapping[str, Any]:
    return frame.activations if quantity == "activation" else frame.gradients


def _literally(path: str) -> str:
    return "".join(f"\\{char}" if not char.isalnum() else char for char in path)


def _stacked(result: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.stack([result[name] for name in names])


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each given out after the next one was asked for: the device works while the host copies."""
    held = []
    for item in items:
        held.append(item)
        if len(held) > 1:
            yield held.pop(0)
    yield from held


@jax.jit
def _summarise(leaves: dict[str, jax.Array]) -> dict[str, Any]:
    return {
        path: Summary().chunk(leaf, ("",) * (leaf.ndim - 1) + ("neuron",) * (leaf.ndim > 0))
        for path, leaf in leaves.items()
    }


@jax.jit
def _add_trees(a: Any, b: Any) -> Any:
    return b if a is None else jax.tree.map(jnp.add, a, b)


def _subtract_trees(a: Any, b: Any) -> Any:
    return _subtract_leaves(named_leaves(a), named_leaves(b))


@jax.jit
def _subtract_leaves(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(jnp.subtract, a, b)
