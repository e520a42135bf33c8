"""Jaxprs: what a traced program looks like, and where the taps stand in it.

This file and `rewrite`, which runs a program again, are the only ones that know the layout of jaxprs; it changes from
one JAX to the next, so the suite runs on both ends of the supported range.

A tap is addressed by its position, ((equation, sub-jaxpr), …, equation), flattened to a tuple of integers. Positions
are stable because the program is traced once, and unlike names they cannot collide: a jitted function that is called
twice holds the same inner jaxpr at two addresses.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from actigrad.engine.taps import tap_p

Address = tuple[int, ...]
INLINED = {"jit", "pjit", "closed_call", "core_call", "call"}
REMAT = {"remat2", "remat", "checkpoint"}
CUSTOM_RULES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
RECOMPUTED = (
    "it is inside a remat that the loss itself differentiates: part of its gradient passes where it is computed again; "
    "take the remat off, or name the value outside"
)


class Axis(NamedTuple):
    """One axis that an enclosing construct puts in front of a tap's value."""

    dim: str
    size: int
    shard_map: Any = None
    """The equation that shards, as long as it depends on the value how many shards there are."""


@dataclass(frozen=True)
class Tap:
    """One mark in a program.

    Attributes:
        address: the position of the mark.
        name, kind: as given to `actigrad.tap` or `checkpoint_name`.
        aval: shape and dtype where the mark stands, inside all loops.
        front: the axes that enclosing loops and meshes add, outermost first.
        visitable: whether a branch or a `while` may leave it unvisited.
        no_gradient: why no gradient can be taken here, or "".
        refused: why nothing can be captured here, or "".
        recomputed: whether it stands in a remat that is already differentiated, which makes the earlier marks again.
        loop: the address of the outermost scan around it.
        picked: which iterations of that scan to keep; None for all.
    """

    address: Address
    name: str
    kind: str
    aval: Any
    front: tuple[Axis, ...] = ()
    visitable: bool = False
    no_gradient: str = ""
    refused: str = ""
    recomputed: bool = False
    loop: Address | None = None
    picked: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is captured: the loops' axes, then the value's own."""
        return (*(axis.size for axis in self.front), *self.aval.shape)


def parts(closed: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """The jaxpr and its constants, of an open or a closed jaxpr, in every supported JAX."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def sub_jaxprs(eqn: JaxprEqn) -> list[Any]:
    """The jaxprs among an equation's parameters, in a fixed order."""
    found = []
    for _, value in sorted(eqn.params.items()):
        for item in value if isinstance(value, tuple | list) else (value,):
            found += [item] if isinstance(item, Jaxpr | ClosedJaxpr) else []
    return found


def scan_layout(eqn: JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values a scan has (JAX 0.10: integers; 0.12: trees of its arguments)."""
    if "num_carry" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(list(consts.vals)), len(list(carry.vals))


def is_tap(eqn: JaxprEqn) -> bool:
    """Whether the equation is a mark: ours, or JAX's own `checkpoint_name`."""
    return eqn.primitive is tap_p or eqn.primitive.name == "name"


def find_taps(closed: Any) -> tuple[Tap, ...]:
    """Every mark in the program, in forward order, with what surrounds it; what is computed again stands there once."""
    found = [*_walk(closed, (), Tap((), "", "", None))]
    again = {tap.name for tap in found if tap.recomputed}
    once = (tap for tap in found if not tap.recomputed)
    return tuple(replace(tap, no_gradient=tap.no_gradient or RECOMPUTED) if tap.name in again else tap for tap in once)


def _walk(closed: Any, address: Address, around: Tap) -> Iterator[Tap]:
    for index, eqn in enumerate(parts(closed)[0].eqns):
        here = (*address, index)
        if is_tap(eqn):
            aval, kind = eqn.outvars[0].aval, eqn.params.get("kind", "")
            front = tuple(resolved for axis in around.front if (resolved := _resolve(axis, aval)))
            yield replace(around, address=here, name=eqn.params["name"], kind=kind, aval=aval, front=front)
            continue
        for child, sub in enumerate(sub_jaxprs(eqn)):
            inside = _inside(eqn, sub, around)
            if eqn.primitive.name == "scan" and around.loop is None:
                inside = replace(inside, loop=here)
            yield from _walk(sub, (*here, child), inside)


def _inside(eqn: JaxprEqn, sub: Any, around: Tap) -> Tap:
    """What surrounds a tap that stands in `sub`, given what surrounds the equation."""
    name = eqn.primitive.name
    if name in INLINED:
        return around
    if name in REMAT:
        return replace(around, recomputed=around.recomputed or bool(eqn.params.get("differentiated")))
    if name == "scan":
        return replace(around, front=(*around.front, Axis("layer", eqn.params["length"])))
    if name == "cond":
        return replace(around, visitable=True)
    if name == "shard_map":
        return replace(around, front=(*around.front, Axis("shard", 0, eqn)))
    if name == "while":
        if sub is eqn.params["cond_jaxpr"]:
            return replace(around, refused="it stands in the condition of a while_loop; name the value in the body")
        reason = "it is inside a while_loop, which JAX cannot differentiate in reverse; use scan or a static fori_loop"
        return replace(around, visitable=True, no_gradient=reason)
    if name in CUSTOM_RULES:
        if parts(sub)[0].effects:
            reason = f"it is inside a {name} with side effects, which would happen twice; name the value outside"
            return replace(around, refused=reason)
        reason = f"it is inside a {name}, whose own rule hides the gradient within; name the value outside"
        return replace(around, no_gradient=reason)
    return replace(
        around, refused=f"it is inside the primitive {name!r}, which cannot be opened; name the value outside"
    )


def _resolve(axis: Axis, aval: Any) -> Axis | None:
    """A value that differs from shard to shard has an axis for them; one that is the same on all has none."""
    if axis.shard_map is None:
        return axis
    sizes = [axis.shard_map.params["mesh"].shape[name] for name in shard_axes(axis.shard_map, aval)]
    return Axis("shard", math.prod(sizes)) if sizes else None


def shard_axes(eqn: JaxprEqn, aval: Any) -> tuple[str, ...]:
    """The mesh axes of a shard_map along which a value inside it varies; without checks, all that it makes manual."""
    manual = [name for name in eqn.params["mesh"].axis_names if name in eqn.params["newly_manual_axes"]]
    return tuple(name for name in manual if not eqn.params["check_vma"] or name in aval.mat.varying)


def pick(tap: Tap, iterations: tuple[int, ...] | None) -> Tap:
    """The tap with only some iterations of its outermost loop kept."""
    if iterations is None:
        return tap
    at = [axis.dim for axis in tap.front].index("layer")
    front = (*tap.front[:at], tap.front[at]._replace(size=len(iterations)), *tap.front[at + 1 :])
    return replace(tap, front=front, picked=iterations)
