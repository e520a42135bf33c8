"""Capture: a transformation of a loss into a function that also returns what happened at every site.

    frame = actigrad.capture(loss)(params, batch)
    frame.loss                             # what loss(params, batch) returns (the sum, when it returns one a sample)
    frame.activations["layers/0/attn"]     # the array at that site
    frame.gradients["layers/0/attn"]       # d loss / d that array
    frame.parameter_gradients              # a pytree like params
    frame.input_gradients                  # a pytree like batch; None at integer leaves
    frame.missing                          # what was asked for and could not be had, with the reason

How: the loss is traced once; the program is run again with every chosen tap opened (`rewrite.Rewriter`), each taking a
*probe*; one `jax.vjp` with respect to (params, probes, batch) gives everything else. A probe enters through an exact
identity with a derivative of its own: adding a zero would lose -0.0, upcast bfloat16 and keep a buffer of the
activation's size alive.

Cost: one forward and one backward pass, as `jax.value_and_grad`, and the memory of what is returned. With `reduce=`, a
gradient is reduced inside the backward pass, so only the reduction's state leaves it, loops included. Time, compile
time and temporary memory over the plain step's are measured by `scripts/bench/capture.py`; docs/benchmarks.md has them.

Limits: no callbacks; reverse-mode only, so sites inside a `while_loop`, a custom rule, or a remat that the loss itself
differentiates have no gradient (said in `frame.missing`). Side effects happen as often as in the plain call.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from actigrad import reduce as reductions
from actigrad.engine.jaxprs import Address, Tap, pick
from actigrad.engine.probes import enter, make_probe, state_of_zeros, unpack
from actigrad.engine.program import Program, Static, split_arguments, sum_losses, trace_program
from actigrad.engine.rewrite import Rewriter
from actigrad.errors import CaptureError
from actigrad.sites import Site, choose

WHILE_IN_THE_WAY = (
    "the loss depends on its differentiated arguments through a while_loop (or a fori_loop with traced bounds), which "
    "JAX cannot differentiate in reverse. Use scan, or fori_loop with static bounds; or capture activations alone with "
    "gradients=False, parameters=False, inputs=False."
)
Patterns = str | Sequence[str]
Reduce = reductions.Choice | Callable[[Site, str], reductions.Choice]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "loss", "losses", "aux", "activations", "gradients", "parameter_gradients", "input_gradients", "visited",
    ),
    meta_fields=("sites", "unreached", "gaps"),
)  # fmt: skip
@dataclass(frozen=True)
class Frame:
    """What one captured call returns; a pytree.

    Attributes:
        loss: the scalar loss; the sum in float32 or wider when the function returns one loss a sample.
        losses: the per-sample losses (sample,), or None.
        aux: what the function returned beside its loss, or None.
        activations: the array (or the reduction's state) by site path.
        gradients: d loss / d activation by site path, same shape and dtype (or the reduction's state).
        parameter_gradients: a pytree like params, None at leaves without a gradient; None if not asked for.
        input_gradients: a pytree like batch, None at leaves without a gradient; None if not asked for.
        visited: for sites in branches and while loops, whether they were reached; unreached ones hold zeros.
        sites: the captured sites, in forward order.
        unreached: those from which no derivative reaches the loss: their gradient is zero whatever the weights.
        gaps: what is missing, as ((path, quantity), reason) pairs; read it through `missing`.
    """

    loss: Any
    losses: Any
    aux: Any
    activations: dict[str, Any]
    gradients: dict[str, Any]
    parameter_gradients: Any
    input_gradients: Any
    visited: dict[str, Any]
    sites: tuple[Site, ...]
    unreached: tuple[str, ...]
    gaps: tuple[tuple[tuple[str, str], str], ...]

    @property
    def missing(self) -> dict[tuple[str, str], str]:
        """Why a quantity that was asked for is not here, by (path, quantity)."""
        return dict(self.gaps)


def capture(
    loss: Callable[..., Any],
    *,
    sites: Patterns = "**",
    exclude: Patterns = (),
    gradients: bool = True,
    parameters: bool = True,
    inputs: bool = True,
    reduce: Reduce = None,
) -> Callable[..., Frame]:
    """Transform `loss(params, batch, ...)` into a function of the same arguments that returns a `Frame`.

    The result is jitted once per shape and composes with `jax.jit`, `jax.vmap`, `jax.grad` and shardings; a reduction's
    state has no derivative of its own. Array arguments are traced; anything else (flags, strings) is static and must
    be hashable.

    Args:
        loss: returns a real scalar, one value a sample (gradients are then those of the sum), or a pair of either and
            an auxiliary pytree.
        sites: patterns of the sites to capture; `actigrad.sites` has the language.
        exclude: patterns of sites to leave out.
        gradients: whether to return the gradient at each site.
        parameters: whether to return the gradient with respect to `params`.
        inputs: whether to return the gradient with respect to `batch`.
        reduce: keep a reduction of each array and not the array: a `Reduction`, a mapping of names to reductions, or a
            function `(site, quantity) -> either, or None for the whole array`.

    Raises:
        NoSuchSite: when a pattern matches no site (as the first call is traced).
        CaptureError: when the loss is not scalar or per-sample, or a site asked for by its path cannot be captured.
    """
    request = _Request(loss, sites, exclude, gradients, parameters, inputs, reduce)
    run = jax.jit(functools.partial(_run, request), static_argnums=0)

    @functools.wraps(loss)
    def captured(params, batch, *args, **kwargs) -> Frame:
        return run(*split_arguments((params, batch, args, kwargs)))

    return captured


def list_sites(loss: Callable[..., Any], params: Any, batch: Any, *args, **kwargs) -> tuple[Site, ...]:
    """Every site of `loss`, in forward order, without computing anything.

    Arguments may be arrays or `jax.ShapeDtypeStruct`s. `Site.missing` tells why a gradient cannot be captured. Cost:
    one trace, which a scanned model of any size passes in a second; no array is made.
    """
    return trace_program(loss, *split_arguments((params, batch, args, kwargs))).sites


@dataclass(frozen=True)
class _Request:
    """What was asked for, whole; the functions below read it."""

    loss: Callable[..., Any]
    sites: Patterns
    exclude: Patterns
    gradients: bool
    parameters: bool
    inputs: bool
    reduce: Reduce

    def reduction(self, site: Site, quantity: str) -> reductions.Choice:
        choice: Any = self.reduce(site, quantity) if callable(self.reduce) else self.reduce
        return choice


def _run(request: _Request, static: Static, arrays: list[Any]) -> Frame:
    """Trace, choose, run again with the taps open, pull back."""
    program = trace_program(request.loss, static, arrays)
    sites = choose(program.sites, request.sites, request.exclude)
    program = replace(program, taps=program.taps | {s.path: pick(program.taps[s.path], s.picked) for s in sites})
    taps = {program.taps[site.path].address: site for site in sites if not program.taps[site.path].refused}
    probed = {address: site for address, site in taps.items() if request.gradients and not site.missing}
    reached: set[Address] = set()
    rewriter = Rewriter({address: program.taps[s.path] for address, s in taps.items()}, _marker(request, taps, reached))

    def forward(chosen: dict[int, Any], probes: dict[Address, Any]):
        flat, opened = rewriter.run(program.closed, [chosen.get(i, x) for i, x in enumerate(arrays)], probes)
        losses, aux = program.outputs(flat)
        return losses, (aux, opened)

    n_data = static.n_params + static.n_batch
    asked = [*range(static.n_params)] * request.parameters + [*range(static.n_params, n_data)] * request.inputs
    primals = {i: arrays[i] for i in asked if jnp.issubdtype(jnp.result_type(arrays[i]), jnp.inexact)}
    probes = {address: _zeros(request, program, site) for address, site in probed.items()}
    losses, (aux, opened), (leaves, cotangents) = _pull_back(forward, primals, probes)
    by_leaf = Static(static.treedef, static.is_array, (None,) * len(static.leaves), static.n_params, static.n_batch)
    params, batch, *_ = by_leaf.merge([leaves.get(i) for i in range(len(arrays))])
    return Frame(
        loss=sum_losses(losses) if losses.ndim else losses,
        losses=losses if losses.ndim else None,
        aux=aux,
        activations={site.path: opened[address].value for address, site in taps.items()},
        gradients={
            site.path: _gradient(request, program, site, cotangents[address], address in reached)
            for address, site in probed.items()
        },
        parameter_gradients=params if request.parameters else None,
        input_gradients=batch if request.inputs else None,
        visited={s.path: opened[a].visited for a, s in taps.items() if opened[a].visited is not None},
        sites=sites,
        unreached=tuple(site.path for site in sites if site.path in program.flow.unreached),
        gaps=tuple(_gaps(request, program, sites)),
    )


def _marker(request: _Request, taps: dict[Address, Site], reached: set[Address]):
    """What happens at each tap: the probe enters, and the activation (or its reduction) is brought out."""

    def mark(tap: Tap, x: jax.Array, probe: Any) -> tuple[jax.Array, Any]:
        site = taps[tap.address]
        dims = site.dims[len(tap.front) :]
        choice = request.reduction(site, "activation")
        value = x if choice is None else reductions.chunk(choice, jax.lax.stop_gradient(x), dims)
        if probe is None:
            return x, value
        note = functools.partial(reached.add, tap.address)
        return enter(request.reduction(site, "gradient"), dims, x, probe, note), value

    return mark


def _local(program: Program, site: Site) -> tuple[Any, tuple[str, ...]]:
    """The shape, dtype and dims of a site inside all loops."""
    tap = program.taps[site.path]
    return tap.aval, site.dims[len(tap.front) :]


def _gradient(request: _Request, program: Program, site: Site, cotangent: Any, reached: bool) -> Any:
    """The gradient at a site: the probe's cotangent, or the reduction that it carries."""
    choice = request.reduction(site, "gradient")
    if choice is None or reached:
        return unpack(choice, *_local(program, site), cotangent)
    front = tuple(axis.size for axis in program.taps[site.path].front)
    return state_of_zeros(choice, *_local(program, site), front)


def _zeros(request: _Request, program: Program, site: Site) -> Any:
    """The probe of a site, with the loops' axes in front; never materialised, as it is made inside the jit."""
    front = tuple(axis.size for axis in program.taps[site.path].front)
    like = make_probe(request.reduction(site, "gradient"), *_local(program, site))
    return jax.tree.map(lambda leaf: jnp.zeros(front + leaf.shape, leaf.dtype), like)


def _pull_back(forward: Callable[..., Any], primals: dict[int, Any], probes: dict[Address, Any]):
    """The loss, what came beside it, and the cotangents of primals and probes."""
    if not primals and not probes:
        return *forward({}, {}), ({}, {})
    try:
        losses, pullback, beside = jax.vjp(forward, primals, probes, has_aux=True)
        return losses, beside, pullback(jnp.ones_like(losses))
    except ValueError as error:
        if "Reverse-mode differentiation does not work" not in str(error):
            raise
        raise CaptureError(WHILE_IN_THE_WAY) from error


def _gaps(request: _Request, program: Program, sites: tuple[Site, ...]):
    for site in sites:
        if program.taps[site.path].refused:
            yield (site.path, "activation"), site.missing
        if site.missing and request.gradients:
            yield (site.path, "gradient"), site.missing
