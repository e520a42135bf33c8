"""Flow: which site feeds which, read off the traced program.

Every value in the program carries its *frontier*: the sites that it was computed from, up to the nearest site on each
way. Where a tap stands, its frontier becomes an edge to it, and it alone is the frontier of what follows. So residual
adds, splits and loops need no knowledge of the model: they are what the arithmetic does.

Each member of a frontier also knows whether a derivative can come back along the way: integer values and
`stop_gradient` cut it. A site from which none reaches the loss has a gradient of zero whatever the weights, and that
is worth knowing before one stares at a black map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from actigrad.jaxprs import CUSTOM_RULES, INLINED, REMAT, Address, is_tap, parts, scan_layout, sub_jaxprs

LOSS = "loss"
BATCH = "\0batch"
Frontier = frozenset[tuple[str, bool]]
NOTHING: Frontier = frozenset()


@dataclass(frozen=True)
class Flow:
    """The sites' data flow.

    Attributes:
        feeds: for each site, the sites directly downstream in forward order, `"loss"` last.
        unreached: the sites from which no derivative reaches the loss.
        entries: the sites that the batch's floating values feed directly, `"loss"` last.
    """

    feeds: dict[str, tuple[str, ...]]
    unreached: tuple[str, ...]
    entries: tuple[str, ...]


def trace_flow(closed: Any, names: Mapping[Address, str], batch: Sequence[int] = ()) -> Flow:
    """The flow between the named taps of a program whose first output is the loss.

    Args:
        closed: the program.
        names: the sites' paths by the address of their taps.
        batch: which of the program's inputs are the batch.
    """
    walker = _Walker(names)
    n_inputs = len(parts(closed)[0].invars)
    smooth = [_is_smooth(var) for var in parts(closed)[0].invars]
    outs = walker.run(closed, [frozenset({(BATCH, smooth[i])}) if i in batch else NOTHING for i in range(n_inputs)], ())
    walker.edge(outs[0], LOSS)
    order = {path: i for i, path in enumerate([BATCH, *names.values(), LOSS])}
    feeds: dict[str, list[str]] = {path: [] for path in order}
    for source, target, is_smooth in sorted(walker.edges, key=lambda edge: order[edge[1]]):
        if source == BATCH and not is_smooth:
            continue
        if order[target] > order[source] and target not in feeds[source]:  # a loop's way back is its `layer` axis
            feeds[source].append(target)
    entries = tuple(feeds.pop(BATCH))
    del feeds[LOSS]
    return Flow({path: tuple(targets) for path, targets in feeds.items()}, _unreached(walker.edges, feeds), entries)


def _unreached(edges: set[tuple[str, str, bool]], paths: Mapping[str, Any]) -> tuple[str, ...]:
    reached, grown = set[str](), {LOSS}
    while grown - reached:
        reached |= grown
        grown = {source for source, target, smooth in edges if smooth and target in reached}
    return tuple(path for path in paths if path not in reached)


@dataclass
class _Walker:
    names: Mapping[Address, str]
    edges: set[tuple[str, str, bool]] = field(default_factory=set)

    def edge(self, frontier: Frontier, target: str) -> None:
        self.edges |= {(source, target, smooth) for source, smooth in frontier}

    def run(self, closed: Any, inputs: Sequence[Frontier], address: Address) -> list[Frontier]:
        """The frontiers of a jaxpr's outputs, given those of its inputs."""
        jaxpr, _ = parts(closed)
        env: dict[Any, Frontier] = dict(zip(jaxpr.invars, inputs, strict=True))
        read = lambda var: NOTHING if isinstance(var, Literal) else env.get(var, NOTHING)
        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(var) for var in eqn.invars], (*address, index))
            for var, frontier in zip(eqn.outvars, outs, strict=True):
                dtype = getattr(var.aval, "dtype", None)
                smooth = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
                env[var] = frontier if smooth else _rough(frontier)
        return [read(var) for var in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[Frontier], here: Address) -> list[Frontier]:
        name, subs = eqn.primitive.name, sub_jaxprs(eqn)
        if is_tap(eqn):
            if here not in self.names:
                return inputs
            self.edge(inputs[0], self.names[here])
            return [frozenset({(self.names[here], True)})]
        if name in INLINED or name in REMAT or name in CUSTOM_RULES or name == "shard_map":
            return self.run(subs[0], inputs, (*here, 0))
        if name == "scan":
            n_consts, n_carry = scan_layout(eqn)
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
        return [_rough(everything) if name == "stop_gradient" else everything] * len(eqn.outvars)

    def loop(self, body, inputs, n_consts: int, n_carry: int, here: Address, *, runs: bool) -> list[Frontier]:
        """Carried frontiers grow from iteration to iteration until they stay; `runs`: at least once."""
        consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
        while True:
            outs = self.run(body, [*consts, *carry, *xs], here)
            grown = [_union(a, b) for a, b in zip(carry, outs[:n_carry], strict=True)]
            if grown == carry:
                return outs if runs else [*grown, *outs[n_carry:]]
            carry = grown


def _is_smooth(var: Any) -> bool:
    return hasattr(var.aval, "dtype") and bool(jnp.issubdtype(var.aval.dtype, jnp.inexact))


def _union(*frontiers: Frontier) -> Frontier:
    return NOTHING.union(*frontiers)


def _rough(frontier: Frontier) -> Frontier:
    return frozenset((path, False) for path, _ in frontier)
