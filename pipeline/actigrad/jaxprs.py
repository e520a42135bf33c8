"""Jaxprs: find the taps in a traced program, and run it again with every chosen tap opened.

This is the only file that knows what a jaxpr looks like. Two questions are answered here:

- `find_taps(closed)`: which marks stand in the program, in forward order, and what surrounds each (loops, branches,
  custom rules);
- `Rewriter(taps, mark).run(...)`: the same computation, in which each chosen tap calls `mark(tap, x, probe)` and its
  value travels out of whatever encloses it: a `scan` stacks it, a branch not taken gives zeros with `visited` false, a
  `while` keeps the last iteration's.

A tap is addressed by its position, ((equation, sub-jaxpr), …, equation), flattened to a tuple of integers. Positions
are stable because the program is traced once, and unlike names they cannot collide: a jitted function that is called
twice holds the same inner jaxpr at two addresses.

Equations in which no chosen tap stands are bound unchanged, custom derivative rules included. Limits: a tap inside a
primitive that is not in `_HANDLERS` is reported in `Tap.refused`, never dropped.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.sharding import PartitionSpec

from actigrad.taps import tap_p

Address = tuple[int, ...]
INLINED = {"jit", "pjit", "closed_call", "core_call", "call"}
REMAT = {"remat2", "remat", "checkpoint"}
CUSTOM_RULES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


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
    """

    address: Address
    name: str
    kind: str
    aval: Any
    front: tuple[Axis, ...] = ()
    visitable: bool = False
    no_gradient: str = ""
    refused: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is captured: the loops' axes, then the value's own."""
        return (*(axis.size for axis in self.front), *self.aval.shape)


class Opened(NamedTuple):
    """What leaves the program at one tap: what `mark` made of the value, and whether it was reached (None: always)."""

    value: Any
    visited: jax.Array | None


# ---------------------------------------------------------------------------------------------------------------------
# Reading


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
    """Every mark in the program, in forward order, with what surrounds it."""
    return tuple(_walk(closed, (), Tap((), "", "", None)))


def _walk(closed: Any, address: Address, around: Tap) -> Iterator[Tap]:
    for index, eqn in enumerate(parts(closed)[0].eqns):
        here = (*address, index)
        if is_tap(eqn):
            aval, kind = eqn.outvars[0].aval, eqn.params.get("kind", "")
            front = tuple(resolved for axis in around.front if (resolved := _resolve(axis, aval)))
            yield replace(around, address=here, name=eqn.params["name"], kind=kind, aval=aval, front=front)
            continue
        # A remat that is already differentiated recomputes a forward pass that stands elsewhere in the program.
        if eqn.primitive.name in REMAT and eqn.params.get("differentiated"):
            continue
        for child, sub in enumerate(sub_jaxprs(eqn)):
            yield from _walk(sub, (*here, child), _inside(eqn, sub, around))


def _inside(eqn: JaxprEqn, sub: Any, around: Tap) -> Tap:
    """What surrounds a tap that stands in `sub`, given what surrounds the equation."""
    name = eqn.primitive.name
    if name in INLINED or name in REMAT:
        return around
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


# ---------------------------------------------------------------------------------------------------------------------
# Running


Mark = Callable[[Tap, Any, Any], tuple[Any, Any]]
Values = dict[Address, Opened]


@dataclass(frozen=True)
class Rewriter:
    """The program again, with the chosen taps open.

    Attributes:
        taps: the chosen taps by address.
        mark: `mark(tap, x, probe) -> (x as the program goes on with it, value to bring out)`; `probe` is None where
            there is no gradient to take.
    """

    taps: Mapping[Address, Tap]
    mark: Mark
    prefixes: frozenset[Address] = field(init=False)

    def __post_init__(self):
        prefixes = {address[:n] for address in self.taps for n in range(len(address) + 1)}
        object.__setattr__(self, "prefixes", frozenset(prefixes))

    def run(
        self, closed: Any, args: Sequence[Any], probes: Mapping[Address, Any], address: Address = ()
    ) -> tuple[list[Any], Values]:
        """Evaluate `closed` on `args`; returns its outputs and what the taps inside brought out."""
        jaxpr, consts = parts(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        values: Values = {}
        for index, eqn in enumerate(jaxpr.eqns):
            here = (*address, index)
            inputs = [var.val if isinstance(var, Literal) else env[var] for var in eqn.invars]
            with eqn.ctx.manager, _name_scope(eqn):
                if here in self.taps:
                    out, value = self.mark(self.taps[here], inputs[0], probes.get(here))
                    outs, values[here] = [out], Opened(value, None)
                elif here in self.prefixes:
                    outs, inner = _HANDLERS[eqn.primitive.name](self, eqn, inputs, probes, here)
                    values.update(inner)
                else:
                    outs = bind(eqn, inputs)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [var.val if isinstance(var, Literal) else env[var] for var in jaxpr.outvars], values

    def below(self, probes: Mapping[Address, Any], address: Address) -> dict[Address, Any]:
        """The probes of the taps that stand below `address`."""
        return {key: probe for key, probe in probes.items() if key[: len(address)] == address}


def _name_scope(eqn: JaxprEqn):
    """The model's own scope names, so that a profile of the captured pass reads like one of the plain pass."""
    name = str(eqn.source_info.name_stack)
    return jax.named_scope(name) if name else nullcontext()


def bind(eqn: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """The equation as it stands, on other inputs."""
    if eqn.primitive is tap_p:  # a tap that was not chosen
        return [inputs[0]]
    out = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def _inline(rw: Rewriter, eqn, inputs, probes, here):
    """`jit` and other calls: XLA inlines them anyway; shardings that were asked for are kept as constraints."""
    constrain = lambda xs, key: [
        _constrained(x, s) for x, s in zip(xs, eqn.params.get(key) or [None] * len(xs), strict=True)
    ]
    inputs = constrain(inputs, "in_shardings")
    outs, values = rw.run(sub_jaxprs(eqn)[0], inputs, probes, (*here, 0))
    return constrain(outs, "out_shardings"), values


def _constrained(x, sharding):
    return lax.with_sharding_constraint(x, sharding) if isinstance(sharding, jax.sharding.Sharding) else x


def _remat(rw: Rewriter, eqn, inputs, probes, here):
    def inside(inputs, probes):
        return rw.run(sub_jaxprs(eqn)[0], inputs, probes, (*here, 0))

    again = jax.checkpoint(inside, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    return again(list(inputs), rw.below(probes, here))


def _scan(rw: Rewriter, eqn, inputs, probes, here):
    """Values come out stacked, probes go in sliced; both follow `reverse`."""
    n_consts, n_carry = scan_layout(eqn)
    consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]

    def step(carry, x):
        xs, probes = x
        outs, values = rw.run(sub_jaxprs(eqn)[0], [*consts, *carry, *xs], probes, (*here, 0))
        return outs[:n_carry], (outs[n_carry:], values)

    options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
    carry, (ys, values) = lax.scan(step, list(carry), (list(xs), rw.below(probes, here)), **options)
    return [*carry, *ys], values


def _cond(rw: Rewriter, eqn, inputs, probes, here):
    """Every branch returns the values of all: its own, and zeros marked unvisited for the others'."""
    index, *operands = inputs
    probes = rw.below(probes, here)
    runs = [
        lambda operands, probes, i=i, sub=sub: rw.run(sub, operands, probes, (*here, i))
        for i, sub in enumerate(sub_jaxprs(eqn))
    ]
    everyone: dict[Address, Any] = {}
    for run in runs:
        everyone |= jax.eval_shape(run, operands, probes)[1]

    def filled(run):
        def branch(operands, probes):
            outs, values = run(operands, probes)
            return outs, {key: _visited(values[key]) if key in values else _blank(everyone[key]) for key in everyone}

        return branch

    return lax.switch(index, [filled(run) for run in runs], operands, probes)


def _while(rw: Rewriter, eqn, inputs, probes, here):
    """The values of the last iteration, carried along; unvisited when there was none."""
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, body_consts, start = inputs[:n_cond], inputs[n_cond : n_cond + n_body], inputs[n_cond + n_body :]
    body_child = next(i for i, sub in enumerate(sub_jaxprs(eqn)) if sub is eqn.params["body_jaxpr"])

    def body(state):
        outs, values = rw.run(eqn.params["body_jaxpr"], [*body_consts, *state[0]], {}, (*here, body_child))
        return outs, {key: _visited(value) for key, value in values.items()}

    def proceed(state):
        return Rewriter({}, rw.mark).run(eqn.params["cond_jaxpr"], [*cond_consts, *state[0]], {})[0][0]

    shapes = jax.eval_shape(body, (list(start), {}))[1]
    return lax.while_loop(proceed, body, (list(start), {key: _blank(shape) for key, shape in shapes.items()}))


def _shard_map(rw: Rewriter, eqn, inputs, probes, here):
    """Values that vary over the mesh come out with a `shard` axis in front, one entry a shard, as their probes go in."""
    axes = {key: shard_axes(eqn, tap.aval) for key, tap in rw.taps.items() if key[: len(here)] == here}
    specs = {key: PartitionSpec(names) if names else PartitionSpec() for key, names in axes.items()}
    probes = rw.below(probes, here)

    def inside(inputs, probes):
        local = {key: jax.tree.map(lambda leaf: leaf[0], p) if axes[key] else p for key, p in probes.items()}
        outs, values = rw.run(sub_jaxprs(eqn)[0], inputs, local, (*here, 0))
        return outs, {key: jax.tree.map(lambda leaf: leaf[None], v) if axes[key] else v for key, v in values.items()}

    params = eqn.params
    return jax.shard_map(
        inside,
        mesh=params["mesh"],
        in_specs=(list(params["in_specs"]), {key: specs[key] for key in probes}),
        out_specs=(list(params["out_specs"]), specs),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )(list(inputs), probes)


def _custom_rule(rw: Rewriter, eqn, inputs, probes, here):
    """The call stays as it is, so that its rule applies; values come from the primal beside it (XLA merges them)."""
    primal = [lax.stop_gradient(x) for x in inputs]
    child = next(i for i, sub in enumerate(sub_jaxprs(eqn)) if rw.prefixes & {(*here, i)})
    return bind(eqn, inputs), rw.run(sub_jaxprs(eqn)[child], primal, {}, (*here, child))[1]


_HANDLERS: dict[str, Callable[..., tuple[list[Any], Values]]] = {
    **dict.fromkeys(INLINED, _inline),
    **dict.fromkeys(REMAT, _remat),
    **dict.fromkeys(CUSTOM_RULES, _custom_rule),
    "scan": _scan,
    "cond": _cond,
    "shard_map": _shard_map,
    "while": _while,
}


def _visited(opened: Opened) -> Opened:
    return opened if opened.visited is not None else Opened(opened.value, jnp.array(True))


def _blank(shape: Opened) -> Opened:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    return zeros if shape.visited is not None else Opened(zeros.value, jnp.array(False))
