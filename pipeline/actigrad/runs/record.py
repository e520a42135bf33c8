"""Record: everything that is kept of one step, captured batch by batch and queued for the disk.

    step_capture = StepCapture(job)
    step_capture.record(sink, step, params_before, params)

All that is asked of a batch is one jitted call. Batch i + 1 is dispatched before batch i is copied, copies are
asynchronous, and statistics are merged where they are made (`totals`), so the device never waits for the host. Rows of
whole arrays are gathered until they make a block (`rows`). After each segment of samples the sink is told, with all
that goes on into the next one: from there a killed run resumes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad import reduce as reductions
from actigrad.engine.per_sample import sample_gradient_norms
from actigrad.engine.transform import Frame, capture
from actigrad.metrics import METRICS
from actigrad.reduce import Blocks, Full, Histogram, Summary
from actigrad.runs.attributions import make_attributions
from actigrad.runs.job import Job, named_leaves
from actigrad.runs.rows import Sink, StepWriter, keeps
from actigrad.runs.totals import Layout, Totals, add, from_bytes, to_bytes
from actigrad.sites import Site, exactly
from actigrad.sources import Batch
from actigrad.storage.blocks import block_counts, block_size
from actigrad.storage.names import blocks_group, site_group
from actigrad.storage.template import with_codecs

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
        if whole and quantity in plan.levels:
            kept["levels"] = Blocks(block_size(plan.site) or 1)
        return kept

    return capture(
        loss,
        sites=exactly(plans) if plans else "**",
        parameters=job.config.parameters.keep != "none",
        inputs=job.config.inputs.keep != "none",
        reduce=reduction,
    )


@partial(jax.tree_util.register_dataclass, data_fields=("rows", "totals"), meta_fields=())
@dataclass(frozen=True)
class Brought:
    """What one batch brings; a pytree.

    Attributes:
        rows: by array of the store, the batch's part of it.
        totals: what is merged with that of the other batches.
    """

    rows: dict[str, jax.Array]
    totals: Totals


class StepCapture:
    """Captures one step at a time; holds what is the same at all of them."""

    def __init__(self, job: Job):
        self.job, self.plans, self.inputs = job, job.plans(), tuple(job.tensors().inputs)
        self.template = job.template()
        self.layout = Layout(self.plans, self.template)
        self.norms = _total_norms(job.objective)
        self.attributions = make_attributions(job)
        self.captures = {whole: self._jitted(whole) for whole in (False, True)}
        self.template = with_codecs(self.template, self.sparse_arrays())

    def keeps_whole(self, step: int) -> bool:
        """Whether whole arrays of sites, or blocks of their neurons, are kept at this step."""
        arrays = [f"{site_group(plan.site.path)}/full/{quantity}" for plan in self.plans for quantity in plan.full]
        arrays += [f"{blocks_group(plan.site.path, what)}/mean" for plan in self.plans for what in plan.levels]
        return any(keeps(self.template, array, self.job.config.steps, step) for array in arrays)

    def sparse_arrays(self) -> set[str]:
        """The arrays kept whole that are mostly zeros, judged by the first batch under the initial weights."""
        full = {(plan.site.path, quantity) for plan in self.plans for quantity in plan.full}
        if self.job.config.store.codec != "auto" or not full:
            return set()
        captured = self.captures[self.keeps_whole(self.job.config.steps[0])]
        brought = captured(self.job.params, self.job.batch(0, self.job.config.data.batch_size))
        shares = self.layout.zero_shares(brought.totals)
        sparse = {key for key, share in shares if key in full and share >= SPARSE_SHARE}
        return {f"{site_group(path)}/full/{quantity}" for path, quantity in sparse}

    def _jitted(self, whole: bool) -> Callable[[Any, Batch], Brought]:
        captured = make_capture(self.job, self.job.objective, whole=whole)
        return jax.jit(lambda params, batch: self._bring(captured(params, batch), params, batch, whole))

    def _bring(self, frame: Frame, params: Any, batch: Mapping[str, Any], whole: bool) -> Brought:
        """All of one batch, on the device."""
        rows = self._sample_rows(frame, params, batch)
        for name in self.inputs if self.job.config.inputs.keep == "full" else ():
            if f"inputs/{name}/full/gradient" in self.template.arrays:  # whole numbers have none
                rows[f"inputs/{name}/full/gradient"] = frame.input_gradients[name]
        for plan in self.plans if whole else ():
            for quantity in (*plan.full, *plan.levels):
                state = (frame.activations if quantity == "activation" else frame.gradients)[plan.site.path]
                if quantity in plan.full:
                    rows[f"{site_group(plan.site.path)}/full/{quantity}"] = state["full"].value
                if quantity in plan.levels:
                    blocks = _join_loops(plan.site, state["levels"])
                    rows |= {f"{blocks_group(plan.site.path, quantity)}/{name}": one for name, one in blocks.items()}
        return Brought(rows, self.layout.pack(frame))

    def _sample_rows(self, frame: Frame, params: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """What is kept of each sample, beside the sites."""
        config = self.job.config
        rows: dict[str, Any] = {}
        aux: Any
        values, aux = frame.loss if frame.losses is None else frame.losses, frame.aux
        if config.objective:
            rows["samples/objective"] = _one_a_sample(values, batch)
            out = self.job.loss(params, batch)
            values, aux = out if isinstance(out, tuple) else (out, None)
        rows["samples/loss"] = _one_a_sample(values, batch)
        if self.job.predicts:
            rows["samples/prediction"] = aux["prediction"].astype(jnp.int32)
        if config.parameters.sample_norms:
            rows["samples/gradient_norm"] = self.norms(params, batch)
        return rows

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
        write = StepWriter(sink, self.template, self.job.config.steps, step)
        n, segment, totals = len(self.job.rows), self.template.segment, None
        until = n if until is None else min(until, n)
        for (start, stop), batch, rows, totals in _one_ahead(self.frames(write, params, done, until, state)):
            self.put_rows(write, batch, rows, start)
            advance(stop - start)
            if stop % segment == 0 and stop < n:
                write.close()
                sink.commit(step, stop, partial(to_bytes, totals))
        if until < n:
            return
        assert totals is not None, "no batch between what was committed and the end"
        for array, values in self.layout.arrays(totals):
            write.whole(array, values)
        self.take_parameters(write, before, params, totals["gradients"])
        write.close()
        sink.commit(step, n, None)

    def frames(
        self, write: StepWriter, params: Any, done: int, until: int, state: bytes | None
    ) -> Iterator[tuple[tuple[int, int], Batch, dict[str, jax.Array], Totals]]:
        """Dispatch batch after batch of the samples from `done` to `until`; what is yielded may still be on its way.

        That is the samples' (start, stop), the batch, its rows that are kept, and the totals up to its end.
        """
        captured, totals = self.captures[self.keeps_whole(write.step)], None
        with closing(self.job.batches(done, until)) as batches:
            for span, batch in batches:
                brought = captured(params, batch)
                if totals is None and state is not None:
                    totals = from_bytes(state, brought.totals)
                totals = add(totals, brought.totals)
                rows = brought.rows | self.attribute(write, params, batch, span[0])
                rows = {array: values for array, values in rows.items() if write.has(array)}
                for values in rows.values():
                    values.copy_to_host_async()
                yield span, batch, rows, totals

    def attribute(self, write: StepWriter, params: Any, batch: Batch, start: int) -> dict[str, jax.Array]:
        """The further maps of the inputs that are kept at this step, by array."""
        held = [name for name in self.inputs if write.has(f"inputs/{name}/full/value")]
        if not (held and self.job.config.inputs.methods):
            return {}
        maps = self.attributions(params, batch, start)
        return {f"inputs/{name}/full/{kind}": values[name] for kind, values in maps.items() for name in held}

    def put_rows(self, write: StepWriter, batch: Batch, rows: dict[str, jax.Array], start: int) -> None:
        """What is kept of each sample of one batch; waits until it is on the host."""
        for array, values in rows.items():
            write.rows(array, np.asarray(values), start)
        for name in self.inputs:
            if write.has(f"inputs/{name}/full/value"):
                write.rows(f"inputs/{name}/full/value", batch[name], start)

    def take_parameters(self, write: StepWriter, before: Any, params: Any, gradient_sum: Any) -> None:
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
                result = Summary().finalize(state)
                write.whole(f"{group}/summary/{quantity}", np.stack([result[metric] for metric in METRICS]))
                if write.has(f"{group}/full/{quantity}"):
                    write.whole(f"{group}/full/{quantity}", np.asarray(leaves[path], np.float32))


def _join_loops(site: Site, state: Any) -> dict[str, jax.Array]:
    """Blocks of neurons over all loops; their places within a block as the store has them, which saves the copy."""
    loops = math.prod(state["mean"].shape[:-2])
    joined = Blocks(block_size(site) or 1).join(state, np.array(block_counts(site)) // loops)
    return joined | {"neuron": joined["neuron"].astype(jnp.int8)}


def _one_a_sample(values: Any, batch: Mapping[str, Any]) -> jax.Array:
    """A value for each sample; where there is one for the batch, the same for all."""
    return jnp.broadcast_to(values.astype(jnp.float32), (len(next(iter(batch.values()))),))


def _total_norms(objective: Callable[..., Any]) -> Callable[..., Any]:
    """The norm over all parameters together, (sample,)."""
    norms = sample_gradient_norms(objective)
    return lambda params, batch: jnp.linalg.norm(jnp.stack(jax.tree.leaves(norms(params, batch))), axis=0)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each given out after the next one was asked for: the device works while the host copies.

    Where that one fails, what came before it is given out first.
    """
    held = []
    try:
        for item in items:
            held.append(item)
            if len(held) > 1:
                yield held.pop(0)
    except Exception:
        yield from held
        raise
    yield from held


@jax.jit
def summarise(leaves: dict[str, jax.Array]) -> dict[str, Any]:
    """The state of each parameter's `Summary`; its last axis is the neurons'."""
    return {
        path: Summary().chunk(leaf, ("",) * (leaf.ndim - 1) + ("neuron",) * (leaf.ndim > 0))
        for path, leaf in leaves.items()
    }


def _subtract_trees(a: Any, b: Any) -> Any:
    return _subtract_leaves(named_leaves(a), named_leaves(b))


@jax.jit
def _subtract_leaves(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(jnp.subtract, a, b)
