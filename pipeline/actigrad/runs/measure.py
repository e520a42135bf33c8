"""Measure: everything that a Recorder keeps of one moment of a training, in one jitted call.

    measure = Measure(loss, plans, parameters, samples=32, predicts=False)
    taken = measure(params, before, probe)     # dispatched; nothing waits
    measure.rows([taken.on_host()])            # {"sites/head/0/summary/activation": (step, metric, neuron), …}

What leaves the device is one flat vector a dtype, and the tensors that are kept whole: a call that returns hundreds of
small arrays costs more than what it computes. Statistics are finished on the host for many moments at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad import reduce as reductions
from actigrad.engine.transform import Frame, capture
from actigrad.metrics import METRICS, SPECIAL
from actigrad.reduce import Full, Histogram, Summary
from actigrad.runs.job import named_leaves
from actigrad.runs.record import summarise
from actigrad.sites import Site, exactly
from actigrad.storage.names import site_group
from actigrad.storage.schema import Plan


@dataclass(frozen=True)
class Taken:
    """One moment, on the device or on its way from it.

    Attributes:
        vectors: what is small, one flat vector a dtype.
        whole: what is kept whole, by array.
        updated: whether the params one update before were known.
    """

    vectors: Mapping[str, Any]
    whole: Mapping[str, Any]
    updated: bool

    def start_copy(self) -> None:
        """To the host, while the device goes on."""
        for leaf in [*self.vectors.values(), *self.whole.values()]:
            leaf.copy_to_host_async()

    def on_host(self) -> "Taken":
        """In NumPy's memory; waits for the copy."""
        return replace(
            self,
            vectors={dtype: np.asarray(leaf) for dtype, leaf in self.vectors.items()},
            whole={array: np.asarray(leaf) for array, leaf in self.whole.items()},
        )

    @property
    def nbytes(self) -> int:
        """On either side."""
        return sum(leaf.nbytes for leaf in [*self.vectors.values(), *self.whole.values()])


class Measure:
    """What is measured, and how it becomes rows of a store.

    Args:
        loss: `loss(params, batch)`.
        plans: what to keep of each site.
        parameters: which of value, gradient, update to summarise.
        samples: of the probe.
        predicts: whether the loss returns `prediction` beside it.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        plans: Sequence[Plan],
        parameters: Sequence[str],
        *,
        samples: int,
        predicts: bool,
    ):
        self.plans, self.parameters, self.samples, self.predicts = plans, parameters, samples, predicts
        by_path = {plan.site.path: plan for plan in plans}

        def reduction(site: Site, quantity: str) -> dict[str, reductions.Reduction]:
            plan = by_path[site.path]
            if quantity not in plan.summary:
                return {}
            kept: dict[str, reductions.Reduction] = {"summary": Summary(), "histogram": Histogram()}
            if quantity in plan.full:
                kept["full"] = Full(plan.full[quantity].dtype)
            return kept

        self._capture = capture(
            loss,
            sites=exactly(by_path) if by_path else (),
            parameters="gradient" in parameters,
            inputs=False,
            reduce=reduction,
        )
        self._run = jax.jit(self._packed)
        self._like: Any = None

    def __call__(self, params: Any, before: Mapping[str, jax.Array] | None, probe: Any) -> Taken:
        """Dispatch it.

        Args:
            params: as the loss takes them.
            before: their leaves by path one update before, or None where that is not known.
            probe: the batch.
        """
        leaves = named_leaves(params) if before is None and "update" in self.parameters else before or {}
        vectors, whole = self._run(params, leaves, probe)
        return Taken(vectors, whole, before is not None)

    def trace(self, params: Any, probe: Any) -> None:
        """Raise what is wrong with the loss, without computing anything."""
        jax.eval_shape(self._capture, params, probe)

    def rows(self, taken: Sequence[Taken]) -> dict[str, np.ndarray]:
        """The rows of several moments, by array, (step, …); all of them on the host."""
        vectors = {dtype: np.stack([one.vectors[dtype] for one in taken]) for dtype in taken[0].vectors}
        tree = _unpack(vectors, self._like)
        rows = dict(tree["values"])
        for array, state in tree["summaries"].items():
            result = Summary().finalize(state)
            rows[array] = np.stack([result[name] for name in METRICS], axis=1)
            if array.endswith("/summary/update") and array.startswith("parameters/"):
                rows[array][[not one.updated for one in taken]] = np.nan
        for array, state in tree["histograms"].items():
            counts = Histogram().finalize(state)
            rows[f"{array}_histogram"] = counts["counts"]
            rows[f"{array}_special"] = np.stack([counts[name] for name in SPECIAL], axis=-1)
        for array in taken[0].whole:
            rows[array] = np.stack([one.whole[array] for one in taken])
        return rows

    def _packed(self, params: Any, before: Mapping[str, jax.Array], probe: Any) -> tuple[dict, dict]:
        frame = self._capture(params, probe)
        summaries, histograms, whole = {}, {}, {}
        for plan in self.plans:
            group = site_group(plan.site.path)
            for quantity in plan.summary:
                state = _of(frame, quantity)[plan.site.path]
                summaries[f"{group}/summary/{quantity}"] = state["summary"]
                histograms[f"{group}/summary/{quantity}"] = state["histogram"]
                if "full" in state:
                    whole[f"{group}/full/{quantity}"] = state["full"].value.astype(jnp.float32)
        for quantity in self.parameters:
            leaves = named_leaves(params if quantity != "gradient" else frame.parameter_gradients)
            if quantity == "update":
                leaves = jax.tree.map(jnp.subtract, leaves, dict(before))
            for path, state in summarise(leaves).items():
                summaries[f"{site_group(path, 'parameters')}/summary/{quantity}"] = state
        tree = {"summaries": summaries, "histograms": histograms, "values": self._values(frame)}
        self._like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        return _pack(tree), whole

    def _values(self, frame: Frame) -> dict[str, jax.Array]:
        losses = frame.loss if frame.losses is None else frame.losses
        values = {"samples/loss": jnp.broadcast_to(losses.astype(jnp.float32), self.samples)}
        if self.predicts:
            values["samples/prediction"] = frame.aux["prediction"].astype(jnp.int32)
        return values


def _of(frame: Frame, quantity: str) -> Mapping[str, Any]:
    return frame.activations if quantity == "activation" else frame.gradients


def _pack(tree: Any) -> dict[str, jax.Array]:
    """All leaves in one flat vector a dtype."""
    parts: dict[str, list[jax.Array]] = {}
    for leaf in jax.tree.leaves(tree):
        parts.setdefault(str(leaf.dtype), []).append(leaf.ravel())
    return {dtype: jnp.concatenate(vectors) for dtype, vectors in parts.items()}


def _unpack(vectors: Mapping[str, np.ndarray], like: Any) -> Any:
    """The tree again, every leaf with the axis of the moments in front."""
    taken = dict.fromkeys(vectors, 0)

    def next_leaf(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        dtype = str(leaf.dtype)
        start = taken[dtype]
        taken[dtype] = start + leaf.size
        return vectors[dtype][:, start : taken[dtype]].reshape(-1, *leaf.shape)

    return jax.tree.map(next_leaf, like)
