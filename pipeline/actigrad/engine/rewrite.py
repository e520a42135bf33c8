"""Rewrite: a traced program run again, with every chosen tap open.

    rewriter = Rewriter(taps, mark)
    outputs, values = rewriter.run(closed, args, probes)

Each chosen tap calls `mark(tap, x, probe)`, and its value travels out of whatever encloses it: a `scan` stacks it, a
branch not taken gives zeros with `visited` false, a `while` keeps the last iteration's, a `shard_map` one a shard.
Equations in which no chosen tap stands are bound unchanged, custom derivative rules included. A tap inside a primitive
that is not in `_HANDLERS` was refused by `jaxprs.find_taps`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal
from jax.sharding import PartitionSpec

from actigrad.engine.jaxprs import (
    CUSTOM_RULES,
    INLINED,
    REMAT,
    Address,
    Tap,
    parts,
    scan_layout,
    shard_axes,
    sub_jaxprs,
)


class Opened(NamedTuple):
    """What leaves the program at one tap: what `mark` made of the value, and whether it was reached (None: always)."""

    value: Any
    visited: jax.Array | None


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
                    # The mark itself stays, below what opens it: a remat policy may go by it.
                    out, value = self.mark(self.taps[here], bind(eqn, inputs)[0], probes.get(here))
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
    """Values come out stacked, probes go in sliced; both follow `reverse`.

    Where only some iterations are kept, their values go to a buffer that is carried along, and their probes are taken
    from one that is not sliced; the other iterations share one more place in both, which is then thrown away.
    """
    n_consts, n_carry = scan_layout(eqn)
    consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
    picks = {key: tap.picked for key, tap in rw.taps.items() if tap.loop == here and tap.picked is not None}
    sliced = rw.below(probes, here)
    whole = {key: jax.tree.map(_one_more, sliced.pop(key)) for key in picks if key in sliced}
    places = {key: _places(picked, eqn.params["length"]) for key, picked in picks.items()}

    def iteration(carry, x):
        xs, probes, places = x
        picked = {key: jax.tree.map(lambda leaf, at=places[key]: leaf[at], probe) for key, probe in whole.items()}
        outs, values = rw.run(sub_jaxprs(eqn)[0], [*consts, *carry, *xs], probes | picked, (*here, 0))
        return outs, values

    def step(state, x):
        carry, buffers = state
        outs, values = iteration(carry, x)
        put = lambda at: lambda buffer, leaf: buffer.at[at].set(leaf)
        buffers = {key: jax.tree.map(put(x[2][key]), buffers[key], values.pop(key)) for key in picks}
        return (outs[:n_carry], buffers), (outs[n_carry:], values)

    operands = (list(xs), sliced, places)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), operands)
    shapes = jax.eval_shape(iteration, list(carry), first)[1] if picks else {}
    empty = lambda key: lambda leaf: jnp.zeros((len(picks[key]) + 1, *leaf.shape), leaf.dtype)
    buffers = {key: jax.tree.map(empty(key), shapes[key]) for key in picks}
    options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
    (carry, buffers), (ys, values) = lax.scan(step, (list(carry), buffers), operands, **options)
    return [*carry, *ys], values | jax.tree.map(lambda leaf: leaf[:-1], buffers)


def _one_more(leaf: jax.Array) -> jax.Array:
    return jnp.concatenate([leaf, jnp.zeros((1, *leaf.shape[1:]), leaf.dtype)])


def _places(picked: tuple[int, ...], length: int) -> jax.Array:
    """For each iteration its place in the buffer; the last place is everyone else's."""
    place = {iteration: i for i, iteration in enumerate(picked)}
    return jnp.asarray([place.get(i, len(picked)) for i in range(length)], jnp.int32)


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
    """Values that vary over the mesh come out with a `shard` axis in front, one a shard, as their probes go in."""
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
