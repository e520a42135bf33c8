"""A loss as a program: traced once, with its sites named.

    traced = trace_program(loss, *split_arguments((params, batch, (), {})))
    traced.sites                 # every site, in forward order
    traced.taps["head/0"]        # where it stands

Arrays among the arguments are inputs of the program; flags, strings and functions are part of it (static).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.engine.flow import Flow, trace_flow
from actigrad.engine.jaxprs import RECOMPUTED, Tap, find_taps
from actigrad.errors import CaptureError
from actigrad.sites import Site, infer_dims

LOSS_CONTRACT = "a real floating scalar, one value a sample, or a pair (either of these, auxiliary pytree)"


@dataclass(frozen=True)
class Static:
    """The part of the arguments that is not arrays; hashable, so that it keys jit's cache.

    Attributes:
        treedef: of (params, batch, args, kwargs).
        is_array: which leaves are arrays.
        leaves: the others' values, None where an array stands.
        n_params, n_batch: how many array leaves params and batch have.
    """

    treedef: Any
    is_array: tuple[bool, ...]
    leaves: tuple[Any, ...]
    n_params: int
    n_batch: int

    def merge(self, arrays: Any) -> Any:
        """(params, batch, args, kwargs) again, with `arrays` where arrays stood."""
        supply = iter(arrays)
        whole = [next(supply) if a else value for a, value in zip(self.is_array, self.leaves, strict=True)]
        return jax.tree.unflatten(self.treedef, whole)


@dataclass(frozen=True)
class Program:
    """A traced loss.

    Attributes:
        closed: the closed jaxpr; its inputs are the array leaves of the arguments, in order.
        out_tree: the structure of what the loss returns.
        has_aux: whether that is a pair.
        taps: where each site stands, by path.
        sites: every site, in forward order.
        flow: which feeds which, and the work between.
        batch: which of the inputs are the batch.
    """

    closed: Any
    out_tree: Any
    has_aux: bool
    taps: dict[str, Tap]
    sites: tuple[Site, ...]
    flow: Flow
    batch: range

    def outputs(self, flat: list[Any]) -> tuple[Any, Any]:
        """(loss, aux) from the program's flat outputs."""
        out = jax.tree.unflatten(self.out_tree, flat)
        return out if self.has_aux else (out, None)


def split_arguments(arguments: tuple[Any, Any, Any, Any]) -> tuple[Static, list[Any]]:
    """Part (params, batch, args, kwargs) into what is static and a list of array leaves.

    In params and batch Python numbers are arrays too; in the further arguments they are static, as flags must be.
    """
    leaves, treedef = jax.tree.flatten(arguments)
    counts = [jax.tree.structure(part).num_leaves for part in arguments[:2]]
    is_array = tuple(_is_array(leaf, numbers=i < sum(counts)) for i, leaf in enumerate(leaves))
    static = tuple(None if a else leaf for a, leaf in zip(is_array, leaves, strict=True))
    n_params = sum(is_array[: counts[0]])
    n_batch = sum(is_array[counts[0] : sum(counts)])
    arrays = [leaf for a, leaf in zip(is_array, leaves, strict=True) if a]
    return Static(treedef, is_array, static, n_params, n_batch), arrays


def trace_program(loss: Callable[..., Any], static: Static, arrays: list[Any]) -> Program:
    """Trace `loss`; arrays may be `jax.ShapeDtypeStruct`s.

    Raises:
        CaptureError: when the loss does not return what a loss returns.
    """

    def whole(arrays):
        params, batch, args, kwargs = static.merge(arrays)
        return loss(params, batch, *args, **kwargs)

    closed, shape = jax.make_jaxpr(whole, return_shape=True)(arrays)
    has_aux = isinstance(shape, tuple) and len(shape) == 2
    validate_loss(shape[0] if has_aux else shape)
    taps = name_taps(find_taps(closed))
    batch = range(static.n_params, static.n_params + static.n_batch)
    flow = trace_flow(closed, {tap.address: path for path, tap in taps.items()}, static.n_params, batch)
    # The way to the loss may lead through where it is computed again.
    unreached = tuple(path for path in flow.unreached if taps[path].no_gradient != RECOMPUTED)
    flow = replace(flow, unreached=unreached)
    samples = count_samples(static.merge(arrays)[1])
    sites = tuple(make_site(path, tap, samples, flow) for path, tap in taps.items())
    return Program(closed, jax.tree.structure(shape), has_aux, taps, sites, flow, batch)


def validate_loss(value: Any) -> None:
    """Raise unless `value` has the shape and dtype of a loss."""
    found = f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
    if not hasattr(value, "shape") or value.ndim > 1 or not jnp.issubdtype(value.dtype, jnp.floating):
        cure = (
            " Reduce each sample to one value, e.g. `.mean(axis=range(1, x.ndim))`." if hasattr(value, "shape") else ""
        )
        raise CaptureError(f"the loss returns {found}; expected {LOSS_CONTRACT}.{cure}")


def sum_losses(losses: jax.Array) -> jax.Array:
    """The loss as a scalar: the sum in float32, or in float64 where the losses have it."""
    return jnp.sum(losses, dtype=jnp.float64 if losses.dtype == jnp.float64 else jnp.float32)


def name_taps(taps: tuple[Tap, ...]) -> dict[str, Tap]:
    """Taps by path; second and later passes of one place get `#1`, `#2`, …, whatever other names look like."""
    taken = {tap.name for tap in taps}
    passes: Counter[str] = Counter()
    out: dict[str, Tap] = {}
    for tap in taps:
        path = tap.name
        while path in out or (path != tap.name and path in taken):
            passes[tap.name] += 1
            path = f"{tap.name}#{passes[tap.name]}"
        out[path] = tap
    return out


def make_site(path: str, tap: Tap, samples: int | None, flow: Flow) -> Site:
    """The record of one tap."""
    kinds = [axis.dim for axis in tap.front]
    front = [f"{dim}{kinds[:i].count(dim) or ''}" for i, dim in enumerate(kinds)]
    dims = (*front, *infer_dims(tap.aval.shape, samples))
    missing = tap.refused or tap.no_gradient
    dtype = str(tap.aval.dtype)
    site = Site(path, tap.shape, dtype, dims, tap.kind, flow.feeds[path], missing, work=flow.work[path])
    if not site.missing and not site.differentiable:
        site = replace(site, missing=f"its dtype is {site.dtype}, which has no gradient")
    return site


def count_samples(batch: Any) -> int | None:
    """The leading size that all arrays of the batch share, or None."""
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(batch)]
    sizes = {shape[0] for shape in shapes if shape}
    return sizes.pop() if len(sizes) == 1 else None


def _is_array(leaf: Any, *, numbers: bool) -> bool:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return True
    return numbers and isinstance(leaf, bool | int | float | complex)
