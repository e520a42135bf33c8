"""Flow: which site feeds which, and the work that is done on the way, read off the traced program.

Every value in the program carries its *frontier*: the sites that it was computed from, up to the nearest site on each
way. Where a tap stands, its frontier becomes an edge to it, and it alone is the frontier of what follows. So residual
adds, splits and loops need no knowledge of the model: they are what the arithmetic does.

A value also carries the *work* since those sites: the equations that it took and the parameters that it read. The
first site that needs a piece of work owns it, the loss what is left; so parameters and FLOPs add up to the model's.

Each member of a frontier also knows whether a derivative can come back along the way: integer values and
`stop_gradient` cut it. A site from which none reaches the loss has a gradient of zero whatever the weights, and that
is worth knowing before one stares at a black map.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from actigrad.engine.flops import MOVES, count_flops
from actigrad.engine.jaxprs import CUSTOM_RULES, INLINED, REMAT, Address, is_tap, parts, scan_layout, sub_jaxprs
from actigrad.sites import Work

LOSS = "loss"
BATCH = "\0batch"
Piece = Address | str
"""An equation, by its address, or an input of the program, by its number as a string."""


class Trace(NamedTuple):
    """Where a value comes from: the nearest sites with whether a derivative comes back, and the work since them."""

    sites: frozenset[tuple[str, bool]] = frozenset()
    work: frozenset[Piece] = frozenset()


NOTHING = Trace()


@dataclass(frozen=True)
class Flow:
    """The sites' data flow.

    Attributes:
        feeds: for each site, the sites directly downstream in forward order, `"loss"` last.
        unreached: the sites from which no derivative reaches the loss.
        entries: the sites that the batch's floating values feed directly, `"loss"` last.
        work: what is done between the sites before it and each site, and `"loss"`.
    """

    feeds: dict[str, tuple[str, ...]]
    unreached: tuple[str, ...]
    entries: tuple[str, ...]
    work: dict[str, Work]


def trace_flow(closed: Any, names: Mapping[Address, str], params: int = 0, batch: Sequence[int] = ()) -> Flow:
    """The flow between the named taps of a program whose first output is the loss.

    Args:
        closed: the program.
        names: the sites' paths by the address of their taps.
        params: how many of the program's first inputs are parameters.
        batch: which of the program's inputs are the batch.
    """
    walker = _Walker(names)
    inputs = parts(closed)[0].invars
    read = lambda i: frozenset({str(i)}) if i < params and _is_smooth(inputs[i]) else frozenset()
    from_batch = lambda i: frozenset({(BATCH, _is_smooth(inputs[i]))}) if i in batch else frozenset()
    outs = walker.run(closed, [Trace(from_batch(i), read(i)) for i in range(len(inputs))], ())
    walker.arrive(outs[0], LOSS)
    order = {path: i for i, path in enumerate([BATCH, *names.values(), LOSS])}
    feeds: dict[str, list[str]] = {path: [] for path in order}
    for source, target, is_smooth in sorted(walker.edges, key=lambda edge: order[edge[1]]):
        if source == BATCH and not is_smooth:
            continue
        if order[target] > order[source] and target not in feeds[source]:  # a loop's way back is its `layer` axis
            feeds[source].append(target)
    entries = tuple(feeds.pop(BATCH))
    del feeds[LOSS]
    sizes = [math.prod(getattr(var.aval, "shape", ())) for var in inputs]
    return Flow(
        {path: tuple(targets) for path, targets in feeds.items()},
        _unreached(walker.edges, feeds),
        entries,
        walker.work([*names.values(), LOSS], sizes),
    )


def _unreached(edges: set[tuple[str, str, bool]], paths: Mapping[str, Any]) -> tuple[str, ...]:
    sources: dict[str, list[str]] = {}
    for source, target, smooth in edges:
        if smooth:
            sources.setdefault(target, []).append(source)
    reached, new = {LOSS}, [LOSS]
    while new:
        for source in sources.get(new.pop(), ()):
            if source not in reached:
                reached.add(source)
                new.append(source)
    return tuple(path for path in paths if path not in reached)


@dataclass
class _Walker:
    names: Mapping[Address, str]
    edges: set[tuple[str, str, bool]] = field(default_factory=set)
    owners: dict[Piece, str] = field(default_factory=dict)
    costs: dict[Piece, tuple[str, int, int]] = field(default_factory=dict)
    """Of each equation: the primitive's name, how often it runs, and its FLOPs in all."""
    times: int = 1

    def arrive(self, trace: Trace, target: str) -> None:
        """A value reaches a site or the loss: edges lead to it, and the work that nobody owns is its own."""
        self.edges |= {(source, target, smooth) for source, smooth in trace.sites}
        self.owners |= dict.fromkeys(self.unowned(trace), target)

    def unowned(self, trace: Trace) -> frozenset[Piece]:
        """The work of a trace that nobody owns yet. Not by `-`, which looks at all that is owned."""
        return frozenset(piece for piece in trace.work if piece not in self.owners)

    def work(self, paths: Sequence[str], sizes: Sequence[int]) -> dict[str, Work]:
        """What each site owns; `sizes` are those of the program's inputs."""
        owned: dict[str, list[Piece]] = {path: [] for path in paths}
        for piece, path in self.owners.items():
            owned[path].append(piece)
        return {path: self.count(mine, sizes) for path, mine in owned.items()}

    def count(self, mine: Sequence[Piece], sizes: Sequence[int]) -> Work:
        """These pieces together."""
        equations = sorted(piece for piece in mine if isinstance(piece, tuple))
        counts: Counter[str] = Counter()
        for piece in equations:
            name, times, _ = self.costs[piece]
            counts[name] += times
        flops = sum(self.costs[piece][2] for piece in equations)
        return Work(tuple(counts.items()), flops, sum(sizes[int(piece)] for piece in mine if isinstance(piece, str)))

    def run(self, closed: Any, inputs: Sequence[Trace], address: Address) -> list[Trace]:
        """The traces of a jaxpr's outputs, given those of its inputs."""
        jaxpr, _ = parts(closed)
        env: dict[Any, Trace] = dict(zip(jaxpr.invars, inputs, strict=True))
        read = lambda var: NOTHING if isinstance(var, Literal) else env.get(var, NOTHING)
        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(var) for var in eqn.invars], (*address, index))
            for var, trace in zip(eqn.outvars, outs, strict=True):
                env[var] = trace if _is_smooth(var) else _rough(trace)
        return [read(var) for var in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[Trace], here: Address) -> list[Trace]:
        name, subs = eqn.primitive.name, sub_jaxprs(eqn)
        if is_tap(eqn):
            if here not in self.names:
                return inputs
            self.arrive(inputs[0], self.names[here])
            return [Trace(frozenset({(self.names[here], True)}))]
        if name in INLINED or name in REMAT or name in CUSTOM_RULES:
            return self.run(subs[0], inputs, (*here, 0))
        if name == "shard_map":
            with self.repeated(math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])):
                return self.run(subs[0], inputs, (*here, 0))
        if name == "scan":
            n_consts, n_carry = scan_layout(eqn)
            with self.repeated(eqn.params["length"]):
                return self.loop(subs[0], inputs, n_consts, n_carry, (*here, 0), runs=eqn.params["length"] > 0)
        if name == "while":
            body = next(i for i, sub in enumerate(subs) if sub is eqn.params["body_jaxpr"])
            inputs = inputs[eqn.params["cond_nconsts"] :]
            n_body = eqn.params["body_nconsts"]
            return self.loop(subs[body], inputs, n_body, len(inputs) - n_body, (*here, body), runs=False)
        if name == "cond":
            branches = [self.run(sub, inputs[1:], (*here, i)) for i, sub in enumerate(subs)]
            return [_union(*outs, _rough(inputs[0])) for outs in zip(*branches, strict=True)]
        everything = _union(*inputs)
        if name not in MOVES:
            self.costs[here] = (name, self.times, self.times * count_flops(eqn))
            # What is owned already need not travel on: a long residual stream would carry all the work before it.
            everything = Trace(everything.sites, self.unowned(everything) | {here})
        return [_rough(everything) if name == "stop_gradient" else everything] * len(eqn.outvars)

    def loop(self, body, inputs, n_consts: int, n_carry: int, here: Address, *, runs: bool) -> list[Trace]:
        """Carried traces grow from iteration to iteration until they stay; `runs`: at least once."""
        consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
        while True:
            outs = self.run(body, [*consts, *carry, *xs], here)
            grown = [_union(a, b) for a, b in zip(carry, outs[:n_carry], strict=True)]
            if grown == carry:
                return outs if runs else [*grown, *outs[n_carry:]]
            carry = grown

    @contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """What is walked within runs so many times."""
        before, self.times = self.times, self.times * times
        yield
        self.times = before


def _is_smooth(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def _union(*traces: Trace) -> Trace:
    return Trace(frozenset().union(*(t.sites for t in traces)), frozenset().union(*(t.work for t in traces)))


def _rough(trace: Trace) -> Trace:
    return Trace(frozenset((path, False) for path, _ in trace.sites), trace.work)
