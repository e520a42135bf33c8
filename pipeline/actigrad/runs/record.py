"""Record: everything that is kept of one step, captured batch by batch and queued for the disk.

    step_capture = StepCapture(job)
    step_capture.record(sink, step, params_before, params)

The device never waits for the host: batch i + 1 is dispatched before batch i is copied, and copies are asynchronous.
Summaries of batches are merged on the host; rows of whole arrays are gathered until they make a block. After each
segment of samples the sink is told, with all that goes on into the next one: from there a killed run resumes.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from actigrad import reduce as reductions
from actigrad.engine.per_sample import sample_gradient_norms
from actigrad.engine.transform import Frame, capture
from actigrad.metrics import METRICS, SPECIAL
from actigrad.reduce import Full, Histogram, Summary
from actigrad.runs.attributions import make_attributions
from actigrad.runs.job import Job, named_leaves
from actigrad.sites import exactly
from actigrad.sources import Batch
from actigrad.storage.grid import Region
from actigrad.storage.schema import Plan, Template, site_group, with_codecs

SPARSE_SHARE = 0.3
"""From this share of zeros on, zstd is denser than a plain array by more than it costs (docs/store.md)."""


def make_capture(job: Job, loss: Callable[..., Any], *, whole: bool, dtype: str | None = None) -> Callable[..., Frame]:
    """The captured loss of a job: summaries of all that was asked for and, if `whole`, what is kept whole.

    Args:
        job: what was asked for.
        loss: the job's loss, or a variant of it.
        whole: whether whole arrays are returned as well.
        dtype: of whole arrays, where it is not to be what the config says.
    """
    plans = {plan.site.path: plan for plan in job.plans()}

    def reduction(site: Any, quantity: str) -> dict[str, reductions.Reduction]:
        plan = plans.get(site.path)
        if plan is None or quantity not in plan.summary:
            return {}
        kept: dict[str, reductions.Reduction] = {"summary": Summary(), "histogram": Histogram()}
        if whole and quantity in plan.full:
            kept["full"] = Full(dtype or plan.full[quantity].dtype)
        return kept

    return capture(
        loss,
        sites=exactly(plans) if plans else "**",
        parameters=job.config.parameters.keep != "none",
        inputs=job.config.inputs.keep != "none",
        reduce=reduction,
    )


@runtime_checkable
class Sink(Protocol):
    """Where blocks go."""

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        """One block."""

    def commit(self, step: int, rows: int, state: bytes | None) -> None:
        """All blocks of the first `rows` samples of `step` were put; `state` is what goes on from there."""


class StepCapture:
    """Captures one step at a time; holds what is the same at all of them."""

    def __init__(self, job: Job):
        self.job, self.plans = job, job.plans()
        self.capture_summary = make_capture(job, job.objective, whole=False)
        self.capture_full = make_capture(job, job.objective, whole=True)
        self.loss = jax.jit(job.loss)
        self.norms = jax.jit(_total_norms(job.objective))
        self.attributions = make_attributions(job)
        self.template = with_codecs(job.template(), self.sparse_arrays())

    def sparse_arrays(self) -> set[str]:
        """The arrays kept whole that are mostly zeros, judged by the first batch under the initial weights."""
        if self.job.config.store.codec != "auto" or not any(plan.full for plan in self.plans):
            return set()
        frame = self.capture_summary(self.job.params, self.job.batch(0, self.job.config.data.batch_size))
        sparse = set()
        for plan in self.plans:
            for quantity in plan.full:
                state = _values(frame, quantity)[plan.site.path]["summary"]
                if np.asarray(state["zeros"]).sum() >= SPARSE_SHARE * max(1, np.asarray(state["finite"]).sum()):
                    sparse.add(f"{site_group(plan.site.path)}/full/{quantity}")
        return sparse

    def record(
        self,
        sink: Sink,
        step: int,
        before: Any,
        params: Any,
        *,
        done: int = 0,
        until: int | None = None,
        state: bytes | None = None,
        advance: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """Capture the samples of one step from `done` on, and put everything that is kept of them.

        Args:
            sink: where it goes.
            step: how many updates were made.
            before: the params one update before.
            params: the params.
            done: how many samples were committed before, whole segments.
            until: stop after so many samples, whole segments; then nothing is put that is of all samples together.
            state: what was handed to that commit.
            advance: told how many samples were captured.
        """
        write = _StepWriter(sink, self.template, self.job.config.steps, step)
        whole = any(write.has(f"{site_group(p.site.path)}/full/{q}") for p in self.plans for q in p.full)
        keeper = _Keeper(self.plans, write)
        if state is not None:
            keeper.restore(state, params)
        n, segment = len(self.job.rows), self.template.segment
        until = n if until is None else min(until, n)
        captured = self.capture_full if whole else self.capture_summary
        for (start, stop), batch, frame in _one_ahead(self.frames(params, captured, done, until)):
            keeper.take(frame, start)
            self.take_samples(write, params, batch, frame, start)
            self.take_inputs(write, params, batch, frame, start)
            advance(stop - start)
            if stop % segment == 0 and stop < n:
                write.close()
                sink.commit(step, stop, keeper.saved())
        if until < n:
            return
        keeper.close()
        self.take_parameters(write, before, params, keeper.gradient_sum)
        write.close()
        sink.commit(step, n, None)

    def frames(
        self, params: Any, captured: Callable[..., Frame], done: int, until: int
    ) -> Iterator[tuple[tuple[int, int], Batch, Frame]]:
        """Dispatch batch after batch of the samples from `done` to `until`; what is yielded may still be on its way."""
        with closing(self.job.batches(done, until)) as batches:
            for block, batch in batches:
                frame = captured(params, batch)
                for leaf in jax.tree.leaves(
                    (frame.losses, frame.aux, frame.activations, frame.gradients, frame.input_gradients)
                ):
                    leaf.copy_to_host_async()
                yield block, batch, frame

    def take_samples(self, write: "_StepWriter", params: Any, batch: Batch, frame: Frame, start: int) -> None:
        """What is kept of each sample of one batch, beside the sites."""
        values: Any = frame.losses if frame.losses is not None else frame.loss
        aux: Any = frame.aux
        if self.job.config.objective:
            write.rows("samples/objective", _one_a_sample(values, batch), start)
            out = self.loss(params, batch)
            values, aux = out if isinstance(out, tuple) else (out, None)
        write.rows("samples/loss", _one_a_sample(values, batch), start)
        if self.job.predicts:
            write.rows("samples/prediction", np.asarray(aux["prediction"], np.int32), start)
        if self.job.config.parameters.sample_norms:
            write.rows("samples/gradient_norm", np.asarray(self.norms(params, batch)), start)

    def take_inputs(self, write: "_StepWriter", params: Any, batch: Batch, frame: Frame, start: int) -> None:
        """Inputs of one batch, their gradients, and the further maps of them."""
        held = [name for name in self.job.tensors().inputs if write.has(f"inputs/{name}/full/value")]
        maps: dict[str, Any] = {"value": batch, "gradient": frame.input_gradients}
        if held and self.job.config.inputs.methods:
            maps |= self.attributions(params, batch, start)
        for name in held:
            for kind, values in maps.items():
                if write.has(f"inputs/{name}/full/{kind}"):
                    write.rows(f"inputs/{name}/full/{kind}", np.asarray(values[name]), start)

    def take_parameters(self, write: "_StepWriter", before: Any, params: Any, gradient_sum: Any) -> None:
        """The parameters of one step."""
        quantities = self.job.config.parameters.quantities if self.job.config.parameters.keep != "none" else ()
        trees = {
            "value": lambda: params,
            "gradient": lambda: gradient_sum,
            "update": lambda: _subtract_trees(params, before),
        }
        for quantity in quantities:
            leaves = named_leaves(trees[quantity]())
            for path, state in jax.device_get(summarise(leaves)).items():
                group = site_group(path, "parameters")
                write.whole(f"{group}/summary/{quantity}", _stacked(Summary().finalize(state), METRICS))
                if write.has(f"{group}/full/{quantity}"):
                    write.whole(f"{group}/full/{quantity}", np.asarray(leaves[path], np.float32))


class _Keeper:
    """Gathers what the frames of one step bring."""

    def __init__(self, plans: tuple[Plan, ...], write: "_StepWriter"):
        self.plans, self.write = plans, write
        self.states: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
        self.gradient_sum: Any = None

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
        self.gradient_sum = _add_trees(self.gradient_sum, frame.parameter_gradients)

    def saved(self) -> bytes:
        """What goes on into the next segment; read back, it gives the same bits as if nothing had been saved."""
        arrays = {"|".join((*key, leaf)): value for key, state in self.states.items() for leaf, value in state.items()}
        arrays |= {f"gradient|{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.gradient_sum))}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    def restore(self, saved: bytes, params: Any) -> None:
        """The opposite of `saved`; `params` tells the structure of the gradients."""
        with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
            gradients = [arrays[f"gradient|{i}"] for i in range(sum(key.startswith("gradient|") for key in arrays))]
            for key in arrays:
                if not key.startswith("gradient|"):
                    path, quantity, name, leaf = key.rsplit("|", 3)
                    self.states.setdefault((path, quantity, name), {})[leaf] = arrays[key]
        if gradients:
            moves = lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None
            self.gradient_sum = jax.tree.unflatten(jax.tree.structure(jax.tree.map(moves, params)), gradients)

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

    def __init__(self, sink: Sink, template: Template, steps: tuple[int, ...], step: int):
        self.sink, self.template, self.steps, self.step = sink, template, steps, step
        self.waiting: dict[str, tuple[int, int, list[np.ndarray]]] = {}

    def has(self, array: str) -> bool:
        """Whether the array exists and keeps this step."""
        spec = self.template.arrays.get(array)
        return spec is not None and (spec.shape[0] == len(self.steps) or self.step == self.steps[-1])

    def whole(self, array: str, values: np.ndarray) -> None:
        """All of one step."""
        spec, at = self.template.arrays[array], self._index(array)
        values = np.asarray(values, spec.dtype).reshape(spec.shape[1:])
        self.sink.put(array, [(at, at + 1), *((0, size) for size in spec.shape[1:])], values[None])

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
        self.sink.put(array, [(at, at + 1), *region], block.astype(spec.dtype, copy=False)[None])

    def _index(self, array: str) -> int:
        return self.steps.index(self.step) if self.template.arrays[array].shape[0] == len(self.steps) else 0


def _one_a_sample(values: Any, batch: Batch) -> np.ndarray:
    """A value for each sample; where there is one for the batch, the same for all."""
    return np.broadcast_to(np.asarray(values, np.float32), len(next(iter(batch.values()))))


def _total_norms(objective: Callable[..., Any]) -> Callable[..., Any]:
    """The norm over all parameters together, (sample,)."""
    norms = sample_gradient_norms(objective)
    return lambda params, batch: jnp.linalg.norm(jnp.stack(jax.tree.leaves(norms(params, batch))), axis=0)


def _values(frame: Frame, quantity: str) -> Mapping[str, Any]:
    return frame.activations if quantity == "activation" else frame.gradients


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
def summarise(leaves: dict[str, jax.Array]) -> dict[str, Any]:
    """The state of each parameter's `Summary`; its last axis is the neurons'."""
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
